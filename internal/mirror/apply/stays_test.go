package apply

import (
	"testing"
	"time"

	"revolve/internal/mirror/tree"
)

// What a client wrote on a new master a moment ago stays, though a survivor removed the directory that it is in, and the
// notification of it was not read. A directory in which nothing was written goes.
func TestWhatWasWrittenHereStaysInADirectory(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), dirOp("d/e"), fileOp("d/e/f", "old"), dirOp("gone"), fileOp("gone/f", "old"))
	g := &Guard{Set: NewSet(r.o.Root, "c", 1, WhyConflict, r.now), Waits: func(string, tree.Meta) bool { return false }, Stays: true}
	if err := r.Guard(g); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * clockTick) // the kernel stamps inodes by ticks
	r.write("d/e/new", "by a client")
	r.do(removeOp("d"), removeOp("gone"))
	r.wants("d/e/new", "by a client")
	r.gone("gone")
}
