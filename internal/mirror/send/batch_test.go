package send_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/wire"
)

// mute is a follower that takes everything and never answers.
type mute struct {
	frames chan []byte
	down   chan struct{}
}

func newMute() *mute { return &mute{frames: make(chan []byte, 1000), down: make(chan struct{})} }

func (m *mute) Read() (byte, []byte, error) { <-m.down; return 0, nil, io.EOF }
func (m *mute) Write(kind byte, parts ...[]byte) error {
	m.frames <- append([]byte{kind}, bytes.Join(parts, nil)...)
	return nil
}
func (m *mute) Flush() error { return nil }
func (m *mute) Close() error {
	select {
	case <-m.down:
	default:
		close(m.down)
	}
	return nil
}

// TestABatchHasWhatItsPositionSays: a record may be left to a later one of the
// same path only if that one is in the same batch, however many bytes lie
// between: the follower acknowledges the batch's position.
func TestABatchHasWhatItsPositionSays(t *testing.T) {
	src := newSource(t)
	src.write("twice", "1")
	src.dirty("twice")
	for i := range 40 { // 10 MiB, more than a batch is to have
		name := fmt.Sprint("large", i)
		src.write(name, strings.Repeat("1", wire.InlineMax))
		src.dirty(name)
	}
	src.dirty("twice")
	records, err := src.journal.Tail(cluster.Position{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	conn := newMute()
	_, ctx, _, end := src.run(conn, send.Options{}, wire.Ready{})
	defer end()
	sent := map[string]bool{}
	for at := (cluster.Position{}); at != src.journal.Position(); {
		var f []byte
		select {
		case f = <-conn.frames:
		case <-ctx.Done():
			t.Fatalf("the stream stands at %v", at)
		}
		switch f[0] {
		case wire.FrameOp:
			op, err := wire.DecodeOp(f[1:])
			if err != nil {
				t.Fatal(err)
			}
			sent[op.Path] = true
		case wire.FrameBatch:
			b, err := wire.DecodeBatch(f[1:])
			if err != nil {
				t.Fatal(err)
			}
			at = b.Pos
			for _, r := range records {
				if r.Kind.IsChange() && r.Pos.Compare(at) <= 0 && !sent[r.Path] {
					t.Errorf("a batch up to %v has not %s of %v", at, r.Path, r.Pos)
				}
			}
		}
	}
}

// TestAPullEndsAtAReignWithoutChanges: the position behind a reign's beginning
// is reached although no change ever had it.
func TestAPullEndsAtAReignWithoutChanges(t *testing.T) {
	src := newSource(t)
	src.append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 2, Owner: "b"}})
	until := cluster.Position{Term: 2}
	_, _, done, _ := src.run(newAcking(), send.Options{Reign: cluster.Reign{Term: 3, Owner: "c"}, Until: &until}, wire.Ready{From: cluster.Position{Term: 1}})
	if err := <-done; err != nil {
		t.Fatalf("the pull did not end: %v", err)
	}
}

// TestWhatASurvivorOwesIsOwed: what a survivor has at a path that it owes is not what its position says. A new master that took it for that
// would never be told of what is right.
func TestWhatASurvivorOwesIsOwed(t *testing.T) {
	src := newSource(t)
	for _, path := range []string{"older", "right"} {
		src.write(path, "1")
		src.dirty(path)
	}
	src.dirty("gone")
	var owed reconcile.Owed
	for _, path := range []string{"older", "gone"} {
		owed.Add(reconcile.Debt{Path: path, ID: 1})
	}
	until, conn := src.journal.Position(), newAcking()
	_, _, done, _ := src.run(conn, send.Options{Until: &until, Owed: owed}, wire.Ready{From: cluster.Position{Term: 1}})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	close(conn.frames)
	last := map[string]wire.OpKind{}
	for f := range conn.frames {
		if f[0] != wire.FrameOp {
			continue
		}
		op, err := wire.DecodeOp(f[1:])
		if err != nil {
			t.Fatal(err)
		}
		if op.Path != "" && op.Kind != wire.OpNone {
			last[op.Path] = op.Kind
		}
	}
	want := map[string]wire.OpKind{"older": wire.OpDefer, "right": wire.OpFile, "gone": wire.OpDefer}
	if !maps.Equal(last, want) {
		t.Errorf("the last words are %v, want %v", last, want)
	}
}

// TestWhatASurvivorOwesIsNotGone: nor does it know that nothing is there.
func TestWhatASurvivorOwesIsNotGone(t *testing.T) {
	for _, owes := range []bool{false, true} {
		src := newSource(t)
		src.dirty("any")
		until := src.journal.Position()
		var owed reconcile.Owed
		if owes {
			owed.Add(reconcile.Debt{Path: "asked"})
		}
		conn := &compared{mute: *newMute(), answers: make(chan []byte, 100), asksFor: "asked", asksAt: until}
		_, _, done, _ := src.run(conn, send.Options{Until: &until, Owed: owed}, wire.Ready{From: cluster.Position{Term: 1}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if said := slices.Contains(conn.story, "asked"); said == owes {
			t.Errorf("owes %v: says that it is gone: %v", owes, said)
		}
	}
}

// acking is a follower that acknowledges every batch.
type acking struct {
	mute
	acks chan []byte
}

func newAcking() *acking { return &acking{mute: *newMute(), acks: make(chan []byte, 10)} }

func (a *acking) Read() (byte, []byte, error) {
	select {
	case b := <-a.acks:
		return wire.FrameAck, b, nil
	case <-a.down:
		return 0, nil, io.EOF
	}
}

func (a *acking) Write(kind byte, parts ...[]byte) error {
	if kind == wire.FrameBatch {
		b, err := wire.DecodeBatch(bytes.Join(parts, nil))
		if err != nil {
			return err
		}
		a.acks <- wire.Ack{Pos: b.Pos, Batches: 1}.Append(nil)
	}
	return a.mute.Write(kind, parts...)
}
