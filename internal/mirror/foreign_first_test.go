package mirror

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
)

const byStranger = "written by hand on the standby"

// stranger writes on the follower, as a new inode, so that each version can be told from the next.
func (w *world) stranger(t *testing.T, rel, content string) watch.Event {
	t.Helper()
	p := filepath.Join(w.dir, rel)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return watch.Event{Kind: watch.Dirty, Path: rel}
}

// lists says whether a file of that content is listed as divergent for one of the paths.
func (w *world) lists(t *testing.T, content string, paths ...string) bool {
	t.Helper()
	kept, err := apply.ListDivergent(w.o.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		b, err := os.ReadFile(filepath.Join(w.dir, k.File))
		if err == nil && string(b) == content && slices.Contains(paths, k.Path) {
			return true
		}
	}
	return false
}

// next sends operations of the stream as one batch.
func (h *hand) next(ops ...wire.Op) {
	h.t.Helper()
	for _, o := range ops {
		h.seq++
		o.Seq = h.seq
		h.op(o)
	}
	h.batch()
}

func handFile(path, content string) wire.Op {
	return wire.Op{Kind: wire.OpFile, Path: path, Meta: tree.Meta{Kind: tree.File, Mode: 0o644, Size: int64(len(content)), MTime: 1e18}, Data: []byte(content)}
}

func handDir(path string) wire.Op {
	return wire.Op{Kind: wire.OpDir, Path: path, Meta: tree.Meta{Kind: tree.Dir, Mode: 0o755, MTime: 1e18}}
}

// compare is a comparison of one directory in which the source has these files, of five bytes.
func (h *hand) compare(dir string, files ...string) {
	h.t.Helper()
	h.op(wire.Op{Kind: wire.OpTree, Path: dir})
	h.batch()
	l := wire.List{Job: 1, Dir: dir, Meta: tree.Meta{Kind: tree.Dir, Mode: 0o755, MTime: 1e18}, Extras: wire.ExtrasTrash}
	for _, f := range files {
		l.Entries = append(l.Entries, tree.Entry{Name: f, Meta: handFile("", "small").Meta})
	}
	h.frame(wire.FrameList, l.Append(nil))
	for _, f := range files {
		h.op(handFile(tree.Join(dir, f), "small"))
	}
	h.batch()
	h.frame(wire.FrameTreeEnd, wire.AppendID(nil, 1))
	h.op(wire.Op{Kind: wire.OpPaid, Path: dir})
	h.batch()
}

// comesFirst are the ways in which the master's comes to a path that somebody wrote
// on a standby less than foreignDelay ago. There are d/f, d/g and e on both.
func comesFirst() map[string]struct {
	at string // what somebody writes
	do func(h *hand)
} {
	type way = struct {
		at string
		do func(h *hand)
	}
	return map[string]way{
		"changed":        {"d/f", func(h *hand) { h.next(handFile("d/f", "newer")) }},
		"changed, ahead": {"d/f", func(h *hand) { h.next(handFile("d/new", "newer"), handFile("d/f", "newer")) }},
		"made on both":   {"d/x", func(h *hand) { h.next(handFile("d/x", "newer")) }},
		"deleted":        {"d/f", func(h *hand) { h.next(wire.Op{Kind: wire.OpRemove, Path: "d/f"}) }},
		"renamed over": {"d/f", func(h *hand) {
			h.next(wire.Op{Kind: wire.OpRename, Path: "d/f", Old: "d/g", Meta: handFile("", "small").Meta})
		}},
		"renamed away": {"d/f", func(h *hand) {
			h.next(wire.Op{Kind: wire.OpRename, Path: "e", Old: "d/f", Meta: handFile("", "small").Meta})
		}},
		"renamed above": {"d/f", func(h *hand) { h.next(wire.Op{Kind: wire.OpRename, Path: "D", Old: "d"}, handFile("D/f", "newer")) }},
		"a link": {"d/f", func(h *hand) {
			h.next(wire.Op{Kind: wire.OpSymlink, Path: "d/f", Meta: tree.Meta{Kind: tree.Symlink, Mode: 0o777, Target: "g"}})
		}},
		"a directory":       {"d/f", func(h *hand) { h.next(handDir("d/f")) }},
		"below":             {"d/f", func(h *hand) { h.next(handFile("d/f/x", "newer")) }},
		"a file for a tree": {"d/t/x", func(h *hand) { h.next(handFile("d/t", "newer")) }},
		"its tree is deleted": {"d/x", func(h *hand) {
			h.next(wire.Op{Kind: wire.OpRemove, Path: "d/f"}, wire.Op{Kind: wire.OpRemove, Path: "d/g"}, wire.Op{Kind: wire.OpRemove, Path: "d"})
		}},
		"a group": {"d/f", func(h *hand) {
			o := handFile("d/f", "newer")
			o.Kind, o.How, o.Names = wire.OpGroup, wire.GroupData, []string{"d/g"}
			h.next(o)
		}},
		"a group, other name": {"d/g", func(h *hand) {
			o := handFile("d/f", "newer")
			o.Kind, o.How, o.Names = wire.OpGroup, wire.GroupData, []string{"d/g"}
			h.next(o)
		}},
		"compared":                 {"d/f", func(h *hand) { h.compare("d", "f", "g") }},
		"compared, an extra":       {"d/x", func(h *hand) { h.compare("d", "f", "g") }},
		"compared, an extra tree":  {"d/t/x", func(h *hand) { h.compare("d", "f", "g") }},
		"compared, a file to be a": {"d/f", func(h *hand) { h.compare("d/f", "x") }},
	}
}

