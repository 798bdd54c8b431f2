package vm

import (
	"context"
	"errors"
	"slices"
	"time"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// Plan is what a copy of one machine would be, without making one.
type Plan struct {
	VM      string         `json:"vm"`
	Files   []points.File  `json:"files"`
	Extents int            `json:"extents"` // of all disks: what cloning costs grows with them
	Stands  time.Duration  `json:"stands"`  // the clones, as predicted; a shutdown is the guest's own time
	Whole   bool           `json:"whole"`   // no clone can be kept: the machine has to stand still until all is sent
	Choice  block.Choice   `json:"choice"`
	Nodes   []PlannedNode  `json:"nodes"`
	Home    cluster.NodeID `json:"home"`
}

// PlannedNode is what would go to one node.
type PlannedNode struct {
	Node    cluster.NodeID `json:"node"`
	Base    points.ID      `json:"base,omitempty"`
	Tracker block.Tracker  `json:"tracker"`
	Why     string         `json:"why"`
	Read    int64          `json:"read"` // bytes, here
	Send    int64          `json:"send"` // at most
	Refused string         `json:"refused,omitempty"`
	Hint    string         `json:"hint,omitempty"`
}

// perExtent is what cloning an extent takes (measured on XFS: 10 to 14 microseconds), perClone one clone.
const (
	perExtent = 14 * time.Microsecond
	perClone  = 10 * time.Millisecond
)

// Plan says how a machine would be copied now. It makes clones of the running
// machine's disks to compare them, and removes them again.
func (e *Engine) Plan(ctx context.Context, name string, targets []cluster.NodeID) (p Plan, err error) {
	release, err := e.o.Store.Lock(name)
	if err != nil {
		return p, err
	}
	defer release()
	src, err := e.prepare(ctx, name)
	if err != nil {
		return p, err
	}
	defer src.Close() // it was not published: nothing of it stays
	p = Plan{VM: name, Choice: e.o.Store.Choice(), Nodes: []PlannedNode{}, Home: e.o.Node}
	for _, f := range src.Files {
		p.Whole = p.Whole || !f.Kept
		if n, err := block.Extents(f.F); err == nil {
			p.Extents += n
		}
		p.Stands += perClone
	}
	p.Stands += time.Duration(p.Extents) * perExtent
	if err := src.Clone(); err != nil {
		return p, err
	}
	for i := range src.Files {
		info, err := src.Files[i].F.Stat()
		if err != nil {
			return p, &problem.Problem{Op: "look at", Kind: problem.Unavailable, Subject: src.Files[i].Name, Err: err}
		}
		src.Files[i].Size = info.Size()
		p.Files = append(p.Files, points.File{Name: src.Files[i].Name, Size: info.Size()})
	}
	if len(targets) == 0 {
		targets = slices.DeleteFunc(e.o.Nodes(), func(n cluster.NodeID) bool { return n == e.o.Node })
	}
	for _, n := range targets {
		p.Nodes = append(p.Nodes, e.planNode(ctx, src, n))
	}
	return p, nil
}

func (e *Engine) planNode(ctx context.Context, src *points.Source, node cluster.NodeID) PlannedNode {
	out := PlannedNode{Node: node, Tracker: transfer.Everything, Why: "there is no copy of it to start from"}
	v, err := e.Ask(ctx, node, Question{What: askLook, VM: src.VM})
	if err != nil {
		out.Refused, out.Hint = err.Error(), problem.HintOf(err)
		return out
	}
	var there []points.Record
	for _, s := range v.VMs {
		there = s.Points
	}
	if err := transfer.Judge(transfer.Offer{Point: src.Point}, there); err != nil {
		out.Refused, out.Hint = err.Error(), problem.HintOf(err)
	}
	var base *points.Record
	for i := range there {
		if slices.Contains(src.Ancestors, there[i].ID) {
			out.Base = there[i].ID
			if r, err := e.o.Store.Get(src.VM, out.Base); err == nil {
				base = &r
			}
			break
		}
	}
	for _, f := range src.Files {
		e.planFile(&out, base, f)
	}
	return out
}

// planFile adds what one file costs. Small ones are not worth a word.
func (e *Engine) planFile(out *PlannedNode, base *points.Record, f points.SourceFile) {
	whole := func(t block.Tracker, why string) {
		out.Tracker, out.Why = t, why
		out.Read, out.Send = out.Read+f.Size, out.Send+f.Size
	}
	switch {
	case out.Base == "":
		out.Read, out.Send = out.Read+f.Size, out.Send+f.Size
	case base == nil:
		whole(transfer.Compared, "the point that the copy was made of is no longer here")
	case !f.Kept:
		whole(block.Hashes, f.Why)
	default:
		changed, err := e.changed(base, f)
		if err != nil {
			whole(transfer.Compared, err.Error())
			return
		}
		if out.Tracker != transfer.Compared {
			out.Tracker, out.Why = block.Maps, e.o.Store.Choice().Why
		}
		for _, r := range changed {
			if !r.Hole {
				out.Read, out.Send = out.Read+r.Length, out.Send+r.Length
			}
		}
	}
}

func (e *Engine) changed(base *points.Record, f points.SourceFile) ([]block.Range, error) {
	was, err := e.o.Store.Untouched(base, f.Name)
	if err != nil {
		return nil, err
	}
	defer was.Close()
	list, err := block.Changed(was, f.F, f.Size)
	if errors.Is(err, block.ErrUnsupported) {
		err = errors.New("its extent maps cannot be compared")
	}
	return list, err
}
