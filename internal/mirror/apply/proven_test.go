package apply

import (
	"os"
	"testing"
	"time"

	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/wire"
)

// given stages answers of the master's, outside of its sequence, and settles them.
func (r *rig) given(ops ...wire.Op) {
	r.t.Helper()
	for _, op := range ops {
		if err := r.Stage(op); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) owedTo() (debts []wire.Debt) {
	owed := r.o.Journal.Owed()
	for _, d := range owed.List() {
		debts = append(debts, wire.Debt{Path: []byte(d.Path), Tree: d.Tree})
	}
	return debts
}

// TestWhatWasGivenIsProven: after a change of the master, what the last one gave ahead of its records is asked
// again with a sum of what is here, and paid by a word; what is owed for another reason has to come.
func TestWhatWasGivenIsProven(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	same, mode, twice, lost := fileOp("same", "a"), fileOp("mode", "b"), fileOp("twice", "c"), fileOp("lost", "d")
	r.given(same, mode, twice, lost, dirOp("dir"))
	if err := os.Link(r.abs("twice"), r.abs("another name")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.abs("mode"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Owe([]reconcile.Debt{{Path: "lost"}}); err != nil {
		t.Fatal(err)
	}
	r.From("b")
	if err := r.OweGiven("b", false); err != nil {
		t.Fatal(err)
	}
	debts := r.owedTo()
	if err := r.Prove(debts); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"same": true, "mode": false, "twice": false, "lost": false, "dir": false}
	if len(debts) != len(want) {
		t.Errorf("%d paths are owed, not %d", len(debts), len(want))
	}
	for _, d := range debts {
		path := string(d.Path)
		op := map[string]wire.Op{"same": same, "mode": mode, "twice": twice, "lost": lost}[path]
		if got := string(d.Sum) == string(wire.SumOf(op.Meta, op.Data)); got != want[path] {
			t.Errorf("%s: proven %v, want %v", path, got, want[path])
		}
	}
	op := same
	op.Kind, op.Data, op.Meta.Origin = wire.OpSame, nil, 77
	r.given(op)
	m, err := r.o.Root.Glance("same")
	if _, owed := r.owed.Get("same"); owed || err != nil || r.origins.get(m.Inode) != 77 {
		t.Errorf("owed %v, origin %d, %v", owed, r.origins.get(m.Inode), err)
	}
	if n := r.o.Journal.OwedLen(); n != len(want)-1 {
		t.Errorf("the journal owes %d", n)
	}
	r.From("c") // the word is ahead of the records of who gave it, too
	if err := r.OweGiven("c", false); err != nil {
		t.Fatal(err)
	}
	if _, owed := r.owed.Get("same"); !owed {
		t.Error("the next master is not asked")
	}
}

// TestOthersWriteAfterTheSum: what others wrote between the sum and the master's word is not paid by the word, whether it was
// heard of or not, and comes.
func TestOthersWriteAfterTheSum(t *testing.T) {
	for _, heard := range []bool{false, true} {
		r := newRig(t, t.TempDir())
		r.From("a")
		file := fileOp("same", "a")
		r.given(file)
		r.From("b")
		if err := r.OweGiven("b", false); err != nil {
			t.Fatal(err)
		}
		if err := r.Prove(r.owedTo()); err != nil {
			t.Fatal(err)
		}
		if !heard {
			time.Sleep(2 * clockTick)
			r.write("same", "b")
		} else if err := r.Owe([]reconcile.Debt{{Path: "same"}}); err != nil { // as for what others wrote; it may look the same
			t.Fatal(err)
		}
		op := file
		op.Kind, op.Data = wire.OpSame, nil
		r.given(op)
		if _, owed := r.owed.Get("same"); !owed || r.o.Journal.OwedLen() != 1 {
			t.Errorf("heard %v: it is paid by the word", heard)
		}
		if names := r.TakeNames(); len(names) != 1 || string(names[0]) != "same" {
			t.Errorf("heard %v: asked for %q", heard, names)
		}
	}
}

// TestProvenAgain: a stream that broke before the word came has not used the proof up.
func TestProvenAgain(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	r.given(fileOp("same", "a"), fileOp("paid", "a"))
	r.From("b")
	for range 2 {
		if err := r.OweGiven("b", false); err != nil {
			t.Fatal(err)
		}
		debts := r.owedTo()
		if err := r.Prove(debts); err != nil {
			t.Fatal(err)
		}
		for _, d := range debts {
			if len(d.Sum) == 0 {
				t.Errorf("%s has no sum", d.Path)
			}
		}
		r.given(fileOp("paid", "a"))
	}
	if len(r.unproven) != 1 {
		t.Errorf("%d are remembered", len(r.unproven))
	}
}
