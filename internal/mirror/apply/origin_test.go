package apply

import (
	"fmt"
	"testing"
	"time"

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

// A comparison does not take a file for the source's because it looks like it, if it came from another one, or nobody knows.
func TestTwinsInAComparison(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.o.Unclean = true
	r.From("a")
	r.do(from(1, fileOp("k", "twin 1")), from(2, fileOp("m", "twin 2")), from(0, fileOp("n", "twin 3")))
	listed := fileOp("", "twin 1").Meta
	listed.Origin = 2
	must(t, r.o.Root.SetTime("", dirOp("").Meta.MTime)) // nothing changed places
	l := wire.List{Job: 1, Extras: wire.ExtrasTrash, Meta: dirOp("").Meta, Entries: []tree.Entry{{Name: "k", Meta: listed}, {Name: "m", Meta: listed}, {Name: "n", Meta: listed}}}
	wants := func(what string, want ...string) {
		t.Helper()
		l.Job++
		got, err := r.Compare(l.Job).List(l)
		if err != nil || fmt.Sprintf("%s", got) != fmt.Sprint(want) {
			t.Errorf("%s: wants %s (%v), not %s", what, got, err, want)
		}
	}
	wants("one is known to be another", "k")
	old := r.now
	r.now = time.Unix(0, listed.MTime).Add(young / 2)
	wants("one is young and not known", "k", "n")
	r.o.Unclean = false
	wants("after an orderly stop what is here is what the source had", "k")
	r.o.Unclean = true
	r.From("c")
	wants("another source's numbers are its own", "k", "m", "n")
	r.guard = &Guard{Stays: true}
	wants("what a survivor has came from where this node's files came from")
	r.guard, r.now = nil, old
	wants("they are not young any more")
}

// What was another inode when it was read is not published under the names of the one that was offered.
func TestATransferOfAnother(t *testing.T) {
	for name, origin := range map[string]uint64{"it": 2, "another": 3, "another, with one name": 0} {
		r := newRig(t, t.TempDir())
		r.From("a")
		offer := groupOp(wire.GroupOffer, "large", "a", "b")
		offer.ID, offer.Meta.Group = 6, 2
		r.do(from(2, offer))
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

// A name that the source gave a file of its own, with the same bytes and time (cp -p f t; mv t f), is a file of its own here, too.
func TestTwinsOfOneInodePart(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	r.do(from(5, groupOp(wire.GroupData, "same bytes", "k", "n")))
	r.one("k", "n")
	r.do(from(6, fileOp("k", "same bytes")))
	if r.inode("k") == r.inode("n") {
		t.Error("k and n are two files at the source and one here")
	}
}

// What is on its way is not given up because the name is offered once more, by a source that does not say what it is.
func TestOfferedAgain(t *testing.T) {
	offer := func(origin, id uint64) wire.Op {
		op := from(origin, fileOp("k", "twin 2"))
		op.Kind, op.Data, op.ID = wire.OpDefer, nil, id
		return op
	}
	r := newRig(t, t.TempDir())
	r.From("a")
	r.do(from(1, fileOp("k", "twin 1")))
	r.do(offer(2, 7))
	r.TakeMissed()
	r.do(offer(0, 8))
	if _, ids, _ := r.TakeMissed(); len(ids) != 1 || r.o.Journal.OwedLen() != 1 {
		t.Errorf("asks for %v and owes %d: the first one is here for ever", ids, r.o.Journal.OwedLen())
	}
}

// What an orderly end leaves is known to the next start, once; after any other end it is not.
func TestOriginsOutliveAnOrderlyEnd(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	r.do(from(5, fileOp("k", "twin 1")), from(6, fileOp("n", "twin 2")))
	known := func(what string, want uint64) {
		t.Helper()
		if got := r.origins.get(r.inode("n")); got != want {
			t.Errorf("%s: n comes from %d, not %d", what, got, want)
		}
	}
	again := func(clean bool) {
		t.Helper()
		must(t, r.Leave())
		must(t, r.o.Journal.Close(clean))
		must(t, r.o.Root.Close())
		r.down = true
		r.open()
	}
	again(true)
	known("after an orderly end", 6)
	r.From("a")
	known("the same source's", 6)
	r.reopen()
	known("after a crash, and what the end before it left is old", 0)
	r.From("a")
	r.do(from(7, fileOp("n", "twin 3")))
	again(false)
	known("after a crash at the very end", 0)
	r.From("a")
	r.do(from(8, fileOp("n", "twin 4")))
	again(true)
	r.Reigned()
	known("after a reign of this node's", 0)
	must(t, r.o.Root.WriteFile(originsFile, make([]byte, maxOriginsFile+1)))
	again(true)
	known("what is no such file", 0)
}

// A file that looks like the source's may be another one if two here look so and the directories have changed since.
func TestLookalikesInAComparison(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	r.do(dirOp("d"), dirOp("e"), fileOp("d/k", "twin 1"), fileOp("d/m", "twin 2"), fileOp("e/k", "twin 3"), fileOp("e/single", "of one size"), fileOp("d/empty", ""), fileOp("e/empty", ""),
		wire.Op{Kind: wire.OpDirTime, Path: "d", Meta: dirOp("d").Meta}, wire.Op{Kind: wire.OpDirTime, Path: "e", Meta: dirOp("e").Meta})
	list := func(c *Comparison, dir string, mtime int64, names ...string) (wants string) {
		t.Helper()
		l := wire.List{Job: 1, Dir: dir, Extras: wire.ExtrasTrash, Meta: dirOp(dir).Meta}
		l.Meta.MTime = mtime
		for i, name := range names {
			m, err := r.o.Root.Lstat(tree.Join(dir, name))
			must(t, err)
			m.Origin = uint64(100 + i)
			l.Entries = append(l.Entries, tree.Entry{Name: name, Meta: m})
		}
		got, err := c.List(l)
		must(t, err)
		return fmt.Sprintf("%s", got)
	}
	c := r.Compare(1)
	if got := list(c, "d", 1e18, "empty", "k", "m") + list(c, "e", 1e18, "empty", "k", "single"); got != "[][]" || len(r.unlike) > 0 {
		t.Errorf("directories that have not changed: wants %s, and again %q", got, r.unlike)
	}
	c = r.Compare(1)
	if got := list(c, "d", 2e18, "empty", "k", "m") + list(c, "e", 3e18, "empty", "k", "single"); got != "[m][k]" || fmt.Sprint(r.unlike) != "[d/k]" {
		t.Errorf("directories that have: wants %s, and again %q", got, r.unlike)
	}
	r.unlike = nil
	c = r.Compare(1)
	if got := list(c, "d", 2e18, "empty", "k", "m") + list(c, "e", 3e18, "empty", "k", "single"); got != "[][]" {
		t.Errorf("the times are right by now: wants %s", got)
	}
	r.Unsure("d")
	r.Unsure("e")
	c = r.Compare(1)
	if got := list(c, "d", 2e18, "empty", "k", "m") + list(c, "e", 3e18, "empty", "k", "single"); got != "[m][k]" || fmt.Sprint(r.unlike) != "[d/k]" {
		t.Errorf("a comparison was not ended: wants %s, and again %q", got, r.unlike)
	}
	r.unlike = nil
	c = r.Compare(1)
	if got := list(c, "e", 4e18, "empty", "single") + list(c, "d", 4e18, "empty", "k"); got != "[][k]" {
		t.Errorf("what looks like a name that is gone: wants %s", got)
	}
}

// What a comparison remembers is bounded, and it says when it could not tell all apart.
func TestTwinsAreBounded(t *testing.T) {
	a := &Applier{}
	c := &Comparison{a: a, twins: twins{in: true, of: map[looks]sighting{}, small: map[string]bool{}}}
	for i := range int64(maxTwins + 10) {
		c.sees("f", tree.Meta{Kind: tree.File, Size: 1 + i, MTime: 1e18, Inode: uint64(i + 1)}, true)
	}
	if len(c.twins.of) != maxTwins || !c.twins.full {
		t.Errorf("%d are remembered, and that is all: %v", len(c.twins.of), !c.twins.full)
	}
	c = &Comparison{a: a, twins: twins{in: true, of: map[looks]sighting{}, small: map[string]bool{}}}
	for i := range int64(2 * (maxUnlike + 10)) {
		c.sees("f", tree.Meta{Kind: tree.File, Size: 1 + i/2, MTime: 1e18, Inode: uint64(i + 1)}, true)
	}
	if len(a.unlike) != maxUnlike || !c.twins.left {
		t.Errorf("asks for %d at the end, and that is all: %v", len(a.unlike), !c.twins.left)
	}
}
