package apply

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
)

// asidePlan is the written plan of setting a tail aside. It is durable before
// the first step, every step can be done again, and it is resumed at start.
type asidePlan struct {
	To      cluster.Position `json:"to"` // rewind the journal to here
	Set     Kept             `json:"set"`
	Changes []asideChange    `json:"changes"`
}

type asideChange struct {
	Kind journal.Kind `json:"kind"`
	Path []byte       `json:"path"` // bytes: names need not be UTF-8
	Old  []byte       `json:"old,omitempty"`
}

const planName = tree.Hidden + "/setaside.json"

// MaxTail bounds the changes that are set aside one by one; beyond it the whole
// tree is compared.
const MaxTail = 1 << 20

// SetAside keeps the changes of a journal's tail, which the master never
// received, as divergent, rewinds the journal to position to, and owes every
// path concerned, so that the master's state comes.
func (a *Applier) SetAside(to cluster.Position, tail []journal.Record, owner cluster.NodeID, why string) (*Set, error) {
	set := NewSet(a.o.Root, owner, tailTerm(tail), why, a.o.Now())
	plan := planOf(set, to, tail)
	var paths []string
	for _, c := range plan.Changes {
		paths = append(paths, string(c.Path))
	}
	also, err := a.OtherNames(paths)
	if err != nil {
		return nil, err
	}
	for _, name := range also { // last: these are the names of now, and the newest change is undone first
		plan.Changes = append(plan.Changes, asideChange{Kind: journal.Dirty, Path: []byte(name)})
	}
	if err := a.writePlan(plan); err != nil {
		return nil, err
	}
	return set, a.runPlan(plan)
}

func planOf(set *Set, to cluster.Position, tail []journal.Record) asidePlan {
	plan := asidePlan{To: to, Set: set.kept}
	for _, r := range tail {
		if r.Kind.IsChange() {
			plan.Changes = append(plan.Changes, asideChange{r.Kind, []byte(r.Path), []byte(r.Old)})
		}
	}
	return plan
}

func (a *Applier) writePlan(plan asidePlan) error {
	b, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	return a.o.Root.WriteFile(planName, b)
}

func tailTerm(tail []journal.Record) cluster.Term {
	for _, r := range tail {
		if r.Kind.IsChange() {
			return r.Pos.Term
		}
	}
	return 0
}

// ResumePlan finishes a plan that a crash interrupted.
func (a *Applier) ResumePlan() error {
	b, err := a.o.Root.ReadFile(planName, maxPlan)
	if err != nil {
		return ignoreGone(err)
	}
	var plan asidePlan
	if err := json.Unmarshal(b, &plan); err != nil {
		return a.o.Root.Remove(planName) // it is written by rename: this is not ours
	}
	return a.runPlan(plan)
}

// maxPlan bounds the plan's file: MaxTail changes of ordinary paths.
const maxPlan = 1 << 30

// asideSteps is what the steps of a plan gather.
type asideSteps struct {
	set  *Set
	owed reconcile.Owed
	seen map[string]bool
	// moved are the renames of directories that could not be undone, newest first.
	moved []dirMove
}

// now is where what was at path when a change was made is by now: the older changes of what a rename took along
// that could not be undone are looked for under the name that it gave.
func (p *asideSteps) now(path string) string {
	for _, m := range slices.Backward(p.moved) {
		if tree.Below(path, m.old) {
			path = tree.Moved(path, m.old, m.new)
		}
	}
	return path
}

// owe owes a path; what was owed as a whole stays so.
func (p *asideSteps) owe(path string, whole bool) {
	p.owed.Add(reconcile.Debt{Path: path, Tree: whole || p.whole(path)})
}

// oweBoth owes under the old name, too, what newer changes have owed below the new one: a directory that is put back takes it
// along. Under neither name is it given up: a file was renamed, perhaps, and what is owed there is of a directory that took the name since.
func (p *asideSteps) oweBoth(path, old string) {
	for _, d := range p.owed.Under(path) {
		p.owe(tree.Moved(d.Path, path, old), d.Tree)
	}
}

