package mirror

import (
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// A source cannot bring a reign into this node's history that is above its own.
func TestReignFromTheFuture(t *testing.T) {
	s := &session{o: &opened{}, reign: cluster.Reign{Term: 7, Owner: "a"}}
	begun := wire.Op{Kind: wire.OpBegun, ID: 8, Old: "a"}
	if err := s.frame(wire.FrameOp, begun.Append(nil)); problem.KindOf(err) != problem.Corrupt || s.partial {
		t.Errorf("a reign above the stream's own was taken: %v", err)
	}
}

// Who has what the source had when the stream began is no laggard, however much the source has since.
func TestCaughtUpWithTheBeginning(t *testing.T) {
	at := func(seq uint64) cluster.Position { return cluster.Position{Term: 7, Seq: seq} }
	var first cluster.Position
	for i, c := range []struct {
		head, here cluster.Position
		caught     bool
	}{
		{cluster.Position{}, at(3), false}, // a commit before the first ping
		{at(10), at(3), false},
		{at(20), at(9), false},
		{cluster.Position{}, at(10), true},
		{at(40), at(11), true},
	} {
		caught := false
		if first, caught = reached(first, c.head, c.here); caught != c.caught {
			t.Errorf("%d: caught up: %v", i, caught)
		}
	}
}

// The volume's own directory, owed as such when a reign begins, is told as any change is: no mark is of it, which no follower would take.
func TestTheRootIsNotKept(t *testing.T) {
	root, err := tree.Open(t.TempDir())
	must(t, err)
	defer root.Close()
	j, _, err := journal.Open(t.TempDir())
	must(t, err)
	defer func() { must(t, j.Close(false)) }()
	must(t, j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "b"}}))
	var owed reconcile.Owed
	owed.Add(reconcile.Debt{Path: ""})
	owed.Add(reconcile.Debt{Path: "f"})
	settled, _ := unpaid(&opened{root: root, journal: j}, owed)
	told := map[string]bool{}
	for _, r := range settled {
		if r.Kind == journal.Dirty {
			told[r.Path] = r.Below
		}
	}
	if below, ok := told[""]; !ok || below || !told["f"] {
		t.Errorf("%+v", settled)
	}
}