// TestForeignComesFirst: what others wrote on a standby is listed as divergent, even if
// the master's comes to the same place before foreignDelay is over, and before the
// notification of it was read (promise P5).
func TestForeignComesFirst(t *testing.T) {
	for name, way := range comesFirst() {
		for _, read := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, read %v", name, read), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					h := w.byHand(t)
					h.next(handDir("d"), handFile("d/f", "small"), handFile("d/g", "small"), handFile("e", "small"))
					h.settle()
					w.unread = []watch.Event{w.stranger(t, way.at, byStranger)}
					if read {
						_ = w.read(t.Context())
					}
					way.do(h)
					h.settle()
					_ = w.read(t.Context())
					if err := h.sess.betweenOnce(true); err != nil { // foreignDelay is over
						t.Fatal(err)
					}
					if !w.lists(t, byStranger, way.at, strings.ToUpper(way.at[:1])+way.at[1:]) { // the master may have renamed the directory
						kept, err := apply.ListDivergent(w.o.root)
						t.Errorf("what was written at %s is not listed: %+v (%v)", way.at, kept, err)
					}
				})
			})
		}
	}
}

// TestForeignOfTheMomentOfADrain: what others write while a session has the last notifications read is told by none of those.
func TestForeignOfTheMomentOfADrain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.byHand(t)
		h.next(handFile("f", "small"))
		h.settle()
		w.watches = func(context.Context) error { // all is read, and then this
			kernelTicks()
			w.unread = []watch.Event{w.stranger(t, "f", byStranger)}
			kernelTicks()
			return nil
		}
		if err := w.o.applier.Guard(nil); err != nil {
			t.Fatal(err)
		}
		h.again()
		h.next(handFile("f", "newer"))
		h.settle()
		if !w.lists(t, byStranger, "f") {
			t.Error("what was written is not listed")
		}
	})
}

// TestForeignComesFirstAndIsRepaired does the same with a real source: the standby is as the master afterwards.
func TestForeignComesFirstAndIsRepaired(t *testing.T) {
	for name, op := range map[string]stormOp{
		"changed": {"write", "a/b", "", 31}, "deleted": {"remove", "a/b", "", 0}, "renamed away": {"rename", "a/b", "c", 0}, "renamed over": {"rename", "d", "a/b", 0},
		"renamed above": {"rename", "a", "e", 0}, "its tree is deleted": {"rmtree", "a", "", 0}, "linked": {"link", "a/b", "e", 0}, "compared": {"compare", "", "", 0},
	} {
		for _, read := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, read %v", name, read), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					w.v.setFollow(func(f *followState) { f.foreign = make(chan struct{}, 1) })
					w.steps(t, stormOp{"mkdir", "a", "", 1}, stormOp{"write", "a/b", "", 20}, stormOp{"write", "d", "", 9}, stormOp{"emit", "", "", 11}, stormOp{What: "calm"})
					w.unread = []watch.Event{w.stranger(t, "a/b", byStranger)}
					if read {
						_ = w.read(t.Context())
					}
					if op.What == "compare" {
						if err := w.journal([]journal.Record{{Kind: journal.Tree}}); err != nil {
							t.Fatal(err)
						}
					}
					w.steps(t, op, stormOp{"emit", "", "", 11}, stormOp{"wait", "", "", 0})
					_ = w.read(t.Context())
					w.steps(t, stormOp{What: "calm"})
					if diff, err := w.differs(); diff != "" || err != nil {
						t.Error(diff, err)
					}
					if !w.lists(t, byStranger, "a/b", "e/b") {
						t.Error("what was written is not listed")
					}
				})
			})
		}
	}
}

