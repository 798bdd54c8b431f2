package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Directories whose renames overlapped are compared when there is a moment for it. The connection may break before: the
// standby owes the comparison, and the next stream makes it.
func TestAProofThatIsDueOutlivesItsStream(t *testing.T) {
	for name, restart := range map[string]bool{"the connection breaks": false, "and the standby's process ends": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				rename := func(old, path string) {
					t.Helper()
					w.steps(t, stormOp{"rename", old, path, 0}, stormOp{"emit", "", "", 11}, stormOp{"wait", "", "", 0})
				}
				w.steps(t, stormOp{"mkdir", "a", "", 0}, stormOp{"calm", "", "", 0})
				rename("a", "b")
				rename("b", "c") // compared at once
				if err := os.WriteFile(filepath.Join(w.dir, "c", "of a mistake"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				rename("c", "d")
				rename("d", "e") // too soon after that one
				if trees := w.o.journal.OwedTrees(); trees == 0 {
					t.Error("nothing is owed")
				}
				if restart {
					rename("e", "f") // the debt goes along
					w.steps(t, stormOp{What: "crash"})
				} else {
					w.steps(t, stormOp{What: "cut"})
				}
				w.ends(t)
			})
		})
	}
}

// In the end nothing is owed, and nobody was asked: the source makes the comparison by itself.
func TestAProofThatIsDueIsMade(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		err := w.step(stormOp{"mkdir", "a", "", 0})
		for i := range 20 {
			names := []string{"a", "b", "c"}
			err = errors.Join(err, w.step(stormOp{"rename", names[i%3], names[(i+1)%3], 0}), w.step(stormOp{"emit", "", "", 11}), w.step(stormOp{"wait", "", "", 0}))
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := w.o.journal.OwedTrees(); n == 0 {
			t.Error("nothing is owed in the middle of it")
		}
		w.ends(t)
	})
}

// ends waits until the follower may have everything, which it then must.
func (w *world) ends(t *testing.T) {
	t.Helper()
	w.steps(t, stormOp{What: "calm"}, stormOp{What: "calm"})
	if diff, err := w.differs(); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
