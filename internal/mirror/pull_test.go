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
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
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
