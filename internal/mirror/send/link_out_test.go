package send_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// linked is compared, and counts the links that come in the batch that pays the tree, before it and after it.
type linked struct {
	compared
	links, before, with, after int
	paid                       bool // in this batch
	over                       bool
	done                       chan struct{}
}

func (c *linked) Write(kind byte, parts ...[]byte) error {
	switch kind {
	case wire.FrameOp:
		op, err := wire.DecodeOp(bytes.Join(parts, nil))
		if err != nil {
			return err
		}
		switch {
		case op.Kind == wire.OpGroup:
			c.links++
		case op.Kind == wire.OpPaid:
			c.paid = true
			return nil
		}
	case wire.FrameBatch:
		switch {
		case c.paid:
			c.with = c.links
			close(c.done)
		case c.over:
			c.after += c.links
		default:
			c.before += c.links
		}
		c.over = c.over || c.paid
		c.paid, c.links = false, 0
	}
	return c.compared.Write(kind, parts...)
}

// A tree is paid when the last name that reaches out of it is linked: what is linked afterwards would be lost with the connection.
func TestATreeIsPaidWithItsLastLink(t *testing.T) {
	for _, files := range []int{100, 1500} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			src := newSource(t)
			for _, d := range []string{"o", "n"} {
				if err := os.Mkdir(filepath.Join(src.dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for i := range files {
				old := filepath.Join(src.dir, "o", fmt.Sprint(i))
				if err := os.WriteFile(old, []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Link(old, filepath.Join(src.dir, "n", fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			finder := links.New(src.root, tree.IsHidden)
			found := make(chan error, 1)
			scanned := finder.Scanned()
			finder.Look()
			go func() { found <- finder.Run(ctx, func([]string, bool) error { return nil }) }()
			<-scanned
			conn := &linked{compared: compared{mute: mute{frames: make(chan []byte), down: make(chan struct{})}, answers: make(chan []byte, 5000)}, done: make(chan struct{})}
			src.append(journal.Record{Kind: journal.Tree, Path: "n", Pos: src.journal.Next()})
			_, _, done, end := src.run(conn, send.Options{Links: finder}, wire.Ready{From: cluster.Position{Term: 1}})
			select {
			case <-conn.done:
			case err := <-done:
				t.Fatalf("the stream ended: %v", err)
			case <-ctx.Done():
				t.Fatal("the tree was never paid")
			}
			end()
			cancel()
			<-found
			if conn.before+conn.with != files || conn.after > 0 {
				t.Errorf("%d links before the tree was paid, %d with that, %d after it; there are %d", conn.before, conn.with, conn.after, files)
			}
		})
	}
}
