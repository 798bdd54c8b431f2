package mirror

import (
	"fmt"
	"math"
	"runtime"
	"testing"
)

// TestMemoryFollowsTheTreeAndNotTheChanges: what the master and two standbys keep in memory after many changes
// of a tree that stays as it is, is what they kept before. First come as many as fill what has a bound (docs/bounds.md).
func TestMemoryFollowsTheTreeAndNotTheChanges(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: memory after many changes (-short: ten times as slow with the race detector, which changes what is kept)")
	}
	const (
		files, first, more = 10, 20_000, 20_000
		// One look may see 170 KB more than the next, which is in use just then: the least of some is compared.
		looks, between = 4, 500
		// What is kept of one change, a name or a pointer, is 16 bytes at least.
		mayGrow = 12 * more
	)
	bubble(t, func(t *testing.T, w *world) {
		if err := w.haunt(); err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		change := func(count int) {
			for range count {
				n++
				w.steps(t, stormOp{"write", fmt.Sprintf("f%d", n%files), "", n}, stormOp{"emit", "", "", 11}, stormOp{What: "wait"})
			}
			w.steps(t, stormOp{What: "calm"})
		}
		least := func() int64 {
			low := int64(math.MaxInt64)
			for range looks {
				change(between)
				low = min(low, liveHeap())
			}
			return low
		}
		change(first)
		before := least()
		change(more - looks*between)
		if after := least(); after-before > mayGrow {
			t.Errorf("%d changes more: from %d to %d bytes", more, before, after)
		}
		if diff, err := w.differs(); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

// liveHeap is what is in use.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one let go of (sync.Pool)
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
