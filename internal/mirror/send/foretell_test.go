package send_test

import (
	"os"
	"path/filepath"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/wire"
)

// That nobody had what a master owed when its reign began is told before anything that may take the place of that: an answer to what the
// follower owes, or a comparison. It is told under the name that the follower has it under, also where no record comes any more.
func TestWhatNobodyHadIsToldFirst(t *testing.T) {
	for name, compare := range map[string]bool{"records come": false, "trees are compared": true} {
		t.Run(name, func(t *testing.T) {
			src := newSource(t)
			src.write("now", "old")
			src.dirty("other")
			shared := src.journal.Position()
			src.append(journal.Record{Kind: journal.Renamed, Old: "then", Path: "between", Pos: src.journal.Next()})
			src.append(journal.Record{Kind: journal.Renamed, Old: "between", Path: "now", Pos: src.journal.Next()})
			src.append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 2, Owner: "b"}})
			src.append(journal.Record{Kind: journal.Dirty, Path: "now", Pos: src.journal.Next(), Below: true})
			if err := os.Symlink("nowhere", filepath.Join(src.dir, "then")); err != nil {
				t.Fatal(err)
			}
			ready := wire.Ready{From: shared, Owed: []wire.Debt{{Path: []byte("then")}}}
			if compare {
				ready = wire.Ready{From: src.journal.Position(), Owed: []wire.Debt{{Tree: true}}}
			}
			conn := newMute()
			_, ctx, done, end := src.run(conn, send.Options{Compare: compare, Extras: wire.ExtrasTrash, Shared: shared, Reign: cluster.Reign{Term: 2, Owner: "b"}}, ready)
			defer end()
			defer conn.Close()
			for {
				select {
				case f := <-conn.frames:
					op, err := wire.DecodeOp(f[1:])
					if f[0] != wire.FrameOp || err != nil {
						continue
					}
					if op.Kind != wire.OpDefer || !op.Flag || op.Path != "then" {
						t.Errorf("first comes %+v", op)
					}
					return
				case err := <-done:
					t.Fatalf("the stream ended: %v", err)
				case <-ctx.Done():
					t.Fatal("nothing came")
				}
			}
		})
	}
}

// The time of the volume's own directory is told when a stream begins, also if nothing else is.
func TestTheRootsTimeIsToldFirst(t *testing.T) {
	src := newSource(t)
	conn := newMute()
	_, ctx, done, end := src.run(conn, send.Options{Shared: src.journal.Position()}, wire.Ready{From: src.journal.Position()})
	defer end()
	defer conn.Close()
	m, err := src.root.Lstat("")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case f := <-conn.frames:
		op, err := wire.DecodeOp(f[1:])
		if f[0] != wire.FrameOp || err != nil || op.Kind != wire.OpDirTime || op.Path != "" || op.Meta.MTime != m.MTime {
			t.Errorf("first comes %d: %+v (%v)", f[0], op, err)
		}
	case err := <-done:
		t.Fatalf("the stream ended: %v", err)
	case <-ctx.Done():
		t.Fatal("nothing came")
	}
}