// TestUnwatchedComesFirst: what was written while the agent did not run is kept as well, though the stream does
// not wait for the search for it.
func TestUnwatchedComesFirst(t *testing.T) {
	for name, way := range comesFirst() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				h := w.byHand(t)
				h.next(handDir("d"), handFile("d/f", "small"), handFile("d/g", "small"), handFile("e", "small"))
				h.settle()
				since := w.inodeClock(t)
				w.stranger(t, way.at, byStranger)
				until := w.inodeClock(t)
				if err := w.crash(); err != nil {
					t.Fatal(err)
				}
				w.o.watcher = new(watch.Watcher)
				w.o.since, w.o.written, w.o.until, w.o.scanned = since, since, until, make(chan struct{})
				h.again()
				way.do(h)
				h.settle()
				if !w.lists(t, byStranger, way.at, strings.ToUpper(way.at[:1])+way.at[1:]) { // the master may have renamed the directory
					kept, err := apply.ListDivergent(w.o.root)
					t.Errorf("what was written at %s is not listed: %+v (%v)", way.at, kept, err)
				}
				for _, other := range []string{"d/g", "e"} {
					if !strings.HasPrefix(way.at, other) && w.lists(t, "small", other) {
						t.Errorf("%s is listed, and nobody wrote it", other)
					}
				}
			})
		})
	}
}

// inodeClock is a time of the kernel's inodes with nothing else at it.
func (w *world) inodeClock(t *testing.T) time.Time {
	t.Helper()
	kernelTicks()
	root, err := tree.Open(filepath.Dir(w.state))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.WriteFile(filepath.Join(filepath.Dir(w.state), "clock"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := root.Lstat("clock")
	if err != nil {
		t.Fatal(err)
	}
	kernelTicks()
	return time.Unix(0, m.CTime)
}

// TestForeignOutlivesTheStream: a stream that ends before foreignDelay is over leaves what waits to the next one.
func TestForeignOutlivesTheStream(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.v.setFollow(func(f *followState) { f.foreign = make(chan struct{}, 1) })
		w.steps(t, stormOp{"write", "a", "", 20}, stormOp{"emit", "", "", 11}, stormOp{What: "calm"})
		w.unread = []watch.Event{w.stranger(t, "a", byStranger)}
		_ = w.read(t.Context())
		w.steps(t, stormOp{"pass", "", "", uint64(foreignDelay.Milliseconds() / 2)}, stormOp{What: "cut"}, stormOp{What: "calm"})
		if !w.lists(t, byStranger, "a") {
			t.Error("what was written is not listed")
		}
		if diff, err := w.differs(); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

// A directory that others moved to where the master makes a file is kept with all that is in it, though all of that is the master's own: they moved it, and where
// it was it is no more.
func TestForeignMovedDirectoryGivesWay(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.byHand(t)
		h.next(handDir("d"), handFile("d/f", "small"), handFile("c", "other"))
		must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(w.dir, "c"), unix.AT_FDCWD, filepath.Join(w.dir, "d"), unix.RENAME_EXCHANGE))
		must(t, w.v.events([]watch.Event{{Kind: watch.Renamed, Old: "c", Path: "d"}, {Kind: watch.Dirty, Path: "c", Tree: true}, {Kind: watch.Dirty, Path: "d", Tree: true}}))
		h.next(handFile("c", "newer"))
		if !w.lists(t, "small", "c/f") {
			t.Error("what was in it is not kept aside")
		}
	})
}
