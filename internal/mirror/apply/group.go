package apply

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// This file makes several names one inode. Every name changes by a rename of its own
// and holds the old file or the new one, nothing else and at every moment. The
// journal moves when all are done: a crash between two renames has the whole operation come again,
// and what is right already is left alone.
//
// The source's inode number is never compared with one of ours. It only says, within
// one comparison, which names belong together.

// publishGroup makes Path and Names one inode with the state that the operation brings.
func (a *Applier) publishGroup(s *staged) ([]journal.Record, error) {
	op, records := &s.op, s.record(journal.Dirty)
	names := []string{op.Path}
	for _, name := range op.Names {
		if !a.o.Excluded(name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if set := a.conflict(name); set != nil { // the names stay what was made of them here
			return a.keepGroup(s, set, records)
		}
	}
	have := make(map[string]tree.Meta, len(names))
	for _, name := range names {
		m, err := a.o.Root.Lstat(name)
		if err != nil && !tree.IsGone(err) {
			return records, err
		}
		have[name] = m
	}
	from := a.donor(s, names, have)
	if from == "" && op.How == wire.GroupOffer {
		var err error
		if from, err = a.amended(op, names, have); err != nil {
			return records, err
		}
	}
	if op.How == wire.GroupOffer { // the source has given up what was on its way to any of them
		a.dropTransfersTo(names)
	}
	switch {
	case from != "" && s.file != "":
		if err := a.o.Root.Remove(s.file); err != nil {
			return records, err
		}
	case from == "" && op.How == wire.GroupOffer:
		a.offer(op)
		for _, name := range names {
			a.asked.Pay(name, true) // from here on the source knows
			records = a.owe(records, reconcile.Debt{Path: name, ID: op.ID})
		}
		return records, nil
	case from == "" && op.How == wire.GroupData:
		made, err := a.publishFirst(s, names)
		if err != nil {
			return nil, err
		}
		if !made {
			return a.paidAll(records, names), nil
		}
		from, have[op.Path] = op.Path, tree.Meta{}
	case from == "":
		for _, name := range names[1:] { // they come with the first
			records = a.owe(records, reconcile.Debt{Path: name, Tree: true})
		}
		return a.miss(records, op.Path), nil
	}
	return a.linkAll(records, from, names, have)
}

// dropTransfersTo cancels what is on its way to the names: they are to be another file.
func (a *Applier) dropTransfersTo(names []string) {
	to := make(map[string]bool, len(names))
	for _, name := range names {
		to[name] = true
	}
	a.dropTransfers(func(path string) bool { return to[path] })
}

// publishFirst publishes what the operation brings at its path.
func (a *Applier) publishFirst(s *staged, names []string) (made bool, err error) {
	if s.op.Meta.Kind != tree.File {
		return a.make(s.op.Path, s.op.Meta)
	}
	a.dropTransfersTo(names) // older, larger versions
	a.stats.Files++
	a.stats.Bytes += s.op.Meta.Size
	return true, a.put(s.file, s.op.Path)
}

// keepGroup keeps what a survivor has for names that were written here meanwhile.
func (a *Applier) keepGroup(s *staged, set *Set, records []journal.Record) ([]journal.Record, error) {
	switch {
	case s.file != "":
		return records, set.KeepFile(s.file, s.op.Path, s.op.Meta.Size)
	case s.op.How == wire.GroupOffer:
		return a.deferred(s)
	}
	return records, set.Note("changed", s.op.Path, "")
}

// linkAll gives the inode at from all the names.
func (a *Applier) linkAll(records []journal.Record, from string, names []string, have map[string]tree.Meta) ([]journal.Record, error) {
	is := have[from].Inode
	for _, name := range names {
		if name != from && (is == 0 || have[name].Inode != is) {
			linked, err := a.link(from, name)
			if err != nil {
				return records, err
			}
			if !linked { // somebody took the first away
				records = a.miss(records, name)
				continue
			}
		}
		records = a.paidName(records, name)
	}
	return records, nil
}

// paidName is paid for a name of a group, which is all that can be at that name.
func (a *Applier) paidName(records []journal.Record, name string) []journal.Record {
	if d, owed := a.owed.Get(name); owed && d.Tree {
		a.owed.Pay(name, true)
		records = append(records, journal.Record{Kind: journal.Paid, Path: name, Below: true})
	}
	return a.paid(records, name)
}

func (a *Applier) paidAll(records []journal.Record, names []string) []journal.Record {
	for _, name := range names {
		records = a.paidName(records, name)
	}
	return records
}

// donor is the first of the names that has what the operation brings. With the
// content at hand that is certain; without it, it is as certain as a comparison.
func (a *Applier) donor(s *staged, names []string, have map[string]tree.Meta) string {
	shared := map[uint64]uint32{} // how many of the names are one inode here
	for _, name := range names {
		shared[have[name].Inode]++
	}
	tried := map[uint64]bool{}
	for _, name := range names {
		m := have[name]
		if m.Kind == 0 || !m.Same(s.op.Meta, a.stats.not()) {
			continue
		}
		if s.file == "" {
			// What is owed has the name and the time of what it should be, and may not be it.
			if _, owed := a.owed.Get(name); !owed && a.certain(m, s.op.Meta) && !(a.strange && m.Kind == tree.File) {
				return name
			}
			continue
		}
		// One that has more names than the source's is shared with the trash, or with what it should not be.
		if m.Links > shared[m.Inode] || tried[m.Inode] {
			continue
		}
		tried[m.Inode] = true
		if sameBytes(a.o.Root, name, s.file) {
			a.origins.note(m.Inode, s.op.Meta.Origin)
			return name
		}
	}
	return ""
}

// amended is the first of the names whose file has the size and time that are
// offered: it gets the rest, as in deferred, and need not come.
func (a *Applier) amended(op *wire.Op, names []string, have map[string]tree.Meta) (string, error) {
	for _, name := range names {
		m := have[name]
		if _, owed := a.owed.Get(name); owed || a.strange || m.Kind != tree.File || op.Meta.Kind != tree.File || m.Size != op.Meta.Size || m.MTime != op.Meta.MTime || !a.certain(m, op.Meta) {
			continue
		}
		return name, a.setFileMeta(name, op.Meta)
	}
	return "", nil
}

// link gives the inode at from the further name to, in the place of what is
// there. false: there is nothing at from.
func (a *Applier) link(from, to string) (bool, error) {
	a.next++
	aside := stagingDir + "/l" + itoa(a.next)
	err := a.o.Root.Link(from, aside)
	switch {
	case tree.IsGone(err):
		return false, nil
	case linkRefused(err):
		a.stats.LinksRefused++
		if err := a.copy(from, aside); err != nil {
			return !tree.IsGone(err), ignoreGone(err)
		}
	case err != nil:
		return false, err
	}
	if err := a.noteAt(aside); err != nil {
		return false, err
	}
	if err := a.put(aside, to); err != nil {
		return false, err
	}
	// Between two names of one inode rename(2) does nothing.
	return true, ignoreGone(a.o.Root.Remove(aside))
}

// linkRefused says that this inode cannot have another name here: fs.protected_hardlinks
// (proc_sys_fs(5)), the filesystem's limit (65,000 on ext4), or a filesystem without hard links.
func linkRefused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV)
}

