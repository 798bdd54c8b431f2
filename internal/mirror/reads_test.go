package mirror

import (
	"fmt"
	"testing"
)

// TestOneReadingServesBoth: what one standby's stream has read is not read again
// for the other that is told of the same change; one that comes later has its own reading.
func TestOneReadingServesBoth(t *testing.T) {
	const files = 20
	write := func(t *testing.T, w *world, prefix string) {
		for i := range files {
			w.steps(t, stormOp{"write", fmt.Sprintf("%s%d", prefix, i), "", 10}, stormOp{"emit", "", "", 11})
			if w.link != nil {
				w.steps(t, stormOp{What: "wait"})
			}
		}
	}
	bubble(t, func(t *testing.T, w *world) {
		if err := w.haunt(); err != nil {
			t.Fatal(err)
		}
		w.steps(t, stormOp{What: "calm"})
		made0, shared0 := w.reads.Counts()
		write(t, w, "a")
		w.steps(t, stormOp{What: "calm"})
		made, shared := w.reads.Counts()
		// For each file one look at it and one at its directory.
		if made, shared = made-made0, shared-shared0; made != 2*files || shared != 2*files {
			t.Errorf("%d files for two standbys: %d readings were made and %d shared, want %d and %d", files, made, shared, 2*files, 2*files)
		}
		w.steps(t, stormOp{What: "cut"})
		write(t, w, "b")
		w.steps(t, stormOp{What: "calm"})
		if _, late := w.reads.Counts(); late-shared0 != shared {
			t.Errorf("a standby that was away shares %d readings", late-shared0-shared)
		}
		if diff, err := w.differs(); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}
