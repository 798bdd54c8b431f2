package apply

import (
	"maps"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// owe adds a debt to the records.
func (a *Applier) owe(records []journal.Record, d reconcile.Debt) []journal.Record {
	a.owed.Add(d)
	return append(records, journal.Record{Kind: journal.Owe, Path: d.Path, ID: d.ID, Below: d.Tree})
}

// treePaid settles the tree at rel: everything that the source has there has
// come, so what was owed below it and is still missing does not exist. Only
// transfers under way stay owed.
func (a *Applier) treePaid(rel string) (records []journal.Record) {
	maps.DeleteFunc(a.doubts, func(dir string, _ bool) bool { return tree.Below(dir, rel) })
	a.strange = a.strange && rel != ""
	for _, d := range a.owed.Under(rel) {
		if d.ID == 0 {
			a.owed.Pay(d.Path, true)
			records = append(records, journal.Record{Kind: journal.Paid, Path: d.Path, Below: true})
		}
	}
	for _, name := range a.unlinked {
		records = a.miss(records, name)
	}
	a.unlinked = nil
	return records
}

// paid settles what was owed at rel and looks whether a divergent copy of it is still needed.
func (a *Applier) paid(records []journal.Record, rel string) []journal.Record {
	a.settleKept(rel)
	if d, ok := a.owed.Get(rel); !ok || d.Tree {
		return records
	}
	a.owed.Pay(rel, false)
	return append(records, journal.Record{Kind: journal.Paid, Path: rel})
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
			if d.Path == name || name == "" {
				continue
			}
			a.dropTransfers(func(path string) bool { return path == d.Path })
			a.owed.Pay(d.Path, true)
			records = append(records, journal.Record{Kind: journal.Paid, Path: d.Path, Below: true})
		}
	}
	return records
}
