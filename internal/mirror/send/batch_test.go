package send_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// mute is a follower that takes everything and never answers.
type mute struct {
	frames chan []byte
	down   chan struct{}
}

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
	dir := t.TempDir()
	j, _, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(false)
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	records := []journal.Record{{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}}
	add := func(path string) {
		records = append(records, journal.Record{Kind: journal.Dirty, Path: path, Pos: cluster.Position{Term: 1, Seq: uint64(len(records))}})
	}
	write := func(path string, size int) {
		if err := os.WriteFile(filepath.Join(dir, path), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("twice", 1)
	add("twice")
	for i := range 40 { // 10 MiB, more than a batch is to have
		name := fmt.Sprint("large", i)
		write(name, wire.InlineMax)
		add(name)
	}
	add("twice")
	if err := j.Append(records...); err != nil {
		t.Fatal(err)
	}
	conn := &mute{frames: make(chan []byte, 1000), down: make(chan struct{})}
	s, err := send.New(conn, send.Options{Root: root, Journal: j, Excluded: tree.IsHidden, Reign: cluster.Reign{Term: 1, Owner: "a"}}, wire.Ready{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	sent := map[string]bool{}
	for at := (cluster.Position{}); at != j.Position(); {
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
	cancel()
	<-done
}

// TestAPullEndsAtAReignWithoutChanges: the position behind a reign's beginning
// is reached although no change ever had it.
func TestAPullEndsAtAReignWithoutChanges(t *testing.T) {
	j, _, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(false)
	root, err := tree.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}},
		journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 2, Owner: "b"}}); err != nil {
		t.Fatal(err)
	}
	conn := &acking{mute: mute{frames: make(chan []byte, 1000), down: make(chan struct{})}, acks: make(chan []byte, 10)}
	until := cluster.Position{Term: 2}
	s, err := send.New(conn, send.Options{Root: root, Journal: j, Excluded: tree.IsHidden, Reign: cluster.Reign{Term: 3, Owner: "c"}, Until: &until},
		wire.Ready{From: cluster.Position{Term: 1}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatalf("the pull did not end: %v", err)
	}
}

// acking is a follower that acknowledges every batch.
type acking struct {
	mute
	acks chan []byte
}

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
