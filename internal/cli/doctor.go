package cli

import (
	"context"
	"fmt"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/doctor"
)

type doctorCommand struct {
	Config string `required:"" placeholder:"FILE" help:"The cluster's configuration."`
	Node   string `required:"" placeholder:"NAME" help:"This node, as the configuration names it."`
}

// Help is printed under the usage.
func (doctorCommand) Help() string {
	return "Looks at this machine as a node: privileges, clock, identity, links, volumes, and whether the other nodes answer. It says what is missing, why that matters, and what to type. It needs no agent and disturbs none; run it as the agent's user, or it sees less."
}

func (doctorCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "it works, with less than it could"}, {2, "something of it will not work"}}
}

// Run examines the machine.
func (c *doctorCommand) Run(ctx context.Context, e *env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	findings := doctor.Examine(ctx, doctor.Patient{Config: cfg, Node: cluster.NodeID(c.Node), State: e.state})
	worst := control.OK
	for _, f := range findings {
		switch {
		case f.Level == doctor.Critical:
			worst = control.Critical
		case f.Level == doctor.Warning && worst == control.OK:
			worst = control.Warning
		}
	}
	if err := e.answer(map[string]any{"verdict": worst, "findings": findings}, findingsText(findings)); err != nil {
		return err
	}
	return exitWith(worst)
}

func findingsText(findings []doctor.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-9s %s: %s\n", f.Level, f.Subject, f.Found)
		if f.Why != "" {
			fmt.Fprintf(&b, "%-9s   %s\n", "", f.Why)
		}
		if f.Type != "" {
			fmt.Fprintf(&b, "%-9s   mend it: %s\n", "", f.Type)
		}
	}
	return b.String()
}
