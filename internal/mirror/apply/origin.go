package apply

import (
	"encoding/json"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// maxOrigins bounds the files that are remembered with where they came from (some 40 bytes each). What is beyond comes again in a
// comparison if it looks like another one, as many small files do that were written at once.
const maxOrigins = 1 << 16

// origins know from which of the source's inodes files here came. Two files that were written within one tick
// of the kernel's clock may have one size and one time: only this tells whether what is here under a
// name is what the source has there, or what it had there a moment ago. It may be used from any goroutine.
type origins struct {
	mu     sync.Mutex
	source cluster.NodeID
	of     map[uint64]uint64 // our inode -> the source's
	ring   []uint64
	next   int
	odd    map[uint64]bool // files here that look like what the source has under their names and may be others
}

// From says whose files come from now on: another node's inodes have other numbers.
func (a *Applier) From(source cluster.NodeID) {
	a.source, a.behind = source, true
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
	delete(o.odd, inode)
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

const (
	originsFile = tree.Hidden + "/origins.json"
	// maxOriginsFile bounds what is read of it: two numbers of 20 digits for each.
	maxOriginsFile = maxOrigins * 64
)

// keptOrigins is what an orderly end leaves for the next start.
type keptOrigins struct {
	Source cluster.NodeID `json:"source"`
	Files  [][2]uint64    `json:"files"` // our inode and the source's, the oldest first
	// Unclean: what another process published before may still be young (see certainIn).
	Unclean bool `json:"unclean,omitempty"`
}

// Leave writes down what only this process knows, for a start after an orderly end.
func (a *Applier) Leave() error {
	o := &a.origins
	o.mu.Lock()
	kept := keptOrigins{Source: o.source}
	for i := range o.ring {
		inode := o.ring[(o.next+i)%len(o.ring)]
		if from, known := o.of[inode]; known {
			kept.Files = append(kept.Files, [2]uint64{inode, from})
		}
	}
	o.mu.Unlock()
	kept.Unclean = a.o.Unclean && a.o.Now().Sub(a.began) < young
	if len(kept.Files) == 0 && !kept.Unclean {
		return nil
	}
	b, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return a.o.Root.WriteFile(originsFile, b)
}

// loadOrigins takes over what the process before this one knew, if it ended in order; whatever comes then is not in it.
func (a *Applier) loadOrigins() error {
	b, unreadable := a.o.Root.ReadFile(originsFile, maxOriginsFile)
	if err := a.o.Root.Remove(originsFile); err != nil || unreadable != nil || a.o.Unclean {
		return ignoreGone(err)
	}
	var kept keptOrigins
	if json.Unmarshal(b, &kept) != nil || len(kept.Files) > maxOrigins {
		return nil // it is known of none where they came from
	}
	if kept.Unclean {
		a.o.Unclean = true
		a.Unsure("")
	}
	a.From(kept.Source)
	for _, f := range kept.Files {
		a.origins.note(f[0], f[1])
	}
	return nil
}

// doubt says that a file looks like the source's and may be another.
func (o *origins) doubt(inode uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.odd == nil {
		o.odd = map[uint64]bool{}
	}
	o.odd[inode] = true
}

// trust forgets what was doubted: it is owed, or another comparison begins.
func (o *origins) trust() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.odd = nil
}

func (o *origins) doubted(inode uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.odd[inode]
}

// certain reports whether a file here that looks the same as the source's is it: it came from it, or it is not known where it
// came from, and it is not young.
func (a *Applier) certain(have, theirs tree.Meta) bool {
	from := a.origins.get(have.Inode)
	switch {
	case a.origins.doubted(have.Inode):
		return false
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
	return a.certain(have, theirs) || !a.o.Unclean && a.origins.get(have.Inode) == 0 && !a.origins.doubted(have.Inode)
}

// young is how long a file of which it is not known where it came from may be another one: longer than a follower is behind.
// After that an equal size and time count as in rsync's quick check, and the proof looks at the bytes.
const young = time.Minute

func (a *Applier) young(m tree.Meta) bool {
	age := a.o.Now().Sub(time.Unix(0, m.MTime))
	return age < young && age > -young
}
