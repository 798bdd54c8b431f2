package apply

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/wire"
)

// To remember an answer costs the same however many there were: a first copy has one for each file.
func TestAnswersAreRememberedCheaply(t *testing.T) {
	a := &Applier{given: latest{most: maxGiven}}
	a.o.Now = time.Now
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const many = 20 * maxGiven
	for i := range many {
		a.noteGiven(&wire.Op{Kind: wire.OpFile, Path: fmt.Sprint(i)})
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / many; each > 1024 {
		t.Errorf("%d bytes were allocated for each answer", each)
	}
	a.noteGiven(&wire.Op{Kind: wire.OpFile, Path: "one more"}) // between the two bounds
	if n, all := len(a.given.counting()), len(a.given.list); n != maxGiven || all >= 2*maxGiven {
		t.Errorf("%d answers count, of %d that are remembered", n, all)
	}
	if last := a.given.counting()[maxGiven-2].path; last != fmt.Sprint(many-1) {
		t.Errorf("the last one is %s", last)
	}
}

// That nothing is at a path that nobody saw go is journaled as that: who takes it from here would take a plain record for a removal.
func TestWhatAMasterNeverHadIsHandedOn(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(wire.Op{Kind: wire.OpNone, Path: "x", Flag: true}, wire.Op{Kind: wire.OpNone, Path: "y"})
	tail, err := r.o.Journal.Tail(cluster.Position{Term: 1}, 9)
	if err != nil || len(tail) != 2 || !tail[0].Below || tail[1].Below {
		t.Errorf("journaled: %+v, %v", tail, err)
	}
}
