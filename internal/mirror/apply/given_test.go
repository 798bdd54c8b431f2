package apply

import (
	"fmt"
	"runtime"
	"slices"
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

// What a master owed when its reign began, and nobody had, is journaled as that, whether it has something there or not: who takes it from
// here keeps what else it has, and would take a plain record of nothing for a removal.
func TestWhatAMasterNeverHadIsHandedOn(t *testing.T) {
	r := newRig(t, t.TempDir())
	stage := func(op wire.Op) {
		t.Helper()
		if err := r.Stage(op); err != nil {
			t.Fatal(err)
		}
	}
	for i, op := range []wire.Op{{Kind: wire.OpNone, Path: "x"}, {Kind: wire.OpNone, Path: "y"}, fileOp("z", "old"), fileOp("z", "new")} {
		if i%2 == 0 {
			stage(wire.Op{Kind: wire.OpDefer, Path: op.Path, Flag: true})
		}
		op.Seq = uint64(i + 1)
		stage(op)
	}
	if err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	tail, err := r.o.Journal.Tail(cluster.Position{Term: 1}, 9)
	if err != nil {
		t.Fatal(err)
	}
	var marks []bool
	for _, rec := range tail {
		if rec.Kind.IsChange() {
			marks = append(marks, rec.Below)
		}
	}
	if want := []bool{true, false, true, false}; !slices.Equal(marks, want) {
		t.Errorf("journaled: %v of %+v", marks, tail)
	}
}
