package apply

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
