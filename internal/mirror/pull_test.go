package mirror

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// A new master that takes a survivor's changes must come to an end, even if a
// large file that it wants has gone there without a record.
func TestPullOfALargeFileThatIsGone(t *testing.T) {
	base := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(base, 2)
		if err != nil {
			t.Fatal(err)
		}
		w.src.change(stormOp{"big", "gone", "", 1})
		w.src.change(stormOp{"write", "stays", "", 9})
		if err := w.emit(len(w.src.events)); err != nil {
			t.Fatal(err)
		}
		until := w.srcJournal.Position()
		ready, err := w.v.agree(w.o, wire.Welcome{Reign: w.reign, History: w.srcJournal.History()})
		if err != nil {
			t.Fatal(err)
		}
		mine, theirs, cut := newPipe("a", "b")
		s, err := send.New(mine, send.Options{
			Root: w.srcRoot, Journal: w.srcJournal, Excluded: tree.IsHidden, Links: w.finder, Reign: w.reign, Until: &until, Log: w.v.log,
			Ping: func(cluster.Position) wire.Ping { return wire.Ping{Head: until} },
		}, ready)
		if err != nil {
			t.Fatal(err)
		}
		sess := w.v.newSession(theirs, w.o, w.reign)
		sess.pulling = true
		sess.drain = w.read
		sess.aside = apply.NewSet(w.o.root, "a", 1, apply.WhyConflict, time.Now())
		gone := false
		sess.dial = func(ctx context.Context) (Conn, error) {
			if !gone {
				gone = true
				if err := os.Remove(w.src.abs("gone")); err != nil {
					t.Error(err)
				}
			}
			far, near, _ := newPipe("a", "b")
			go func() {
				_ = s.Bulk(ctx, far, nil)
				far.Close()
			}()
			return near, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream := make(chan error, 1)
		go func() { stream <- s.Run(ctx); cut.stop() }()
		if err := sess.run(ctx); !errors.Is(err, errEnd) || !gone {
			t.Errorf("the survivor did not come to an end: %v", err)
		}
		cancel()
		<-stream
		if n := w.o.journal.OwedLen(); n != 0 {
			t.Errorf("%d are owed", n)
		}
		if p := w.o.journal.Position(); p != until {
			t.Errorf("at %v of %v", p, until)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
}

// Two sides that were parted may have taken the same term. Who leads does not continue what the other one did in its reign: those changes are set aside where they are,
// and the position of a reign is never below what it took.
func TestChangesOfARivalAreNotTaken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		must(t, w.o.journal.Append(journal.Record{Kind: journal.Begun, Reign: w.reign}, journal.Record{Kind: journal.Dirty, Path: "x", Pos: cluster.Position{Term: 1, Seq: 1}}))
		w.o.watcher = &handWatcher{}
		w.v.e.o.Dial = func(context.Context, cluster.NodeID, string) (Conn, error) {
			far, near, _ := newPipe("a", "b")
			go func() {
				defer far.Close()
				var hello wire.Hello
				if err := readJSON(far, wire.FrameHello, &hello); err != nil {
					t.Error(err)
				}
				rival := hello.History.Extend(cluster.Reign{Term: 2, Owner: "a"}, 1)
				if err := writeJSON(far, wire.FrameWelcome, wire.Welcome{History: rival, Plan: reconcile.Decide(rival, hello.History, cluster.Position{})}); err != nil {
					t.Error(err)
				}
				if kind, _, err := far.Read(); err == nil {
					t.Errorf("it goes on with a frame of kind %d", kind)
				}
			}()
			return near, nil
		}
		err := w.v.pull(t.Context(), w.o, Role{Lead: true, Master: "b", Reign: cluster.Reign{Term: 2, Owner: "b"}}, "a")
		if problem.KindOf(err) != problem.Conflict {
			t.Errorf("it took them: %v", err)
		}
		synctest.Wait()
	})
}
