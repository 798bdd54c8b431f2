package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// engine decides where the address is.
type engine interface {
	name() string
	about() string // version and settings
	prepare(ctx context.Context, l *lab) error
	start(ctx context.Context, n *node) error
	processes(n *node) []int                               // of the engine on the node, as the stage numbers them
	plan(ctx context.Context, n *node) error               // a planned move away from the holder
	replan(ctx context.Context, n *node) error             // what it needs afterwards
	whole(ctx context.Context, l *lab, holder *node) error // nil once all nodes could take over
	settle() time.Duration                                 // how long a holder must have the address before it counts as settled
}

// configurer is an engine that is told what to do once it runs.
type configurer interface {
	configure(ctx context.Context, l *lab) error
}

func engines() []engine {
	return []engine{
		&revolve{profile: "default"},
		&keepalived{advert: "0.06", title: "keepalived-0.06"},
		&keepalived{advert: "0.1", title: "keepalived-0.1"},
		&revolve{profile: "fast"},
		&keepalived{advert: "0.01", title: "keepalived-0.01"},
		&pacemaker{},
	}
}

func firstLine(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.Join(strings.Fields(line), " ")
}

// revolve is the program of this repository.
type revolve struct{ profile string }

func (r *revolve) name() string { return r.profile }
func (r *revolve) about() string {
	return fmt.Sprintf("%s, profile %s, one empty volume, real-time as it takes it itself", firstLine(os.Getenv(envBin), "version"), r.profile)
}
func (r *revolve) settle() time.Duration { return 300 * time.Millisecond }

func (r *revolve) config(l *lab) string { return filepath.Join(l.stage.Dir, "revolve.yaml") }

func (r *revolve) prepare(ctx context.Context, l *lab) error {
	var text strings.Builder
	text.WriteString("cluster: bench\nnodes:\n")
	for _, n := range l.nodes {
		fmt.Fprintf(&text, "  %s: { links: { lan: %s, fast: %s } }\n", n.name, n.addr, n.other)
	}
	fmt.Fprintf(&text, "vips:\n  - { address: %s/24, link: lan }\nfailover: { profile: %s }\nvolumes:\n  home: { path: %s }\n", vip, r.profile, l.nodes[0].self("home"))
	if err := os.WriteFile(r.config(l), []byte(text.String()), 0o644); err != nil {
		return err
	}
	for i, n := range l.nodes {
		if err := os.Mkdir(n.root("home"), 0o755); err != nil {
			return err
		}
		args := []string{"init", "--config", r.config(l), "--node", "a", "--state", n.root("state")}
		if i > 0 {
			args = []string{"identity", "issue", n.name, "--out", n.root("state"), "--state", l.nodes[0].root("state")}
		}
		if err := r.command(ctx, l, args...); err != nil {
			return err
		}
	}
	return nil
}

func (r *revolve) command(ctx context.Context, l *lab, args ...string) error {
	out, err := l.stage.Command(ctx, append([]string{os.Getenv(envBin)}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("revolve %v: %w: %s", args, err, out)
	}
	return nil
}

func (r *revolve) start(_ context.Context, n *node) error {
	_, err := n.start("revolve", os.Getenv(envBin), "agent", "--config", r.config(n.lab), "--node", n.name, "--state", n.self("state"))
	return err
}

func (r *revolve) processes(n *node) []int { return named(n, filepath.Base(os.Getenv(envBin))) }

// plan asks again where the switch was refused for now: nothing changed then, and
// no client waits. How often that was stands beside the trial.
func (r *revolve) plan(ctx context.Context, n *node) error {
	for {
		err := r.command(ctx, n.lab, "switch", "--state", n.root("state"))
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != problem.Unavailable.ExitStatus() || ctx.Err() != nil {
			return err
		}
		n.lab.refused++
		time.Sleep(askAgain)
	}
}

const askAgain = 200 * time.Millisecond

func (r *revolve) replan(context.Context, *node) error { return nil }

func (r *revolve) whole(ctx context.Context, l *lab, m *node) error {
	s, err := control.Dial(m.root("state")).Status(ctx)
	if err != nil {
		return err
	}
	if s.Master != m.name {
		return fmt.Errorf("%s says that %s leads", m.name, s.Master)
	}
	for _, n := range s.Nodes {
		if n.State != "alive" && string(n.Name) != m.name || n.Class != "in-sync" {
			return fmt.Errorf("%s is %s, %s", n.Name, n.State, n.Class)
		}
		for _, k := range n.Links {
			if k.Up != control.Yes {
				return fmt.Errorf("link %s of %s is down", k.Name, n.Name)
			}
		}
	}
	return nil
}

// named lists the node's processes that run the program.
func named(n *node, program string) (out []int) {
	pids, err := n.Processes()
	if err != nil {
		return nil
	}
	for _, pid := range pids {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && filepath.Base(exe) == program {
			out = append(out, pid)
		}
	}
	return out
}

// keepalived is VRRPv3 by multicast on the address's link.
type keepalived struct {
	advert, title string
	running       map[string]*testbed.Proc
}

func (k *keepalived) name() string { return k.title }
func (k *keepalived) about() string {
	return fmt.Sprintf("%s; VRRPv3, advert_int %s, priorities 150 to 148, nopreempt, vrrp_rt_priority 50, the rest by default", firstLine("keepalived", "--version"), k.advert)
}

// settle is longer than a detection at any of the intervals: a daemon that has just started has heard the others by then.
func (k *keepalived) settle() time.Duration { return 1500 * time.Millisecond }

func (k *keepalived) prepare(_ context.Context, l *lab) error {
	k.running = map[string]*testbed.Proc{}
	for _, n := range l.nodes {
		conf := fmt.Sprintf("global_defs {\n  router_id %s\n  vrrp_version 3\n  vrrp_rt_priority 50\n}\nvrrp_instance V {\n  state BACKUP\n  interface lan\n  virtual_router_id 77\n"+
			"  priority %d\n  advert_int %s\n  nopreempt\n  virtual_ipaddress {\n    %s/24 dev lan\n  }\n}\n", n.name, 150-n.index, k.advert, vip)
		if err := os.WriteFile(n.root("keepalived.conf"), []byte(conf), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (k *keepalived) start(_ context.Context, n *node) error {
	_ = os.Remove(n.root("ka.pid")) // a daemon that was killed left them
	_ = os.Remove(n.root("vrrp.pid"))
	p, err := n.start("keepalived", "keepalived", "--dont-fork", "--log-console", "--vrrp", "-f", n.self("keepalived.conf"), "-p", n.self("ka.pid"), "-r", n.self("vrrp.pid"))
	k.running[n.name] = p
	return err
}

func (k *keepalived) processes(n *node) []int { return named(n, "keepalived") }

func (k *keepalived) plan(ctx context.Context, n *node) error {
	p := k.running[n.name]
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := p.Wait(ctx)
	return err
}

func (k *keepalived) replan(ctx context.Context, n *node) error { return k.start(ctx, n) }

func (k *keepalived) whole(_ context.Context, l *lab, _ *node) error {
	for _, n := range l.nodes {
		if len(k.processes(n)) < 2 {
			return errors.New("keepalived is starting on " + n.name)
		}
	}
	return nil
}
