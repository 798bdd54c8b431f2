package mirror

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
)

// handWatcher is a watcher without notifications, which may be too slow to say so.
type handWatcher struct {
	Watcher
	slow, own bool
}

func (h *handWatcher) OwnUnknown() bool     { return h.own }
func (h *handWatcher) Await(bool)           {}
func (h *handWatcher) Overlook(string) bool { return false }

func (h *handWatcher) Drain(ctx context.Context) error {
	if !h.slow {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// ownReign has the node lead, with a change of its own that is journaled and not synced.
func (w *world) ownReign(t *testing.T, watcher *handWatcher) cluster.Reign {
	t.Helper()
	reign := cluster.Reign{Term: 2, Owner: "b"}
	w.o.watcher, w.o.links, w.v.mode = watcher, w.finder, record
	err := w.o.journal.Append(journal.Record{Kind: journal.Begun, Reign: reign},
		journal.Record{Kind: journal.Dirty, Path: "x", Pos: cluster.Position{Term: 2, Seq: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return reign
}

// unread is a watcher with notifications that nobody has read.
type unread struct {
	handWatcher
	read func() error
}

func (u *unread) Drain(context.Context) error { return u.read() }

// TestABeginningReignTellsWhatIsThere: what was changed by hand before a node leads was changed before what came since, whenever it is read.
func TestABeginningReignTellsWhatIsThere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		must(t, os.MkdirAll(filepath.Join(w.dir, "c/a"), 0o755))
		w.o.links = w.finder
		w.o.watcher = &unread{read: func() error { return w.v.events([]watch.Event{{Kind: watch.Renamed, Old: "b", Path: "c", Dir: true}}) }}
		ctx, cancel := context.WithCancel(t.Context())
		led := make(chan error)
		go func() {
			led <- w.v.lead(ctx, w.o, Role{Reign: cluster.Reign{Term: 2, Owner: "b"}, Master: "b", Lead: true})
		}()
		synctest.Wait()
		cancel()
		must(t, <-led)
		records, err := w.o.journal.Tail(cluster.Position{Term: 2}, 9)
		must(t, err)
		told := map[string]journal.Kind{}
		for _, r := range records {
			if r.Kind.IsChange() {
				told[r.Path] = r.Kind
			}
		}
		if told["b"] != journal.Removed || told["c"] != journal.Tree {
			t.Errorf("journaled: %v, want that b is gone, and what c is", records)
		}
	})
}

// TestEndsWithDoubts: an agent that ends in order, and says so, leaves nothing unsaid of what nobody watched.
func TestEndsWithDoubts(t *testing.T) {
	for name, tc := range map[string]struct {
		doubt func(v *volume)
		owed  string
	}{
		"a directory": {func(v *volume) { v.doubts = []string{"d"} }, "d"},
		"a gap":       {func(v *volume) { v.gap = true }, ""},
		"lost":        {func(v *volume) { v.lost = true }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.o.watcher = &handWatcher{}
				tc.doubt(w.v)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := w.v.watchToTheEnd(ctx, w.o); err != nil {
					t.Fatal(err)
				}
				owed := w.o.journal.Owed()
				if d, is := owed.Get(tc.owed); !is || !d.Tree {
					t.Errorf("owed: %v, want the tree %q", owed.List(), tc.owed)
				}
			})
		})
	}
}

// TestHandsOverWhatIsJournaled: a survivor that led, and whose notifications do not come to an end, gives what it has.
func TestHandsOverWhatIsJournaled(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ownReign(t, &handWatcher{slow: true})
		if err := w.v.hearOwn(t.Context(), w.o); err != nil {
			t.Errorf("it hands over nothing: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.v.hearOwn(ctx, w.o); err == nil {
			t.Error("it goes on after its end")
		}
	})
}

// TestLeadsAgainWithoutASync: what a node wrote under a reign of its own is still of its own under its next one, and
// nobody who needs a master waits for the disk. Before another's reign comes it is on the disk.
func TestLeadsAgainWithoutASync(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reign := w.ownReign(t, &handWatcher{})
		reign.Term++
		ctx, cancel := context.WithCancel(t.Context())
		led := make(chan error, 1)
		go func() { led <- w.v.lead(ctx, w.o, Role{Lead: true, Reign: reign}) }()
		time.Sleep(time.Second)
		w.v.mu.Lock()
		leading := w.v.leading
		w.v.mu.Unlock()
		if leading != reign {
			t.Error("it does not lead")
		}
		if w.o.journal.Durable().Term == reign.Term-1 {
			t.Error("it has waited for a sync")
		}
		cancel()
		if err := <-led; err != nil {
			t.Fatal(err)
		}
		if err := w.v.stopRecording(t.Context(), w.o); err != nil { // elected again, and overruled before that reign begins
			t.Fatal(err)
		}
		if err := w.v.endOwnReign(t.Context(), w.o); err != nil {
			t.Fatal(err)
		}
		if w.v.ownUnsynced(w.o) {
			t.Error("another's reign begins above what is not on the disk")
		}
	})
}

// TestAnEchoBelowWhatWasRenamed: inotify tells of what was applied as if others had done it, under the name of then.
func TestAnEchoBelowWhatWasRenamed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.o.watcher = &handWatcher{own: true}
		h := w.byHand(t)
		h.next(handDir("d"), handFile("d/f", "small"), handFile("d/g", "small"))
		h.next(wire.Op{Kind: wire.OpRename, Path: "D", Old: "d"})
		h.settle()
		if err := os.WriteFile(filepath.Join(w.dir, "D/g"), []byte(byStranger), 0o644); err != nil {
			t.Fatal(err)
		}
		left := h.sess.asTheyAre([]watch.Event{{Kind: watch.Dirty, Path: "d/f"}, {Kind: watch.Dirty, Path: "d/g"}})
		if len(left) != 1 || left[0].Path != "D/g" {
			t.Errorf("written by others: %v, want D/g", left)
		}
	})
}
