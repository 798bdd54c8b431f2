package apply

import (
	"testing"

	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/wire"
)

// TestWhatTheSourceOwesIsNotAskedFor: a file that is written aside and renamed is often gone from its first
// name when that is to be read. The source says so and sends it after the rename. To ask as well began a
// comparison with each such file: under a steady load one was always under way, and no barrier ended.
func TestWhatTheSourceOwesIsNotAskedFor(t *testing.T) {
	r := newRig(t, t.TempDir())
	for range 3 {
		r.do(wire.Op{Kind: wire.OpDefer, Path: ".f.tmp"})
		again := renameOp(".f.tmp", "f")
		again.Flag = true
		r.do(again)
		if trees, _, _ := r.TakeMissed(); len(trees) > 0 {
			t.Errorf("asked for %q, which the source is about to send", trees)
		}
		r.do(fileOp("f", "all"))
	}
	if owed := r.o.Journal.Owed(); owed.Len() > 0 {
		t.Errorf("still owed: %v", owed.List())
	}
}

// TestWhatWasAskedForIsAskedForAgain: the answer to a question may be about a name that is no more when it comes.
func TestWhatWasAskedForIsAskedForAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		owe  func(r *rig)
	}{
		{"written here by others", func(r *rig) {
			if err := r.Owe([]reconcile.Debt{{Path: "d/f"}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"owed since an earlier stream", func(r *rig) {
			r.do(wire.Op{Kind: wire.OpDefer, Path: "d/f"})
			r.Abort()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.do(dirOp("d"))
			tc.owe(r)
			r.TakeMissed()
			r.do(renameOp("d", "e"))
			if trees, _, _ := r.TakeMissed(); len(trees) != 1 || string(trees[0]) != "e/f" {
				t.Errorf("asked for %q, not for e/f", trees)
			}
		})
	}
}

// TestFliesAgainAfterForeignTrees: below a directory that others moved in, which the source has not, no name is
// ever answered for by itself. The copies that wait to be compared must not keep everything on the ground for good.
func TestFliesAgainAfterForeignTrees(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.write("theirs/d/f", "foreign")
	set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
	if err := r.KeepForeign(set, "theirs", true); err != nil {
		t.Fatal(err)
	}
	if err := r.Owe([]reconcile.Debt{{Path: "theirs", Tree: true}}); err != nil {
		t.Fatal(err)
	}
	if flew, err := r.fly(fileOp("one", "1")); flew || err != nil {
		t.Fatalf("flew with copies to compare: %v, %v", flew, err)
	}
	r.do(wire.Op{Kind: wire.OpTree, Path: "theirs"}, removeOp("theirs"), wire.Op{Kind: wire.OpPaid, Path: "theirs"})
	r.mustFly(fileOp("two", "2"))
	if len(r.listed()) != 3 {
		t.Errorf("kept aside: %q", r.listed())
	}
}
