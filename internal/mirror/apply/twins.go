package apply

import (
	"github.com/zeebo/blake3"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	// maxTwins bounds the files that one comparison remembers to tell look-alikes apart (some 100 bytes each); of what lies beyond the proof tells.
	maxTwins = 1 << 18
	// maxUnlike and maxUnlikeBytes bound the files that are asked for at its end, of each kind of look-alikes one, and their
	// paths: one frame holds them.
	maxUnlike      = 1 << 13
	maxUnlikeBytes = 256 << 10
	// readTwins is how large two files may be that are compared byte for byte, while nothing else is applied; larger ones come again.
	readTwins = wire.DeltaLeast
)

// twins are files here that look the same. While this node was off two such files may have changed places, or one may
// have taken the other's, and what is here under a name looks like what the source has there and is not it. Where a
// file came from is remembered for the newest ones only, by the running process and for one source.
//
// A file comes to another name only by a change of the directories, which their times tell: a name in a directory whose
// time is the source's is what it was. So only files in the other directories are looked at, and of those
// only the ones that look like another one of them: they come again.
type twins struct {
	moved map[string]bool // directories whose time was another, until they are listed
	in    bool            // the directory that is being listed is one of them
	of    map[looks]sighting
	small map[string]bool // of the list that is answered, small files that are wanted because of another one
	bytes int             // of the paths that are to be asked for
	full  bool            // no more are remembered
	left  bool            // some that are in doubt were not asked for
}

// sighting is a file here in a directory that has changed.
type sighting struct {
	path  string
	inode uint64
	open  bool // it was taken for the source's
}

// Unsure says that the times of directories at dir and below may be ahead of what is in them, until the whole is compared: an
// earlier comparison has set them, perhaps, and was not ended.
func (a *Applier) Unsure(dir string) { a.unsure[dir] = true }

func (a *Applier) unsureOf(dir string) bool {
	if len(a.unsure) == 0 {
		return false
	}
	for ; dir != "" && !a.unsure[dir]; dir = tree.Parent(dir) {
	}
	return a.unsure[dir]
}

// enter says which directory is listed.
func (c *Comparison) enter(l wire.List) {
	t := &c.twins
	if l.From == "" {
		t.in = t.moved[l.Dir] || c.a.unsureOf(l.Dir)
		if m, err := c.a.o.Root.Glance(l.Dir); err == nil && m.MTime != l.Meta.MTime {
			t.in = true
		}
	}
	if l.To == "" {
		delete(t.moved, l.Dir)
	}
}

// certain reports whether a file here that looks like the source's is it, as far as this comparison can know, and
// remembers it for those that follow.
func (c *Comparison) certain(rel string, mine, theirs tree.Meta, same bool) bool {
	if mine.Kind == tree.Dir && theirs.Kind == tree.Dir && mine.MTime != theirs.MTime {
		c.twins.moved[rel] = true
	}
	if same && !c.a.certainIn(mine, theirs) {
		same = false
	}
	if from := c.a.origins.get(mine.Inode); same && from != 0 && from == theirs.Origin {
		return true
	}
	return c.sees(rel, mine, same) && same
}

// sees remembers a file of a directory that has changed; false if another one looks like it.
func (c *Comparison) sees(rel string, m tree.Meta, same bool) bool {
	t := &c.twins
	if !t.in || m.Kind != tree.File || m.Size == 0 || c.a.stays() {
		return true
	}
	key := looks{m.Size, m.MTime}
	other, known := t.of[key]
	if known && other.inode == m.Inode {
		return true // two names of one
	}
	if !known {
		if len(t.of) >= maxTwins {
			t.full = true
		} else {
			t.of[key] = sighting{rel, m.Inode, same}
		}
		return true
	}
	if other.open {
		c.doubt(other.path, other.inode)
		other.open = false
		t.of[key] = other
	}
	if same {
		c.a.origins.doubt(m.Inode)
		if m.Size <= wire.InlineMax {
			t.small[rel] = true
		}
	}
	return false
}

// Sums are what the small files of those that List wants hold here, if they are wanted only because they look like another
// one: most are what they look like, and need not come.
func (c *Comparison) Sums(dir string, names [][]byte) (sums [][]byte) {
	if len(c.twins.small) == 0 {
		return nil
	}
	sums = make([][]byte, len(names))
	for i, name := range names {
		rel := tree.Join(dir, string(name))
		if !c.twins.small[rel] {
			continue
		}
		if m, data, still, err := c.a.o.Root.ReadSmall(rel, wire.InlineMax); err == nil && still && m.Size == int64(len(data)) {
			sum := blake3.Sum256(data)
			sums[i] = sum[:]
		}
	}
	clear(c.twins.small)
	return sums
}

// doubt has a file come again that was taken for the source's, when the comparison is over.
func (c *Comparison) doubt(rel string, inode uint64) {
	c.a.origins.doubt(inode)
	if c.twins.bytes += len(rel); len(c.a.unlike) < maxUnlike && c.twins.bytes <= maxUnlikeBytes {
		c.a.unlike = append(c.a.unlike, rel)
	} else {
		c.twins.left = true
	}
}

// askUnlike owes and asks for what is in doubt, one by one: thousands of comparisons of one file each would take minutes.
func (a *Applier) askUnlike(records []journal.Record) []journal.Record {
	for _, rel := range a.unlike {
		d := reconcile.Debt{Path: rel}
		if _, owed := a.owed.Get(rel); owed {
			continue // it comes
		}
		records = a.owe(records, d)
		a.asked.Add(d)
		a.names = append(a.names, []byte(rel))
	}
	a.unlike = nil
	return records
}

// TakeNames returns and forgets the files that the source has to send again, by themselves.
func (a *Applier) TakeNames() (names [][]byte) {
	names, a.names = a.names, nil
	return names
}

// seesBelow remembers the files in a directory that the source does not have: they may be elsewhere by now.
func (c *Comparison) seesBelow(rel string) {
	if !c.twins.in || c.twins.full || c.a.stays() {
		return
	}
	list, err := c.a.o.Root.List(rel)
	if err != nil {
		return
	}
	for _, e := range list {
		if name := tree.Join(rel, e.Name); e.Meta.Kind == tree.Dir {
			c.seesBelow(name)
		} else {
			c.sees(name, e.Meta, false)
		}
	}
}

// alike reports whether two files that look the same, and are one inode at the source, hold the same.
func (c *Comparison) alike(first, rel string, m, n tree.Meta) bool {
	from := c.a.origins.get(m.Inode)
	switch {
	case m.Kind != tree.File || m.Size == 0 || from != 0 && from == c.a.origins.get(n.Inode):
		return true
	case m.Size > readTwins:
		return false
	}
	return sameBytes(c.a.o.Root, first, rel)
}

// tellTwins says that not all files were told apart.
func (c *Comparison) tellTwins() {
	if c.twins.full || c.twins.left {
		c.a.o.Log.Warn("more files look the same than a comparison tells apart", "hint", "revolve verify compares the bytes")
	}
}
