package agent

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/web"
)

// This file is what the status page shows of virtual machines: all nodes are asked, apart from who looks at the page.

const (
	// machinesEvery is how often they are asked while somebody looks: each asks its libvirt.
	machinesEvery = 30 * time.Second
	// machinesAfter is how long after the last look it is asked no more.
	machinesAfter = time.Minute
	machinesTick  = time.Second
	// machinesWithin bounds one round of questions.
	machinesWithin = time.Minute
)

// machineLook asks while somebody looks.
type machineLook struct {
	ask    func(context.Context) *web.Machines
	wanted atomic.Int64 // when somebody looked last, in ns
	newest atomic.Pointer[web.Machines]
}

func newMachineLook(ask func(context.Context) *web.Machines) *machineLook {
	return &machineLook{ask: ask}
}

// show is what is known; it has the nodes asked soon. A cluster without machines has no look (nil).
func (l *machineLook) show(now time.Time) *web.Machines {
	if l == nil {
		return nil
	}
	l.wanted.Store(now.UnixNano())
	if m := l.newest.Load(); m != nil {
		return m
	}
	return &web.Machines{}
}

func (l *machineLook) run(ctx context.Context) error {
	tick := time.NewTicker(machinesTick)
	defer tick.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if now.Sub(time.Unix(0, l.wanted.Load())) > machinesAfter || now.Sub(last) < machinesEvery {
				continue
			}
			round, cancel := context.WithTimeout(ctx, machinesWithin)
			l.newest.Store(l.ask(round))
			cancel()
			last = time.Now()
		}
	}
}

// seeMachines asks all nodes.
func (a *Agent) seeMachines(ctx context.Context) *web.Machines {
	m := &web.Machines{At: time.Now()} // what they say is no older
	for _, v := range a.cfg().VMs {
		w := web.Wanted{Name: v.Name, Nodes: slices.Clone(v.Nodes)}
		if len(w.Nodes) == 0 {
			for _, n := range a.cfg().Nodes {
				w.Nodes = append(w.Nodes, n.Name)
			}
		}
		m.Wanted = append(m.Wanted, w)
	}
	views, silent := a.vms.Views(ctx, "")
	m.Take(views)
	for n := range silent {
		m.Silent = append(m.Silent, n)
	}
	slices.SortFunc(m.Silent, func(x, y cluster.NodeID) int { return cmpNode(x, y) })
	return m
}
