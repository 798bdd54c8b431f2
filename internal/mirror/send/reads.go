package send

import (
	"sync"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

const (
	// maxReads and maxReadBytes bound what is kept for the streams that have not come that far. A standby that is
	// further behind has its own reading, so a slow one costs the master nothing but that. On a machine that is busy one of
	// two streams is some thousands of files ahead of the other within a second (1,024 readings: 3 of 24 of a burst served both).
	maxReads     = 8192
	maxReadBytes = 8 << 20
)

// Reads are what the streams of one volume have read lately: one reading of a
// file serves every standby that is told of the same change soon enough. What was read for a record is a state
// behind that record, for whom it is read now or was read by another stream a moment ago; what
// changed since has a record of its own, which is still to come. Its methods may be called concurrently.
type Reads struct {
	mu      sync.Mutex
	streams int
	of      map[readKey]*reading
	order   []readKey // oldest first; those that every stream has taken are in of no more
	bytes   int
	front   cluster.Position // the furthest record that was asked for

	made, shared uint64
}

// readKey is a name, and the record that it was read for.
type readKey struct {
	at   cluster.Position
	path string
}

// look is what a name was found to be. Nobody changes data.
type look struct {
	meta tree.Meta
	data []byte
}

type reading struct {
	done chan struct{} // closed when it has ended
	ok   bool
	look look
	left int // streams that may still want it
}

// NewReads is for the streams of one volume.
func NewReads() *Reads { return &Reads{of: map[readKey]*reading{}} }

// Counts are how many readings were made, and how often one made by another stream served.
func (r *Reads) Counts() (made, shared uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made, r.shared
}

// join and leave count the streams.
func (r *Reads) join() { r.add(1) }

func (r *Reads) leave() { r.add(-1) }

func (r *Reads) add(n int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams += n
}

// get is what path was found to be for the record at a position: as another
// stream has read it, or by read. ok is read's: what is no small file cannot be shared.
func (r *Reads) get(at cluster.Position, path string, read func() (look, bool, error)) (found look, ok bool, err error) {
	if r == nil {
		return read()
	}
	key := readKey{at, path}
	r.mu.Lock()
	if x := r.of[key]; x != nil {
		if x.left--; x.left <= 0 {
			r.drop(key)
		}
		r.mu.Unlock()
		if <-x.done; x.ok {
			r.count(&r.shared)
			return x.look, true, nil
		}
		return r.read(read)
	}
	if r.streams < 2 {
		r.mu.Unlock()
		return r.read(read)
	}
	x := &reading{done: make(chan struct{}), left: r.streams - 1}
	if at.Compare(r.front) < 0 { // at least one is past it
		x.left--
	} else {
		r.front = at
	}
	if x.left == 0 {
		r.mu.Unlock()
		return r.read(read)
	}
	r.of[key] = x
	r.order = append(r.order, key)
	r.mu.Unlock()
	found, ok, err = r.read(read)
	r.mu.Lock()
	defer r.mu.Unlock()
	x.look, x.ok = found, ok && err == nil
	close(x.done)
	if !x.ok {
		r.drop(key)
	} else if r.of[key] == x {
		r.bytes += len(found.data)
	}
	r.trim()
	return found, ok, err
}

func (r *Reads) read(read func() (look, bool, error)) (look, bool, error) {
	r.count(&r.made)
	return read()
}

func (r *Reads) count(n *uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n++
}

// drop forgets a reading; the lock is held.
func (r *Reads) drop(key readKey) {
	x := r.of[key]
	if x == nil {
		return
	}
	delete(r.of, key)
	select {
	case <-x.done:
		if x.ok {
			r.bytes -= len(x.look.data)
		}
	default: // never counted
	}
}

// trim forgets the oldest beyond the bounds; the lock is held.
func (r *Reads) trim() {
	for len(r.order) > 0 && (r.of[r.order[0]] == nil || len(r.order) > maxReads || r.bytes > maxReadBytes) {
		r.drop(r.order[0])
		r.order = r.order[1:]
	}
}
