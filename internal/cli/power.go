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
	return "The node of this agent wakes it in the way that the configuration says: power.wake (Wake-on-LAN, over every link that both have), power.ipmi (its management controller) or power.on (a command). What wakes a machine says little about whether it worked, so the command waits until the node is heard. It is told that a person wants it on, also if it is there already: no schedule powers it off then. One that is just powering itself off is woken when it is off."
}

// wakeAgain is how often a node that is not there yet is woken: packets get lost, and one that was about to be off misses those before.
const wakeAgain = time.Minute

// Run wakes it.
func (c *powerOnCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	began, woken := time.Now(), time.Time{}
	for {
		state, err := stateOf(ctx, client, c.Node)
		there := state == "alive"
		switch {
		case err != nil:
		case there: // it is told that a person wants it on
			if err = client.Power(ctx, control.PowerOrder{Node: c.Node, On: true}); err == nil {
				return e.answer(map[string]string{"node": string(c.Node), "state": state}, c.isOn(woken, began))
			}
		case time.Since(woken) >= wakeAgain:
			if err = client.Power(ctx, control.PowerOrder{Node: c.Node, On: true}); err == nil && c.Within <= 0 {
				return e.answer(map[string]string{"node": string(c.Node), "state": state}, fmt.Sprintf("%s was told to power on", c.Node))
			}
			if woken.IsZero() && err != nil {
				return err
			}
			woken = time.Now()
		}
		if err != nil && (woken.IsZero() && !there || c.Within <= 0 || problem.KindOf(err) != problem.Unavailable) {
			return err
		}
		if time.Since(began) >= c.Within || ctx.Err() != nil {
			return c.tooLate(state, err, time.Since(began))
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookAtProof):
		}
	}
}

func (c *powerOnCommand) isOn(woken, began time.Time) string {
	if woken.IsZero() {
		return fmt.Sprintf("%s is on already", c.Node)
	}
	return fmt.Sprintf("%s is on; it took %s", c.Node, time.Since(began).Round(time.Second))
}

func (c *powerOnCommand) tooLate(state string, err error, after time.Duration) error {
	why := fmt.Errorf("it was told to, and is %s after %s", state, after.Round(time.Second))
	if err != nil {
		why = fmt.Errorf("%w: %w", why, err)
	}
	return &problem.Problem{Op: "power on", Kind: problem.Timeout, Subject: string(c.Node), Err: why,
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
	return "The node's own agent powers it off (systemctl poweroff, or power.off of the configuration). It refuses if the node is not on demand, is master or hears none, is behind with its volumes, runs a machine or is about to or owes one its start, if a copy comes to it or goes from it, if another node needs it for copies, if a configuration is tried, a rehearsal or a proof is going on, or if no other standby could take over then (unless it is never to lead: candidate: false). From when it agrees, nothing begins there. Nothing here takes power from a machine that does not answer."
}

// Run orders it.
func (c *powerOffCommand) Run(ctx context.Context, e *env) error {
	if err := control.Dial(e.state).Power(ctx, control.PowerOrder{Node: c.Node}); err != nil {
		return err
	}
	return e.answer(map[string]string{"node": string(c.Node)}, fmt.Sprintf("%s powers itself off; it is woken with: revolve power on %s", c.Node, c.Node))
}
