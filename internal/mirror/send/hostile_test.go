package send_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/wire"
)

// babbler is a follower that says one thing again and again and takes everything.
type babbler struct {
	say  func(n int) (kind byte, payload []byte)
	most int
	n    int
	down chan struct{}
	once sync.Once
}

func (b *babbler) Read() (byte, []byte, error) {
	if b.n == b.most {
		<-b.down
		return 0, nil, io.EOF
	}
	b.n++
	kind, payload := b.say(b.n)
	return kind, payload, nil
}
func (b *babbler) Write(byte, ...[]byte) error { return nil }
func (b *babbler) Flush() error                { return nil }
func (b *babbler) Close() error                { b.once.Do(func() { close(b.down) }); return nil }

func frame(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWhatNobodyAskedFor: a follower's answers to questions that were not asked
// are not gathered: the stream ends.
func TestWhatNobodyAskedFor(t *testing.T) {
	for what, say := range map[string]func(n int) (byte, []byte){
		"ends of comparisons":   func(n int) (byte, []byte) { return wire.FrameCompared, frame(t, wire.Compared{Job: uint64(n)}) },
		"ends of no comparison": func(n int) (byte, []byte) { return wire.FrameCompared, frame(t, wire.Compared{}) },
		"answers to lists":      func(n int) (byte, []byte) { return wire.FrameWants, frame(t, wire.Wants{Job: 1}) },
		"acknowledgements":      func(n int) (byte, []byte) { return wire.FrameAck, wire.Ack{Batches: 1000}.Append(nil) },
		"questions that lead out of here": func(n int) (byte, []byte) {
			return wire.FrameWants, frame(t, wire.Wants{Trees: [][]byte{[]byte("../x")}})
		},
	} {
		t.Run(what, func(t *testing.T) {
			conn := &babbler{say: say, most: 1000, down: make(chan struct{})}
			_, _, done, _ := newSource(t).run(conn, send.Options{}, wire.Ready{})
			err := <-done
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the stream lives on after %d of them: %v", conn.n, err)
			}
			fmt.Fprintln(t.Output(), conn.n, err)
		})
	}
}

// TestBacklogIsBounded: a follower that takes nothing costs so many paths, and no more.
func TestBacklogIsBounded(t *testing.T) {
	src := newSource(t)
	var records []journal.Record
	long := strings.Repeat("directory/", 390)
	for i := range 10_000 { // 39 MB of paths, which the journal holds
		records = append(records, journal.Record{Kind: journal.Dirty, Path: long + fmt.Sprint(i), Pos: cluster.Position{Term: 1, Seq: uint64(i + 1)}})
	}
	src.append(records...)
	_, _, done, _ := src.run(&babbler{down: make(chan struct{})}, send.Options{}, wire.Ready{})
	if err := <-done; !errors.Is(err, send.ErrTooFarBehind) {
		t.Errorf("a follower that takes nothing: %v", err)
	}
}
