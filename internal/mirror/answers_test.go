package mirror

import (
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// What a survivor gives a new master that owes it becomes a record for the others. Only what the survivor said is gone
// may be a removal: they acknowledged the rest, and would delete what nobody but they has (P4, P6).
func TestNewMasterTellsOnlyWhatIsGone(t *testing.T) {
	big := wire.Op{Kind: wire.OpDefer, Path: "x", ID: 9, Meta: tree.Meta{Kind: tree.File, Mode: 0o644, Size: 1 << 30, MTime: 1e18}}
	gone := wire.Op{Kind: wire.OpRemove, Path: "x"}
	for name, tc := range map[string]struct {
		ops     []wire.Op
		follows bool // another led before this node led at last
		want    bool
	}{
		"removed there":                   {ops: []wire.Op{gone}, want: true},
		"half given":                      {ops: []wire.Op{big}},
		"one has not, another half given": {ops: []wire.Op{gone, big}},
		"of a gathering that broke":       {ops: []wire.Op{gone}, follows: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				if err := w.o.applier.Owe([]reconcile.Debt{{Path: "x"}}); err != nil {
					t.Fatal(err)
				}
				gather := func(stays bool, ops ...wire.Op) {
					_, theirs, _ := newPipe("b", "c")
					s := w.v.newSession(theirs, w.o, w.reign)
					s.pulling, s.drain = stays, w.read
					if err := s.guard(t.Context()); err != nil {
						t.Fatal(err)
					}
					for _, op := range ops {
						if err := w.o.applier.Stage(op); err != nil {
							t.Fatal(err)
						}
						if err := w.o.applier.Commit(); err != nil {
							t.Fatal(err)
						}
					}
					w.o.applier.Abort() // the connection ends
					if err := w.o.applier.Guard(nil); err != nil {
						t.Fatal(err)
					}
				}
				gather(true, tc.ops...)
				if tc.follows {
					gather(false)
				}
				if got := w.tellsRemoved(t, "x"); got != tc.want {
					t.Errorf("tells the others to remove it: %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// A device that this node may not make is there all the same.
func TestNewMasterLacksWhatItMayNotMake(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		if e := answered(w.o, []apply.Answer{{Path: "device"}}, reconcile.Owed{}); len(e) != 0 {
			t.Errorf("told: %v", e)
		}
	})
}

// tellsRemoved has the node's reign begin, and says whether its journal has a removal of path.
func (w *world) tellsRemoved(t *testing.T, path string) (told bool) {
	t.Helper()
	before := w.o.journal.Position()
	w.o.links = w.finder
	if err := w.v.begin(w.o, cluster.Reign{Term: w.reign.Term + 1, Owner: "b"}); err != nil {
		t.Fatal(err)
	}
	tail, err := w.o.journal.Tail(before, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tail {
		told = told || r.Kind == journal.Removed && r.Path == path
	}
	return told
}
