package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
)

// world is one source and one follower. The follower is the real session and
// applier, the source the real stream; only the connection, the watcher and the
// clock (synctest) are ours.
type world struct {
	src        *source
	srcRoot    *tree.Root
	srcJournal *journal.Journal
	append     sync.Mutex // of records: the watcher's and the finder's
	finder     *links.Finder
	stopFinder func()
	full       bool        // of every fifth: sync: full
	pacer      *send.Pacer // of every fourth seed: the link has a limit
	reads      *send.Reads // of two in three: another follower's stream reads along
	exorcise   func()      // ends that
	reign      cluster.Reign

	dir, state string // the follower's
	v          *volume
	o          *opened
	fuse       atomic.Int64 // operations until the follower dies in mid-commit; 0: it does not
	dead       atomic.Bool

	link     *link
	latency  time.Duration         // of what the follower says; 0: the source hears it at once
	versions *send.Versions        // nil: large files are always sent whole
	bulkEnd  func(near *pipe) Conn // what the follower has of its second connection; nil: the pipe
	cutNext  int                   // frames after which the next connection breaks; 0: it does not
	compare  bool                  // the next connection must compare trees
	drains   drains
	unread   []watch.Event                   // of what others do on the follower, and nobody has read
	watches  func(ctx context.Context) error // has a real watcher read; nil: unread is all there is
	said     []string
}

// link is one connection with what runs on its ends.
type link struct {
	cut    *cutter
	cancel context.CancelFunc
	stream chan error
	sess   chan error
}

type stormTerms struct{ t cluster.Term }

func (s stormTerms) Seen() cluster.Term          { return s.t }
func (s stormTerms) Accept(t cluster.Term) error { return nil }

func newWorld(base string, seed uint64) (*world, error) {
	w := &world{reign: cluster.Reign{Term: 1, Owner: "a"}, dir: filepath.Join(base, "b"), state: filepath.Join(base, "state-b")}
	w.src = &source{dir: filepath.Join(base, "a"), newDirs: journal.Dirty}
	if seed%2 == 1 {
		w.src.newDirs = journal.Tree
	}
	w.full = seed%5 == 4
	w.drains.mode = drainMode(seed/7) % drainModes
	if seed%4 == 3 {
		w.pacer = send.NewPacer(func(time.Time) int64 { return 1 << 20 })
	}
	if err := errors.Join(os.Mkdir(w.src.dir, 0o755), os.Mkdir(w.dir, 0o755)); err != nil {
		return nil, err
	}
	var err error
	if w.srcRoot, err = tree.Open(w.src.dir); err != nil {
		return nil, err
	}
	if w.srcJournal, _, err = journal.Open(filepath.Join(base, "state-a")); err != nil {
		return nil, err
	}
	if err = w.srcJournal.Append(journal.Record{Kind: journal.Begun, Reign: w.reign}); err != nil {
		return nil, err
	}
	w.runFinder()
	e := &Engine{o: Options{Node: "b", Terms: stormTerms{1}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
	w.v, err = newVolume(e, VolumeConfig{Name: "v", Path: w.dir, TrashAge: time.Hour})
	if err != nil {
		return nil, err
	}
	if seed%3 != 0 {
		if err := w.haunt(); err != nil {
			return nil, err
		}
	}
	return w, w.start()
}

// runFinder does what the source's volume does for inodes with several names.
func (w *world) runFinder() {
	w.finder = links.New(w.srcRoot, tree.IsHidden)
	w.finder.Look()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.finder.Run(ctx, w.alsoChanged); err != nil {
			panic(err)
		}
	}()
	w.stopFinder = func() { cancel(); <-done }
}

func (w *world) alsoChanged(names []string, lost bool) error {
	var records []journal.Record
	for _, name := range names {
		records = append(records, journal.Record{Kind: journal.Dirty, Path: name})
	}
	if lost {
		panic("more changes than are followed")
	}
	return w.journal(records)
}

func (w *world) journal(records []journal.Record) error {
	w.append.Lock()
	defer w.append.Unlock()
	next := w.srcJournal.Next()
	for i := range records {
		records[i].Pos = next
		next.Seq++
	}
	return w.srcJournal.Append(records...)
}

// start opens the follower's volume as after the start of its process.
func (w *world) start() error {
	o := &opened{}
	var err error
	if o.root, err = tree.Open(w.dir); err != nil {
		return err
	}
	var found journal.Opened
	if o.journal, found, err = journal.Open(w.state); err != nil {
		return err
	}
	o.applier, err = apply.New(apply.Options{
		Root: o.root, Journal: o.journal, Node: "b", Excluded: w.excluded, TrashAge: time.Hour, Now: time.Now, Log: w.v.log, SyncFull: w.full, Unclean: !found.Clean,
	})
	if err != nil {
		return err
	}
	w.o, w.v.open = o, o
	return o.applier.ResumePlan()
}

// excluded is asked for every operation that is published: the place to die in the middle of a commit.
func (w *world) excluded(rel string) bool {
	if w.fuse.Load() > 0 && w.fuse.Add(-1) == 0 {
		w.dead.Store(true)
		runtime.Goexit()
	}
	return tree.IsHidden(rel)
}

// read has the follower know what others did there.
func (w *world) read(context.Context) error {
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	for _, e := range w.unread {
		w.v.remember(e)
	}
	w.unread = nil
	return nil
}

func (w *world) stop() error {
	return errors.Join(w.o.journal.Close(false), w.o.root.Close())
}

func (w *world) crash() error {
	w.disconnect()
	w.fuse.Store(0)
	w.dead.Store(false)
	return errors.Join(w.stop(), w.start())
}

func (w *world) disconnect() {
	if w.link == nil {
		return
	}
	w.link.cancel()
	w.link.cut.stop()
	w.ended(<-w.link.stream)
	w.ended(<-w.link.sess)
	w.link = nil
}

func (w *world) ended(err error) {
	switch {
	case errors.Is(err, send.ErrTooFarBehind), errors.Is(err, journal.ErrTrimmed):
		w.compare = true
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe), errors.Is(err, context.Canceled):
	default:
		w.said = append(w.said, err.Error())
	}
}

