package apply

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
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

// What a master never had is kept by who has it, and follows; also by a new master, who takes that master's changes from a survivor. What was written
// here meanwhile stays in any case.
func TestWhatAMasterNeverHadIsKept(t *testing.T) {
	for name, tc := range map[string]struct{ stays, written bool }{"a follower": {}, "a new master": {stays: true}, "a new master, and it was written here": {true, true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.do(fileOp("f", "first"), fileOp("f", "nobody else has it"))
			g := &Guard{Set: NewSet(r.o.Root, "b", 1, WhyConflict, r.now), Stays: tc.stays, Waits: func(string, tree.Meta) bool { return tc.written }}
			if err := r.Guard(g); err != nil {
				t.Fatal(err)
			}
			if err := r.Stage(wire.Op{Kind: wire.OpDefer, Path: "f", Flag: true}); err != nil {
				t.Fatal(err)
			}
			r.do(fileOp("f", "what the master has"))
			kept, err := ListDivergent(r.o.Root)
			if err != nil || len(kept) != 1 {
				t.Fatalf("kept: %+v (%v)", kept, err)
			}
			if tc.written {
				r.wants("f", "nobody else has it")
				r.wants(kept[0].File, "what the master has")
				return
			}
			r.wants("f", "what the master has")
			r.wants(kept[0].File, "nobody else has it")
		})
	}
}

// What a master gave lately is asked for when another one is followed, though the stream of the first had broken, or this node
// was killed: it may have been ahead of a record that nobody got.
func TestWhatWasGivenIsAskedAgain(t *testing.T) {
	give := func(t *testing.T) *rig {
		r := newRig(t, t.TempDir())
		r.From("a")
		r.do(dirOp("d"), dirOp("e"))
		must(t, r.Owe([]reconcile.Debt{{Path: "d/f"}}))
		must(t, r.Stage(fileOp("d/f", "ahead of its record")))
		must(t, r.Stage(wire.Op{Kind: wire.OpDirTime, Path: "d", Meta: dirOp("d").Meta}))
		must(t, r.Stage(wire.Op{Kind: wire.OpDirTime, Path: "g", Meta: dirOp("g").Meta}))
		must(t, r.Commit())
		return r
	}
	asks := func(t *testing.T, r *rig, master cluster.NodeID) (paths []string) {
		t.Helper()
		must(t, r.OweGiven(master, false))
		owed := r.o.Journal.Owed()
		for _, d := range owed.List() {
			paths = append(paths, d.Path)
		}
		return paths
	}
	r := give(t)
	if got := asks(t, r, "a"); len(got) > 0 {
		t.Errorf("of the same master: %v", got)
	}
	if got := asks(t, r, "c"); !slices.Equal(got, []string{"d", "d/f", "e", "g"}) {
		t.Errorf("of another one, when the stream had broken: %v", got)
	}
	r = give(t)
	r.reopen()
	if got := asks(t, r, "c"); !slices.Contains(got, "d/f") {
		t.Errorf("of another one, after a kill: %v", got)
	}
}

// Who catches up reads for old records what is there now. If it leads before the master has told of that with a record, the others may have
// what was there before: it tells them.
func TestWhoCatchesUpTellsWhatItGot(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	r.do(fileOp("old", "read for a record of an hour ago"))
	r.CaughtUp()
	r.do(fileOp("new", "read for a record of now"))
	if list := r.TakeGiven(); !slices.Equal(list, []Answer{{Path: "old"}}) {
		t.Errorf("tells %v", list)
	}
}

// What was answered long ago pushes nothing out of what was told last, when this node begins anew.
func TestOldAnswersPushNothingOut(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.From("a")
	var debts []reconcile.Debt
	for i := range maxTold + 50 {
		debts = append(debts, reconcile.Debt{Path: fmt.Sprintf("old%d", i)})
	}
	must(t, r.Owe(debts))
	for _, d := range debts {
		must(t, r.Stage(fileOp(d.Path, "x")))
	}
	must(t, r.Commit())
	r.now = r.now.Add(time.Hour)
	var ops []wire.Op
	for i := range maxTold {
		ops = append(ops, fileOp(fmt.Sprintf("new%d", i), "y"))
	}
	r.do(ops...)
	r.reopen()
	must(t, r.OweGiven("c", false))
	owed, again := r.o.Journal.Owed(), 0
	for _, d := range owed.List() {
		if strings.HasPrefix(d.Path, "new") {
			again++
		}
	}
	if again != maxTold {
		t.Errorf("of %d that were told last %d are asked for again", maxTold, again)
	}
}
