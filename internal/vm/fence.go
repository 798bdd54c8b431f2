package vm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// This file is the home that returns and finds that its machine was started on
// another node since. What it has is older by generation, and a person chose the
// other one; or it is of the same generation, and the home whose name is first stays
// (claim.go). So it is stopped, kept as a point, and told why.

// fencePoll is how often a node asks whether its machines were started elsewhere:
// a home that was cut off learns it so soon after it is heard again.
const fencePoll = 30 * time.Second

// watchHomes fences until ctx ends.
func (e *Engine) watchHomes(ctx context.Context) error {
	for {
		e.fenceAll(ctx)
		if !e.wait(ctx, fencePoll) {
			return nil
		}
	}
}

// fenceAll looks after every machine of which this node thinks that it is its home.
func (e *Engine) fenceAll(ctx context.Context) {
	machines, err := e.o.Host.Machines(ctx)
	if err != nil {
		return // a node without libvirt runs none; one whose libvirt hangs is asked again
	}
	var others []View
	for _, m := range machines {
		c, ok, err := e.o.Store.Chain(m.Name)
		if err != nil || !ok || c.Home != e.o.Node || strings.HasPrefix(m.Name, rehearsalPrefix) {
			continue
		}
		if others == nil {
			if others, _ = e.ask(ctx, ""); len(others) == 0 {
				return
			}
		}
		home, lost, tied := lostTo(m.Name, e.o.Node, c, others)
		for _, t := range tied {
			e.tellTie(m.Name, Claim{Home: e.o.Node, Generation: c.Last.Generation}, t)
		}
		if !lost {
			continue
		}
		if err := e.fence(ctx, m.Name, home); err != nil && problem.KindOf(err) != problem.Conflict {
			e.o.Log.Error("a machine whose home is elsewhere now could not be fenced", "vm", m.Name, "home", home, "err", err)
		}
	}
}

// lostTo is the node to which a machine has gone: its claim beats the one of this
// node. What ties with it is told, whoever yields.
func lostTo(vm string, here cluster.NodeID, c points.Chain, others []View) (home cluster.NodeID, lost bool, tied []Claim) {
	mine := Claim{Known: true, Home: here, Generation: c.Last.Generation}
	top := mine
	for _, v := range others {
		for _, s := range v.VMs {
			if s.VM != vm {
				continue
			}
			claim := claimOf(s)
			if claim.ties(mine) {
				tied = append(tied, claim)
			}
			if claim.Home != "" && claim.beats(top) {
				top = claim
			}
		}
	}
	return top.Home, top.Home != here, tied
}

// fence stops a machine that must not run here, keeps what it is as a point, and
// then writes down where its home is. It is done once; every step may come again.
func (e *Engine) fence(ctx context.Context, name string, home cluster.NodeID) error {
	release, err := e.o.Store.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	c, ok, err := e.o.Store.Chain(name)
	if err != nil || !ok || c.Home != e.o.Node {
		return err
	}
	state, err := e.o.Host.State(ctx, name)
	if err != nil {
		return err
	}
	level := points.Shutdown
	if state != libvirt.Off {
		level = points.Suspend
	}
	if state == libvirt.Running { // two of it are on the network: this one stops at once, and loses nothing
		if err := e.o.Host.Suspend(ctx, name); err != nil {
			return err
		}
	}
	e.step("fenced")
	kept, err := e.keepAside(ctx, name, c, level)
	if err != nil {
		e.o.Log.Error("what a fenced machine was is not kept as a point; its disks stay where they are", "vm", name, "err", err)
	}
	if kept.ID != "" {
		c.Last = kept
	}
	c.Last.Files, c.Home, c.Since = nil, home, time.Now().UTC()
	if err := e.o.Store.SetChain(name, c); err != nil {
		return err
	}
	e.o.Log.Warn("this machine was started elsewhere since, and must not run here", "vm", name, "home", home, "was", state, "kept", kept.ID,
		"hint", "to bring it back: on "+string(home)+" revolve vm replicate "+name+", then revolve vm stop "+name+" and revolve vm start "+name+" --on "+string(e.o.Node))
	return nil
}

// keepAside takes a point that no other node's point has to descend from.
func (e *Engine) keepAside(ctx context.Context, name string, c points.Chain, level points.Level) (points.Point, error) {
	next := c.Last.Next(time.Now().UTC())
	next.Level = level
	src, err := e.prepareAs(ctx, name, next)
	if err != nil {
		return points.Point{}, err
	}
	defer src.Close()
	if i := slices.IndexFunc(src.Files, func(f points.SourceFile) bool { return !f.Kept }); i >= 0 {
		return points.Point{}, errors.New("no clone can be kept: " + src.Files[i].Why)
	}
	src.Aside = true
	if err := src.Clone(); err != nil || e.unchanged(name, c.Last.ID, src) {
		return points.Point{}, err // the new home started from just this
	}
	if err := src.Settle(); err != nil {
		return points.Point{}, err
	}
	return src.Point, nil
}

// unchanged is whether a machine's disks are what they were at a point that is here.
func (e *Engine) unchanged(name string, last points.ID, src *points.Source) bool {
	base, err := e.o.Store.Get(name, last)
	if err != nil {
		return false
	}
	for _, f := range src.Files {
		if f.Name == definitionFile {
			continue
		}
		info, err := f.F.Stat()
		if err != nil {
			return false
		}
		f.Size = info.Size()
		if changed, err := e.changed(&base, f); err != nil || len(changed) > 0 {
			return false
		}
	}
	return true
}
