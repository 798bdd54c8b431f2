package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/election"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

const (
	// yieldWithin bounds how long an ending agent waits for another engine to move the VIPs away.
	yieldWithin = 3 * time.Second
	// exportEvery is the backstop behind the reports: a beat process that is silent makes the node unfit.
	exportEvery = 200 * time.Millisecond
)

// external reports whether another engine places the VIPs.
func (a *Agent) external() bool { return a.o.Config.Failover.Engine == config.EngineExternal }

// Fitness is what another engine is told of this node.
func (b backend) Fitness() control.Fitness { return b.a.fitness() }

func (a *Agent) fitness() control.Fitness {
	a.mu.Lock()
	r, at := a.report, a.reported
	a.mu.Unlock()
	f := control.Fitness{Node: a.o.Node, Eligible: r.Fitness.Eligible, Why: r.Fitness.Why, Penalty: int(r.Fitness.Penalty), Role: r.Role.String(), Class: r.Class.String(), Frozen: r.Frozen}
	if time.Since(at) > reportAge {
		f = control.Fitness{Node: a.o.Node, Why: "its beat process does not answer", Penalty: election.MaxPenalty, Role: "unknown", Class: "unknown"}
	}
	if f.Eligible {
		f.Score = topScore - f.Penalty
	}
	return f
}

// topScore is the promotion score of the best node: far above the scores that stickiness is usually given.
const topScore = 1000

// eligibleFile is where the engine reads the penalty.
func (a *Agent) eligibleFile() string {
	return cmp.Or(a.o.Config.Failover.Eligible, filepath.Join(a.o.State, "eligible"))
}

