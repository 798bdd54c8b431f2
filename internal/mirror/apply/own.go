package apply

import (
	"sync"
	"time"

	"revolve/internal/mirror/tree"
)

const (
	// ownMost bounds the records of a generation, of which two are kept: some 2 MiB in all.
	ownMost = 16384
	// tellWithin is how long the notification of a change may take: a file that is still being written is told after 2 s (package watch).
	tellWithin = 5 * time.Second
)

// own remembers the inodes that this Applier put into the tree, and how they looked: what is about to be
// replaced and does not look so was written by others, whether its notification was read or not. It is
// asked with what a look at the path has said anyway, and told before anything is seen in the tree. All
// times are the inodes' own: no clock of ours is compared with them.
type own struct {
	mu         sync.Mutex
	young, old map[uint64]looks
	began      int64 // the newest time when young began
	led        bool  // this node has reigned since the last stream began
	start      int64 // when the first stream after its last reign began: of what changed before, the watcher has told
	since      int64 // everything of ours that changed later is recorded
	newest     int64 // the latest time of an inode that was recorded
}

type looks struct{ size, mtime int64 }

// whose is who wrote an inode last.
type whose uint8

const (
	unknown whose = iota // it was so for a while: the watcher has told of it, if others wrote it
	ours
	others
)

// note records how an inode of ours looks now.
func (o *own) note(m tree.Meta) {
	if m.Kind == tree.Dir || m.Inode == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.young) >= ownMost || o.young == nil {
		o.since = max(o.since, o.began)
		// Of its full size at once: what it takes does not grow with the changes.
		o.old, o.young, o.began = o.young, make(map[uint64]looks, ownMost), o.newest
	}
	o.young[m.Inode] = looks{m.Size, m.MTime}
	o.newest = max(o.newest, m.CTime)
}

// begin says that everything up to this time of an inode is known by other means.
func (o *own) begin(now int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.led {
		o.start, o.led = max(o.start, now), false
	}
	o.since, o.newest = max(o.since, now), max(o.newest, now)
}

// reigned says that programs write here as they like from now on: until the next stream, what looks
// different from what was recorded is no write of others.
func (o *own) reigned() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.led = true
}

// of says whose an inode is that looks so. Not told from ours is what has the size and the time to the
// nanosecond of what was there: a copy that was given the time of its original is none that anybody misses.
func (o *own) of(m tree.Meta, now time.Time) whose {
	o.mu.Lock()
	defer o.mu.Unlock()
	was, known := o.young[m.Inode]
	if !known {
		was, known = o.old[m.Inode]
	}
	switch {
	case known && was == looks{m.Size, m.MTime}:
		return ours
	case known && m.CTime > o.start:
		return others
	case known: // it was rewritten in place under a reign of this node's
		return unknown
	}
	// The removal of another name, from the trash perhaps, changes the time of an inode, too: an hour later that is nobody's write.
	if m.CTime > o.since && m.CTime > max(o.newest, now.UnixNano())-int64(tellWithin) {
		return others
	}
	return unknown
}
