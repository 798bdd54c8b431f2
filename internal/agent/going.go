package agent

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/power"
	"revolve/internal/vm"
)

// This file is a node on demand that says goodbye, so that its silence is known to mean that it is off. One that falls
// silent without a word may have been cut off, and may run machines: it counts as silent like any other node.

const (
	orderGoing = "going"
	// goingWithin is how long the others may take to write it down. Who does not takes this node for silent.
	goingWithin = 2 * time.Second
)

// goes tells every node that is heard that this one powers itself off: nothing runs here, and nothing begins any more.
func (a *Agent) goes(ctx context.Context) {
	a.parted.Store(true)
	a.noteGoing(true)
	a.tellGoing(ctx, false)
}

// stays takes it back, where it was said.
func (a *Agent) stays() {
	if a.parted.Swap(false) {
		a.noteGoing(false)
		a.tellGoing(context.Background(), true)
	}
}

func (a *Agent) noteGoing(off bool) {
	if err := a.record.goes(off); err != nil {
		a.o.Log.Warn("who is on cannot be written down", "err", err)
	}
}

func (a *Agent) tellGoing(ctx context.Context, stays bool) {
	ctx, cancel := context.WithTimeout(ctx, goingWithin)
	defer cancel()
	var g errgroup.Group
	for _, p := range a.current().Peers {
		if p.State != beat.PeerAlive && p.State != beat.PeerSuspect {
			continue
		}
		g.Go(func() error {
			if _, err := a.send(ctx, p.Node, orderFrame{What: orderGoing, On: stays}); err != nil {
				a.o.Log.Warn("a node does not know that this one powers itself off, and will take it for silent", "node", p.Node, "stays", stays, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // it never fails
}

// goesWithSystem says goodbye when the system is shut down by somebody else, if no machine runs here.
func (a *Agent) goesWithSystem(ctx context.Context) error {
	<-ctx.Done()
	if !a.mayBeOff(a.o.Node) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*goingWithin)
	defer cancel()
	if power.Stopping(ctx) && a.nothingRuns(ctx) { // libvirt may have been stopped before
		a.o.Log.Info("the system is shut down: the others are told that this node will be off")
		a.goes(ctx)
	}
	return nil
}

func (a *Agent) nothingRuns(ctx context.Context) bool {
	if a.runs != nil {
		return a.runs(ctx) == ""
	}
	return vm.Emulators(vm.Proc) == ""
}

// wereOn are the nodes on demand that this one last knew to be on.
func (a *Agent) wereOn() (nodes []cluster.NodeID) {
	for _, n := range a.record.on() {
		if a.mayBeOff(n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}
