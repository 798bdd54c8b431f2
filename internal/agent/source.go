package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"revolve/internal/config"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// This file is `source: file`: a node that something else configures (NixOS,
// Ansible) takes a configuration from the cluster only if its own file says the same.

// keysNamed bounds the keys that a refusal names.
const keysNamed = 5

// ownFile is the text of this node's own file, and whether the file or the
// configuration in force says that it is what counts here.
func (a *Agent) ownFile() (text []byte, counts bool, err error) {
	self, known := a.cfg().Node(a.o.Node)
	counts = known && self.OwnFile
	if a.o.File == "" {
		if counts {
			err = errors.New("the agent was started without --config")
		}
		return nil, counts, err
	}
	f, err := os.Open(a.o.File)
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, config.MaxBytes+1))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, counts, err
	}
	cfg, err := config.Parse(a.o.File, text)
	if err != nil {
		return nil, counts, err
	}
	if self, known := cfg.Node(a.o.Node); known && self.OwnFile {
		counts = true
	}
	return text, counts, nil
}

// fileRefuses says why this node does not take a configuration, nil if it does.
// It names keys and no values: a configuration may have secrets in it.
func (a *Agent) fileRefuses(text string) error {
	own, counts, err := a.ownFile()
	if !counts {
		return nil
	}
	refuse := func(err error, hint string) error {
		return &problem.Problem{Op: "take the configuration on node", Kind: problem.Conflict, Subject: string(a.o.Node), Err: err, Hint: hint}
	}
	if err != nil {
		return refuse(fmt.Errorf("it takes one from its own file only (source: file), which cannot be read: %w", err),
			"mend the file on that node, or start its agent with --config FILE; then apply again")
	}
	list, err := config.Diff(own, []byte(text))
	if err != nil || len(list) == 0 {
		return err
	}
	return refuse(fmt.Errorf("it takes one from its own file only (source: file), and %s differs in %s", a.o.File, keysOf(list)),
		fmt.Sprintf("bring the file onto that node first, then apply the same; there, revolve config diff %s shows how its file differs from what is in force", a.o.File))
}

// fileRefusesRoster is fileRefuses for a roster that would replace the one in force.
// The way back from a trial that is on here needs no leave: this node was there
// before. That is why a trial with another way back is refused when it begins. What a
// roster says of itself (Tried) gives no leave.
func (a *Agent) fileRefusesRoster(r, now *roster.Roster) error {
	back := now.Trial != nil && r.Trial == nil && r.Config == now.Trial.Former
	if r.Config != now.Config && !back {
		if err := a.fileRefuses(r.Config); err != nil {
			return err
		}
	}
	if r.Trial != nil && r.Trial.Former != now.Config {
		return a.fileRefuses(r.Trial.Former)
	}
	return nil
}

func keysOf(list []config.Difference) string {
	var keys []string
	for _, d := range list[:min(len(list), keysNamed)] {
		keys = append(keys, d.Key)
	}
	text := strings.Join(keys, ", ")
	if more := len(list) - len(keys); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// apartFromFile is worth a warning: this node's file says something else than is in force.
func (a *Agent) apartFromFile() string {
	if a.generation() == 0 {
		return "" // the file is what is in force
	}
	if err := a.fileRefuses(a.o.Roster.Current().Config); err != nil {
		return "this node's own file and the cluster's configuration differ: " + err.Error()
	}
	return ""
}
