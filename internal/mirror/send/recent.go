package send

import (
	"maps"

	"revolve/internal/mirror/tree"
)

// recentMax bounds the names remembered with the inode that was sent for them.
// It must cover what is sent between a rename and the reading of its event,
// which is milliseconds.
const recentMax = 8192

// recent remembers which inode was sent under which name, and which directories
// were touched. A rename whose event had not been read yet lets a name be read
// that belongs to another file by now; when the rename's record comes, the
// inode at the new name shows it.
type recent struct {
	inodes map[string]uint64
	ring   []string
	next   int
	dirs   map[string]bool
	gone   map[string]bool // of these, what was no directory when its time was to be told: a rename will say where it is
	above  map[string]int  // how many of gone are at or below a path
}

func newRecent() recent {
	return recent{inodes: map[string]uint64{}, ring: make([]string, 0, recentMax), dirs: map[string]bool{}, gone: map[string]bool{}, above: map[string]int{}}
}

// touched notes that what is at path changes its directory's time.
func (r *recent) touched(path string) { r.dirs[tree.Parent(path)] = true }

func (r *recent) sent(path string, inode uint64) {
	r.touched(path)
	r.noted(path, inode)
}

// noted is sent for a directory of which only the state was told: its name is no change of the one above.
func (r *recent) noted(path string, inode uint64) {
	if _, known := r.inodes[path]; !known {
		if len(r.ring) < recentMax {
			r.ring = append(r.ring, path)
		} else {
			delete(r.inodes, r.ring[r.next])
			r.ring[r.next] = path
			r.next = (r.next + 1) % recentMax
		}
	}
	r.inodes[path] = inode
}

func (r *recent) removed(path string) {
	if r.above[path] > 0 { // of thousands of removals hardly one: gone is not searched for each
		for dir := range r.gone {
			if tree.Below(dir, path) {
				r.found(dir)
			}
		}
	}
	r.touched(path)
	delete(r.inodes, path)
}

// went notes a touched directory that is not there now. What its time was told for may be
// there under a name that a record to come tells; the follower has touched it meanwhile.
func (r *recent) went(dir string) {
	if len(r.gone) >= recentMax {
		clear(r.gone)
		clear(r.above)
	}
	if r.gone[dir] {
		return
	}
	r.gone[dir] = true
	for at := dir; at != ""; at = tree.Parent(at) {
		r.above[at]++
	}
}

// found is told of a directory that counts as gone no more.
func (r *recent) found(dir string) {
	delete(r.gone, dir)
	for at := dir; at != ""; at = tree.Parent(at) {
		if r.above[at]--; r.above[at] == 0 {
			delete(r.above, at)
		}
	}
}

// renamed moves what is remembered to the new names and returns those where
// another inode stands than the one that was sent.
func (r *recent) renamed(old, new string, dir bool, inode func(string) uint64) (changed []string) {
	for d := range maps.Clone(r.dirs) {
		if tree.Below(d, old) { // its time is still to be set
			delete(r.dirs, d)
			r.dirs[tree.Moved(d, old, new)] = true
		}
	}
	for d := range maps.Clone(r.gone) {
		if tree.Below(d, old) {
			r.found(d)
			r.dirs[tree.Moved(d, old, new)] = true
		}
	}
	r.touched(old)
	r.touched(new)
	check := func(from string) {
		was := r.inodes[from]
		to := tree.Moved(from, old, new)
		delete(r.inodes, from)
		if inode(to) != was {
			changed = append(changed, to)
			return
		}
		r.sent(to, was)
	}
	if !dir {
		if _, known := r.inodes[old]; known {
			check(old)
		}
		return changed
	}
	var below []string
	for path := range r.inodes {
		if tree.Below(path, old) {
			below = append(below, path)
		}
	}
	for _, path := range below {
		check(path)
	}
	return changed
}

func (r *recent) takeDirs() map[string]bool {
	dirs := r.dirs
	r.dirs = map[string]bool{}
	return dirs
}
