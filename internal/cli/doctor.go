package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/doctor"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

type doctorCommand struct {
	Config string `placeholder:"FILE" help:"The cluster's configuration (the one in the state directory)."`
	Node   string `placeholder:"NAME" help:"This node, as the configuration names it (whose identity is in the state directory)."`
}

// doctorAnswer is what --json answers; like the status it only ever gains fields.
type doctorAnswer struct {
	Verdict string `json:"verdict"` // ok, warning or critical
	doctor.Report
}

// Help is printed under the usage.
func (doctorCommand) Help() string {
	return "Looks at this machine as a node: privileges, clock, identity, links, addresses, volumes, and the other nodes. On each volume it makes every kind of change, in .revolve, and says which the agent's watcher sees at once, at close only, or not. It says what is missing, why that matters, and what to type. It needs no agent and disturbs none; run it as the agent's user, or it sees less."
}

func (doctorCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "it works, with less than it could"}, {2, "something of it will not work"}}
}

// Run examines the machine.
func (c *doctorCommand) Run(ctx context.Context, e *env) error {
	cfg, err := c.configuration(e)
	if err != nil {
		return err
	}
	if c.Node == "" {
		id, err := peer.LoadIdentity(e.state)
		if err != nil {
			return &problem.Problem{Op: "examine this machine", Kind: problem.KindOf(err), Err: errors.Join(errors.New("it is not known which node it is to be"), err), Hint: "name it: --node NAME"}
		}
		c.Node = string(id.Node)
	}
	report := doctor.Examine(ctx, doctor.Patient{Config: cfg, Node: cluster.NodeID(c.Node), State: e.state})
	worst := control.OK
	for _, f := range report.Findings {
		switch {
		case f.Level == doctor.Critical:
			worst = control.Critical
		case f.Level == doctor.Warning && worst == control.OK:
			worst = control.Warning
		}
	}
	if err := e.answer(doctorAnswer{worst, report}, findingsText(report.Findings)); err != nil {
		return err
	}
	return exitWith(worst)
}

// configuration is that of the file, or of the state directory of a node that has one.
func (c *doctorCommand) configuration(e *env) (*config.Config, error) {
	if c.Config != "" {
		return config.Load(c.Config)
	}
	store, err := roster.Open(e.state)
	if err != nil {
		return nil, err
	}
	cfg, _, err := store.Configure("")
	return cfg, err
}

// textWidth is what a terminal is at least wide.
const textWidth = 80

// findingsText is the findings for people. What mends it stays on one line, to be copied.
func findingsText(findings []doctor.Finding) string {
	const indent = "          "
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(wrapped(fmt.Sprintf("%-9s %s: %s", f.Level, f.Subject, f.Found), indent+"  "))
		if f.Why != "" {
			b.WriteString(wrapped(indent+"  # "+f.Why, indent+"    "))
		}
		if f.Type != "" {
			fmt.Fprintf(&b, "%s  mend it: %s\n", indent, f.Type)
		}
	}
	return b.String()
}

// wrapped breaks a line between words so that it fits; what follows the first is indented.
func wrapped(line, indent string) string {
	var b strings.Builder
	for {
		at := -1
		if utf8.RuneCountInString(line) > textWidth {
			at = strings.LastIndexByte(line[:min(len(line), textWidth+1)], ' ')
		}
		if at <= len(indent) {
			return b.String() + line + "\n"
		}
		b.WriteString(line[:at] + "\n")
		line = indent + strings.TrimLeft(line[at:], " ")
	}
}
