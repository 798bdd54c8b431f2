package apply

import (
	"errors"
	"slices"

	"revolve/internal/mirror/tree"
)

// This file keeps what others wrote here when the source's is about to take its place (promise P5): the
// trash has one version of a path in ten minutes, and no person looks there.

// Guard says what becomes of what others wrote here while a stream is applied.
type Guard struct {
	// Set is where it is kept.
	Set *Set
	// Waits reports whether a change by others at rel is known and waits to be set aside.
	Waits func(rel string, have tree.Meta) bool
	// Put reports whether others are known to have moved something to rel, which may be what was ours elsewhere. May be nil.
	Put func(rel string) bool
	// Moved is told of a directory that is renamed: what waits below it is somewhere else now. May be nil.
	Moved func(old, new string)
	// Stays: it is this node's own reign that begins (P4). What was written here stays, and what comes is kept in Set.
	Stays bool
	// Known is when (Clock) the notifications began to be read: of all that was changed before, every one has been. 0: now.
	Known int64

	said bool // the log says it once for each stream
}

// Guard begins to tell others' writes from what is applied; nil ends it. What was changed before g.Known is known
// by other means.
func (a *Applier) Guard(g *Guard) error {
	a.guard = g
	if g == nil {
		return nil
	}
	if !g.Stays { // what survivors gave for a reign that did not begin is no word of the one that is followed now
		a.answers = nil
	}
	known := g.Known
	if known == 0 {
		var err error
		if known, err = a.Clock(); err != nil {
			return err
		}
	}
	a.own.begin(known)
	return nil
}

// Clock is the time that an inode of the volume gets now: what changes later is younger. Inodes are stamped in steps of some
// milliseconds, so that what changes in the same step may look as old, but not since Linux 6.13: there a change behind a look
// at the inode has a time of its own, and no later one an earlier time (fs/inode.c, inode_set_ctime_current).
func (a *Applier) Clock() (int64, error) {
	f, err := a.newFile(0o600)
	if err != nil {
		return 0, err
	}
	before, err := f.Stat()
	if err == nil {
		_, err = f.Write([]byte{0})
	}
	m, err2 := f.Stat()
	if m.CTime > before.CTime {
		m.CTime-- // the next may have the very same
	}
	return m.CTime, errors.Join(err, err2, a.drop(&staged{f: f, file: f.Name()}))
}

// Reigned is told when this node begins to lead: its programs may rewrite what was applied.
func (a *Applier) Reigned() {
	a.own.reigned()
	if a.strange { // what was owed is settled: what is here is the truth now
		a.strange = a.dropStrange() != nil
	}
	a.From("") // nor does anything say any more that an inode here is still what came
}

// stays reports whether what was written here is to stay.
func (a *Applier) stays() bool { return a.guard != nil && a.guard.Stays }

// conflict is where a survivor's version of rel goes if it was written here meanwhile, nil if it was not.
func (a *Applier) conflict(rel string) *Set {
	if !a.stays() {
		return nil
	}
	m, err := a.o.Root.Glance(rel)
	if a.guard.Waits(rel, m) || err == nil && m.Kind != tree.Dir && a.own.of(m, a.o.stamp()) == others {
		return a.guard.Set
	}
	return nil
}

// conflictWithin reports whether what is at rel, or something in it, was written here meanwhile: the notification of
// what was written in a directory may be unread.
func (a *Applier) conflictWithin(rel string, have tree.Meta) (bool, error) {
	if a.conflict(rel) != nil {
		return true, nil
	}
	if !a.stays() || have.Kind != tree.Dir {
		return false, nil
	}
	list, err := a.o.Root.List(rel)
	if err != nil {
		return false, ignoreGone(err)
	}
	for _, e := range list {
		below := tree.Join(rel, e.Name)
		if a.o.Excluded(below) {
			continue
		}
		if written, err := a.conflictWithin(below, e.Meta); written || err != nil {
			return written, err
		}
	}
	return false, nil
}

