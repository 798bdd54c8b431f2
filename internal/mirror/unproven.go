package mirror

import (
	"context"
	"slices"
	"time"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
)

// unproven is what a standby that did not stop cleanly found in its tree and
// does not know from its journal: names that it showed before they were on its
// disk, mostly. While another leads, that one's word about them comes. A node that
// leads itself has to find out what of it is whole (promise P8).
type unproven struct {
	events []watch.Event
	flown  map[string]journal.Flying // paths that the journal knows as such
	since  time.Time                 // everything older is journaled
	until  time.Time                 // what is younger was written since the node started
}

// settleUnproven decides about it before this node leads. What is torn is set
// aside, nothing else could be done with it. Of the rest, which others have may be newer: it is
// kept and owed, so that a survivor's takes its place. The function that is returned
// makes the truth of what nobody gave.
func (v *volume) settleUnproven(ctx context.Context, o *opened, role Role) (after func(), err error) {
	if !o.unclean {
		return func() {}, nil
	}
	select {
	case <-ctx.Done():
		return func() {}, nil
	case <-o.scanned:
	}
	v.mu.Lock()
	u := o.unproven
	o.unproven, o.unclean = unproven{}, false
	v.mu.Unlock()
	if u.since.IsZero() {
		return func() {}, nil
	}
	o.applying.Lock()
	defer o.applying.Unlock()
	set := apply.NewSet(o.root, v.e.o.Node, role.Reign.Term, apply.WhyUnfinished, time.Now())
	kept, torn := u.sort(o)
	if len(kept) == 0 {
		return func() {}, nil
	}
	var debts []reconcile.Debt
	for _, path := range kept {
		debts = append(debts, reconcile.Debt{Path: path})
	}
	if err := o.applier.Owe(debts); err != nil { // before they go
		return nil, local(err)
	}
	for _, path := range kept {
		if err := o.applier.KeepUnproven(set, path, torn[path]); err != nil {
			return nil, local(err)
		}
	}
	if err := o.root.SyncAll(); err != nil { // what is kept is durable before it is gone from its place
		return nil, local(err)
	}
	if len(torn) > 0 {
		v.log.Warn("files that this node had not acknowledged were not whole on its disk when power was lost", "set aside", len(torn), "set", set.Name(),
			"hint", "revolve divergent list")
	}
	events := v.withoutUnproven(kept)
	return func() {
		o.applying.Lock()
		o.applier.SettleKept(kept)
		o.applying.Unlock()
		v.mu.Lock()
		v.pending = append(events, v.pending...)
		v.mu.Unlock()
	}, nil
}

// sort finds the files that are to be kept, and which of them are torn. What flew
// and is whole stays as it is.
func (u *unproven) sort(o *opened) (kept []string, torn map[string]bool) {
	found := make(map[string]bool, len(u.events))
	for _, e := range u.events {
		found[e.Path] = true
	}
	torn = map[string]bool{}
	for _, path := range u.paths(o) {
		is, whole := u.look(o.root, path)
		if !is || whole && !found[path] {
			continue
		}
		kept = append(kept, path)
		if !whole {
			torn[path] = true
		}
	}
	return kept, torn
}

// paths are those that are to be looked at.
func (u *unproven) paths(o *opened) (paths []string) {
	seen := map[string]bool{}
	add := func(path string) {
		if path != "" && !seen[path] {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	for _, e := range u.events {
		add(e.Path)
	}
	owed := o.journal.Owed()
	for _, d := range owed.List() { // what flew, and what was asked for before the master went
		if !d.Tree && d.ID == 0 {
			add(d.Path)
		}
	}
	return paths
}

// look reports whether a file is at path that came into being shortly before the
// stop, and whether it is whole. A file whose size was written has its bytes: both
// ext4 (data=ordered) and XFS write the size behind the data.
func (u *unproven) look(root *tree.Root, path string) (is, whole bool) {
	m, err := root.Glance(path)
	if err != nil || m.Kind != tree.File {
		return false, false
	}
	born, err := root.Born(path)
	if err != nil || born <= u.since.UnixNano() || born > u.until.UnixNano() {
		return false, false
	}
	if f, known := u.flown[path]; known && f.Size >= 0 {
		return true, m.Size == f.Size
	}
	return true, m.Size > 0
}

// withoutUnproven takes the paths out of what counts as written here, and
// returns them as the events that they become if nobody gives another version.
func (v *volume) withoutUnproven(paths []string) (events []watch.Event) {
	these := make(map[string]bool, len(paths))
	for _, path := range paths {
		these[path] = true
		events = append(events, watch.Event{Kind: watch.Dirty, Path: path})
	}
	without := func(list []watch.Event) []watch.Event {
		return slices.DeleteFunc(list, func(e watch.Event) bool { return e.Kind == watch.Dirty && these[e.Path] })
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending, v.aside = without(v.pending), without(v.aside)
	v.noteAll()
	return events
}

// noteUnproven remembers what the scan found, if the node stopped uncleanly as a standby.
func (v *volume) noteUnproven(o *opened, files []watch.Event) error {
	v.mu.Lock()
	if o.unclean && v.mode == collect {
		o.unproven = unproven{events: slices.Clone(files), flown: o.flown, since: o.since, until: o.until}
	}
	v.mu.Unlock()
	if len(files) == 0 {
		return nil
	}
	return v.events(files)
}
