package mirror

import (
	"context"
	"errors"
	"io"
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

// lossy is the near end of a connection that breaks with what is still on its way: the frames that were
// written are lost from the first one on that lose names.
type lossy struct {
	*pipe
	lose func(kind byte) bool
}

func (l lossy) Read() (byte, []byte, error) {
	kind, payload, err := l.pipe.Read()
	if err == nil && l.lose(kind) {
		l.Close()
		return 0, nil, io.EOF
	}
	return kind, payload, err
}

// What was sent over the second connection and is lost with it comes over the next one, without a new stream.
func TestALargeFileIsLostWithItsConnection(t *testing.T) {
	for name, lose := range map[string]func(n int, kind byte) bool{
		"its last frame":           func(n int, kind byte) bool { return n == 0 && kind == wire.FrameBulkDone },
		"all of it":                func(n int, kind byte) bool { return n == 0 },
		"twice":                    func(n int, kind byte) bool { return n < 2 && kind == wire.FrameBulkDone },
		"once more, with its data": func(n int, kind byte) bool { return n == 0 && kind == wire.FrameBulkDone || n == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			base := memoryDir(t)
			synctest.Test(t, func(t *testing.T) {
				w, err := newWorld(base, 2)
				if err != nil {
					t.Fatal(err)
				}
				dials := 0
				w.bulkEnd = func(near *pipe) Conn {
					n := dials
					dials++
					return lossy{near, func(kind byte) bool { return lose(n, kind) }}
				}
				w.src.change(stormOp{"big", "k", "", 1})
				w.src.change(stormOp{"big", "m", "", 2})
				if err := errors.Join(w.emit(2), w.wait(time.Minute)); err != nil {
					t.Fatal(err)
				}
				if diff, err := w.differs(); diff != "" || err != nil {
					t.Error(diff, err)
				}
				if w.link == nil || dials < 2 {
					t.Errorf("%d connections, and the stream is %v: not what is tested", dials, w.link)
				}
				if err := w.close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A survivor has sent all when the last frame of its last large file is on its way: the new master takes that before it ends.
func TestAPullTakesItsLastLargeFile(t *testing.T) {
	for name, tc := range map[string]struct {
		slow, lost bool
	}{"that is slow": {slow: true}, "that is lost with its connection": {lost: true}} {
		t.Run(name, func(t *testing.T) {
			base := memoryDir(t)
			synctest.Test(t, func(t *testing.T) {
				w, err := newWorld(base, 2)
				if err != nil {
					t.Fatal(err)
				}
				w.src.change(stormOp{"big", "last", "", 1})
				if err := w.emit(1); err != nil {
					t.Fatal(err)
				}
				err = w.pullOnce(t, func(near *pipe) Conn {
					if tc.slow {
						return late{near, time.Second}
					}
					return lossy{near, func(kind byte) bool { return kind == wire.FrameBulkDone }}
				})
				if tc.lost {
					if errors.Is(err, errEnd) || err == nil {
						t.Errorf("it ended in order (%v), and the file is owed", err)
					}
					err = w.pullOnce(t, func(near *pipe) Conn { return near })
				}
				if !errors.Is(err, errEnd) {
					t.Error(err)
				}
				if _, err := os.Stat(w.dir + "/last"); err != nil || w.o.journal.OwedLen() != 0 {
					t.Errorf("the file has not come (%v), %d are owed", err, w.o.journal.OwedLen())
				}
				if err := w.close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// pullOnce takes from the source as a new master does; bulk is the near end of the second connection.
func (w *world) pullOnce(t *testing.T, bulk func(near *pipe) Conn) error {
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served, end := context.WithCancel(ctx) // a survivor's stream takes its second connection along
	sess.dial = func(ctx context.Context) (Conn, error) {
		if served.Err() != nil {
			return nil, io.EOF
		}
		far, near, _ := newPipe("a", "b")
		go func() {
			_ = s.Bulk(served, far, nil)
			far.Close()
		}()
		return bulk(near), nil
	}
	stream := make(chan error, 1)
	go func() { err := s.Run(ctx); end(); cut.stop(); stream <- err }()
	err = sess.run(ctx)
	cancel()
	<-stream
	return err
}