// export keeps the engine's file up to date. Nobody waits for it: whoever reads
// it is told by the kernel (inotify(7)). The end of the agent makes the node unfit.
func (a *Agent) export(ctx context.Context) error {
	if !a.external() {
		return nil
	}
	tick := time.NewTicker(exportEvery)
	defer tick.Stop()
	said, failed := -1, ""
	for {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		f := a.fitness()
		if ctx.Err() != nil {
			f.Penalty = election.MaxPenalty
		}
		err := error(nil)
		if _, gone := os.Lstat(a.eligibleFile()); f.Penalty != said || gone != nil {
			err = writePenalty(a.eligibleFile(), f.Penalty)
		}
		switch {
		case err == nil:
			if f.Penalty != said {
				a.o.Log.Info("the engine is told", "penalty", f.Penalty, "why", f.Why)
			}
			said, failed = f.Penalty, ""
		case failed != err.Error():
			failed = err.Error()
			a.o.Log.Error("the engine cannot be told how fit this node is", "file", a.eligibleFile(), "err", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick.C:
		}
	}
}

// writePenalty replaces the file in one step. It is not made durable: after a
// power cut it is written anew before it means anything.
func writePenalty(path string, penalty int) error {
	next := path + ".new"
	if err := os.WriteFile(next, fmt.Appendln(nil, penalty), 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// yieldTo makes this node unfit when it ends in order, and lets the others take
// what only it has, before the beat process ends.
func (a *Agent) yieldTo(ctx context.Context) {
	if !a.external() || len(alive(a.current())) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, yieldWithin)
	defer cancel()
	a.ending.Store(true)
	a.tell()
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		a.mu.Unlock()
		if r.Role != cluster.Master && r.Role != cluster.Limbo {
			break
		}
		select {
		case <-ctx.Done():
			a.o.Log.Warn("the addresses did not leave this node in time; what nobody has received yet is kept aside when this node returns")
			return
		case <-changed:
		}
	}
	a.handed(ctx)
}

// handed waits until another node leads and has everything from here.
func (a *Agent) handed(ctx context.Context) {
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		a.mu.Unlock()
		s := a.standing.Load()
		if r.Master != "" && r.Master != a.o.Node && s != nil && s.class == cluster.InSync || ctx.Err() != nil {
			return // in-sync again: nothing of this node's own is left that the new master lacks
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// makeWay brings the addresses away from this node, or, where another engine
// places them, has everything ready for it to do so.
func (a *Agent) makeWay(ctx context.Context) (cluster.NodeID, error) {
	if !a.external() {
		by := *a.typed(ctx, history.WhyMaintenance)
		return patiently(ctx, func() (cluster.NodeID, error) {
			if !a.leads() { // any more: there is nothing left to move
				return a.current().Master, nil
			}
			return a.moveTo(ctx, "", by)
		})
	}
	to, err := a.successor("", inSyncAndWell)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, switchWithin)
	defer cancel()
	return "", a.engine.Flush(ctx, to)
}

// vipStatus says who has a VIP.
func (a *Agent) vipStatus(v config.VIP, r beat.Report) control.VIP {
	out := control.VIP{Address: v.Prefix.String(), Holder: holder(v.Prefix.Addr().String(), r, a.o.Node)}
	if !a.external() {
		return out
	}
	out.Holders = holders(v.Prefix.Addr(), r, a.o.Node)
	switch {
	case len(r.VIPs) == 0:
		out.Holder = "unknown"
	case len(out.Holders) == 0:
		out.Holder = "none"
	case !slices.Contains(out.Holders, r.Master):
		out.Holder = string(out.Holders[0])
	default:
		out.Holder = string(r.Master)
	}
	return out
}

// holders are the nodes that see addr on themselves.
func holders(addr netip.Addr, r beat.Report, self cluster.NodeID) (nodes []cluster.NodeID) {
	for _, v := range r.VIPs {
		if v.Addr == addr && v.HeldHere {
			nodes = append(nodes, self)
		}
	}
	for _, p := range r.Peers {
		if slices.Contains(p.VIPs, addr) {
			nodes = append(nodes, p.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// judgeHolders names what another engine has made of the VIPs.
func (a *Agent) judgeHolders(s *control.Status) (critical []string) {
	switch {
	case !a.external() && s.Master == masterNone:
		return []string{"no node is master: the floating addresses are nowhere"}
	case !a.external() || s.Master == control.Unknown:
		return nil
	}
	owners := map[cluster.NodeID]bool{}
	whole := map[cluster.NodeID]int{}
	for _, v := range s.VIPs {
		switch {
		case len(v.Holders) == 0:
			critical = append(critical, fmt.Sprintf("%s is on no node that is heard: look at the engine (keepalived, Pacemaker)", v.Address))
		case len(v.Holders) > 1:
			critical = append(critical, fmt.Sprintf("two holders: %s is on %s; only the higher reign (%s) is replicated, what is written on the other is kept aside: stop the engine there, or remove the address", v.Address, joined(v.Holders), s.Master))
		}
		for _, n := range v.Holders {
			owners[n] = true
			whole[n]++
		}
	}
	all := false
	for n := range owners {
		all = all || whole[n] == len(s.VIPs)
	}
	if len(owners) > 0 && !all {
		critical = append(critical, "split addresses: no node has all of them, so none leads and nothing is replicated; have the engine keep them together (one vrrp_instance, or one group)")
	}
	if all && s.Master == masterNone && !s.Frozen {
		critical = append(critical, "no node leads although the addresses are held: its agent may have just started, or cannot reserve a term")
	}
	if s.Frozen {
		critical = append(critical, fmt.Sprintf("frozen: the addresses are here, but %s reigns with a higher term; nothing goes out from %s", s.Master, s.Node))
	}
	return critical
}

func joined(nodes []cluster.NodeID) string {
	var s []string
	for _, n := range nodes {
		s = append(s, string(n))
	}
	return strings.Join(s, " and ")
}

// placedByAnother refuses an order that is not ours to carry out.
func placedByAnother(op, subject string) error {
	return &problem.Problem{Op: op, Kind: problem.Conflict, Subject: subject, Err: errors.New("another engine places the addresses (failover.engine is external)"),
		Hint: "move them with its own means; or, on the master: revolve maintenance on, wait until they have moved, revolve maintenance off"}
}
