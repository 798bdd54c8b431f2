package watch

// doubts remembers which names the directory events of one pass touched. It is pure.
//
// Why: the kernel merges an event into an equal one (same kind of event, same
// object, same names, same process) that is still unread, up to 128 places back
// and across other events. `rename a b; rename b a; rename a b` reads as
// a->b, b->a: the stream ends with a and the disk with b (measured on ext4 and
// tmpfs, 6.18; fs/notify/fanotify/fanotify.c, fanotify_merge). An event can only take in
// another while it is unread, so all that can be wrong about a name touched
// in one pass (reads until the queue is empty) is right once it has been looked at at the end of the pass,
// and only names touched by two or more events can be wrong at all.
type doubts struct {
	cur, prev map[entry]*touched
}

// entry is a name in a directory, by the directory's handle.
type entry struct {
	dir  string
	name string
}

// touched is what the pass saw of one name.
type touched struct {
	events int
	risky  bool // an order mistake is possible: see touch
	there  bool // the stream's last word: it exists
	others bool // not all of it was our own doing
}

// maxTouched bounds each of the two generations. The kernel looks back 128
// events in one of 128 hash buckets, so names that came 16,384 names ago are
// practically out of reach.
const maxTouched = 16384

// touch notes a directory event on a name and the existence it tells of. Making and removing a
// directory is exact, as no inode is ever made or removed twice; a rename, or a
// link of a file, can come again for the same one.
func (d *doubts) touch(dir []byte, name string, there, exact, own bool) {
	if d.cur == nil {
		d.cur = make(map[entry]*touched)
	}
	e := entry{string(dir), name}
	t := d.cur[e]
	if t == nil {
		if t = d.prev[e]; t != nil {
			delete(d.prev, e)
		} else {
			t = &touched{}
		}
		if len(d.cur) >= maxTouched {
			d.prev, d.cur = d.cur, make(map[entry]*touched)
		}
		d.cur[e] = t
	}
	t.events++
	t.there = there
	t.risky = t.risky || !exact
	t.others = t.others || !own
}

// gone reports whether the name was removed in this pass, as far as the stream tells.
func (d *doubts) gone(dir []byte, name string) bool {
	if len(d.cur)+len(d.prev) == 0 {
		return false
	}
	e := entry{string(dir), name}
	t := d.cur[e]
	if t == nil {
		t = d.prev[e]
	}
	return t != nil && !t.there
}

// settle gives the names to look at again and, at the end of a pass, starts the
// next one. own says that only this process touched the name: then there is
// nothing to report, but where a directory is may be wrong.
func (d *doubts) settle(endOfPass bool, look func(e entry, there, own bool)) {
	for _, gen := range []map[entry]*touched{d.prev, d.cur} {
		for e, t := range gen {
			if t.events > 1 && t.risky {
				look(e, t.there, !t.others)
			}
		}
	}
	if endOfPass {
		d.clear()
	}
}

func (d *doubts) clear() {
	d.prev = nil
	clear(d.cur)
}
