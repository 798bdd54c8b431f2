package cli

import (
	"context"
	"fmt"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

type holdCommand struct {
	State string `arg:"" name:"switch" enum:"on,off" help:"on or off."`
}

// Help is printed under the usage.
func (holdCommand) Help() string {
	return "While hold is on, the master does not move because another node is better placed. It still moves when the master dies, when its address's link fails, or when you say so (switch, maintenance). It can be typed on any node, reaches all that answer, and lasts over restarts; status reminds of it."
}

// Run orders it on every node that answers.
func (c *holdCommand) Run(ctx context.Context, e *env) error {
	o, err := control.Dial(e.state).Hold(ctx, c.State == "on")
	if err != nil {
		return err
	}
	text := fmt.Sprintf("hold is %s on %s", c.State, nodesText(o.Nodes))
	if len(o.Missed) > 0 {
		text += fmt.Sprintf("\nnot on %s: no answer; say it again when they are back", nodesText(o.Missed))
	}
	return e.answer(o, text)
}

type maintenanceCommand struct {
	State string `arg:"" name:"switch" enum:"on,off" help:"on or off."`
	Force bool   `help:"Step aside even if no standby is in-sync: what only this node has may be kept aside later."`
}

// Help is printed under the usage.
func (maintenanceCommand) Help() string {
	return "While maintenance is on, this node does not lead; it still follows, so its files stay the same as the others'. If it is the master it first hands over to the in-sync standby of highest priority, losing nothing. It lasts over restarts; status reminds of it."
}

// Run orders it for this node.
func (c *maintenanceCommand) Run(ctx context.Context, e *env) error {
	o, err := control.Dial(e.state).Maintenance(ctx, c.State == "on", c.Force)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("maintenance is %s on %s", c.State, nodesText(o.Nodes))
	if o.Master != "" {
		text += fmt.Sprintf("; %s is master", o.Master)
	}
	return e.answer(o, text)
}

func nodesText(nodes []cluster.NodeID) string {
	var names []string
	for _, n := range nodes {
		names = append(names, string(n))
	}
	return words(names)
}
