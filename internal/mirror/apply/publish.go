package apply

import (
	"errors"
	"io/fs"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// publishOwed publishes a file that came in the stream, or a large one under the
// names that owe it: a rename may have overtaken it, or a removal.
func (a *Applier) publishOwed(s *staged) ([]journal.Record, error) {
	op := &s.op
	if op.ID == 0 {
		return a.paidBy(s, a.publishFile(s))
	}
	waiting := a.waiting(op.ID)
	if s.other {
		return a.another(s, waiting)
	}
	d, owed := a.owed.Get(op.Path)
	switch {
	case owed && d.ID == op.ID:
	case len(waiting) > 0:
		op.Path = waiting[0]
	case owed: // still owed afterwards: newer content is to come, or a name for it
		return nil, a.publishFile(s)
	default:
		return nil, a.o.Root.Remove(s.file)
	}
	if err := a.publishFile(s); err != nil {
		return nil, err
	}
	return a.linkWaiting(a.paid(nil, op.Path), op.Path, waiting)
}

// another drops what came for a transfer: when it was read, the name was another inode's already. The names that wait ask anew.
func (a *Applier) another(s *staged, waiting []string) (records []journal.Record, err error) {
	for _, name := range waiting {
		records = a.miss(records, name)
	}
	return records, a.o.Root.Remove(s.file)
}

// publishFile renames staged content over its path.
func (a *Applier) publishFile(s *staged) error {
	if set := a.conflict(s.op.Path); set != nil {
		return set.KeepFile(s.file, s.op.Path, s.op.Meta.Size)
	}
	if s.op.ID == 0 { // overtakes an older, larger version
		a.dropTransfers(func(path string) bool { return path == s.op.Path })
	}
	if s.op.ID != 0 { // comes after the times of its directory were set
		a.keepDirTime(s.op.Path)
	}
	a.stats.Files++
	a.stats.Bytes += s.op.Meta.Size
	if a.committing { // what flies has tried it already
		if err := a.putNew(s); !isExist(err) && !tree.IsGone(err) {
			a.touch(s.op.Path)
			return err
		}
		a.letGo() // a directory may give way
	}
	return a.put(s.file, s.op.Path)
}

// keepDirTime has the directory of rel keep the time that it has.
func (a *Applier) keepDirTime(rel string) {
	dir := tree.Parent(rel)
	if _, set := a.dirTimes[dir]; set {
		return
	}
	if m, err := a.o.Root.Lstat(dir); err == nil && m.Kind == tree.Dir {
		a.dirTimes[dir] = m
	}
}

// put renames the finished inode at from (in the staging area) to rel, keeping what it replaces.
func (a *Applier) put(from, rel string) error {
	if err := a.makeWay(rel); err != nil {
		return err
	}
	err := a.o.Root.Rename(from, rel)
	if tree.IsGone(err) {
		if err := a.makeParents(rel); err != nil {
			return err
		}
		err = a.o.Root.Rename(from, rel)
	}
	a.touch(rel)
	return err
}

// makeWay keeps what is at rel: files stay in place with a second name in the
// trash until they are renamed over, directories move there.
func (a *Applier) makeWay(rel string) error {
	have, err := a.o.Root.Lstat(rel)
	if err != nil {
		return ignoreGone(err)
	}
	if have.Kind == tree.Dir {
		return a.take(rel, have)
	}
	kept, err := a.overwritten(rel, have)
	if kept && !a.stays() {
		a.kept.add(rel, a.guard.Set) // until it turns out to be the same
	}
	return err
}

// makeParents makes the missing directories above rel; one that is a file or
// link here goes to the trash. Their metadata comes with their own operations.
func (a *Applier) makeParents(rel string) error {
	dir := tree.Parent(rel)
	if dir == "" {
		return nil
	}
	have, err := a.o.Root.Lstat(dir)
	if err == nil && have.Kind == tree.Dir {
		return nil
	}
	if err != nil && !tree.IsGone(err) {
		return err
	}
	if err == nil {
		if err := a.take(dir, have); err != nil {
			return err
		}
	}
	if err := a.makeParents(dir); err != nil {
		return err
	}
	a.touch(dir)
	return a.o.Root.Mkdir(dir, 0o755)
}

// publishDir makes the directory at rel right; made says that none was there.
func (a *Applier) publishDir(rel string, m tree.Meta) (made bool, err error) {
	if rel == "" {
		a.dirTimes[""] = m
		return false, a.setMetaAt("", m)
	}
	have, err := a.o.Root.Lstat(rel)
	switch {
	case err == nil && have.Same(m, tree.Refused{}):
		a.dirTimes[rel] = m
		if have.MTime == m.MTime {
			return false, nil
		}
		return false, a.o.Root.SetTime(rel, m.MTime) // a comparison goes by it
	case err == nil && have.Kind != tree.Dir:
		if err := a.take(rel, have); err != nil {
			return false, err
		}
		fallthrough
	case tree.IsGone(err):
		if err := a.makeDir(rel); err != nil {
			return false, err
		}
		made = true
	case err != nil:
		return false, err
	}
	a.dirTimes[rel] = m
	a.touched[rel] = true // its own mode and owner
	return made, a.setMetaAt(rel, m)
}

// makeDir makes a directory where nothing is.
func (a *Applier) makeDir(rel string) error {
	a.touch(rel)
	err := a.o.Root.Mkdir(rel, 0o700)
	if !tree.IsGone(err) {
		return err
	}
	if err := a.makeParents(rel); err != nil {
		return err
	}
	return a.o.Root.Mkdir(rel, 0o700)
}

// publishMade publishes what has no content, a symbolic link or special file, unless it is there already.
func (a *Applier) publishMade(rel string, m tree.Meta) error {
	have, err := a.o.Root.Lstat(rel)
	if err == nil && have.Same(m, a.stats.not()) {
		return nil
	}
	if set := a.conflict(rel); set != nil {
		return set.Note("changed", rel, "")
	}
	_, err = a.make(rel, m)
	return err
}

// make makes a link or special file aside and renames it over what is at rel. A
// device that this node may not make is counted, and missing here.
func (a *Applier) make(rel string, m tree.Meta) (made bool, err error) {
	a.next++
	name := stagingDir + "/m" + itoa(a.next)
	if m.Kind == tree.Symlink {
		made, err = true, a.o.Root.Symlink(m.Target, name)
	} else {
		made, err = a.o.Root.Mknod(name, m)
	}
	if err != nil {
		return false, err
	}
	if !made {
		a.stats.NodesRefused++
		return false, nil
	}
	if err := a.setMetaAt(name, m); err != nil {
		return false, err
	}
	if err := a.noteAt(name); err != nil {
		return false, err
	}
	return true, a.put(name, rel)
}

func (a *Applier) remove(rel string) error {
	a.dropTransfers(func(path string) bool { return tree.Below(path, rel) }) // it may be on its way only
	have, err := a.o.Root.Glance(rel)
	if err != nil {
		return ignoreGone(err)
	}
	if written, err := a.conflictWithin(rel, have); written || err != nil {
		return err // written here meanwhile: it stays, and the removal is void
	}
	a.stats.Removes++
	a.touchGone(rel)
	return a.take(rel, have)
}

// rename performs a rename of the source's. What cannot be right afterwards, or
// is not what the source says it has there now, is asked for.
func (a *Applier) rename(s *staged) ([]journal.Record, error) {
	old, new, records := s.op.Old, s.op.Path, s.record(journal.Renamed)
	a.moveTransfers(old, new)
	a.askAgain(old, new)
	a.forgetKept(old)
	right, err := a.move(old, new)
	if err != nil {
		return records, err
	}
	if _, owed := a.owed.Get(new); owed || s.op.Flag {
		return records, nil // it comes
	}
	if right && s.op.Meta.Kind != 0 && s.op.Meta.Kind != tree.Dir {
		// A stream that began anew may rename what was renamed before it broke: then this is another file.
		have, err := a.o.Root.Lstat(new)
		right = err == nil && have.Same(s.op.Meta, a.stats.not()) && a.certain(have, s.op.Meta)
	}
	if !right {
		records = a.miss(records, new)
	}
	return records, nil
}

// miss asks the source for path. It is owed until it has come: the question may be lost.
func (a *Applier) miss(records []journal.Record, path string) []journal.Record {
	a.missed = append(a.missed, []byte(path))
	return a.owe(records, reconcile.Debt{Path: path, Tree: true})
}

// move renames old to new, keeping what it replaces; false if the tree did not allow it.
func (a *Applier) move(old, new string) (bool, error) {
	if tree.Below(old, new) || tree.Below(new, old) {
		return false, nil // the names were seen too late; the source knows. Making way would take what is to be renamed.
	}
	have, err := a.o.Root.Lstat(old)
	if tree.IsGone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if a.conflict(new) != nil || a.conflict(old) != nil {
		return false, nil
	}
	kept, err := a.spare(old, have) // listed under the name that others used; the source's comes to the new one
	if err != nil {
		return false, err
	}
	a.stats.Renames++
	if target, err := a.o.Root.Lstat(new); err == nil && target.Inode == have.Inode && have.Kind != tree.Dir {
		a.touchGone(old)
		a.touch(new)
		return true, a.o.Root.Remove(old) // two names of one inode: rename(2) would leave both
	} else if err == nil {
		if err := a.displace(new, target, have); err != nil {
			return false, err
		}
	} else if !tree.IsGone(err) {
		return false, err
	}
	if err := a.makeParents(new); err != nil {
		return false, err
	}
	a.touchGone(old)
	a.touch(new)
	a.own.note(have) // a rename changes the time of the inode
	if have.Kind == tree.Dir {
		a.movedDir(old, new)
	}
	err = a.o.Root.Rename(old, new)
	if kept && tree.IsGone(err) { // it had to leave its place to be kept
		return false, nil
	}
	return err == nil && !kept, err
}

// displace keeps what a rename is about to replace.
func (a *Applier) displace(rel string, target, by tree.Meta) error {
	if target.Kind == tree.Dir || by.Kind == tree.Dir {
		return a.take(rel, target)
	}
	_, err := a.overwritten(rel, target)
	return err
}

// deferred owes a path whose content comes later. If the file here already has
// the size and time that are announced, only its metadata is set.
func (a *Applier) deferred(s *staged) ([]journal.Record, error) {
	op, records := &s.op, s.record(journal.Dirty)
	if op.Flag {
		return records, a.keepUnreceived(op.Path)
	}
	var have tree.Meta
	if op.Meta.Kind == tree.File {
		var err error
		have, err = a.o.Root.Lstat(op.Path)
		if err != nil && !tree.IsGone(err) {
			return nil, err
		}
		if _, owed := a.owed.Get(op.Path); err == nil && have.Kind == tree.File && have.Size == op.Meta.Size && have.MTime == op.Meta.MTime && a.certain(have, op.Meta) && !owed && !a.strange {
			return a.paid(records, op.Path), a.setFileMeta(op.Path, op.Meta)
		}
	}
	if op.ID != 0 {
		a.offer(op)
		if have.Kind == tree.File && have.Size >= wire.DeltaLeast {
			a.have = append(a.have, wire.Have{ID: op.ID, Size: have.Size, MTime: have.MTime, Origin: a.origins.get(have.Inode)})
		}
	}
	a.asked.Pay(op.Path, true) // from here on the source knows
	return a.owe(records, reconcile.Debt{Path: op.Path, ID: op.ID}), nil
}

// keepUnreceived keeps what is at rel until something else has come in its place: a master owed it when its reign began,
// and nobody whom it heard had it. The copy goes again if the source's turns out to be the same.
func (a *Applier) keepUnreceived(rel string) error {
	have, err := a.o.Root.Lstat(rel)
	if err != nil || have.Kind == tree.Dir || have.Kind == tree.Other || a.conflict(rel) != nil { // what was written here stays
		return ignoreGone(err)
	}
	return a.KeepForeign(NewSet(a.o.Root, a.o.Node, a.term, WhyUnreceived, a.o.Now()), rel, false)
}

// offer takes a transfer that is needed; an older one of the same path is overtaken.
func (a *Applier) offer(op *wire.Op) {
	a.dropTransfers(func(path string) bool { return path == op.Path })
	a.offers = append(a.offers, op.ID)
	a.transfers.offer(op.ID, op.Path, op.Meta)
}

func (a *Applier) setFileMeta(rel string, m tree.Meta) error {
	f, _, err := a.o.Root.OpenFile(rel)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	if err := a.setMeta(f, m); err != nil {
		return err
	}
	now, err := tree.FStat(int(f.Fd()))
	if err != nil {
		return err
	}
	a.own.note(now)
	return f.Sync()
}

// TakeMissed returns and forgets the paths that the source has to send again,
// the transfers that are needed, and what is here in their place.
func (a *Applier) TakeMissed() (trees [][]byte, ids []uint64, have []wire.Have) {
	trees, ids, have = append(a.missed, a.transfers.takeStale()...), a.offers, a.have
	a.missed, a.offers, a.have = nil, nil, nil
	return trees, ids, have
}

func isExist(err error) bool { return errors.Is(err, fs.ErrExist) }
