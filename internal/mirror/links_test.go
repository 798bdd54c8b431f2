package mirror

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// bubble runs a test on one source and one follower, with a clock of its own.
func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		test(t, w)
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
}

// steps does what a storm would do.
func (w *world) steps(t *testing.T, ops ...stormOp) {
	t.Helper()
	for _, o := range ops {
		if err := w.step(o); err != nil {
			t.Fatalf("%v: %v", o, err)
		}
	}
}

// TestPullTakesAllNames: a new master that takes a survivor's changes gets what was
// written through one name under all, though it knew nothing of the other (promise P4).
func TestPullTakesAllNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.steps(t, stormOp{"write", "a", "", 20}, stormOp{"mkdir", "d", "", 1}, stormOp{"link", "a", "d/b", 0}, stormOp{"emit", "", "", 11}, stormOp{"calm", "", "", 0}, stormOp{What: "cut"})
		w.steps(t, stormOp{"write", "d/b", "", 31}, stormOp{"link", "a", "c", 0})
		var records []journal.Record
		for _, e := range w.src.events {
			records = append(records, e.Record)
		}
		if err := w.journal(records); err != nil { // the survivor was a standby: nobody told its finder
			t.Fatal(err)
		}
		w.src.events = nil
		w.finder.Reset()
		mine, theirs, _ := newPipe("a", "b")
		until := w.srcJournal.Position()
		s, err := send.New(mine, send.Options{
			Root: w.srcRoot, Journal: w.srcJournal, Excluded: tree.IsHidden, Links: w.finder, Reign: cluster.Reign{Term: 1, Owner: "a"}, Until: &until, Log: w.v.log,
			Ping: func(cluster.Position) wire.Ping { return wire.Ping{Head: until} },
		}, wire.Ready{From: w.o.journal.Position()})
		if err != nil {
			t.Fatal(err)
		}
		sess := w.v.newSession(theirs, w.o, w.reign)
		sess.pulling = true
		sess.drain = w.read
		sess.aside = apply.NewSet(w.o.root, "a", 1, apply.WhyConflict, time.Now())
		done := make(chan error, 1)
		go func() { done <- s.Run(context.Background()) }()
		if err := sess.run(context.Background()); !errors.Is(err, errEnd) {
			t.Error(err)
		}
		mine.Close()
		<-done
		if diff, err := w.differs(); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

// TestOrdinaryFilesAskForNoNames: nothing is looked up for files with one name, on
// neither side of a stream; the system calls were counted once (decision 0007).
func TestOrdinaryFilesAskForNoNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ops := []stormOp{{What: "wait"}, {"mkdir", "d", "", 1}, {"big", "d/large", "", 3}}
		for _, name := range []string{"a", "b", "d/c"} {
			ops = append(ops, stormOp{"write", name, "", 9}, stormOp{"save", name, "", 5}, stormOp{"chmod", name, "", 3}, stormOp{"emit", "", "", 11})
		}
		w.steps(t, append(ops, stormOp{"rename", "d", "e", 0}, stormOp{"remove", "a", "", 0}, stormOp{What: "calm"})...)
		if s := w.finder.Stats(); s.Asked+s.Looks > 0 || s.Scans > 1 {
			t.Errorf("ordinary files cost %+v, want one scan and nothing else", s)
		}
		if diff, err := w.differs(); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

// TestForeignWriteUnderAllNames: what is written on a standby through one name is to come again under all.
func TestForeignWriteUnderAllNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.steps(t, stormOp{"write", "a", "", 20}, stormOp{"link", "a", "b", 0}, stormOp{"emit", "", "", 11}, stormOp{What: "calm"})
		if err := os.WriteFile(filepath.Join(w.dir, "b"), []byte("by mistake"), 0o644); err != nil {
			t.Fatal(err)
		}
		others, err := w.o.applier.OtherNames([]string{"b", "nothing"})
		if err != nil || len(others) != 1 || others[0] != "a" {
			t.Errorf("besides b: %q (%v), want a", others, err)
		}
		found, err := links.Find(context.Background(), w.srcRoot, nil)
		if err != nil || len(found) > 0 {
			t.Errorf("found %v (%v) of nothing", found, err)
		}
	})
}

// TestAFurtherNameSendsNothing: the other names of an inode are journaled a moment after the
// one that was made, when the follower has not answered yet whether it needs the content. It has
// it, so no name may be owed, and nothing be sent, whatever looks at the names then.
func TestAFurtherNameSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.latency = 50 * time.Millisecond
		w.steps(t, stormOp{"mkdir", "d", "", 1}, stormOp{"big", "a", "", 3}, stormOp{"link", "a", "d/b", 0}, stormOp{"emit", "", "", 11}, stormOp{What: "calm"})
		before, sent := inodeOf(t, w.dir, "a"), w.o.applier.Stats().Bytes
		w.steps(t, stormOp{"link", "a", "d/c", 0})
		for _, e := range w.src.events {
			if err := w.journal([]journal.Record{e.Record}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			w.finder.Changed(e.Path, e.inode)
			synctest.Wait()
		}
		w.src.events = nil
		time.Sleep(4 * w.latency)
		synctest.Wait()
		if owed := w.o.journal.Owed(); owed.Len() > 0 {
			t.Errorf("owed are %+v, of a file that is here", owed.List())
		}
		if err := w.journal([]journal.Record{{Kind: journal.Tree}}); err != nil { // as when the watcher lost something
			t.Fatal(err)
		}
		w.steps(t, stormOp{What: "calm"})
		if after := inodeOf(t, w.dir, "a"); after != before {
			t.Errorf("the file is inode %d, was %d", after, before)
		}
		if now := w.o.applier.Stats().Bytes; now != sent {
			t.Errorf("%d bytes came again", now-sent)
		}
		if diff, err := w.differs(); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

func inodeOf(t *testing.T, dir, rel string) uint64 {
	t.Helper()
	m, err := os.Lstat(filepath.Join(dir, rel))
	if err != nil {
		t.Fatal(err)
	}
	return m.Sys().(*syscall.Stat_t).Ino
}
