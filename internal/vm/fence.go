package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

// This file is the home that returns and finds that its machine was started on
// another node since. What it has is older by generation, and a person chose the
// other one; or it is of the same generation, and the home whose name is first stays
// (claim.go). So it is stopped, kept as a point, and told why.

// fencePoll is how often a node asks whether its machines were started elsewhere:
// a home that was cut off learns it so soon after it is heard again.
const fencePoll = 30 * time.Second

// tellAgain is how often the same is told of a machine while it lasts.
const tellAgain = time.Hour

// loudly tells what lasts, and would otherwise be told every half minute.
func (e *Engine) loudly(key, text string, args ...any) {
	now := time.Now()
	e.mu.Lock()
	before, told := e.told[key]
	if told = told && now.Sub(before) < tellAgain; !told {
		e.told[key] = now
	}
	e.mu.Unlock()
	if !told {
		e.o.Log.Error(text, args...)
	}
}

// watchHomes fences until ctx ends.
func (e *Engine) watchHomes(ctx context.Context) error {
	for {
		e.fenceAll(ctx)
		if !e.wait(ctx, fencePoll) {
			return nil
		}
	}
}

// fenceAll looks after every machine whose home is, or was, this node.
func (e *Engine) fenceAll(ctx context.Context) {
	machines, err := e.o.Host.Machines(ctx)
	if err != nil {
		return // a node without libvirt runs none; one whose libvirt hangs is asked again
	}
	var others []View
	for _, m := range machines {
		if strings.HasPrefix(m.Name, rehearsalPrefix) {
			continue
		}
		c, ok, err := e.o.Store.Chain(m.Name)
		if err != nil {
			e.loudly(m.Name+" unread", "where a machine's home is cannot be read, so it is not fenced", "vm", m.Name, "err", err)
		}
		if err != nil || !ok || c.Home != e.o.Node && m.State != libvirt.Running {
			continue
		}
		if others == nil {
			var silent map[cluster.NodeID]error
			if others, silent = e.ask(ctx, ""); len(others) == 0 {
				if len(silent) > 0 {
					e.loudly("nobody", "no other node answers, so nobody knows whether a machine that runs here was started elsewhere", "err", errors.Join(slices.Collect(maps.Values(silent))...))
				}
				return
			}
		}
		e.fenceOne(ctx, m, c, others)
	}
}

// fenceOne decides on one machine by what the other nodes say.
func (e *Engine) fenceOne(ctx context.Context, m libvirt.Machine, c points.Chain, others []View) {
	var err error
	home := c.Home
	if home != e.o.Node { // it was fenced, and somebody let it go on
		if !claimed(m.Name, c, others) {
			return
		}
		_, err = e.halt(ctx, m.Name, c)
		e.o.Log.Warn("this machine ran again although its home is elsewhere, and was paused", "vm", m.Name, "home", home, "err", err)
		return
	}
	l := lostTo(m.Name, e.o.Node, c, others)
	for _, t := range l.tied {
		e.tellTie(m.Name, Claim{Home: e.o.Node, Generation: c.Last.Generation}, t)
	}
	switch {
	case l.home == e.o.Node:
		return
	case m.State != libvirt.Off && !l.ran:
		e.loudly(m.Name+" unsure", "another node claims to be the home of this machine, and never ran it as far as is known: it is left as it is", "vm", m.Name, "home", l.home,
			"hint", "if its start there failed, make this its home again when it is off: revolve vm start "+m.Name+" --on "+string(e.o.Node)+" --confirm "+m.Name)
		return
	}
	if err := e.fence(ctx, m.Name, c, l.home); problem.KindOf(err) == problem.Conflict && err != nil {
		e.loudly(m.Name+" later", "a machine whose home is elsewhere now is not kept aside yet; that is tried again", "vm", m.Name, "home", l.home, "err", err)
	} else if err != nil {
		e.o.Log.Error("a machine whose home is elsewhere now could not be fenced", "vm", m.Name, "home", l.home, "err", err)
	}
}

// loss is what the other nodes' claims mean for a machine whose home is here.
type loss struct {
	home cluster.NodeID // whose claim beats all others
	ran  bool           // it has run there, or is about to: not only has somebody tried
	tied []Claim        // claims as good as that of this node
}

// lostTo is where a machine's home is by the claims of all.
func lostTo(vm string, here cluster.NodeID, c points.Chain, others []View) (l loss) {
	mine := Claim{Known: true, Home: here, Generation: c.Last.Generation}
	top := mine
	for _, v := range others {
		for _, s := range v.VMs {
			if s.VM != vm {
				continue
			}
			claim := claimOf(s)
			if claim.ties(mine) {
				l.tied = append(l.tied, claim)
			}
			if claim.Home != "" && claim.beats(top) {
				top = claim
			}
			atHome := claim.Home == v.Node && claim.beats(mine)
			wrote := newestOf(s.Points) // a point is taken only of what was started
			l.ran = l.ran || atHome && (s.Starting || up(v.Node, s)) ||
				wrote != nil && (Claim{Home: wrote.Node, Generation: wrote.Generation}).beats(mine)
		}
	}
	l.home = top.Home
	return l
}