func (p *asideSteps) whole(path string) bool {
	d, owed := p.owed.Get(path)
	return owed && d.Tree
}

func newSteps(set *Set) *asideSteps { return &asideSteps{set: set, seen: map[string]bool{}} }

func (a *Applier) runPlan(plan asidePlan) error {
	p := newSteps(&Set{root: a.o.Root, dir: divergentDir + "/" + plan.Set.Set, kept: plan.Set})
	// Newest first: renames are undone before the paths below them are looked at.
	for _, c := range slices.Backward(plan.Changes) {
		a.step("aside")
		if err := a.setAsideOne(p, c); err != nil {
			return err
		}
	}
	if err := a.o.Root.SyncAll(); err != nil { // what is kept is durable before the journal forgets it
		return err
	}
	a.step("rewind")
	if a.o.Journal.Position().Compare(plan.To) > 0 {
		if err := a.o.Journal.Rewind(plan.To, p.owed.List()); err != nil {
			return err
		}
	}
	for path := range p.seen {
		a.kept.add(path, p.set)
	}
	a.reload()
	a.step("planned")
	return a.o.Root.Remove(planName)
}

func (a *Applier) setAsideOne(p *asideSteps, c asideChange) error {
	path, old := string(c.Path), string(c.Old)
	if c.Kind == journal.Renamed {
		// An exchange: whichever is a directory may be under either name. Or what was renamed is gone, by others: it may have been one.
		whole := p.whole(old) || p.whole(path) || a.gone(old) && a.gone(p.now(path))
		p.oweBoth(path, old)
		p.owe(old, whole)
		p.owe(path, whole)
		if done, err := a.setAsideRename(p, old, path); done || err != nil {
			return err
		}
		p.seen[old] = true // its content is what is kept under the new name
	}
	now := p.now(path)
	p.owe(path, c.Kind == journal.Tree || c.Kind == journal.Removed && a.isDir(path))
	if p.seen[now] {
		return nil
	}
	p.seen[now], p.seen[path] = true, true
	if path == "" {
		return nil // a whole volume is compared, not copied; of its own directory there is nothing to keep
	}
	if c.Kind == journal.Tree { // moved in as a whole, or made faster than it was watched
		return a.keepBelow(p.set, now, func(rel string) { p.seen[rel] = true })
	}
	return p.set.Keep(now)
}

// isDir reports whether a directory is at path: of one that went before it, nothing tells what was in it.
func (a *Applier) isDir(path string) bool {
	m, err := a.o.Root.Glance(path)
	return err == nil && m.Kind == tree.Dir
}

func (a *Applier) gone(path string) bool {
	_, err := a.o.Root.Glance(path)
	return tree.IsGone(err)
}

// setAsideRename undoes the rename of a directory; done is false if it was none's. One that cannot be undone
// stays where it is, and both names come as a whole.
func (a *Applier) setAsideRename(p *asideSteps, old, path string) (done bool, err error) {
	now := p.now(path)
	if !a.renamedDir(old, now) {
		return false, nil
	}
	undone := false
	if now == path && !p.seen[path] { // else a later change was about this very name: what is there now may be another directory
		undone, err = a.undoRename(old, path)
	}
	if !undone {
		p.moved = append(p.moved, dirMove{old, path})
		for _, name := range []string{old, path, now} {
			p.owe(name, true)
		}
	}
	return true, errors.Join(err, p.set.Note("renamed", path, old))
}