// copy makes a durable second one of what is at from.
func (a *Applier) copy(from, aside string) error {
	m, err := a.o.Root.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case m.Kind == tree.Symlink:
		if err := a.o.Root.Symlink(m.Target, aside); err != nil {
			return err
		}
		return a.setMetaAt(aside, m)
	case m.Kind.Special():
		made, err := a.o.Root.Mknod(aside, m)
		if err != nil || !made {
			return errors.Join(err, unix.ENOENT)
		}
		return a.setMetaAt(aside, m)
	}
	source, m, err := a.o.Root.OpenFile(from)
	if err != nil {
		return err
	}
	defer source.Close()
	f, err := a.o.Root.Create(aside)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, source)
	if err == nil {
		m.Origin = a.origins.get(m.Inode)
		err = errors.Join(a.setMeta(f, m), a.noteOrigin(int(f.Fd()), m))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// waiting are the names that owe the transfer.
func (a *Applier) waiting(id uint64) (names []string) {
	for _, d := range a.owed.List() {
		if d.ID == id {
			names = append(names, d.Path)
		}
	}
	return names
}

// linkWaiting gives a large file that has come its other names.
func (a *Applier) linkWaiting(records []journal.Record, first string, waiting []string) ([]journal.Record, error) {
	for _, name := range waiting {
		if name == first {
			continue
		}
		if a.conflict(first) != nil { // it was written here meanwhile, and what came is kept aside
			records = a.miss(records, name)
			continue
		}
		a.keepDirTime(name)
		linked, err := a.link(first, name)
		if err != nil {
			return records, err
		}
		if linked {
			records = a.paid(records, name)
		}
	}
	return records, nil
}

// askOrphans asks for what waits for a transfer that was cancelled: the name that it was for is gone, others are not.
func (a *Applier) askOrphans() {
	a.transfers.mu.Lock()
	orphans := a.transfers.orphans
	a.transfers.orphans = false
	a.transfers.mu.Unlock()
	if !orphans {
		return
	}
	for _, d := range a.owed.List() {
		if d.ID != 0 && !a.transfers.known(d.ID) {
			a.missed = append(a.missed, []byte(d.Path))
		}
	}
}

// lateName is a name that a comparison could not yet link to the first of its inode.
type lateName struct {
	path string
	meta tree.Meta
}

// merged reports whether an inode here has names that are several inodes at the source.
func (c *Comparison) merged(mine, theirs tree.Meta) bool {
	if mine.Links < 2 || mine.Kind == tree.Dir {
		return false
	}
	group, known := c.claims[mine.Inode]
	if !known {
		c.claims[mine.Inode] = theirs.Group // 0 belongs to this one name alone
		return false
	}
	return theirs.Group == 0 || group != theirs.Group
}

// linked deals with a further name of an inode that was listed before; false for all others.
func (c *Comparison) linked(rel string, theirs, mine tree.Meta, same bool) (bool, error) {
	if theirs.Group == 0 || theirs.Kind == tree.Dir || theirs.Kind == tree.Other {
		return false, nil
	}
	first, known := c.groups[theirs.Group]
	if !known || first == rel {
		c.groups[theirs.Group] = rel
		return false, nil
	}
	a := c.a
	if a.Flying() > 0 { // what is not durable yet must not replace anything (P8)
		if err := a.Settle(); err != nil {
			return false, err
		}
	}
	if same && a.stats.LinksRefused > 0 {
		return true, nil // as good as it gets here
	}
	have, err := a.o.Root.Lstat(first)
	if _, owed := a.owed.Get(first); err == nil && !owed && !a.strange && have.Same(theirs, a.stats.not()) && a.certainIn(have, theirs) {
		if same && have.Inode == mine.Inode {
			return true, nil
		}
		if same && !c.alike(first, rel, have, mine) { // one of them is not what it looks like
			c.doubt(first, have.Inode)
			a.origins.doubt(mine.Inode)
			return true, nil
		}
		done, err := a.link(first, rel)
		if done {
			a.settleKept(rel)
			err = a.linkedAlready(rel)
		}
		if done || err != nil {
			return true, err
		}
	}
	c.late = append(c.late, lateName{rel, theirs})
	return true, nil
}

// linkLate links the names whose first one had not come. What has not come even
// now is asked for when the comparison is over.
func (c *Comparison) linkLate() error {
	a := c.a
	for _, l := range c.late {
		first := c.groups[l.meta.Group]
		have, err := a.o.Root.Lstat(first)
		if err != nil && !tree.IsGone(err) {
			return err
		}
		done := false
		if _, owed := a.owed.Get(first); err == nil && !owed && have.Kind == l.meta.Kind {
			now, err := a.o.Root.Lstat(l.path)
			if done = err == nil && now.Inode == have.Inode; !done {
				if done, err = a.link(first, l.path); err != nil {
					return err
				}
			}
			if done {
				a.settleKept(l.path)
				if err := a.linkedAlready(l.path); err != nil {
					return err
				}
			}
		}
		if !done {
			a.again = append(a.again, l.path)
		}
	}
	c.late = nil
	return nil
}
