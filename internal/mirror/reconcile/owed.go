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

// Add owes a path.
func (o *Owed) Add(d Debt) {
	if o.paths == nil {
		o.paths = map[string]Debt{}
	}
	o.paths[d.Path] = d
}

// Pay settles exactly this path; tree debts only if tree is said.
func (o *Owed) Pay(path string, tree bool) {
	if d, ok := o.paths[path]; ok && (tree || !d.Tree) {
		delete(o.paths, path)
	}
}

// Removed forgets what was owed at path and below.
func (o *Owed) Removed(path string) {
	for p := range o.paths {
		if under(p, path) {
			delete(o.paths, p)
		}
	}
}

// Renamed moves what is owed at old and below; what was owed at new is gone with it.
// It returns the debts under their new names.
func (o *Owed) Renamed(old, new string) []Debt {
	if len(o.paths) == 0 {
		return nil
	}
	o.Removed(new)
	var moved []Debt
	for p, d := range o.paths {
		if under(p, old) {
			delete(o.paths, p)
			d.Path = new + p[len(old):]
			moved = append(moved, d)
		}
	}
	slices.SortFunc(moved, func(a, b Debt) int { return strings.Compare(a.Path, b.Path) })
	for _, d := range moved {
		o.paths[d.Path] = d
	}
	return moved
}

// Clone is an independent copy.
func (o *Owed) Clone() Owed { return Owed{maps.Clone(o.paths)} }

func under(p, dir string) bool {
	return dir == "" || p == dir || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}
