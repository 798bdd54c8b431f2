package send

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// sink takes what is sent and says nothing.
type sink struct{}

func (sink) Read() (byte, []byte, error) { return 0, nil, io.EOF }
func (sink) Write(byte, ...[]byte) error { return nil }
func (sink) Flush() error                { return nil }
func (sink) Close() error                { return nil }
func never(context.Context) error        { return errors.New("nobody runs this stream") }
func at(seq uint64) cluster.Position     { return cluster.Position{Term: 1, Seq: seq} }
func renameAt(seq uint64, old, new string) journal.Record {
	return journal.Record{Kind: journal.Renamed, Old: old, Path: new, Pos: at(seq)}
}

// TestARenameIsComparedWhileItMayBeOlder: a directory's rename that may have happened before the follower was given
// something is compared; one that cannot have is one operation, whatever is in it.
func TestARenameIsComparedWhileItMayBeOlder(t *testing.T) {
	for name, c := range map[string]struct {
		rests    time.Duration // since the follower was given something
		answer   func(s *Stream)
		asks     bool
		before   bool // the rename is journaled before the answer, and read after it
		compared bool
	}{
		"a moment ago":               {rests: 0, compared: true},
		"a while ago, not asked yet": {rests: 2 * time.Second, asks: true, compared: true},
		"asked in vain":              {rests: 2 * time.Second, asks: true, answer: func(s *Stream) { s.caughtUp(errors.New("no watcher")) }, compared: true},
		"given something meanwhile":  {rests: 2 * time.Second, asks: true, answer: func(s *Stream) { s.lookedAhead(); s.caughtUp(nil) }, compared: true},
		"caught up":                  {rests: 2 * time.Second, asks: true, answer: func(s *Stream) { s.caughtUp(nil) }},
		"told before the answer":     {rests: 2 * time.Second, asks: true, answer: func(s *Stream) { s.caughtUp(nil) }, before: true, compared: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, _, err := journal.Open(t.TempDir())
			must(t, err)
			defer j.Close(false)
			root, err := tree.Open(dir)
			must(t, err)
			defer root.Close()
			must(t, os.Mkdir(filepath.Join(dir, "new"), 0o755))
			must(t, j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}))
			s, err := New(sink{}, Options{Root: root, Journal: j, Excluded: tree.IsHidden, Reign: cluster.Reign{Term: 1, Owner: "a"}, Drain: never}, wire.Ready{From: j.Position()})
			must(t, err)
			s.ahead = s.ahead.Add(-c.rests)
			s.catchUp(time.Now())
			if asks := len(s.ask) > 0; asks != c.asks {
				t.Errorf("asks: %v, want %v", asks, c.asks)
			}
			if c.before {
				must(t, j.Append(renameAt(1, "old", "new")))
			}
			if c.answer != nil {
				c.answer(s)
			}
			if !c.before {
				must(t, j.Append(renameAt(1, "old", "new")))
			}
			must(t, s.readOn())
			must(t, s.sendBatch())
			if s.pos != at(1) {
				t.Fatalf("sent up to %v", s.pos)
			}
			if compared := len(s.trees) > 0; compared != c.compared {
				t.Errorf("compared: %v, want %v", compared, c.compared)
			}
		})
	}
}

// TestCatchingUpAsksOnce: neither twice for one look ahead, nor ever for none.
func TestCatchingUpAsksOnce(t *testing.T) {
	j, _, err := journal.Open(t.TempDir())
	must(t, err)
	defer j.Close(false)
	s, err := New(sink{}, Options{Journal: j, Drain: never}, wire.Ready{From: j.Position()})
	must(t, err)
	asked := 0
	for i := range 50 {
		s.catchUp(time.Now().Add(time.Minute))
		select {
		case <-s.ask:
			asked++
		default:
		}
		if i == 10 {
			s.caughtUp(nil)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// TestAHearingIsOfNow: a drain that began before does not answer for one that is wanted now.
func TestAHearingIsOfNow(t *testing.T) {
	j, _, err := journal.Open(t.TempDir())
	must(t, err)
	defer j.Close(false)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begun, go1 := make(chan int, 2), make(chan struct{})
	n := 0
	drain := func(context.Context) error {
		n++
		begun <- n
		if n == 1 {
			<-go1
		}
		return nil
	}
	s, err := New(sink{}, Options{Journal: j, Drain: drain}, wire.Ready{From: j.Position()})
	must(t, err)
	go func() { _ = s.hearing(ctx) }()
	s.catchUp(time.Now().Add(time.Minute))
	<-begun
	time.AfterFunc(10*time.Millisecond, func() { close(go1) })
	must(t, s.hear(ctx))
	select {
	case <-begun:
	default:
		t.Error("the answer to an earlier question was taken")
	}
	if !s.ahead.IsZero() {
		t.Error("the earlier question's answer was lost")
	}
}
