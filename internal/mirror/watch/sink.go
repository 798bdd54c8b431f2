package watch

import (
	"sync/atomic"
	"time"
)

// sink gathers the events of one reading, putting the settling of unclosed
// files between the backends and the consumer.
type sink struct {
	out     []Event
	waiting *settling
	now     time.Time // of this reading
	stats   *counters
	mute    bool // our own change: it moves what settles, and is not reported
	suspect bool // something happened that may have cost us the root; look
}

// counters are Stats, written by Run and read by anyone.
type counters struct {
	events, raw, foreign, own, ignored, misses, overflows, reconciled, nameless atomic.Uint64
}

// closed reports a file whose writer closed it.
func (s *sink) closed(path string) {
	s.waiting.done(path)
	s.add(Event{Kind: Dirty, Path: path})
}

// linked reports a name that is complete when it appears; inode is not 0 if it is one of several.
func (s *sink) linked(path string, inode uint64) {
	s.waiting.done(path)
	s.add(Event{Kind: Dirty, Path: path, Inode: inode})
}

// written notes a file that was written and is not closed.
func (s *sink) written(path string) {
	for _, p := range s.waiting.touch(path, s.now) {
		s.add(Event{Kind: Dirty, Path: p})
	}
}

// changed reports a change that needs no settling; a file that settles goes on doing so.
func (s *sink) changed(path string, dir, tree bool) {
	s.add(Event{Kind: Dirty, Path: path, Dir: dir, Tree: tree})
}

func (s *sink) removed(path string, dir bool) {
	s.waiting.drop(path, dir)
	s.add(Event{Kind: Removed, Path: path, Dir: dir})
}

func (s *sink) renamed(old, path string, dir bool) {
	s.waiting.move(old, path, dir)
	s.add(Event{Kind: Renamed, Path: path, Old: old, Dir: dir})
}

// overflow reports lost events. What was settling is part of "anything".
func (s *sink) overflow() {
	s.waiting.flush()
	s.stats.overflows.Add(1)
	s.add(Event{Kind: Overflow})
}

// add appends an event unless it says again what the last one said.
func (s *sink) add(e Event) {
	if s.mute && e.Kind != Overflow {
		return
	}
	if n := len(s.out); n > 0 && s.out[n-1] == e && e.Kind != Renamed {
		return
	}
	s.out = append(s.out, e)
}

// release appends the settled files that are due, or all of them.
func (s *sink) release(all bool) {
	paths := []string(nil)
	if all {
		paths = s.waiting.flush()
	} else {
		paths = s.waiting.due(s.now)
	}
	for _, p := range paths {
		s.add(Event{Kind: Dirty, Path: p})
	}
}

// source is a backend: a kernel queue and the state to understand it.
type source interface {
	// queueFD is the queue's descriptor, readable when it holds something.
	queueFD() int
	// queued is how much waits to be taken by read, in the units of FIONREAD.
	queued() (int, error)
	// read takes about a buffer from the queue. n is what was taken, in the units of FIONREAD; 0 when the queue was empty.
	read(s *sink) (n int, err error)
	// pause is called when the queue was found empty, and (with drain) when everything that was queued at some
	// moment has been read: it reports what could not be told before. wait is when to call again at the
	// latest, 0 for not needed.
	pause(s *sink, empty, drain bool) (wait time.Duration, err error)
	// owes reports whether something that was read cannot be told before the queue is found empty: no drain is over until then.
	owes() bool
	close() error
}
