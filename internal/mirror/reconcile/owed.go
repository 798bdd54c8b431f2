package reconcile

import (
	"maps"
	"slices"
	"strings"
)

// Debt is one path that is owed.
type Debt struct {
	Path string `json:"path"`
	Tree bool   `json:"tree,omitempty"` // everything below it as well
	ID   uint64 `json:"id,omitempty"`   // the transfer that will pay it; 0: none yet
}

// Owed are the paths whose content a follower does not have although its
// position lies above their change: large files under way on the second
// connection, and names that were gone when they were to be read. Acknowledged
// means "up to the position, except what is owed". The zero value is empty.
type Owed struct {
	paths map[string]Debt
	above map[string]int // directory -> debts below it: a hundred thousand debts must not be looked through for every name that goes
	trees int
}

// Len is the number of paths owed.
func (o *Owed) Len() int { return len(o.paths) }

// List is what is owed in order of path.
func (o *Owed) List() []Debt {
	return slices.SortedFunc(maps.Values(o.paths), func(a, b Debt) int { return strings.Compare(a.Path, b.Path) })
}

// Get returns the debt of exactly this path.
func (o *Owed) Get(path string) (Debt, bool) {
	d, ok := o.paths[path]
	return d, ok
}

// Trees is how many whole trees are owed.
func (o *Owed) Trees() int { return o.trees }

// Under is what is owed at path and below, in order of path.
func (o *Owed) Under(path string) (list []Debt) {
	if d, ok := o.paths[path]; ok && path != "" {
		list = append(list, d)
	}
	if path == "" {
		return o.List()
	}
	if o.above[path] == 0 {
		return list
	}
	for p, d := range o.paths {
		if p != path && under(p, path) {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Debt) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// Add owes a path.
func (o *Owed) Add(d Debt) {
	if o.paths == nil {
		o.paths, o.above = map[string]Debt{}, map[string]int{}
	}
	o.drop(d.Path)
	o.paths[d.Path] = d
	if d.Tree {
		o.trees++
	}
	for dir := up(d.Path); dir != ""; dir = up(dir) {
		o.above[dir]++
	}
}

// drop forgets exactly this path.
func (o *Owed) drop(path string) {
	d, ok := o.paths[path]
	if !ok {
		return
	}
	delete(o.paths, path)
	if d.Tree {
		o.trees--
	}
	for dir := up(path); dir != ""; dir = up(dir) {
		if o.above[dir]--; o.above[dir] == 0 {
			delete(o.above, dir)
		}
	}
}

// Pay settles exactly this path; tree debts only if tree is said.
func (o *Owed) Pay(path string, tree bool) {
	if d, ok := o.paths[path]; ok && (tree || !d.Tree) {
		o.drop(path)
	}
}

// Removed forgets what was owed at path and below.
func (o *Owed) Removed(path string) {
	for _, d := range o.Under(path) {
		o.drop(d.Path)
	}
}

// Renamed moves what is owed at old and below; what was owed at new is gone with it.
// It returns the debts under their new names.
func (o *Owed) Renamed(old, new string) []Debt {
	if len(o.paths) == 0 {
		return nil
	}
	o.Removed(new)
	moved := o.Under(old)
	for i := range moved {
		o.drop(moved[i].Path)
		moved[i].Path = new + moved[i].Path[len(old):]
	}
	for _, d := range moved {
		o.Add(d)
	}
	return moved
}

// Clone is an independent copy.
func (o *Owed) Clone() Owed { return Owed{maps.Clone(o.paths), maps.Clone(o.above), o.trees} }

func up(p string) string { return p[:max(0, strings.LastIndexByte(p, '/'))] }

func under(p, dir string) bool {
	return dir == "" || p == dir || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}
