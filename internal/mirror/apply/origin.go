package apply

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// maxOrigins bounds the files that are remembered with where they came from (some 40 bytes each): as many as the source remembers of what it sent.
const maxOrigins = 1 << 13

// origins know from which of the source's inodes files here came. Two files that were written within one tick
// of the kernel's clock may have one size and one time: only this tells whether what is here under a
// name is what the source has there, or what it had there a moment ago. It may be used from any goroutine.
type origins struct {
	mu     sync.Mutex
	source cluster.NodeID
	of     map[uint64]uint64 // our inode -> the source's
	ring   []uint64
	next   int
}

// From says whose files come from now on: another node's inodes have other numbers.
func (a *Applier) From(source cluster.NodeID) {
	o := &a.origins
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.source != source || o.of == nil {
		o.source, o.of, o.ring, o.next = source, map[uint64]uint64{}, nil, 0
	}
}

// note remembers where the file came from; origin is 0 if the source did not say.
func (o *origins) note(inode, origin uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.of[inode]; known || origin == 0 || o.of == nil {
		if origin == 0 {
			delete(o.of, inode) // another file had that number
		} else if known {
			o.of[inode] = origin
		}
		return
	}
	if len(o.ring) < maxOrigins {
		o.ring = append(o.ring, inode)
	} else {
		delete(o.of, o.ring[o.next])
		o.ring[o.next] = inode
		o.next = (o.next + 1) % maxOrigins
	}
	o.of[inode] = origin
}

// noteOrigin remembers where a new file came from.
func (a *Applier) noteOrigin(fd int, m tree.Meta) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	a.origins.note(st.Ino, m.Origin)
	return nil
}

// get is the origin of the file, 0 if it is not known.
func (o *origins) get(inode uint64) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[inode]
}

// certain reports whether a file here that looks the same as the source's is it: it came from it, or it is not known where it
// came from, and it is not young.
func (a *Applier) certain(have, theirs tree.Meta) bool {
	from := a.origins.get(have.Inode)
	switch {
	case theirs.Kind != tree.File || theirs.Origin == 0:
		return true // an earlier release does not say it
	case from != 0:
		return from == theirs.Origin
	}
	// What a survivor has came from the master that this node followed: asking for it would keep a new master from leading.
	return a.stays() || !a.young(theirs)
}

// certainIn is certain for what a comparison lists. There an unknown origin is reason to ask only if an earlier process may have
// published something that its journal does not know: else what is here is what the source had at this position,
// and a node that was off for a while is not sent again all that was young when it left.
func (a *Applier) certainIn(have, theirs tree.Meta) bool {
	return a.certain(have, theirs) || !a.o.Unclean && a.origins.get(have.Inode) == 0
}

// young is how long a file of which it is not known where it came from may be another one: longer than a follower is behind.
// After that an equal size and time count as in rsync's quick check, and the proof looks at the bytes.
const young = time.Minute

func (a *Applier) young(m tree.Meta) bool {
	age := a.o.Now().Sub(time.Unix(0, m.MTime))
	return age < young && age > -young
}
