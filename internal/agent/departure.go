package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/clients"
	"revolve/internal/failover/vip"
	"revolve/internal/problem"
)

// This file is what follows when the addresses have gone to another node: what clients
// had open here ends, so that they do not meet it when the addresses come back.

// departWithin is for how long addresses are awaited to go that are another node's. With an engine of others they may stay for good.
const departWithin = 10 * time.Second

// departures ends clients' connections once for every reign of another node, also for the first
// one that is seen after a start: who was killed as master has ended nothing.
func (a *Agent) departures(ctx context.Context) error {
	vips := a.vips()
	var of cluster.Reign // the reign that is looked after
	var left []netip.Addr
	var since time.Time
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		a.mu.Unlock()
		if heldByAnother(&r, a.o.Node) && r.Reign != of {
			of, left, since = r.Reign, vips, time.Now()
		}
		if r.Reign == of && len(left) > 0 {
			if left = a.endConnections(of, left); time.Since(since) > departWithin {
				left = nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// heldByAnother reports whether another node has the addresses, as far as this one knows. In limbo they may come back.
func heldByAnother(r *beat.Report, self cluster.NodeID) bool {
	return r.Role == cluster.Standby && r.Master != "" && r.Master != self
}

// endConnections ends the connections with addrs, and returns those addresses that are still here.
func (a *Agent) endConnections(of cluster.Reign, addrs []netip.Addr) (left []netip.Addr) {
	kernel, err := vip.Dial()
	if err != nil {
		a.unended(err)
		return addrs
	}
	defer kernel.Close()
	total := 0
	for _, addr := range addrs {
		here := false
		// Between this look and the end of a connection the address may come back: that one is
		// of a reign before the one that has ended meanwhile, and its client was told to begin anew.
		gone := func() bool {
			held, err := kernel.Addrs()
			here = err != nil || slices.ContainsFunc(held, func(h vip.Held) bool { return h.Prefix.Addr() == addr })
			now := a.current()
			return !here && now.Reign == of && heldByAnother(&now, a.o.Node)
		}
		if gone() {
			n, err := clients.End(addr, gone)
			total += n
			a.unended(err)
		}
		if here {
			left = append(left, addr)
		}
	}
	if total > 0 {
		a.o.Log.Info("ended what clients had open with the addresses here", "connections", total, "master", of.Owner, "reign", of)
	}
	return left
}

// unended says once why connections stay.
func (a *Agent) unended(err error) {
	if err != nil && err.Error() != a.clients.unended {
		a.clients.unended = err.Error()
		a.o.Log.Warn("what clients had open with the addresses here stays", "err", err, "hint", problem.HintOf(err))
	}
}

// unmute takes away what an agent that was killed while it ended connections has left.
func (a *Agent) unmute() {
	for _, addr := range a.vips() {
		if err := clients.Unmute(addr); err != nil {
			a.o.Log.Warn("an address may be silent when it comes here", "err", err, "hint", problem.HintOf(err))
		}
	}
}
