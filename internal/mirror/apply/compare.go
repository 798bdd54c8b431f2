package apply

import (
	"fmt"
	"slices"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// Comparison is one comparison of a tree with the source's, list by list.
type Comparison struct {
	a      *Applier
	dirs   map[string]tree.Meta // directories seen, whose times are set at the end
	absent wire.Compared
	left   absences
	whole  bool // the volume, not a part of it

	names []string // of the directory that the last list was of
	of    string
	read  bool // names are known

	groups map[uint64]string // the source's number of an inode with several names -> its first name
	claims map[uint64]uint64 // an inode here with several names -> the source's number
	late   []lateName        // names whose first one was under way

	twins twins
}

// maxDirTimes bounds the directories remembered for their times. Beyond it the
// times are set at once: each list makes the names in its directory right, and what comes
// into it later brings the time along.
const maxDirTimes = 65536

// Compare begins a comparison.
func (a *Applier) Compare(job uint64) *Comparison {
	a.origins.trust()
	return &Comparison{
		a: a, dirs: map[string]tree.Meta{}, absent: wire.Compared{Job: job},
		groups: map[uint64]string{}, claims: map[uint64]uint64{},
		twins: twins{moved: map[string]bool{}, of: map[looks]sighting{}, small: map[string]bool{}},
	}
}

// List compares a part of a directory, makes directories and links right at
// once, deals with extra names, and returns the names of files that are needed.
func (c *Comparison) List(l wire.List) ([][]byte, error) {
	a := c.a
	defer a.letGo()
	c.whole = c.whole || l.Dir == ""
	c.enter(l)
	if l.From == "" {
		if _, err := a.publishDir(l.Dir, l.Meta); err != nil {
			return nil, err
		}
	}
	if len(c.dirs) >= maxDirTimes {
		if err := c.setTimes(); err != nil {
			return nil, err
		}
	}
	c.dirs[l.Dir] = l.Meta
	have, err := c.have(l)
	if err != nil {
		return nil, err
	}
	mine := make(map[string]tree.Meta, len(have))
	for _, e := range have {
		mine[e.Name] = e.Meta
	}
	var wants [][]byte
	for _, e := range l.Entries {
		m, here := mine[e.Name]
		delete(mine, e.Name)
		need, err := c.entry(tree.Join(l.Dir, e.Name), e.Meta, m, here)
		if err != nil {
			return nil, err
		}
		if need {
			wants = append(wants, []byte(e.Name))
		}
	}
	for _, e := range have { // in order of name
		if m, extra := mine[e.Name]; extra {
			if err := c.extra(tree.Join(l.Dir, e.Name), m, l.Extras); err != nil {
				return nil, err
			}
		}
	}
	if l.Extras == wire.ExtrasAsk {
		return wants, nil
	}
	return wants, a.voidUnlisted(l)
}

// have is what is here of the part of a directory that l is about. The parts of
// one directory come one after the other: its names are read once.
func (c *Comparison) have(l wire.List) ([]tree.Entry, error) {
	if l.From == "" || !c.read || c.of != l.Dir {
		names, err := c.a.o.Root.Names(l.Dir)
		if err != nil && !tree.IsGone(err) {
			return nil, err
		}
		c.names, c.of, c.read = names, l.Dir, true
	}
	part := c.names
	if l.From != "" {
		i, found := slices.BinarySearch(part, l.From)
		if found {
			i++
		}
		part = part[i:]
	}
	if l.To != "" {
		i, found := slices.BinarySearch(part, l.To)
		if found {
			i++
		}
		part = part[:i]
	}
	part = slices.DeleteFunc(slices.Clone(part), func(name string) bool { return c.a.o.Excluded(tree.Join(l.Dir, name)) })
	if len(part) == 0 {
		return nil, nil
	}
	have, err := c.a.o.Root.Entries(l.Dir, part)
	return have, ignoreGone(err)
}

func (c *Comparison) entry(rel string, theirs, mine tree.Meta, here bool) (need bool, err error) {
	a := c.a
	if debt, owed := a.owed.Get(rel); owed && !debt.Tree {
		here = false // what is here is not what the position says
	}
	same := here && mine.Same(theirs, a.stats.not()) && !(a.strange && bornHere(mine))
	if here {
		same = c.certain(rel, mine, theirs, same)
	}
	merged := same && c.merged(mine, theirs)
	same = same && !merged
	switch {
	case same:
		a.settleKept(rel)
	case here && a.strange:
		if err := a.keepStrange(rel, mine, theirs); err != nil {
			return false, err
		}
	}
	if linked, err := c.linked(rel, theirs, mine, same); linked || err != nil {
		return false, err
	}
	switch theirs.Kind {
	case tree.File:
		return !same, nil
	case tree.Symlink, tree.FIFO, tree.Socket, tree.Char, tree.Block:
		switch {
		case same:
			return false, nil
		case merged:
			_, err = a.make(rel, theirs)
		default:
			err = a.publishMade(rel, theirs)
		}
		if err == nil {
			a.settleKept(rel)
		}
		return false, err
	case tree.Dir:
		if same && mine.MTime == theirs.MTime {
			return false, nil
		}
		c.dirs[rel] = theirs
		_, err = a.publishDir(rel, theirs)
		return false, err
	}
	return false, nil
}

// extra deals with a name that the source does not have.
func (c *Comparison) extra(rel string, m tree.Meta, how wire.Extras) error {
	a := c.a
	if a.conflict(rel) != nil || m.Kind == tree.Other {
		return nil
	}
	if m.Kind == tree.Dir {
		c.seesBelow(rel)
	} else {
		c.sees(rel, m, false)
	}
	if how == wire.ExtrasTrash && (a.strange || a.doubted(rel)) && !(m.Kind != tree.Dir && a.keptAlready(rel)) {
		how = wire.ExtrasDivergent
	}
	switch how {
	case wire.ExtrasTrash:
		a.stats.Removes++
		a.touchGone(rel)
		return a.take(rel, m)
	case wire.ExtrasDivergent:
		a.touchGone(rel)
		return a.unknownSet().KeepAway(rel)
	case wire.ExtrasAsk:
		if owed := a.owedAt(rel); len(owed) > 0 && len(a.again)+len(owed) <= maxAgain {
			a.again = append(a.again, owed...) // the answers say what becomes of it, and the comparison's end would forget that they are to come
			return nil
		}
		n := 1
		if m.Kind == tree.Dir {
			n += a.trash.count(rel, maxRemovals)
		}
		c.absent.Absent += n
		c.left.add(rel, n)
		if len(c.absent.Sample) < wire.MaxSample && len(rel) <= wire.MaxSampled {
			c.absent.Sample = append(c.absent.Sample, []byte(rel))
		}
		return nil
	}
	return fmt.Errorf("unknown treatment %d of extra names", how)
}

func (a *Applier) unknownSet() *Set {
	if a.unknown == nil {
		a.unknown = NewSet(a.o.Root, a.o.Node, a.o.Journal.Position().Term, WhyUnknown, a.o.Now())
	}
	return a.unknown
}

// Doubt says that names below dir may have come while nobody watched: until the
// source has compared it, those that the source does not have are kept.
func (a *Applier) Doubt(dir string) { a.doubts[dir] = true }

func (a *Applier) doubted(rel string) bool {
	for dir := tree.Parent(rel); len(a.doubts) > 0; dir = tree.Parent(dir) {
		if a.doubts[dir] || dir == "" {
			return a.doubts[dir]
		}
	}
	return false
}

// bornWithin is how close the times of an inode are if no program set one of them.
const bornWithin = int64(2 * time.Second)

// bornHere reports whether a file was written here and is no copy that was given
// the time of another. Then an equal size and time say nothing: the kernel's
// timestamps are as coarse as 4 ms, so two nodes that were filled at the same
// moment have different files of one size and time.
func bornHere(m tree.Meta) bool {
	return m.Kind == tree.File && m.CTime-m.MTime < bornWithin
}

// keepStrange keeps what is at rel; the copy goes again if the source's turns out to be the same.
func (a *Applier) keepStrange(rel string, mine, theirs tree.Meta) error {
	switch {
	case mine.Kind == tree.Dir && theirs.Kind == tree.Dir || mine.Kind == tree.Other:
		return nil
	case mine.Kind == tree.Dir:
		a.touchGone(rel)
		return a.unknownSet().KeepAway(rel)
	}
	set := a.unknownSet()
	if err := a.keepIn(set, rel); err != nil {
		return err
	}
	a.kept.add(rel, set)
	return nil
}

// End sets the times of the directories that were compared and says what was left alone.
func (c *Comparison) End() (wire.Compared, error) {
	if err := c.linkLate(); err != nil {
		return c.absent, err
	}
	if err := c.setTimes(); err != nil {
		return c.absent, err
	}
	c.tellTwins()
	if !c.whole {
		return c.absent, nil
	}
	// What comes from here on, before the volume counts as paid, takes the place of what the source gave.
	if err := c.a.familiar(); err != nil {
		return c.absent, err
	}
	clear(c.a.unsure)
	clear(c.a.doubts)
	return c.absent, c.a.noteAbsent(Absent{Names: c.absent.Absent, Sample: c.absent.Sample, Left: c.left.left})
}

func (c *Comparison) setTimes() error {
	for dir, m := range c.dirs {
		if err := c.a.setDirTime(dir, m); err != nil {
			return err
		}
	}
	clear(c.dirs)
	return nil
}

// maxAgain bounds the names that are asked for at a comparison's end; what is beyond counts as absent, and a person decides.
const maxAgain = 4096

// owedAt are the paths at and below rel that are owed by themselves, and not under way.
func (a *Applier) owedAt(rel string) (paths []string) {
	for _, d := range a.owed.Under(rel) {
		if !d.Tree {
			paths = append(paths, d.Path)
		}
	}
	return paths
}
