// Package watch turns the kernel's notifications under one volume root into an
// ordered stream of changes with paths relative to the root.
//
// It uses one fanotify filesystem mark where the kernel allows it and a
// recursive set of inotify watches elsewhere, behind one type. It never reads
// file contents, never writes to the volume, never follows a symbolic link and
// keeps nothing on disk.
//
//	w, err := watch.Open(watch.Options{Root: "/srv/home"})
//	// scan the volume here: everything after Open is seen
//	err = w.Run(ctx, func(batch []watch.Event) error { return journal.Append(batch) })
//	w.Close()
//
// # What the stream promises
//
// A consumer that plays the events in order, and looks at the disk where Dirty says
// so, ends with a true picture of the volume after a Drain. As it
// looks later than the event happened, it can see more than the stream told so far, so:
//
//   - Dirty and nothing there is no removal. The Removed or Renamed that
//     explains it follows; what is still not there after a Drain is gone.
//   - Renamed carries over what was known of Old and below. What was
//     looked at there since the last Drain may have been seen after the rename (then it was another
//     file's state): look again, under the new name. If Old is unknown, look at Path with all below it.
//   - Dirty with Tree means to make everything below equal, absences included.
//   - After Overflow only a scan tells.
//
// The directory's own times change with its entries, without an event of its own. A file with several
// names is reported under the name that was used. The storm test is such a consumer.
//
// # What no backend can see (each is asserted by a test)
//
//   - Linux AIO (io_submit) and stores into a shared mapping, until the file is closed or unmapped;
//   - changes of file flags (chattr);
//   - other filesystems mounted inside the volume; other clients of a network filesystem;
//   - with fanotify, a kernel NFS server's change of attributes of a file that it opened by handle.
//
// # Own changes
//
// fanotify drops what this process itself did (Options.KeepOwn). inotify carries no process id:
// Watcher.OwnUnknown tells, and the consumer has to compare a path's state with what it put there.
package watch

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"revolve/internal/problem"
)

// Options say what to watch, and how.
type Options struct {
	// Root is the absolute path of the volume's directory.
	Root string
	// Ignore reports whether the path (relative, '/'-separated) and all below it is none of our
	// business. ".revolve" in the root is always ignored. It is called often
	// and from Run only; it must be quick and always give the same answer. May be nil.
	Ignore func(rel string) bool
	// Settle is how long a file that is being written must be quiet before it is
	// reported without a close(2). 0 means DefaultSettle.
	Settle time.Duration
	// KeepOwn reports changes made by this very process too. They are dropped otherwise, where
	// the backend can tell (see Watcher.OwnUnknown).
	KeepOwn bool
	// Backend forces one backend; "" chooses the best that works.
	Backend Backend
}

// Backend names a source of notifications.
type Backend string

// The backends.
const (
	Fanotify Backend = "fanotify" // one mark on the filesystem
	Inotify  Backend = "inotify"  // one watch per directory
)

// Stats are counters since Open.
type Stats struct {
	Events     uint64 // emitted
	Raw        uint64 // read from the kernel
	Foreign    uint64 // dropped: elsewhere on the same filesystem
	Own        uint64 // dropped: made by this process
	Ignored    uint64 // dropped: ignored paths
	Misses     uint64 // directory handles that had to be resolved through the kernel
	Overflows  uint64 // Overflow events emitted
	Reconciled uint64 // names looked at again because merged events left their order in doubt
	Nameless   uint64 // writes to files whose name could not be found; an Overflow stands for them
}

// DefaultSettle is the quiet time after which an unclosed file is reported.
const DefaultSettle = 50 * time.Millisecond

// Watcher watches one volume root. Run is its only task; the other methods may
// be called from any goroutine.
type Watcher struct {
	root    *root
	source  source
	waiter  waiter
	backend Backend
	settle  time.Duration
	stats   counters
	awaited atomic.Bool
	woken   chan struct{} // holds one token when a rest is to end

	mu     sync.Mutex
	closed bool
	drains []chan error // asked for and not yet begun
	state  runState
	poke   atomic.Bool // drains is not empty, or the context ended
}

type runState uint8

const (
	idle runState = iota // Run was not called yet
	running
	ended
)

// Open starts the kernel's queue: every change whose system call begins after
// Open returns will be in the stream. It fails with kind NotFound (no such
// root), Invalid (not a directory), Permission or Unavailable (limits reached).
func Open(o Options) (*Watcher, error) {
	r, err := openRoot(o.Root)
	if err != nil {
		return nil, err
	}
	w := &Watcher{root: r, settle: o.Settle, woken: make(chan struct{}, 1)}
	if w.settle <= 0 {
		w.settle = DefaultSettle
	}
	if err := w.openSource(o); err != nil {
		r.close()
		return nil, err
	}
	if err := w.openWaiter(); err != nil {
		_ = w.source.close()
		r.close()
		return nil, &problem.Problem{Op: "watch volume", Kind: problem.Unavailable, Subject: o.Root, Err: err}
	}
	return w, nil
}

// openSource takes the forced backend, or fanotify and, if it is refused, inotify.
func (w *Watcher) openSource(o Options) error {
	if o.Backend != Inotify {
		f, err := openFanotify(w.root, o, &w.stats)
		if err == nil {
			w.source, w.backend = f, Fanotify
			return nil
		}
		if o.Backend == Fanotify {
			return err
		}
	}
	in, err := openInotify(w.root, o, &w.stats)
	if err != nil {
		return err
	}
	w.source, w.backend = in, Inotify
	return nil
}

func (w *Watcher) openWaiter() (err error) {
	if w.backend == Fanotify {
		w.waiter, err = park(w.source.queueFD())
	} else {
		w.waiter, err = poll(w.source.queueFD())
	}
	return err
}

// Close releases the kernel's queue. Call it after Run has returned.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	w.root.close()
	return errors.Join(w.waiter.close(), w.source.close())
}

// Overlook says that what happens to files directly in the directory dir is
// nobody's business, such as where this process itself puts files aside: where the kernel can
// (fanotify since Linux 6.0) it does not even queue it, and reports whether it can. Moves are seen all the same. A directory
// that is made anew must be told again.
func (w *Watcher) Overlook(dir string) bool {
	f, ok := w.source.(*fan)
	return ok && f.overlook(dir) == nil
}

// Backend says where the notifications come from.
func (w *Watcher) Backend() Backend { return w.backend }

// OwnUnknown reports that the backend cannot tell this process's own changes
// from others' (inotify carries no pid): they are in the stream, and the
// consumer must compare the state of a path with what it applied itself.
func (w *Watcher) OwnUnknown() bool { return w.backend == Inotify }

// Await says whether somebody waits for the changes, as a master's standbys do. Else
// they may come up to 20 ms later while this process itself changes the volume.
func (w *Watcher) Await(on bool) { w.awaited.Store(on) }

// Stats are the counters so far.
func (w *Watcher) Stats() Stats {
	c := &w.stats
	return Stats{
		Events: c.events.Load(), Raw: c.raw.Load(), Foreign: c.foreign.Load(), Own: c.own.Load(),
		Ignored: c.ignored.Load(), Misses: c.misses.Load(), Overflows: c.overflows.Load(),
		Reconciled: c.reconciled.Load(), Nameless: c.nameless.Load(),
	}
}

// CheckRoot looks whether the root's path still leads to the directory that
// was opened. It fails with kind Conflict if not.
func (w *Watcher) CheckRoot() error { return w.root.check() }
