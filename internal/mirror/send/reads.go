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
	// fewReads is what is not worth to be given back.
	fewReads = 64
)

// Reads are what the streams of one volume have read lately: one reading of a
// file serves every standby that is told of the same change soon enough. What was read for a record is a state
// behind that record, for whom it is read now or was read by another stream a moment ago; what
// changed since has a record of its own, which is still to come. Its methods may be called concurrently.
type Reads struct {
	mu      sync.Mutex
	streams map[*taker]bool
	of      map[readKey]*reading
	order   []readKey // oldest first; those that every stream has taken are in of no more
	bytes   int

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

// taker is one stream, and the record that it has come to: it wants nothing that is older.
type taker struct{ at cluster.Position }

// NewReads is for the streams of one volume.
func NewReads() *Reads { return &Reads{streams: map[*taker]bool{}, of: map[readKey]*reading{}} }

// Counts are how many readings were made, and how often one made by another stream served.
func (r *Reads) Counts() (made, shared uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made, r.shared
}

// join is called by a stream that begins, and leave when it ends.
func (r *Reads) join() *taker {
	t := &taker{}
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.streams[t] = true
	}
	return t
}

func (r *Reads) leave(t *taker) {
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.streams, t)
		r.trim()
	}
}

// pass says that the stream has come to a record without asking.
func (r *Reads) pass(t *taker, at cluster.Position) {
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.at = at
		r.trim()
	}
}

// behind are how many others may still come to a record; the lock is held.
func (r *Reads) behind(at cluster.Position, but *taker) (n int) {
	for t := range r.streams {
		if t != but && t.at.Compare(at) <= 0 {
			n++
		}
	}
	return n
}

// get is what path was found to be for the record at a position: as another
// stream has read it, or by read. ok is read's: what is no small file cannot be shared.
func (r *Reads) get(t *taker, at cluster.Position, path string, read func() (look, bool, error)) (found look, ok bool, err error) {
	if r == nil {
		return read()
	}
	key := readKey{at, path}
	r.mu.Lock()
	t.at = at
	if x := r.of[key]; x != nil {
		if x.left--; x.left <= 0 {
			r.drop(key)
		}
		r.trim()
		r.mu.Unlock()
		if <-x.done; x.ok {
			r.count(&r.shared)
			return x.look, true, nil
		}
		return r.read(read)
	}
	left := r.behind(at, t)
	if left == 0 {
		r.trim()
		r.mu.Unlock()
		return r.read(read)
	}
	x := &reading{done: make(chan struct{}), left: left}
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

// trim forgets what nobody will ask for any more, and the oldest beyond the bounds; the lock is held.
func (r *Reads) trim() {
	for len(r.order) > 0 {
		key := r.order[0]
		if r.of[key] != nil && len(r.order) <= maxReads && r.bytes <= maxReadBytes && r.behind(key.at, nil) > 0 {
			return
		}
		r.drop(key)
		r.order = r.order[1:]
	}
	if cap(r.order) > fewReads { // a map keeps the room that it once had
		r.of = map[readKey]*reading{}
	}
	r.order = nil
}
