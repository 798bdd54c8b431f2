package mirror

import (
	"os"
	"path/filepath"
	"testing"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
)

// TestForeignWaitsAfterAFailure: what could not be set aside (a full disk) is known to wait until the next try: the master's
// does not take its place without a word, and the master may rename what is above it.
func TestForeignWaitsAfterAFailure(t *testing.T) {
	for name, fresh := range map[string]bool{"and nothing else was written": false, "and more was written": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				h := w.byHand(t)
				h.next(handDir("d"), handFile("d/f", "small"))
				h.settle()
				w.unread = append(w.unread, w.stranger(t, "d/f", byStranger))
				if err := w.read(t.Context()); err != nil {
					t.Fatal(err)
				}
				sets := filepath.Join(w.dir, tree.Hidden, "divergent")
				if err := os.WriteFile(sets, nil, 0o600); err != nil { // no set can be made
					t.Fatal(err)
				}
				bytes := w.v.bytes
				if err := h.sess.betweenOnce(true); err == nil {
					t.Fatal("set aside where no set can be")
				}
				if !w.v.waits("d/f") {
					t.Error("what was written is not known to wait")
				}
				if bytes == 0 || w.v.bytes != bytes {
					t.Errorf("%d bytes are counted as waiting, %d were before the failure", w.v.bytes, bytes)
				}
				if err := os.Remove(sets); err != nil {
					t.Fatal(err)
				}
				if fresh {
					w.v.remember(watch.Event{Kind: watch.Removed, Path: "nothing"})
				}
				h.again()
				h.next(wire.Op{Kind: wire.OpRename, Path: "D", Old: "d"}, handFile("D/f", "newer"))
				h.settle()
				if err := h.sess.betweenOnce(true); err != nil {
					t.Fatal(err)
				}
				if !w.lists(t, byStranger, "d/f", "D/f") {
					t.Error("what was written is not listed")
				}
			})
		})
	}
}

// TestLostNotificationsWake: a standby whose watcher lost something compares at once, not when its stream breaks some day.
func TestLostNotificationsWake(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.byHand(t)
		wake := make(chan struct{}, 1)
		w.v.setFollow(func(f *followState) { f.foreign = wake })
		for _, e := range []watch.Event{{Kind: watch.Overflow}, {Kind: watch.Dirty, Path: "x"}} {
			if err := w.v.events([]watch.Event{e}); err != nil {
				t.Fatal(err)
			}
			select {
			case <-wake:
			default:
				t.Errorf("%v does not wake who follows", e)
			}
		}
		if err := h.sess.betweenOnce(true); err != nil {
			t.Fatal(err)
		}
		if owed := w.o.journal.Owed(); owed.Trees() != 1 {
			t.Errorf("owed: %v, want the whole tree", owed.List())
		}
	})
}