// foreign reports whether others wrote what is at rel.
func (a *Applier) foreign(rel string, have tree.Meta) bool {
	if a.guard == nil || have.Kind == tree.Dir || have.Kind == tree.Other {
		return false
	}
	switch a.own.of(have, a.o.stamp()) {
	case ours:
		return a.guard.Put != nil && a.guard.Put(rel)
	case others:
		return true
	}
	return a.guard.Waits(rel, have)
}

// spare keeps what is at rel if others wrote it; that may have moved it away.
func (a *Applier) spare(rel string, have tree.Meta) (kept bool, err error) {
	if !a.foreign(rel, have) {
		if have.Links > 1 { // its other names lose one, which is a change of theirs, too
			a.own.note(have)
		}
		return false, nil
	}
	if a.keptAlready(rel) {
		return true, nil
	}
	if !a.guard.said {
		a.guard.said = true
		a.o.Log.Warn("what others wrote here is kept aside; what the stream brings takes its place", "first", rel, "set", a.guard.Set.Name(), "hint", "revolve divergent list")
	}
	return true, a.keepIn(a.guard.Set, rel)
}

// spareBelow does the same for everything in the directory at rel.
func (a *Applier) spareBelow(rel string) error {
	if a.guard == nil {
		return nil
	}
	list, err := a.o.Root.List(rel)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range list {
		below := tree.Join(rel, e.Name)
		if a.o.Excluded(below) {
			continue
		}
		if e.Meta.Kind == tree.Dir {
			err = a.spareBelow(below)
		} else {
			_, err = a.spare(below, e.Meta)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keepIn keeps what is at rel in a set. Its other name there changes the time of the inode: that was us.
func (a *Applier) keepIn(set *Set, rel string) error {
	if err := set.Keep(rel); err != nil {
		return err
	}
	return ignoreGone(a.noteAt(rel))
}

// noteAt records that what is at rel is as it should be.
func (a *Applier) noteAt(rel string) error {
	m, err := a.o.Root.Glance(rel)
	if err == nil {
		a.own.note(m)
	}
	return err
}

// take moves what is at rel, file or tree, to the trash, and keeps what others wrote there.
func (a *Applier) take(rel string, have tree.Meta) error {
	if have.Kind == tree.Dir {
		if err := a.spareBelow(rel); err != nil {
			return err
		}
		defer a.letGo() // it is not where it was, nor what is in it
	}
	kept, err := a.spare(rel, have)
	if err != nil {
		return err
	}
	if kept {
		if have, err = a.o.Root.Lstat(rel); err != nil { // it is in the set, and had to leave its place for that
			return ignoreGone(err)
		}
	}
	return a.trash.Take(rel, have)
}

// overwritten keeps the file at rel, which is about to be replaced: in the trash, and if others wrote it, as theirs.
func (a *Applier) overwritten(rel string, have tree.Meta) (kept bool, err error) {
	kept, err = a.spare(rel, have)
	if err != nil || kept {
		return kept, err
	}
	return false, a.trash.Overwritten(rel, have)
}

// dirMove is a directory that the source renamed.
type dirMove struct{ old, new string }

// maxMoves bounds the renames remembered: those of a moment, in which the notification of a write may still be unread.
const maxMoves = 256

// movedDir remembers a directory's rename.
func (a *Applier) movedDir(old, new string) {
	if len(a.moves) >= maxMoves {
		a.moves = append(a.moves[:0], a.moves[maxMoves/2:]...)
	}
	a.moves = append(a.moves, dirMove{old, new})
	if a.guard != nil && a.guard.Moved != nil {
		a.guard.Moved(old, new)
	}
}

// Now is where what was at rel may be by now: the source may have renamed a directory above it.
func (a *Applier) Now(rel string) string {
	if len(a.moves) == 0 {
		return rel // a hundred thousand may be asked for, under a lock that reports wait for
	}
	if _, err := a.o.Root.Glance(rel); err == nil {
		return rel
	}
	for i, m := range slices.Backward(a.moves) { // it was told before one of them, and nobody knows of which
		if !tree.Below(rel, m.old) {
			continue
		}
		now := rel
		for _, m := range a.moves[i:] {
			if tree.Below(now, m.old) {
				now = tree.Moved(now, m.old, m.new)
			}
		}
		if _, err := a.o.Root.Glance(now); err == nil {
			return now
		}
	}
	return rel
}
