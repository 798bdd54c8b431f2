package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// This file is the master's word on whether a node can be off: only it sees all of them.

const (
	// rehearsedWithin is how long the standby of a rehearsal leads at most before it is to hand the addresses back.
	rehearsedWithin = stayMost + inSyncWithin + 2*(backTries+1)*switchWithin
	// recordedWithin is how long it may take until it is written down why a master leads.
	recordedWithin = 10 * time.Second
)

// askToSpare asks the master whether it can spare this node: it knows what is under way in the cluster. Once this node has
// stepped back, the master's word is a promise that it counts on it no more.
func (a *Agent) askToSpare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, spareWithin)
	defer cancel()
	if a.asksMaster != nil {
		return a.asksMaster(ctx)
	}
	_, err := a.send(ctx, a.current().Master, orderFrame{What: orderSpare, On: a.rests()})
	return err
}

// spared are the nodes that this master said it could spare, until when.
type spared struct {
	mu    sync.Mutex
	until map[cluster.NodeID]time.Time
}

// sees lets who has fallen silent count again: it went off, as it was let, and when it is heard again it is back.
func (s *spared) sees(r beat.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range r.Peers {
		if p.State == beat.PeerDead {
			delete(s.until, p.Node)
		}
	}
}

// spare is this master's word on whether a node can be off now: not if the cluster would be left without a standby that can
// take over. One that it spared a moment ago does not count as one; so of two that ask at once the second stays.
func (a *Agent) spare(node cluster.NodeID, promised bool) error {
	refuse := func(why, hint string) error {
		return &problem.Problem{Op: "power off", Kind: problem.Conflict, Subject: string(node), Err: errors.New(why), Hint: hint}
	}
	if err := a.settled(); err != nil {
		return refuse(causeOf(err), problem.HintOf(err))
	}
	for _, v := range a.cfg().Volumes {
		if p, ok := a.proofOf(v.Name); ok && p {
			return refuse(fmt.Sprintf("a proof of volume %s is going on", v.Name), "wait for it, or stop it: revolve verify --stop "+string(v.Name))
		}
	}
	if why := a.onTheMove(); why != "" {
		return refuse(why, "wait for it: revolve status --watch")
	}
	hasAll := a.hasAllOf()
	a.spared.mu.Lock()
	defer a.spared.mu.Unlock()
	delete(a.spared.until, node) // it asks anew, so it is here
	if !hasAll(node) {
		return refuse("the master does not see that it has all changes", "wait until it is in-sync: revolve status --watch")
	}
	cfg, _ := a.cfg().Node(node)
	if cfg != nil && cfg.Candidate && !slices.ContainsFunc(a.current().Peers, func(p beat.PeerReport) bool { return p.Node != node && hasAll(p.Node) && a.couldLead(p) }) {
		return refuse("no other standby could take over then", "a node that is never to lead may be off: candidate: false; else wait until another one is eligible: revolve status")
	}
	if a.spared.until == nil {
		a.spared.until = map[cluster.NodeID]time.Time{}
	}
	if promised {
		a.spared.until[node] = time.Now().Add(restFor)
	}
	return nil
}

// couldLead reports whether a standby could take over now. The caller has spared.mu.
func (a *Agent) couldLead(p beat.PeerReport) bool {
	n, ok := a.cfg().Node(p.Node)
	return ok && n.Candidate && p.State == beat.PeerAlive && p.Class == cluster.InSync && !p.Ill && !p.Maintenance && !time.Now().Before(a.spared.until[p.Node])
}

// hasAllOf are how this master sees its volumes: whether a node has all changes. What that node says of itself is older: one
// that thaws says for some moments what was so before. What was not seen just now is not known.
func (a *Agent) hasAllOf() func(node cluster.NodeID) bool {
	volumes := len(a.cfg().Volumes)
	if volumes == 0 {
		return func(cluster.NodeID) bool { return true }
	}
	s := a.looks.look()
	known := len(s.volumes) >= volumes && time.Since(s.at) <= lookOld
	return func(node cluster.NodeID) bool { return known && inSyncAsTold(node, s.volumes) == control.Yes }
}

// onTheMove says that the addresses are being moved, or are away for a rehearsal that another node carries out and are to go back.
func (a *Agent) onTheMove() string {
	a.mu.Lock()
	r, order := a.report, a.order
	a.mu.Unlock()
	if a.switching.Load() > 0 || r.Handover.ID != 0 || order.ID != r.SwitchResult.ID && order.ID != 0 {
		return "the addresses are being moved"
	}
	if a.history == nil || time.Since(r.Since) > rehearsedWithin {
		return ""
	}
	recorded := time.Since(r.Since) > recordedWithin
	for _, h := range a.history.List() {
		if h.Term != r.Reign.Term {
			continue
		}
		if recorded = true; h.Ordered != nil && h.Ordered.Why == history.WhyRehearsal {
			return "a rehearsal is going on, or has just ended"
		}
	}
	if !recorded {
		return "the master leads since a moment ago"
	}
	return ""
}

// proofOf reports whether a proof of a volume is going on.
func (a *Agent) proofOf(v cluster.VolumeID) (running, ok bool) {
	if a.engine == nil {
		return false, false
	}
	p, ok := a.engine.ProofOf(v)
	return p.Running, ok
}

// causeOf is what an error says, without what was attempted.
func causeOf(err error) string {
	var p *problem.Problem
	if errors.As(err, &p) && p.Err != nil {
		return p.Err.Error()
	}
	return err.Error()
}