// connect does what serveFollower and followOnce say to each other, and starts both ends.
func (w *world) connect() error {
	history := w.srcJournal.History()
	plan := reconcile.Decide(history, w.o.journal.History(), w.srcJournal.Oldest())
	if w.compare {
		plan.Action = reconcile.Compare
	}
	ready, err := w.v.agree(w.o, wire.Welcome{Reign: w.reign, History: history, Plan: plan})
	if err != nil {
		return err
	}
	b, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	ready = wire.Ready{}
	if err := json.Unmarshal(b, &ready); err != nil {
		return err
	}
	extras := wire.ExtrasDivergent
	if plan.Known && !ready.Unknown {
		extras = wire.ExtrasTrash
	}
	mine, theirs, cut := newPipe("a", "b")
	cut.after(w.cutNext)
	w.cutNext = 0
	s, err := send.New(late{mine, w.latency}, send.Options{
		Root: w.srcRoot, Journal: w.srcJournal, Excluded: tree.IsHidden, Links: w.finder, Versions: w.versions, Reads: w.reads, Reign: w.reign, Extras: extras,
		Compare: plan.Action == reconcile.Compare, Log: w.v.log, Pacer: w.pacer,
		Ping:  func(cluster.Position) wire.Ping { return wire.Ping{Head: w.srcJournal.Position()} },
		Drain: w.drain(),
	}, ready)
	if err != nil {
		return err
	}
	w.compare = false
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{cut: cut, cancel: cancel, stream: make(chan error, 1), sess: make(chan error, 1)}
	sess := w.v.newSession(theirs, w.o, w.reign)
	sess.drain = w.read
	sess.dial = func(ctx context.Context) (Conn, error) {
		far, near, _ := newPipe("a", "b")
		go func() {
			_ = s.Bulk(ctx, far, w.pacer)
			far.Close()
		}()
		if w.bulkEnd != nil {
			return w.bulkEnd(near), nil
		}
		return near, nil
	}
	go func() { l.stream <- s.Run(ctx); cut.stop() }()
	go func() { l.sess <- sess.run(ctx); cut.stop() }()
	w.link = l
	return nil
}

// step does one operation of the storm.
func (w *world) step(o stormOp) error {
	w.beginDrains()
	if w.src.change(o) {
		return nil
	}
	switch o.What {
	case "emit":
		return w.emit(int(o.N % 12))
	case "settle":
		w.src.settle()
	case "wait":
		return w.wait(0)
	case "pass":
		return w.wait(time.Duration(o.N%3000) * time.Millisecond)
	case "calm": // what happened is read, and then nothing happens for longer than anything waits
		return errors.Join(w.emit(len(w.src.events)), w.wait(12*time.Second))
	case "cut":
		w.disconnect()
	case "cut-later":
		if w.link != nil {
			w.link.cut.after(1 + int(o.N%40))
		} else {
			w.cutNext = 1 + int(o.N%40)
		}
	case "crash":
		return w.crash()
	case "leave": // it ends in order, and is compared when it returns
		w.disconnect()
		w.fuse.Store(0)
		w.dead.Store(false)
		w.compare = true
		return errors.Join(w.o.applier.Leave(), w.o.journal.Close(true), w.o.root.Close(), w.start())
	case "crash-in":
		w.fuse.Store(1 + int64(o.N%12))
	}
	return nil
}

// emit lets the watcher read n events.
func (w *world) emit(n int) error {
	n = min(n, len(w.src.events))
	var records []journal.Record
	for _, e := range w.src.events[:n] {
		records = append(records, e.Record)
	}
	if err := w.journal(records); err != nil {
		return err
	}
	for _, e := range w.src.events[:n] {
		kinds := map[journal.Kind]watch.Kind{journal.Dirty: watch.Dirty, journal.Tree: watch.Dirty, journal.Removed: watch.Removed, journal.Renamed: watch.Renamed}
		seeLinks(w.finder, watch.Event{Kind: kinds[e.Kind], Path: e.Path, Old: e.Old, Inode: e.inode, Dir: e.dir})
	}
	w.src.events = w.src.events[n:]
	w.drains.told += n
	w.endDrains()
	return nil
}

