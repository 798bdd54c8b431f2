package vm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/keep"
	"revolve/internal/vm/points"
)

// PruneOrder is a wish that points go that no rule wants.
type PruneOrder struct {
	VM     string `json:"vm"`
	DryRun bool   `json:"dry_run"`
	// Aside is the one point that goes, instead: what a machine was that lost its home, and that somebody has looked at.
	Aside points.ID `json:"aside,omitempty"`
}

// Pruned is what became of a machine's points on one node.
type Pruned struct {
	VM     string         `json:"vm"`
	Node   cluster.NodeID `json:"node"`
	Rules  keep.Rules     `json:"rules"`
	Points []keep.Verdict `json:"points"` // newest first
	Gone   int            `json:"gone"`
}

// basesFile is what this node remembers of the newest point that it has in common
// with each other node, which may be off when points are pruned.
const basesFile = "bases.json"

type bases map[cluster.NodeID]points.ID

// noteBase remembers that a node has a point that is here too. The caller has the machine's Lock.
func (e *Engine) noteBase(vm string, node cluster.NodeID, id points.ID) error {
	b := bases{}
	if _, err := e.o.Store.Noted(vm, basesFile, &b); err != nil {
		return err
	}
	b[node] = id
	return e.o.Store.Note(vm, basesFile, b)
}

// Prune has every node that answers prune a machine's points by its own configuration.
func (e *Engine) Prune(ctx context.Context, o PruneOrder) (out []Pruned, silent map[cluster.NodeID]error) {
	silent = map[cluster.NodeID]error{}
	for _, n := range e.o.Nodes() {
		v, err := e.have(ctx, n, Question{What: askPrune, VM: o.VM, Prune: &o})
		if err == nil && v.Pruned != nil {
			out = append(out, *v.Pruned)
			continue
		}
		silent[n] = noAnswer(err, "prune the points of", o.VM)
	}
	return out, silent
}

func (e *Engine) pruneHere(ctx context.Context, o PruneOrder) (p Pruned, err error) {
	if err := points.CheckVM(o.VM); err != nil {
		return p, err
	}
	others, _ := e.ask(ctx, o.VM)
	err = e.locked(ctx, o.VM, func() error { p, err = e.prune(o, others); return err })
	return p, err
}

// prune deletes, oldest first, what no rule of this node wants. The caller has the machine's Lock.
func (e *Engine) prune(o PruneOrder, others []View) (p Pruned, err error) {
	p = Pruned{VM: o.VM, Node: e.o.Node, Rules: e.o.Keep(o.VM), Points: []keep.Verdict{}}
	list, err := e.o.Store.List(o.VM)
	if err != nil {
		return p, err
	}
	if o.Aside != "" {
		err = e.pruneAside(o, list, &p)
		return p, err
	}
	common, err := e.common(o.VM, list, others)
	if err != nil {
		return p, err
	}
	in := make([]keep.Point, len(list))
	for i, r := range list {
		in[i] = keep.Point{ID: string(r.ID), At: r.Taken, Proven: proven(&r), Aside: r.Here.Aside, Base: common[r.ID]}
	}
	p.Points = keep.Decide(in, p.Rules, time.Now())
	for _, v := range slices.Backward(p.Points) {
		if v.Stay {
			continue
		}
		if p.Gone++; o.DryRun {
			continue
		}
		if err := e.o.Store.Delete(o.VM, points.ID(v.ID)); err != nil {
			return p, err
		}
		e.o.Log.Info("point deleted: no rule wants it", "vm", o.VM, "point", v.ID)
	}
	return p, nil
}

// proven is whether a point is known to be good, not only thought to be.
func proven(r *points.Record) bool {
	return r.Here.Proof.All || r.Here.Rehearsed != nil && r.Here.Rehearsed.Failed == ""
}

// common are the points from which the next copy between this node and another
// starts, and why they stay: the newest that both have, by what the other says
// now, or by what is remembered of it.
func (e *Engine) common(vm string, list []points.Record, others []View) (map[points.ID]string, error) {
	newest := bases{}
	if _, err := e.o.Store.Noted(vm, basesFile, &newest); err != nil {
		return nil, err
	}
	for _, v := range others {
		for _, s := range v.VMs {
			i := slices.IndexFunc(list, func(r points.Record) bool {
				return slices.ContainsFunc(s.Points, func(there points.Record) bool { return there.ID == r.ID })
			})
			if s.VM == vm && i >= 0 {
				newest[v.Node] = list[i].ID
			}
		}
	}
	out := map[points.ID]string{}
	for _, n := range slices.Sorted(maps.Keys(newest)) {
		if why := out[newest[n]]; why != "" {
			out[newest[n]] = why + ", " + string(n)
		} else {
			out[newest[n]] = "the newest in common with " + string(n)
		}
	}
	return out, nil
}

// pruneAside deletes one point that was kept aside. No other goes this way: the rules decide about those.
func (e *Engine) pruneAside(o PruneOrder, list []points.Record, p *Pruned) error {
	i := slices.IndexFunc(list, func(r points.Record) bool { return r.ID == o.Aside })
	if i < 0 {
		return nil // it is on another node
	}
	if !list[i].Here.Aside {
		return &problem.Problem{Op: "delete point", Kind: problem.Conflict, Subject: string(o.Aside), Err: errors.New("it was not kept aside: the rules of the configuration decide about it"), Hint: "see which were: revolve vm points " + o.VM}
	}
	p.Points, p.Gone = []keep.Verdict{{ID: string(o.Aside), Why: []string{}}}, 1
	if o.DryRun {
		return nil
	}
	if err := e.o.Store.Delete(o.VM, o.Aside); err != nil {
		return err
	}
	e.o.Log.Info("point deleted that was kept aside, as ordered", "vm", o.VM, "point", o.Aside)
	return nil
}

// pruneAfter prunes here and where a point came, as far as there are rules. What fails is no failure of the copy.
// The caller has the machine's Lock.
func (e *Engine) pruneAfter(ctx context.Context, vm string, id points.ID, arrived []cluster.NodeID) {
	for _, n := range arrived {
		if err := e.noteBase(vm, n, id); err != nil {
			e.o.Log.Error("what another node has is not remembered, so nothing is pruned", "vm", vm, "node", n, "err", err)
			return
		}
	}
	if len(arrived) == 0 || e.o.Keep(vm).None() {
		return
	}
	others, _ := e.ask(ctx, vm)
	if _, err := e.prune(PruneOrder{VM: vm}, others); err != nil {
		e.o.Log.Error("points not pruned", "vm", vm, "err", err)
	}
	for _, n := range arrived {
		if _, err := e.have(ctx, n, Question{What: askPrune, VM: vm, Prune: &PruneOrder{VM: vm}}); err != nil && !errors.Is(err, context.Canceled) {
			e.o.Log.Error("points not pruned", "vm", vm, "node", n, "err", err, "hint", problem.HintOf(err))
		}
	}
}
