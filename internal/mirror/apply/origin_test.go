package apply

import (
	"testing"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// from gives what an operation brings the source's number.
func from(origin uint64, op wire.Op) wire.Op {
	op.Meta.Origin = origin
	return op
}

// Two files of one size and one time are told apart by where they come from, whichever way the source tells of them.
func TestTwinsAreToldApart(t *testing.T) {
	offer := func(origin uint64) wire.Op {
		op := from(origin, fileOp("k", "twin 2"))
		op.Kind, op.Data, op.ID = wire.OpDefer, nil, 7
		return op
	}
	group := func(how wire.How, origin uint64) wire.Op {
		op := from(origin, groupOp(how, "twin 2", "k", "n"))
		op.Meta.Group = origin
		return op
	}
	for name, c := range map[string]struct {
		op     wire.Op
		needed func(r *rig) bool
	}{
		"offered":               {offer(2), func(r *rig) bool { _, ids, _ := r.TakeMissed(); return len(ids) == 1 }},
		"offered as a group":    {group(wire.GroupOffer, 2), func(r *rig) bool { _, ids, _ := r.TakeMissed(); return len(ids) == 1 }},
		"the names of a group":  {group(wire.GroupNames, 2), (*rig).asks},
		"renamed":               {from(2, wire.Op{Kind: wire.OpRename, Old: "old", Path: "k", Meta: fileOp("", "twin 2").Meta}), (*rig).asks},
		"the same, renamed":     {from(1, wire.Op{Kind: wire.OpRename, Old: "old", Path: "k", Meta: fileOp("", "twin 2").Meta}), func(r *rig) bool { return !r.asks() }},
		"the same, offered":     {offer(1), func(r *rig) bool { _, ids, _ := r.TakeMissed(); return len(ids) == 0 }},
		"the same, in a group":  {group(wire.GroupOffer, 1), func(r *rig) bool { _, ids, _ := r.TakeMissed(); return len(ids) == 0 }},
		"an old one, offered":   {offer(0), func(r *rig) bool { _, ids, _ := r.TakeMissed(); return len(ids) == 0 }},
		"of an earlier release": {group(wire.GroupNames, 0), func(r *rig) bool { return !r.asks() }},
	} {
		r := newRig(t, t.TempDir())
		r.From("a")
		r.do(from(1, fileOp("k", "twin 1")), from(1, fileOp("old", "twin 1")))
		if r.do(c.op); !c.needed(r) {
			t.Errorf("%s: not told apart, or asked for in vain", name)
		}
	}
}

func (r *rig) asks() bool {
	trees, _, _ := r.TakeMissed()
	return len(trees) > 0
}

// A comparison does not take a young file for the source's because it looks like it, and keeps what turns out to be the same.
func TestTwinsInAComparison(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.o.Unclean = true
	r.From("a")
	r.do(from(1, fileOp("k", "twin 1")), from(2, fileOp("m", "twin 2")), from(0, fileOp("n", "twin 3")))
	young := fileOp("", "twin 1").Meta
	young.Origin = 2
	l := wire.List{Job: 1, Extras: wire.ExtrasTrash, Meta: dirOp("").Meta, Entries: []tree.Entry{{Name: "k", Meta: young}, {Name: "m", Meta: young}, {Name: "n", Meta: young}}}
	wants, err := r.Compare(1).List(l)
	if err != nil || len(wants) != 2 || string(wants[0]) != "k" || string(wants[1]) != "n" {
		t.Errorf("wants %q (%v), and m alone is known", wants, err)
	}
	before, err := r.o.Root.Lstat("n")
	if err != nil {
		t.Fatal(err)
	}
	answer := from(2, fileOp("n", "twin 3"))
	if err := r.Stage(answer); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	if after, err := r.o.Root.Lstat("n"); err != nil || after.Inode != before.Inode {
		t.Errorf("what was the same was replaced (%v)", err)
	}
	if wants, err = r.Compare(2).List(l); err != nil || len(wants) != 1 {
		t.Errorf("wants %q (%v), and k alone differs", wants, err)
	}
	r.From("c")
	if wants, err = r.Compare(3).List(l); err != nil || len(wants) != 3 {
		t.Errorf("another source's numbers are its own: wants %q (%v)", wants, err)
	}
	r.o.Unclean = false
	if wants, err = r.Compare(4).List(l); err != nil || len(wants) != 0 {
		t.Errorf("after an orderly stop what is here is what the source had: wants %q (%v)", wants, err)
	}
	r.do(from(1, fileOp("k", "twin 1")))
	if wants, err = r.Compare(5).List(l); err != nil || len(wants) != 1 {
		t.Errorf("what is known to be another one is asked for: wants %q (%v)", wants, err)
	}
}

// What was another inode when it was read is not published under the names of the one that was offered.
func TestATransferOfAnother(t *testing.T) {
	for name, origin := range map[string]uint64{"it": 2, "another": 3} {
		r := newRig(t, t.TempDir())
		r.From("a")
		offer := groupOp(wire.GroupOffer, "large", "a", "b")
		offer.ID, offer.Meta.Group = 6, 2
		r.do(offer)
		done := from(origin, fileOp("a", "large"))
		if err := r.Data(6, done.Data); err != nil {
			t.Fatal(err)
		}
		if err := r.Seal(6, done.Meta); err != nil {
			t.Fatal(err)
		}
		r.StageReady()
		r.do(wire.Op{Kind: wire.OpNone, Path: "x"})
		trees, _, _ := r.TakeMissed()
		if name == "it" {
			r.one("a", "b")
			r.wants("a", "large")
			continue
		}
		r.gone("a")
		r.gone("b")
		if len(trees) != 2 || r.o.Journal.OwedLen() != 2 {
			t.Errorf("asks for %q and owes %d: both names, until they have come", trees, r.o.Journal.OwedLen())
		}
	}
}

// What is remembered is bounded, and a number that another file has by now says nothing.
func TestOriginsAreBounded(t *testing.T) {
	a := &Applier{}
	a.origins.note(1, 1)
	if a.origins.get(1) != 0 {
		t.Error("remembered before it was said whose they are")
	}
	a.From("a")
	for i := range uint64(2 * maxOrigins) {
		a.origins.note(i, i+1)
	}
	if len(a.origins.of) != maxOrigins || a.origins.get(0) != 0 || a.origins.get(2*maxOrigins-1) != 2*maxOrigins {
		t.Errorf("%d are remembered", len(a.origins.of))
	}
	a.origins.note(2*maxOrigins-1, 0)
	if a.origins.get(2*maxOrigins-1) != 0 {
		t.Error("a file that nobody told the origin of has that of another")
	}
}
