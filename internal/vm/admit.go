package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// This file is the guard of starts that do not come from here: libvirt's qemu hook
// asks before every one (libvirt: docs/hooks.rst). It must not ask libvirt of its
// own node, which waits for the answer.

// Admit decides whether a machine may be started on a node as it is there. It may
// not while it runs elsewhere, where its home is another node (of two homes of one
// generation, the one that is not first by name), nor, unless a
// person typed its name, while a node that could run it cannot be asked. A machine
// of which there are no points is nobody's concern.
func Admit(vm string, here cluster.NodeID, mine Claim, others []View, silent []cluster.NodeID, confirmed bool) error {
	refuse := func(kind problem.Kind, text, hint string) error {
		return &problem.Problem{Op: "start", Kind: kind, Subject: vm, Err: errors.New(text), Hint: hint}
	}
	top, blind := mine, slices.Clone(silent)
	for _, v := range others {
		if v.Libvirt != "" {
			blind = append(blind, v.Node)
		}
		for _, s := range v.VMs {
			switch {
			case s.VM != vm:
				continue
			case s.Starting:
				return refuse(problem.Conflict, "it is being started on "+string(v.Node)+" right now, or held still for a copy", "see what became of it: revolve vm list")
			case up(v.Node, s):
				return refuse(problem.Conflict, fmt.Sprintf("it is %s on %s", s.State, v.Node), "a machine runs once; stop it there first: revolve vm stop "+vm)
			}
			if s.Unread != "" {
				blind = append(blind, v.Node)
			}
			if c := claimOf(s); c.Known && (!top.Known || c.beats(top)) {
				top = c
			}
		}
	}
	switch {
	case top.Known && top.Home != here && mine.Home == here:
		return refuse(problem.StaleTerm, fmt.Sprintf("it was started on %s since, and its home is there; this is what it was before", top.Home),
			"bring it back as it is now: revolve vm replicate on "+string(top.Home)+", revolve vm stop "+vm+", revolve vm start "+vm+" --on "+string(here))
	case top.Known && top.Home != here:
		return refuse(problem.Conflict, "its home is "+string(top.Home), "move it here, from its newest point: revolve vm start "+vm+" --on "+string(here))
	case mine.Known && !mine.Owed && len(blind) > 0 && !confirmed:
		return &problem.Problem{Op: "start", Kind: problem.Conflict, Subject: vm, Err: fmt.Errorf("%s %w", list(blind), errBlind),
			Hint: "make sure that it does not, and type its name: revolve vm start " + vm + " --on " + string(here) + " --as-it-is --confirm " + vm}
	}
	return nil
}

// hookWithin bounds the answer to a hook: libvirt waits for it.
const hookWithin = 20 * time.Second

// MayStart answers libvirt's hook.
func (e *Engine) MayStart(ctx context.Context, name string) error {
	if strings.HasPrefix(name, rehearsalPrefix) {
		return nil // a clone of its own
	}
	ctx, cancel := context.WithTimeout(ctx, hookWithin)
	defer cancel()
	e.mu.Lock()
	admitted := e.admitted[name]
	e.mu.Unlock()
	if admitted {
		return nil
	}
	defer e.announce(name)() // before anybody is asked: two nodes that are asked at once see each other
	err := e.open()
	if err == nil {
		err = e.halfAdopted(name)
	}
	if err == nil {
		err = e.admit(ctx, name, false)
	}
	if err != nil {
		e.o.Log.Warn("a start was refused", "vm", name, "err", err)
		return err
	}
	e.change(func() {
		e.hooked[name] = time.Now().Add(hookedFor)
		e.used(name + " is started")
	})
	return nil
}

// hookedFor is how long a machine that libvirt was let start counts as being started:
// until then libvirt says that it runs.
const hookedFor = 15 * time.Second

