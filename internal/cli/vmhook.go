package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/vm"
)

// This file is what libvirt asks before a machine starts.

type vmHookCommand struct {
	Install string   `placeholder:"DIR" help:"Write the script that has libvirt ask, as DIR/revolve: /etc/libvirt/hooks/qemu.d"`
	Args    []string `arg:"" optional:"" name:"ARG" help:"What libvirt says: the machine, the operation, and more."`
}

// Help is printed under the usage.
func (vmHookCommand) Help() string {
	return "libvirt runs it before a machine starts, and starts none that it refuses: one that runs elsewhere, whose home is another node, or, unless its name was typed (vm start --as-it-is --confirm), that a node which does not answer might be running. Machines without points are let pass; so is everything but a start, such as a daemon that finds its running machines again."
}

// hookScript is run by libvirt with the machine's definition at its standard input, which says nothing that matters here.
const hookScript = `#!/bin/sh
# libvirt asks revolve before a machine starts (revolve vm hook --help).
exec %s vm hook%s -- "$@" </dev/null
`

// askAgentWithin bounds the hook: libvirt waits for it.
const askAgentWithin = 30 * time.Second

// Run answers libvirt, or installs the script.
func (c *vmHookCommand) Run(ctx context.Context, e *env) error {
	if c.Install != "" {
		return c.install(e)
	}
	if len(c.Args) < 2 {
		return &problem.Problem{Op: "answer libvirt", Kind: problem.Invalid, Err: errors.New("a machine and an operation are to be named"), Hint: "libvirt runs this; have it do so: revolve vm hook --install /etc/libvirt/hooks/qemu.d"}
	}
	name, operation := c.Args[0], c.Args[1]
	if operation != "prepare" { // a refusal of reconnect would end a machine that runs (libvirt: docs/hooks.rst)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askAgentWithin)
	defer cancel()
	_, err := control.Dial(e.state).VMs(ctx, control.VMQuery{VM: name, Hook: true})
	if err != nil && control.Unanswered(err) {
		return vm.MayStartAlone(e.state, name)
	}
	return err
}

func (c *vmHookCommand) install(e *env) error {
	self, err := os.Executable()
	if err != nil {
		return &problem.Problem{Op: "install hook", Kind: problem.Internal, Err: err}
	}
	flags := ""
	if e.state != defaultState {
		flags = " --state " + quoted(e.state)
	}
	name := filepath.Join(c.Install, "revolve")
	fail := func(err error) error {
		return &problem.Problem{Op: "install hook", Kind: problem.Unavailable, Subject: name, Err: err, Hint: "run this as root, on a node that has libvirt"}
	}
	if err := os.MkdirAll(c.Install, 0o755); err != nil {
		return fail(err)
	}
	fresh := filepath.Join(filepath.Dir(filepath.Clean(c.Install)), ".revolve-hook.new") // not in DIR: libvirt runs whatever is there
	if err := os.WriteFile(fresh, fmt.Appendf(nil, hookScript, quoted(self), flags), 0o600); err != nil {
		return fail(err)
	}
	if err := errors.Join(os.Chmod(fresh, 0o755), os.Rename(fresh, name)); err != nil {
		return fail(errors.Join(err, os.Remove(fresh)))
	}
	return e.answer(map[string]string{"hook": name}, name+" is there. libvirt looks for hooks when it starts: systemctl restart libvirtd (or virtqemud); machines run on")
}

// quoted is one word of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
