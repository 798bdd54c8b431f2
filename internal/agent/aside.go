package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

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
	peers := a.current().Peers
	errs := make([]error, len(peers))
	var g errgroup.Group // all at once: one that does not answer must not keep the order from the others
	for i, p := range peers {
		g.Go(func() error {
			if errs[i] = errors.New("it is not heard"); p.State == beat.PeerAlive || p.State == beat.PeerSuspect {
				errs[i] = a.insist(ctx, p.Node, orderFrame{What: orderHold, On: on})
			}
			return nil
		})
	}
	_ = g.Wait() // what went wrong is in errs
	done.Nodes = append(done.Nodes, a.o.Node)
	for i, p := range peers {
		if errs[i] != nil {
			a.o.Log.Info("an order was not carried out there", "order", orderHold, "on", on, "node", p.Node, "err", errs[i])
			done.Missed = append(done.Missed, p.Node)
			continue
		}
		done.Nodes = append(done.Nodes, p.Node)
	}
	return done, nil
}

// insistEvery is how long an order that did not get through rests: an agent that has just started is heard before it listens.
const insistEvery = 100 * time.Millisecond

// insist repeats an order until it is carried out or ctx ends. It must be one that may be carried out twice.
func (a *Agent) insist(ctx context.Context, to cluster.NodeID, o orderFrame) error {
	for {
		_, err := a.send(ctx, to, o)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(insistEvery):
		}
	}
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
		to, err := a.makeWay(ctx)
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
