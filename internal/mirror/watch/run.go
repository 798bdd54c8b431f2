package watch

import (
	"context"
	"errors"
	"time"

	"revolve/internal/problem"
)

// rootEvery is how often the root's path is looked at (one statx): unmounting
// and mounting over it give no event.
const rootEvery = time.Second

// loop is the state of one Run.
type loop struct {
	w        *Watcher
	emit     func([]Event) error
	sink     sink
	draining []chan error
	left     int // of what was queued when draining began, what is not handled yet (as FIONREAD counts)
	rootAt   time.Time
	own      bool      // the last notifications were all of this process's own doing
	told     time.Time // when something was last handed over
	many     int       // how much that was
}

// mostRest is how long notifications may gather before they are read: reading each as it comes would cost about a
// fifth of what a standby does to apply, and a storm of rewrites would reach the standbys one by one, each with a
// flush of its own. They do once they are all of this process's own doing, as on a standby; nobody waits there
// for what others do. Where somebody waits, each change that is handed over gives those behind it eachRest: below a
// thousand a second nearly none waits, above it the rest grows to its most. A Drain does not wait.
const (
	mostRest = 20 * time.Millisecond
	eachRest = time.Millisecond
)

// Run reads the kernel's queue and hands over ordered batches until ctx ends
// (nil), emit fails (its error), or the root is lost (nil, after a RootLost).
// While emit blocks the kernel queues. The batch is the consumer's to keep.
func (w *Watcher) Run(ctx context.Context, emit func([]Event) error) error {
	if err := w.begin(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, w.wake)
	defer stop()
	l := &loop{w: w, emit: emit, sink: sink{waiting: newSettling(w.settle), stats: &w.stats}}
	err := l.run(ctx)
	w.end(l.draining)
	return err
}

func (l *loop) run(ctx context.Context) error {
	wait, empty := time.Duration(0), false
	for {
		if empty || l.w.poke.Load() {
			if err := l.poll(wait, empty); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := l.beginDrain(); err != nil {
			return err
		}
		if empty {
			l.rest(l.restFor(time.Now()))
		}
		l.sink.now = time.Now()
		raw, own := l.w.stats.raw.Load(), l.w.stats.own.Load()
		n, err := l.w.source.read(&l.sink)
		if more := l.w.stats.raw.Load() - raw; more > 0 {
			l.own = more == l.w.stats.own.Load()-own
		}
		if err != nil {
			return err
		}
		empty = n == 0
		l.left -= n
		drained := len(l.draining) > 0 && (empty || l.left < 0)
		if wait, err = l.finish(empty, drained); err != nil {
			return err
		}
		lost := l.rootLost()
		if lost {
			l.sink.add(Event{Kind: RootLost})
		}
		if err := l.flush(); err != nil {
			return err
		}
		if drained && !l.w.source.owes() {
			l.answer()
		}
		if lost {
			return nil
		}
	}
}

// finish completes what one reading could tell and says how long to wait at most.
func (l *loop) finish(empty, drained bool) (time.Duration, error) {
	wait := rootEvery
	if empty || drained {
		again, err := l.w.source.pause(&l.sink, empty, drained)
		if err != nil {
			return 0, err
		}
		if again > 0 {
			wait = min(wait, again)
		}
	}
	l.sink.release(drained)
	if next, ok := l.sink.waiting.next(); ok {
		wait = min(wait, max(0, next.Sub(l.sink.now)))
	}
	return wait, nil
}

// flush hands the batch over.
func (l *loop) flush() error {
	if len(l.sink.out) == 0 {
		return nil
	}
	batch := l.sink.out
	l.sink.out = nil
	l.told, l.many = l.sink.now, len(batch)
	l.w.stats.events.Add(uint64(len(batch)))
	return l.emit(batch)
}

// rootLost looks at the root when it is time to, or when an event gave reason.
func (l *loop) rootLost() bool {
	if !l.sink.suspect && l.sink.now.Before(l.rootAt) {
		return false
	}
	l.sink.suspect = false
	l.rootAt = l.sink.now.Add(rootEvery)
	return l.w.root.check() != nil
}

// poll waits until the queue holds something, somebody wakes us, or the time is over.
func (l *loop) poll(wait time.Duration, empty bool) error {
	if !empty || l.w.poke.Load() {
		return nil
	}
	// Rounded up: a wait that ends before the time would spin.
	if err := l.w.waiter.wait((wait + time.Millisecond - 1).Truncate(time.Millisecond), l.w.poke.Load); err != nil {
		return &problem.Problem{Op: "wait for changes", Kind: problem.Internal, Subject: l.w.root.path, Err: err}
	}
	return nil
}

// restFor is how long what the queue holds now may wait for more.
func (l *loop) restFor(now time.Time) time.Duration {
	switch {
	case l.w.awaited.Load():
		return min(mostRest, time.Duration(l.many)*eachRest) - now.Sub(l.told)
	case l.own:
		return mostRest
	}
	return 0
}

// rest waits for that long, or until somebody wakes us.
func (l *loop) rest(most time.Duration) {
	if most <= 0 {
		return
	}
	over := time.NewTimer(most)
	defer over.Stop()
	select {
	case <-l.w.woken:
	case <-over.C:
	}
}

// beginDrain takes on the waiting drains, if none is under way: everything that
// they ask for is in the queue by now.
func (l *loop) beginDrain() error {
	if len(l.draining) > 0 || !l.w.poke.Load() {
		return nil
	}
	l.w.mu.Lock()
	l.draining, l.w.drains = l.w.drains, nil
	l.w.poke.Store(false)
	l.w.mu.Unlock()
	queued, err := l.w.source.queued()
	if err != nil {
		return &problem.Problem{Op: "measure the queue", Kind: problem.Internal, Subject: l.w.root.path, Err: err}
	}
	l.left = queued
	return nil
}

func (l *loop) answer() {
	for _, done := range l.draining {
		done <- nil
	}
	l.draining = nil
}

// Drain returns after every change whose system call returned before Drain was
// called has been handed to Run's emit, settling ones included, and emit has
// returned. The kernel queues a change inside the system call that makes it (a close(2) included), so no marker
// file is needed. Drain fails with kind Unavailable if Run is not running or ends, Timeout if ctx ends.
func (w *Watcher) Drain(ctx context.Context) error {
	done := make(chan error, 1)
	w.mu.Lock()
	if w.state != running {
		w.mu.Unlock()
		return w.notRunning()
	}
	w.drains = append(w.drains, done)
	w.mu.Unlock()
	w.wake()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &problem.Problem{Op: "drain changes", Kind: problem.Timeout, Subject: w.root.path, Err: ctx.Err()}
	}
}

func (w *Watcher) notRunning() error {
	return &problem.Problem{Op: "drain changes", Kind: problem.Unavailable, Subject: w.root.path,
		Err: errors.New("nobody reads the changes")}
}

// wake ends the wait that Run is in, or the next one.
func (w *Watcher) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.poke.Store(true)
	if w.closed {
		return
	}
	w.waiter.wake()
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (w *Watcher) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == running || w.closed {
		return &problem.Problem{Op: "watch volume", Kind: problem.Internal, Subject: w.root.path,
			Err: errors.New("already running, or closed")}
	}
	w.state = running
	return nil
}

// end turns away the drains that will not be answered any more.
func (w *Watcher) end(begun []chan error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = ended
	for _, done := range append(begun, w.drains...) {
		done <- w.notRunning()
	}
	w.drains = nil
}
