package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/problem"
)

// This file is what a person orders for longer than a moment: hold and maintenance.
// Both are in the record of the node, so they outlive its agent.

const orderHold = "hold"

// Hold turns automatic moves off or on, here and on every node that is heard:
// whoever is master next must know it too.
func (b backend) Hold(ctx context.Context, on bool) (control.Ordered, error) {
	a := b.a
	done := control.Ordered{On: on, Nodes: []cluster.NodeID{}, Missed: []cluster.NodeID{}}
	if err := a.holdHere(on); err != nil {
		return done, err
	}
	ctx, cancel := context.WithTimeout(ctx, switchWithin)
	defer cancel()
	done.Nodes = append(done.Nodes, a.o.Node)
	for _, p := range a.current().Peers {
		if p.State != beat.PeerAlive && p.State != beat.PeerSuspect {
			done.Missed = append(done.Missed, p.Node)
			continue
		}
		if _, err := a.send(ctx, p.Node, orderFrame{What: orderHold, On: on}); err != nil {
			a.o.Log.Warn("an order was not carried out there", "order", orderHold, "on", on, "node", p.Node, "err", err)
			done.Missed = append(done.Missed, p.Node)
			continue
		}
		done.Nodes = append(done.Nodes, p.Node)
	}
	return done, nil
}

func (a *Agent) holdHere(on bool) error {
	if err := a.record.order(func(m *memory) { m.Hold = on }); err != nil {
		return err
	}
	a.o.Log.Info("ordered", "hold", on)
	a.tell()
	return nil
}

// Maintenance has this node step aside. A master first hands over, so that
// nothing is lost; with force it also goes if it cannot.
func (b backend) Maintenance(ctx context.Context, on, force bool) (control.Ordered, error) {
	a := b.a
	done := control.Ordered{On: on, Nodes: []cluster.NodeID{}, Missed: []cluster.NodeID{}}
	if on && a.leads() {
		to, err := a.switchTo(ctx, "")
		if err != nil && !force {
			return done, &problem.Problem{Op: "step aside", Kind: problem.KindOf(err), Subject: string(a.o.Node), Err: err,
				Hint: "wait until `revolve status` shows a standby in-sync; or, if it must be now: revolve maintenance on --force"}
		}
		done.Master = to
	}
	if err := a.record.order(func(m *memory) { m.Maintenance = on }); err != nil {
		return done, err
	}
	a.o.Log.Info("ordered", "maintenance", on)
	a.tell()
	done.Nodes = append(done.Nodes, a.o.Node)
	return done, nil
}

// orderedText reminds of what was ordered, so that nobody forgets it.
func orderedText(nodes []control.Node) (lines []string) {
	var holding []string
	for _, n := range nodes {
		if n.Maintenance == control.Yes {
			lines = append(lines, fmt.Sprintf("node %s is in maintenance: it does not lead (there: revolve maintenance off)", n.Name))
		}
		if n.Hold == control.Yes {
			holding = append(holding, string(n.Name))
		}
	}
	if len(holding) > 0 {
		slices.Sort(holding)
		lines = append(lines, fmt.Sprintf("hold is on (%s): no automatic moves (revolve hold off)", strings.Join(holding, ", ")))
	}
	return lines
}