func (e *Engine) admit(ctx context.Context, name string, confirmed bool) error {
	seen := e.records(name)
	if seen.Unread != "" {
		return &problem.Problem{Op: "start", Kind: problem.Unavailable, Subject: name, Err: errors.New("what is written here of it cannot be read, so nobody knows where its home is: " + seen.Unread),
			Hint: "look at the storage: " + e.o.Store.Dir(name) + "; mounted? readable?"}
	}
	mine := claimOf(seen)
	var d Debt
	owed, err := e.o.Store.Noted(name, debtFile, &d)
	if err != nil {
		return err
	}
	mine.Owed = owed && d.Boot == bootID()
	others, failed := e.ask(ctx, name)
	var silent []cluster.NodeID
	for n := range failed {
		if !mine.Known || mine.Home != e.o.Node || !e.isOff(n, others) {
			silent = append(silent, n)
		}
	}
	for _, v := range others {
		for _, s := range v.VMs {
			if c := claimOf(s); s.VM == name && c.ties(mine) {
				e.tellTie(name, mine, c)
			}
		}
	}
	return e.withWord(Admit(name, e.o.Node, mine, others, silent, confirmed), silent, others)
}

// withWord says of nodes on demand why their silence does not count as off, and for whom: another node than this one may have missed a goodbye.
func (e *Engine) withWord(err error, silent []cluster.NodeID, views []View) error {
	var p *problem.Problem
	on := slices.DeleteFunc(slices.Clone(silent), func(n cluster.NodeID) bool { return !e.o.MayBeOff(n) || e.isOff(n, views) })
	if !errors.Is(err, errBlind) || !errors.As(err, &p) || len(on) == 0 {
		return err
	}
	here := View{Node: e.o.Node}
	if e.o.WereOn != nil {
		here.WereOn = e.o.WereOn()
	}
	var who []cluster.NodeID
	for _, v := range append([]View{here}, views...) {
		if slices.ContainsFunc(on, func(n cluster.NodeID) bool { return slices.Contains(v.WereOn, n) }) {
			who = append(who, v.Node)
		}
	}
	said := *p
	said.Err = fmt.Errorf("%w; of nodes on demand only silence after a goodbye means off, and %s heard none of %s", p.Err, list(who), list(on))
	said.Hint += "; or wake it, and it says itself: revolve power on " + list(on[:1])
	return &said
}

// errBlind is that nobody knows whether a machine runs on a node.
var errBlind = errors.New("cannot be asked whether it runs there")

// admitting does something during which libvirt's hook lets the machine start.
func (e *Engine) admitting(name string, do func() error) error {
	e.change(func() { e.admitted[name] = true })
	defer e.change(func() { delete(e.admitted, name) })
	return do()
}

// startAsItIs starts the machine that libvirt has here, not one from a point.
func (e *Engine) startAsItIs(ctx context.Context, o StartOrder) (s Started, err error) {
	if err := e.dropUnused(ctx, o.VM); err != nil {
		return s, err
	}
	state, err := e.o.Host.State(ctx, o.VM)
	if err != nil {
		return s, err
	}
	if state != libvirt.Off {
		return s, &problem.Problem{Op: "start", Kind: problem.Conflict, Subject: o.VM, Err: fmt.Errorf("it is %s here", state), Hint: "see where it is: revolve vm list"}
	}
	if o.Point != "" || o.Confirm != "" && o.Confirm != o.VM {
		return s, &problem.Problem{Op: "start", Kind: problem.Invalid, Subject: o.VM, Err: errors.New("as it is, there is no point to name; what is typed after --confirm is its own name"), Hint: "revolve vm start --help"}
	}
	if err := e.admit(ctx, o.VM, o.Confirm == o.VM); err != nil {
		return s, err
	}
	if err := e.admitting(o.VM, func() error { return e.o.Host.Start(ctx, o.VM) }); err != nil {
		return s, err
	}
	e.o.Log.Warn("machine started as it is", "vm", o.VM)
	return Started{VM: o.VM, Node: e.o.Node}, nil
}

// MayStartAlone answers the hook while no agent does. What this node shut down for
// a copy is started again, and what it has no points of; everything else waits.
func MayStartAlone(state, name string) error {
	if strings.HasPrefix(name, rehearsalPrefix) || points.CheckVM(name) != nil {
		return nil
	}
	note, ok, err := readNote(state)
	if err == nil && !ok {
		return nil // this node keeps no points
	}
	var known bool
	var d Debt
	if err == nil {
		known, err = points.Known(note.Dir, name, debtFile, &d)
	}
	switch {
	case err == nil && !known, err == nil && d.VM == name && d.Boot == bootID():
		return nil
	}
	return &problem.Problem{Op: "start", Kind: problem.Unavailable, Subject: name, Err: errors.Join(errors.New("this node's agent does not answer, so nobody knows whether it runs elsewhere"), err),
		Hint: "start it: systemctl start revolve"}
}
