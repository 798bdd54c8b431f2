package apply

import (
	"maps"
	"strings"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// owe adds a debt to the records.
func (a *Applier) owe(records []journal.Record, d reconcile.Debt) []journal.Record {
	delete(a.unproven, d.Path)
	a.owed.Add(d)
	return append(records, journal.Record{Kind: journal.Owe, Path: d.Path, ID: d.ID, Below: d.Tree})
}

// OwesAnew reports whether op begins a comparison that the source makes by itself, of
// a tree that this node does not owe. The debt is to be journaled before anything of the tree is
// published, in a commit of its own: what a crash leaves half done no record brings again.
func (a *Applier) OwesAnew(op wire.Op) bool {
	if op.Kind != wire.OpTree || op.Seq != 0 { // a record is sent again
		return false
	}
	d, owed := a.owed.Get(op.Path)
	return !owed || !d.Tree
}

// askAgain asks anew, after a rename, for what this node had asked for: the answer may be about a name that
// is no more. What the source said itself that it owes, it follows through its renames and tells of: to ask
// for that as well would begin a comparison with each file that is written aside and renamed, and while there
// is always one under way no barrier ever ends.
func (a *Applier) askAgain(old, new string) {
	a.asked.Renamed(old, new)
	a.theirs.Renamed(old, new)
	for _, d := range a.owed.Renamed(old, new) {
		_, asked := a.asked.Get(d.Path)
		if _, theirs := a.theirs.Get(d.Path); asked || d.Tree && !theirs {
			a.missed = append(a.missed, []byte(d.Path))
		}
	}
}

// treePaid settles the tree at rel: everything that the source has there has
// come, so what was owed below it and is still missing does not exist. Only
// transfers under way stay owed.
func (a *Applier) treePaid(rel string) (records []journal.Record) {
	maps.DeleteFunc(a.doubts, func(dir string, _ bool) bool { return tree.Below(dir, rel) })
	a.strange = a.strange && rel != ""
	for _, d := range a.owed.Under(rel) {
		if _, asked := a.asked.Get(d.Path); asked || d.Tree {
			a.owed.Pay(d.Path, true)
			a.asked.Pay(d.Path, true)
			a.theirs.Pay(d.Path, true)
			records = append(records, journal.Record{Kind: journal.Paid, Path: d.Path, Below: true})
		}
	}
	a.forgetKept(rel)
	for _, name := range a.again {
		records = a.miss(records, name)
	}
	a.again = nil
	return a.askUnlike(records)
}

// paid settles what was owed at rel and looks whether a divergent copy of it is still needed.
func (a *Applier) paid(records []journal.Record, rel string) []journal.Record {
	a.settleKept(rel)
	if d, ok := a.owed.Get(rel); !ok || d.Tree {
		return records
	}
	a.owed.Pay(rel, false)
	a.asked.Pay(rel, false)
	return append(records, journal.Record{Kind: journal.Paid, Path: rel})
}

// paidBy is paid for an operation's path, if it has succeeded: what was kept of the path is still all that there is otherwise.
func (a *Applier) paidBy(s *staged, err error) ([]journal.Record, error) {
	if err != nil {
		return nil, err
	}
	return a.paid(s.record(journal.Dirty), s.op.Path), nil
}

// voidBelow settles what is owed below the names of an operation that makes
// them something else than a directory: the source has nothing there any more,
// and nobody could ever pay it.
func (a *Applier) voidBelow(records []journal.Record, op *wire.Op) []journal.Record {
	switch {
	case op.Kind == wire.OpDefer && (op.Meta.Kind == 0 || op.Meta.Kind == tree.Dir): // not known, or still one
		return records
	case op.Kind == wire.OpFile && op.ID != 0: // said when it was announced
		return records
	case op.Kind != wire.OpFile && op.Kind != wire.OpDefer && op.Kind != wire.OpGroup && op.Kind != wire.OpSymlink && op.Kind != wire.OpNode:
		return records
	}
	for _, name := range append([]string{op.Path}, op.Names...) {
		for _, d := range a.owed.Under(name) {
			if d.Path != name && name != "" {
				records = a.voidDebt(records, d)
			}
		}
	}
	return records
}

// voidDebt forgets a debt that nobody will pay, and what has come of it.
func (a *Applier) voidDebt(records []journal.Record, d reconcile.Debt) []journal.Record {
	a.dropTransfers(func(path string) bool { return path == d.Path })
	a.owed.Pay(d.Path, true)
	a.asked.Pay(d.Path, true)
	return append(records, journal.Record{Kind: journal.Paid, Path: d.Path, Below: true})
}

// voidUnlisted forgets the large files that are on their way to names which a
// part of a directory should have and the source has not, or below them. They were told under
// a name that is another's by now; if that one has moved, its rename asks for it.
func (a *Applier) voidUnlisted(l wire.List) error {
	var records []journal.Record
	var known map[string]bool // names, and whether they are directories
	for _, d := range a.owed.Under(l.Dir) {
		if d.ID == 0 || d.Path == l.Dir {
			continue
		}
		if known == nil { // a list is long, and debts are few
			known = make(map[string]bool, len(l.Entries))
			for _, e := range l.Entries {
				known[e.Name] = e.Meta.Kind == tree.Dir
			}
		}
		name, _, deep := strings.Cut(strings.TrimPrefix(d.Path[len(l.Dir):], "/"), "/")
		isDir, listed := known[name]
		switch {
		case l.From != "" && name <= l.From || l.To != "" && name > l.To: // another part tells
		case listed && isDir == deep:
		default:
			records = a.voidDebt(records, d)
		}
	}
	if len(records) == 0 {
		return nil
	}
	return a.o.Journal.Append(records...)
}

// linkedAlready forgets a large file that was on its way to a name which a
// comparison has linked: it would become a file of its own.
func (a *Applier) linkedAlready(rel string) error {
	d, owed := a.owed.Get(rel)
	if !owed || d.ID == 0 {
		return nil
	}
	return a.o.Journal.Append(a.voidDebt(nil, d)...)
}
