package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type powerCommand struct {
	On  powerOnCommand  `cmd:"" help:"Wake a node, and wait until it is there."`
	Off powerOffCommand `cmd:"" help:"Have a node power itself off, if nothing speaks against it."`
}

type powerOnCommand struct {
	Node   cluster.NodeID `arg:"" help:"The node."`
	Within time.Duration  `placeholder:"TIME" default:"5m" help:"How long to wait for it (5m); 0s: not at all."`
}

// Help is printed under the usage.
func (powerOnCommand) Help() string {
	return "The node of this agent wakes it in the way that the configuration says: power.wake (Wake-on-LAN, over every link that both have), power.ipmi (its management controller) or power.on (a command). What wakes a machine says little about whether it worked, so the command waits until the node is heard. It is told that a person wants it on, also if it is there already: no schedule powers it off then."
}

// Run wakes it.
func (c *powerOnCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	began := time.Now()
	state, err := stateOf(ctx, client, c.Node)
	if err != nil {
		return err
	}
	if state == "alive" {
		if err := client.Power(ctx, control.PowerOrder{Node: c.Node, On: true}); err != nil { // it is told that a person wants it on
			return err
		}
		return e.answer(map[string]string{"node": string(c.Node), "state": state}, fmt.Sprintf("%s is on already", c.Node))
	}
	if err := client.Power(ctx, control.PowerOrder{Node: c.Node, On: true}); err != nil {
		return err
	}
	if c.Within <= 0 {
		return e.answer(map[string]string{"node": string(c.Node), "state": state}, fmt.Sprintf("%s was told to power on", c.Node))
	}
	for time.Since(began) < c.Within && ctx.Err() == nil {
		if state, err = stateOf(ctx, client, c.Node); err == nil && state == "alive" && client.Power(ctx, control.PowerOrder{Node: c.Node, On: true}) == nil { // it knows now that a person wants it on
			return e.answer(map[string]string{"node": string(c.Node), "state": state}, fmt.Sprintf("%s is on; it took %s", c.Node, time.Since(began).Round(time.Second)))
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookAtProof):
		}
	}
	return &problem.Problem{Op: "power on", Kind: problem.Timeout, Subject: string(c.Node), Err: fmt.Errorf("it was told to, and is %s after %s", state, time.Since(began).Round(time.Second)),
		Hint: "look at it: does its firmware let it be woken (Wake-on-LAN, also after a shutdown), does its agent start at boot?"}
}

// stateOf is how a node is, as the agent sees it.
func stateOf(ctx context.Context, client *control.Client, node cluster.NodeID) (string, error) {
	s, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, n := range s.Nodes {
		if n.Name == node {
			return n.State, nil
		}
	}
	return "", &problem.Problem{Op: "power on", Kind: problem.NotFound, Subject: string(node), Err: errors.New("it is no node of this cluster"), Hint: "see their names: revolve status"}
}

type powerOffCommand struct {
	Node cluster.NodeID `arg:"" help:"The node."`
}

// Help is printed under the usage.
func (powerOffCommand) Help() string {
	return "The node's own agent powers it off (systemctl poweroff, or power.off of the configuration). It refuses if the node is not on demand, is master or hears none, is behind with its volumes, runs a machine or is about to, if a copy comes to it or goes from it, or if another node needs it for copies. From when it agrees, nothing begins there. Nothing here takes power from a machine that does not answer."
}

// Run orders it.
func (c *powerOffCommand) Run(ctx context.Context, e *env) error {
	if err := control.Dial(e.state).Power(ctx, control.PowerOrder{Node: c.Node}); err != nil {
		return err
	}
	return e.answer(map[string]string{"node": string(c.Node)}, fmt.Sprintf("%s powers itself off; it is woken with: revolve power on %s", c.Node, c.Node))
}