// claimed is whether the home of a machine that was fenced here answers, and still says so.
func claimed(vm string, c points.Chain, others []View) bool {
	return slices.ContainsFunc(others, func(v View) bool {
		return v.Node == c.Home && slices.ContainsFunc(v.VMs, func(s Seen) bool {
			return s.VM == vm && s.Home == v.Node && claimOf(s).Generation >= c.Last.Generation
		})
	})
}

// halt pauses a machine that runs, unless it became another one since c was read:
// its history is durable before it starts. It says what it did until then.
func (e *Engine) halt(ctx context.Context, name string, c points.Chain) (was libvirt.State, err error) {
	if was, err = e.o.Host.State(ctx, name); err != nil || was != libvirt.Running {
		return was, err
	}
	now, ok, err := e.o.Store.Chain(name)
	if err != nil {
		return was, err
	}
	if !ok || now.Home != c.Home || now.Last.Generation != c.Last.Generation {
		return was, &problem.Problem{Op: "fence", Kind: problem.Conflict, Subject: name, Err: errors.New("it was started here meanwhile")}
	}
	return was, e.o.Host.Suspend(ctx, name)
}

// fence stops a machine that must not run here, keeps what it is as a point, and
// then writes down where its home is. It is done once; every step may come again.
// It stops before the lock is had, which a copy that is under way may hold for hours.
func (e *Engine) fence(ctx context.Context, name string, c points.Chain, home cluster.NodeID) error {
	was, err := e.halt(ctx, name, c) // two of it are on the network: this one stops at once, and loses nothing
	if err != nil {
		return err
	}
	release, err := e.o.Store.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	c, ok, err := e.o.Store.Chain(name)
	if err != nil || !ok || c.Home != e.o.Node {
		return err
	}
	if _, err := e.halt(ctx, name, c); err != nil { // a copy that ended meanwhile let it go on
		return err
	}
	state, err := e.o.Host.State(ctx, name)
	if err != nil {
		return err
	}
	level := points.Suspend
	switch state {
	case libvirt.Off:
		if level, err = e.whileOff(ctx, name); err != nil {
			return err
		}
	case libvirt.Paused:
	default: // shutting down, or asleep and able to wake
		return &problem.Problem{Op: "fence", Kind: problem.Conflict, Subject: name, Err: errors.New("it is neither off nor paused")}
	}
	e.step("fenced")
	if err := e.setAside(ctx, name, home); err != nil {
		e.o.Log.Error("points that only this node has may keep the new home's from coming", "vm", name, "err", err)
	}
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
	e.o.Log.Warn("this machine was started elsewhere since, and must not run here", "vm", name, "home", home, "was", was, "kept", kept.ID,
		"hint", "to bring it back: on "+string(home)+" revolve vm replicate "+name+", then revolve vm stop "+name+" and revolve vm start "+name+" --on "+string(e.o.Node))
	return nil
}

// setAside marks the points of this node from which the new home's history does not
// come: what was taken here after the one from which it started.
func (e *Engine) setAside(ctx context.Context, name string, home cluster.NodeID) error {
	v, err := e.Ask(ctx, home, Question{What: askLook, VM: name})
	if err != nil {
		return err
	}
	mine, err := e.o.Store.List(name)
	if err != nil {
		return err
	}
	for _, s := range v.VMs {
		if s.VM != name {
			continue
		}
		for _, id := range strayed(mine, s.Points, home) {
			if err := e.o.Store.SetAside(name, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// strayed are the points here that are newer than the newest from which another
// home's history comes, both newest first. Where none is known to be, none is.
func strayed(mine, theirs []points.Record, home cluster.NodeID) (ids []points.ID) {
	if i := slices.IndexFunc(theirs, func(r points.Record) bool { return r.Node == home }); i >= 0 {
		theirs = theirs[i : i+1] // its own newest knows where it comes from
	}
	for _, r := range mine {
		if slices.ContainsFunc(theirs, func(t points.Record) bool { return t.ID == r.ID || slices.Contains(t.Ancestors, r.ID) }) {
			return ids
		}
		if r.Here.From == "" && !r.Here.Aside {
			ids = append(ids, r.ID)
		}
	}
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
		if f.Name == tpmFile { // a copy: no block of it is shared
			if e.sameBytes(&base, f) {
				continue
			}
			return false
		}
		if changed, err := e.changed(&base, f); err != nil || len(changed) > 0 {
			return false
		}
	}
	return true
}

// sameBytes compares a small file with that of a point.
func (e *Engine) sameBytes(base *points.Record, f points.SourceFile) bool {
	was, err := e.o.Store.Untouched(base, f.Name)
	if err != nil {
		return false
	}
	defer was.Close()
	one, err1 := io.ReadAll(io.NewSectionReader(was, 0, tpm.MaxState))
	two, err2 := io.ReadAll(io.NewSectionReader(f.F, 0, tpm.MaxState))
	return err1 == nil && err2 == nil && bytes.Equal(one, two)
}
