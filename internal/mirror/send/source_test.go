package send_test

import (
	"context"
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

// source is an empty tree with the journal of a reign that has just begun.
type source struct {
	t       *testing.T
	dir     string
	root    *tree.Root
	journal *journal.Journal
}

func reign() cluster.Reign { return cluster.Reign{Term: 1, Owner: "a"} }

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{t: t, dir: t.TempDir()}
	var err error
	if s.journal, _, err = journal.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.journal.Close(false) })
	if s.root, err = tree.Open(s.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.root.Close() })
	s.append(journal.Record{Kind: journal.Begun, Reign: reign()})
	return s
}

func (s *source) append(records ...journal.Record) {
	s.t.Helper()
	if err := s.journal.Append(records...); err != nil {
		s.t.Fatal(err)
	}
}

// dirty is the next record, of a change at path.
func (s *source) dirty(path string) {
	s.t.Helper()
	s.append(journal.Record{Kind: journal.Dirty, Path: path, Pos: s.journal.Next()})
}

func (s *source) write(path, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, path), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// streamTime bounds a stream: it is far more than one takes.
const streamTime = 20 * time.Second

// run begins a stream to conn. Whoever waits for what it does waits for ctx, too; done is told how it ended; end ends it.
func (s *source) run(conn send.Conn, o send.Options, ready wire.Ready) (stream *send.Stream, ctx context.Context, done chan error, end func()) {
	s.t.Helper()
	o.Root, o.Journal, o.Excluded = s.root, s.journal, tree.IsHidden
	if o.Reign == (cluster.Reign{}) {
		o.Reign = reign()
	}
	stream, err := send.New(conn, o, ready)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), streamTime)
	s.t.Cleanup(cancel)
	done = make(chan error, 1)
	over := make(chan struct{})
	go func() { done <- stream.Run(ctx); close(over) }()
	return stream, ctx, done, func() { cancel(); <-over }
}
