package watch

import "golang.org/x/sys/unix"

// keySet is a bounded set of file handles. When it is full the older half goes.
type keySet struct {
	limit     int
	cur, prev map[string]struct{}
}

func newKeySet(limit int) *keySet {
	return &keySet{limit: limit, cur: make(map[string]struct{})}
}

func (k *keySet) has(key []byte) bool {
	if _, ok := k.cur[string(key)]; ok {
		return true
	}
	if _, ok := k.prev[string(key)]; ok {
		k.add(string(key))
		return true
	}
	return false
}

func (k *keySet) add(key string) {
	if len(k.cur) >= k.limit/2 {
		k.prev, k.cur = k.cur, make(map[string]struct{})
	}
	k.cur[key] = struct{}{}
}

func (k *keySet) clear() {
	k.prev = nil
	clear(k.cur)
}

// renameRing remembers the last renames, to know the second half of an
// exchange (renameat2(2) RENAME_EXCHANGE) when it comes: its halves are two events, and
// playing the first one alone overwrites what the second one moves.
type renameRing struct {
	last [ringSize]renameNote
	next int
}

// ringSize covers the events that other processors can put between the two
// halves of an exchange, which are queued within one system call.
const ringSize = 64

type renameNote struct {
	from, to entry
	target   string
	dir      bool
}

func (r *renameRing) add(ev fanEvent) {
	r.last[r.next%ringSize] = noteOf(ev)
	r.next++
}

// swapped reports whether the opposite rename, of another object, was among the
// last ones, and whether either was a directory.
func (r *renameRing) swapped(ev fanEvent) (swapped, dir bool) {
	n := noteOf(ev)
	for _, o := range r.last {
		if o.from == n.to && o.to == n.from && o.target != n.target {
			return true, o.dir || n.dir
		}
	}
	return false, false
}

func noteOf(ev fanEvent) renameNote {
	return renameNote{
		from:   entry{string(ev.dir), string(ev.name)},
		to:     entry{string(ev.newDir), string(ev.newName)},
		target: string(ev.target),
		dir:    ev.mask&unix.FAN_ONDIR != 0,
	}
}
