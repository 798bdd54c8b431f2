package points

import (
	"strings"
	"testing"

	"revolve/internal/block"
)

// What a sender says of how a point came here is written down here, and must be fit for that.
func TestBounded(t *testing.T) {
	p := &Point{Files: []File{{Name: "vda.raw"}, {Name: "domain.xml"}}}
	good := func() Here {
		return Here{Rehearsed: &Rehearsed{By: "agent"}, Files: []Held{{Name: "domain.xml"}, {Name: "vda.raw", Why: strings.Repeat("x", 1<<20), Table: "vda.raw.hashes"}}}
	}
	h, ok := good().Bounded(p)
	if !ok || len(h.Files[1].Why) != maxWhy || h.Files[1].Table != "" || h.Rehearsed != nil {
		t.Errorf("%v, %d bytes of why, table %q", ok, len(h.Files[1].Why), h.Files[1].Table)
	}
	for name, change := range map[string]func(h *Here){
		"a name twice":       func(h *Here) { h.Files[0].Name = "vda.raw" },
		"another name":       func(h *Here) { h.Files[0].Name = "other" },
		"a file less":        func(h *Here) { h.Files = h.Files[:1] },
		"a long tracker":     func(h *Here) { h.Files[0].Tracker = block.Tracker(strings.Repeat("y", 1<<20)) },
		"too many findings":  func(h *Here) { h.Proof.Found = make([]Found, maxFound+1) },
		"a long file's name": func(h *Here) { h.Proof.Found = []Found{{File: strings.Repeat("z", 1<<20)}} },
	} {
		bad := good()
		change(&bad)
		if _, ok := bad.Bounded(p); ok {
			t.Errorf("%s is taken", name)
		}
	}
}
