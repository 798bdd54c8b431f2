package mirror

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
)

// A standby that is killed when it has published something and not journaled it yet finds that again as its own: it
// is no write of others, which would be kept aside if the master has something newer by then.
func TestWhatWasBeingPublishedIsItsOwn(t *testing.T) {
	ends := map[string]struct {
		full bool   // the volume syncs before it shows
		dies string // before this step
		ops  []wire.Op
	}{
		"a new name":            {false, "flight", []wire.Op{handFile("new", "1")}},
		"a replaced file":       {false, "flight", []wire.Op{handFile("was", "newer")}},
		"one of two":            {false, "replace", []wire.Op{handFile("was", "newer"), handFile("new", "1")}},
		"synced before":         {true, "names", []wire.Op{handFile("was", "newer"), handFile("new", "1")}},
		"synced, journaled":     {true, "journal", []wire.Op{handFile("was", "newer")}},
		"renamed":               {false, "names", []wire.Op{{Kind: wire.OpRename, Old: "was", Path: "is"}}},
		"written, renamed over": {false, "names", []wire.Op{handFile("was.tmp", "newer"), {Kind: wire.OpRename, Old: "was.tmp", Path: "was"}}},
	}
	meanwhile := map[string]struct {
		do      func(path string) error
		foreign bool
	}{
		"nothing":       {func(string) error { return nil }, false},
		"a new version": {func(p string) error { return os.WriteFile(p, []byte("by others"), 0o644) }, true},
		"another inode": {func(p string) error { return os.Remove(p) }, false}, // and made again below
		"a mode":        {func(p string) error { return os.Chmod(p, 0o600) }, true},
		"a time":        {func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1e9, 1)) }, true},
	}
	for end, e := range ends {
		for name, m := range meanwhile {
			t.Run(end+", "+name, func(t *testing.T) {
				dir, state := t.TempDir(), t.TempDir()
				dieWhilePublishing(t, dir, state, e.full, e.dies, e.ops)
				path := e.ops[len(e.ops)-1].Path
				if err := m.do(filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
				if name == "another inode" {
					if err := os.WriteFile(filepath.Join(dir, path), []byte("by others"), 0o644); err != nil {
						t.Fatal(err)
					}
					m.foreign = true
				}
				var want []string
				if m.foreign {
					want = []string{path}
				}
				if got := unwatchedFiles(t, dir, state); !slices.Equal(got, want) {
					t.Errorf("these count as written by others: %q, want %q", got, want)
				}
			})
		}
	}
}

// afterADeath is the volume of a standby that was killed, as openAll leaves it, and what its journal had announced.
func afterADeath(t *testing.T, dir, state string) (*volume, *opened) {
	t.Helper()
	v, err := newVolume(&Engine{o: Options{Node: "b", State: state, Log: slog.New(slog.DiscardHandler), Watch: func(watch.Options) (Watcher, error) { return &handWatcher{}, nil }}}, VolumeConfig{Name: "home", Path: dir})
	must(t, err)
	o, err := v.openAll()
	must(t, err)
	t.Cleanup(func() { o.versions.Close(); must(t, errors.Join(o.journal.Close(false), o.root.Close())) })
	return v, o
}

// A rename is announced before the batch has brought what it moves; what is there by then may be longer, and is no less whole for that.
func TestWhatWasBeingRenamedIsWhole(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	ops := []wire.Op{handFile("was", "as long as it becomes")}
	for i := range 100 { // more than is looked through for it
		ops = append(ops, handFile(fmt.Sprint("other", i), "1"))
	}
	dieWhilePublishing(t, dir, filepath.Join(state, "journal/home"), false, "names", append(ops, wire.Op{Kind: wire.OpRename, Old: "was", Path: "is"}))
	v, o := afterADeath(t, dir, state)
	must(t, v.unwatched(t.Context(), o))
	_, err := v.settleUnproven(t.Context(), o, Role{Reign: cluster.Reign{Term: 2, Owner: "b"}})
	must(t, err)
	if m, err := o.root.Lstat("is"); err != nil || m.Size != int64(len(ops[0].Data)) {
		t.Errorf("it was taken for torn: %+v, %v", m, err)
	}
}

// What was announced may have been seen, and no record tells of it: another master is asked for it, as for what was told last.
func TestWhatWasBeingPublishedIsAskedFor(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	dieWhilePublishing(t, dir, filepath.Join(state, "journal/home"), false, "names", []wire.Op{{Kind: wire.OpRename, Old: "was", Path: "is"}})
	_, o := afterADeath(t, dir, state)
	must(t, o.applier.OweGiven("c", false))
	owed := o.journal.Owed()
	for _, path := range []string{"was", "is"} { // the one was told with a record
		if _, is := owed.Get(path); !is {
			t.Errorf("owed: %v, and not %s", owed.List(), path)
		}
	}
}

// dieWhilePublishing applies a file "was" and then ops, and leaves everything as it is before a step.
func dieWhilePublishing(t *testing.T, dir, state string, full bool, step string, ops []wire.Op) {
	t.Helper()
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	j, _, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}); err != nil {
		t.Fatal(err)
	}
	armed, died := false, false
	a, err := apply.New(apply.Options{
		Root: root, Journal: j, Node: "b", Excluded: tree.IsHidden, TrashAge: time.Hour, Now: time.Now, SyncFull: full, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Step: func(name string) {
			switch {
			case armed && name == "publish":
				time.Sleep(20 * time.Millisecond) // the clock of inodes is coarse: what is seen now is younger than the journal
			case armed && name == step:
				died = true
				runtime.Goexit()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	seq := uint64(0)
	play := func(ops ...wire.Op) {
		for _, op := range ops {
			seq++
			op.Seq = seq
			if err := a.Stage(op); err != nil {
				t.Error(err)
			}
		}
		flew, err := a.Fly(1)
		if err == nil && flew {
			err = a.Settle()
		} else if err == nil {
			err = a.Commit()
		}
		if err != nil {
			t.Error(err)
		}
	}
	play(handFile("was", "old"))
	armed = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		play(ops...)
	}()
	<-done
	if !died {
		t.Fatalf("it was not killed at %q", step)
	}
	if err := j.Close(false); err != nil {
		t.Fatal(err)
	}
}

// unwatchedFiles are those that a node finds as written by others while it did not run.
func unwatchedFiles(t *testing.T, dir, state string) (paths []string) {
	t.Helper()
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	j, found, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(false)
	v, err := newVolume(&Engine{o: Options{Node: "b", Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{root: root, journal: j, since: found.Known, written: found.LastWrite, until: time.Now().Add(time.Second), flown: found.Flown, scanned: make(chan struct{})}
	v.open = o
	for path := range found.Flown {
		m, err := root.Lstat(path)
		if err != nil && !tree.IsGone(err) {
			t.Fatal(err)
		}
		if err == nil && o.missed(path, m) {
			paths = append(paths, path)
		}
	}
	if err := v.unwatched(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	var scanned []string
	for _, e := range v.pending {
		scanned = append(scanned, e.Path)
	}
	slices.Sort(paths)
	slices.Sort(scanned)
	if !slices.Equal(paths, scanned) {
		t.Errorf("while it searches %q count as others', and afterwards %q", paths, scanned)
	}
	return scanned
}
