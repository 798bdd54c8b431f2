package send

import (
	"fmt"
	"testing"
)

// TestRecentGone: what counts as gone is found again below every name above it, by removals and by renames.
func TestRecentGone(t *testing.T) {
	r := newRecent()
	for _, dir := range []string{"a/b/c", "a/b", "a/d", "e", "a/b/c"} {
		r.went(dir)
	}
	r.removed("a/b/x") // no directory
	r.removed("a/bb")
	if len(r.gone) != 4 {
		t.Fatalf("gone: %v", r.gone)
	}
	r.removed("a/b")
	if len(r.gone) != 2 || !r.gone["a/d"] || !r.gone["e"] {
		t.Fatalf("gone after the removal of a/b: %v", r.gone)
	}
	r.takeDirs()
	r.renamed("a", "z", true, func(string) uint64 { return 0 })
	if !r.dirs["z/d"] || len(r.gone) != 1 {
		t.Fatalf("after the rename of a: its time is to be set %v, gone %v", r.dirs, r.gone)
	}
	r.removed("e")
	if len(r.gone)+len(r.above) > 0 {
		t.Errorf("left: %v, %v", r.gone, r.above)
	}
	for i := range 2*recentMax + 1 {
		r.went(fmt.Sprint("many/", i))
	}
	r.removed("many")
	if len(r.gone)+len(r.above) > 0 {
		t.Errorf("left of many: %d, %d", len(r.gone), len(r.above))
	}
}