// wait lets everything happen that happens without us, and starts again what died.
func (w *world) wait(d time.Duration) error {
	if w.link == nil {
		if err := w.connect(); err != nil {
			return err
		}
	}
	if err := w.pass(d); err != nil {
		return err
	}
	switch {
	case w.dead.Load():
		return w.crash()
	case len(w.link.stream) > 0 || len(w.link.sess) > 0:
		w.disconnect()
	}
	return nil
}

// finish lets all events be read and waits until the follower has everything.
func (w *world) finish() (diff string, err error) {
	w.fuse.Store(0)
	w.src.settle()
	if err := w.emit(len(w.src.events)); err != nil {
		return "", err
	}
	for range 40 {
		if err := errors.Join(w.wait(3*time.Second), w.emit(len(w.src.events))); err != nil {
			return "", err
		}
		if w.link == nil {
			continue
		}
		if diff, err = w.differs(); err != nil || diff == "" {
			break
		}
	}
	return diff, errors.Join(err, w.close())
}

func (w *world) close() error {
	w.disconnect()
	if w.exorcise != nil {
		w.exorcise()
	}
	w.stopFinder()
	return errors.Join(w.stop(), w.srcJournal.Close(true), w.srcRoot.Close())
}

// differs says what the follower does not have the same.
func (w *world) differs() (string, error) {
	want, err := pictureOf(w.src.dir)
	if err != nil {
		return "", err
	}
	have, err := pictureOf(w.dir)
	if err != nil {
		return "", err
	}
	diff := cmp.Diff(want, have)
	if owed := w.o.journal.Owed(); owed.Len() > 0 {
		diff += fmt.Sprintf("still owed: %+v\n", owed.List())
	}
	if mine, theirs := w.srcJournal.Position(), w.o.journal.Position(); mine != theirs {
		diff += fmt.Sprintf("at %v of %v\n", theirs, mine)
	}
	if diff != "" && len(w.said) > 0 {
		diff += "errors: " + strings.Join(w.said, "\n  ") + "\n"
	}
	return diff, nil
}

// runStorm returns what differs at the end, "" if nothing.
func runStorm(t *testing.T, base string, seed uint64, ops []stormOp) (result string) {
	return runStormDrained(t, base, seed, ops, drainModes)
}

// runStormDrained is runStorm with another mode of draining than the seed's.
func runStormDrained(t *testing.T, base string, seed uint64, ops []stormOp, mode drainMode) (result string) {
	dir, err := os.MkdirTemp(base, "storm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	now := time.Now().Round(0) // without its monotonic reading, which is not the bubble's
	synctest.Test(t, func(t *testing.T) {
		if seed/2%2 == 1 { // the kernel stamps inodes by its own clock: here they are young
			time.Sleep(time.Until(now))
		}
		w, err := newWorld(dir, seed)
		if err == nil && mode != drainModes {
			w.drains.mode = mode
		}
		for i := 0; err == nil && i < len(ops); i++ {
			err = w.step(ops[i])
		}
		if err == nil {
			result, err = w.finish()
		}
		if err != nil {
			result = "error: " + err.Error() + "\n" + strings.Join(w.said, "\n")
		}
	})
	return result
}

// shrink drops every part of a failing storm that it can do without, halving the parts.
func shrink(ops []stormOp, fails func([]stormOp) bool) []stormOp {
	const most = 400 // tries
	tries := 0
	for size := len(ops) / 2; size > 0 && tries < most; size /= 2 {
		for at := 0; at < len(ops) && tries < most; {
			less := append(append([]stormOp(nil), ops[:at]...), ops[min(at+size, len(ops)):]...)
			if tries++; fails(less) {
				ops = less
			} else {
				at += size
			}
		}
	}
	return ops
}

const (
	stormSeeds = 300
	stormSteps = 60
)

// TestStorm makes random changes to a source while its events lag behind, the
// connection breaks and the follower crashes in the middle of its commits. In
// the end both trees must be equal to the last nanosecond. REVOLVE_SEED=n
// repeats one seed, REVOLVE_SEEDS=n tries that many.
func TestStorm(t *testing.T) {
	base := memoryDir(t)
	first, n := stormFirst(t)
	for seed := first; seed < first+uint64(n); seed++ {
		ops := newStorm(seed, stormSteps+int(seed%3)*stormSteps)
		if diff := runStorm(t, base, seed, ops); diff != "" {
			fails := func(less []stormOp) bool { return runStorm(t, base, seed, less) != "" }
			if less := shrink(ops, fails); fails(less) {
				ops, diff = less, runStorm(t, base, seed, less)
			}
			t.Fatalf("REVOLVE_SEED=%d: the follower differs (-source +follower):\n%s\nafter:\n%v", seed, diff, ops)
		}
	}
}
