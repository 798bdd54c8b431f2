package apply

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

func (r *rig) compareRoot(extras wire.Extras, entries ...tree.Entry) (wants []string) {
	r.t.Helper()
	root, err := r.o.Root.Lstat("")
	if err != nil {
		r.t.Fatal(err)
	}
	names, err := r.Compare(1).List(wire.List{Job: 1, Extras: extras, Meta: root, Entries: entries})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range names {
		wants = append(wants, string(n))
	}
	return wants
}

func (r *rig) entry(name, theirs string) tree.Entry {
	op := fileOp(name, theirs)
	return tree.Entry{Name: name, Meta: op.Meta}
}

// answer is what the source sends for names that were asked for.
func (r *rig) answer(ops ...wire.Op) {
	r.t.Helper()
	for _, o := range ops {
		if err := r.Stage(o); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

// TestStrange: a node that joins with files of its own keeps each of them that
// the source's replaces, also one that has its size and time by chance.
func TestStrange(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.write("differs", "mine, and longer")
	r.write("chance", "mine")
	r.write("equal", "same")
	e := r.entry("chance", "that")
	have, err := r.o.Root.Lstat("chance")
	if err != nil {
		t.Fatal(err)
	}
	e.Meta.MTime = have.MTime
	if err := r.Strange(); err != nil {
		t.Fatal(err)
	}
	wants := r.compareRoot(wire.ExtrasDivergent, e, r.entry("differs", "theirs"), r.entry("equal", "same"))
	if diff := cmp.Diff([]string{"chance", "differs", "equal"}, wants); diff != "" {
		t.Error(diff)
	}
	r.answer(fileOp("chance", "that"), fileOp("differs", "theirs"), fileOp("equal", "same"), wire.Op{Kind: wire.OpPaid})
	if diff := cmp.Diff([]string{"changed chance: mine", "changed differs: mine, and longer"}, r.listed()); diff != "" {
		t.Error(diff)
	}
	// From here on the two have one history: what is replaced is merely old.
	r.write("differs", "old")
	r.compareRoot(wire.ExtrasTrash, r.entry("chance", "that"), r.entry("differs", "theirs"), r.entry("equal", "same"))
	r.answer(fileOp("differs", "theirs"))
	if n := len(r.listed()); n != 2 {
		t.Errorf("%d changes listed, want 2: %v", n, r.listed())
	}
}

// TestCopyIsNoStranger: a tree that was copied beforehand with its times need not travel again.
func TestCopyIsNoStranger(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.write("copy", "same")
	e := r.entry("copy", "same")
	if err := os.Chtimes(r.abs("copy"), time.Time{}, time.Unix(0, e.Meta.MTime)); err != nil {
		t.Fatal(err)
	}
	if err := r.Strange(); err != nil {
		t.Fatal(err)
	}
	if wants := r.compareRoot(wire.ExtrasDivergent, e); len(wants) != 0 {
		t.Errorf("asked for %v", wants)
	}
}

// TestDoubt: names that came while nobody watched are kept, until the source has compared.
func TestDoubt(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.write("moved/x", "one")
	r.Doubt("")
	r.compareRoot(wire.ExtrasTrash)
	r.answer(wire.Op{Kind: wire.OpPaid})
	r.gone("moved")
	if diff := cmp.Diff([]string{"changed moved: /"}, r.listed()); diff != "" {
		t.Error(diff)
	}
	r.write("old", "old")
	r.compareRoot(wire.ExtrasTrash)
	r.gone("old")
	if n := len(r.listed()); n != 1 {
		t.Errorf("%v listed, want one", r.listed())
	}
}

// TestStrangeAfterAKill: a node that is killed before the first comparison of its own files is over knows that they are its own.
func TestStrangeAfterAKill(t *testing.T) {
	r := newRig(t, t.TempDir())
	for _, name := range []string{"seen", "only", "chance"} {
		r.write(name, "mine")
	}
	if err := r.Strange(); err != nil {
		t.Fatal(err)
	}
	r.adopt()
	r.reopen()
	e := r.entry("chance", "that")
	have, err := r.o.Root.Lstat("chance")
	if err != nil {
		t.Fatal(err)
	}
	e.Meta.MTime = have.MTime
	r.compareRoot(wire.ExtrasTrash, e, r.entry("seen", "theirs")) // a source that knows the history takes what is extra for old
	r.answer(fileOp("chance", "that"), fileOp("seen", "theirs"))
	if diff := cmp.Diff([]string{"changed chance: mine", "changed only: mine", "changed seen: mine"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}

// TestStrangeIsOver: once all of its own is kept, or another history was taken over, what a node has is merely old, also after a kill.
func TestStrangeIsOver(t *testing.T) {
	for name, end := range map[string]func(r *rig) error{
		"compared":         func(r *rig) error { return r.compareAll(r.entry("f", "theirs")) },
		"never taken over": func(r *rig) error { return r.o.Journal.Append(journal.Record{Kind: journal.Paid, Below: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			if err := r.Strange(); err != nil {
				t.Fatal(err)
			}
			r.adopt()
			if err := end(r); err != nil {
				t.Fatal(err)
			}
			r.reopen()
			if err := r.Owe([]reconcile.Debt{{Tree: true}}); err != nil { // as after an unclean stop
				t.Fatal(err)
			}
			r.reopen()
			r.write("f", "old")
			r.compareRoot(wire.ExtrasTrash, r.entry("f", "theirs"))
			r.answer(fileOp("f", "theirs"))
			if listed := r.listed(); len(listed) > 0 {
				t.Error(listed)
			}
		})
	}
}

// adopt takes over the source's history, and owes everything.
func (r *rig) adopt() {
	r.t.Helper()
	if err := r.o.Journal.Adopt(reconcile.History{{Reign: cluster.Reign{Term: 2, Owner: "a"}}}, []reconcile.Debt{{Tree: true}}); err != nil {
		r.t.Fatal(err)
	}
	r.Abort()
}

// compareAll compares the whole volume, which has no directories.
func (r *rig) compareAll(entries ...tree.Entry) error {
	root, err := r.o.Root.Lstat("")
	if err != nil {
		return err
	}
	c := r.Compare(1)
	_, err = c.List(wire.List{Job: 1, Extras: wire.ExtrasDivergent, Meta: root, Entries: entries})
	_, ended := c.End()
	return errors.Join(err, ended)
}

// Who leads meanwhile has nothing strange any more: what is here is the truth then, and what comes after that reign is judged as ever.
func TestAReignEndsStrangeness(t *testing.T) {
	r := newRig(t, t.TempDir())
	must(t, r.Strange())
	r.Reigned()
	if r.strange {
		t.Error("it is strange still")
	}
	if _, err := r.o.Root.Lstat(strangeFile); !tree.IsGone(err) {
		t.Errorf("the mark is there: %v", err)
	}
}