// keepBelow keeps what is at rel and everything below it.
func (a *Applier) keepBelow(set *Set, rel string, kept func(rel string)) error {
	if err := a.keepIn(set, rel); err != nil {
		return err
	}
	kept(rel)
	m, err := a.o.Root.Lstat(rel)
	if err != nil || m.Kind != tree.Dir {
		return ignoreGone(err)
	}
	list, err := a.o.Root.List(rel)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range list {
		below := tree.Join(rel, e.Name)
		if a.o.Excluded(below) || e.Meta.Kind == tree.Other {
			continue
		}
		if err := a.keepBelow(set, below, kept); err != nil {
			return err
		}
	}
	return nil
}

// renamedDir reports whether a rename to path was a directory's, which may have
// been undone already by a plan that was interrupted.
func (a *Applier) renamedDir(old, path string) bool {
	m, err := a.o.Root.Lstat(path)
	if tree.IsGone(err) {
		m, err = a.o.Root.Lstat(old)
	}
	return err == nil && m.Kind == tree.Dir
}

// undoRename gives the old name back if that is free, so that what is below it
// need not come again.
func (a *Applier) undoRename(old, new string) (undone bool, err error) {
	err = a.o.Root.RenameNew(new, old)
	switch {
	case err == nil:
		return true, nil
	case tree.IsGone(err): // by a plan that was interrupted, if the old name is there
		_, err := a.o.Root.Lstat(old)
		return err == nil, ignoreGone(err)
	case isExist(err) || errors.Is(err, errInvalid):
		return false, nil
	}
	return false, err
}

// OtherNames are the names that share an inode with one of the paths and are
// none of them: what was written through one name is to be kept, and to come
// again, under all. It reads all names of the volume if one of the paths has several, and nothing otherwise.
func (a *Applier) OtherNames(paths []string) (others []string, err error) {
	inodes, known := map[uint64]bool{}, map[string]bool{}
	for _, path := range paths {
		known[path] = true
		m, err := a.o.Root.Lstat(path)
		if err == nil && m.Links > 1 && m.Kind != tree.Dir {
			inodes[m.Inode] = true
		}
	}
	if len(inodes) == 0 {
		return nil, nil
	}
	found, err := links.Find(context.Background(), a.o.Root, inodes)
	if err != nil {
		return nil, err
	}
	for _, names := range found {
		for _, name := range names {
			if !known[name] && !a.o.Excluded(name) {
				others = append(others, name)
			}
		}
	}
	slices.Sort(others)
	return others, nil
}

// KeepForeign keeps what others wrote at rel on a standby; the copy goes again
// if the master turns out to have the same. With whole, everything below rel
// is kept, too.
func (a *Applier) KeepForeign(set *Set, rel string, whole bool) error {
	if whole {
		return a.keepBelow(set, rel, func(rel string) { a.kept.add(rel, set) })
	}
	if a.keptAlready(rel) {
		return nil
	}
	if err := a.keepIn(set, rel); err != nil {
		return err
	}
	a.kept.add(rel, set)
	return nil
}

// Owe makes debts durable that arise here and not in the stream, such as the
// paths that others wrote: the source is asked for them until they are paid,
// over lost connections and restarts.
func (a *Applier) Owe(debts []reconcile.Debt) error {
	var records []journal.Record
	for _, d := range debts {
		delete(a.unproven, d.Path) // for another reason now, too
		if have, owed := a.owed.Get(d.Path); owed && (have.Tree || !d.Tree) {
			continue
		}
		records = a.owe(records, d)
		a.asked.Add(d)
	}
	if len(records) == 0 {
		return nil
	}
	return errors.Join(a.o.Journal.Append(records...), a.o.Journal.Sync())
}

// KeepUnproven sets aside what is at rel, which this node showed before it was
// on its disk, and which it owes: whoever acknowledged it gives it. What is torn leaves the tree.
func (a *Applier) KeepUnproven(set *Set, rel string, torn bool) error {
	keep := set.Keep
	if torn {
		keep = set.KeepAway
		a.touchGone(rel)
	}
	if err := keep(rel); err != nil {
		return err
	}
	a.kept.add(rel, set)
	return ignoreGone(a.noteAt(rel)) // its other name changed its time
}
