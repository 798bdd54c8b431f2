package apply

import (
	"slices"

	"revolve/internal/mirror/tree"
)

// copies are the divergent copies of paths that are compared with what the source sends, by path. A path may have
// some in several sets: what it wrote itself and nobody received, say, and what others wrote in the place of that.
type copies struct {
	sets  map[string][]*Set
	above map[string]int // directory -> paths below it: a million copies must not be looked through for every name that goes
}

// maxCopies bounds the sets that are remembered for one path, of which each stream may bring another; what is older stays listed.
const maxCopies = 8

// add has the copy of rel in set compared, too.
func (c *copies) add(rel string, set *Set) {
	if c.sets == nil {
		c.sets, c.above = map[string][]*Set{}, map[string]int{}
	}
	sets, known := c.sets[rel]
	if slices.Contains(sets, set) {
		return
	}
	sets = append(sets, set)
	c.sets[rel] = sets[max(0, len(sets)-maxCopies):]
	for dir := rel; !known && dir != ""; {
		dir = tree.Parent(dir)
		c.above[dir]++
	}
}

// drop forgets the copies of rel.
func (c *copies) drop(rel string) {
	if _, known := c.sets[rel]; !known {
		return
	}
	delete(c.sets, rel)
	for dir := rel; dir != ""; {
		dir = tree.Parent(dir)
		if c.above[dir]--; c.above[dir] == 0 {
			delete(c.above, dir)
		}
	}
}

// under are the paths at and below rel.
func (c *copies) under(rel string) (paths []string) {
	if _, known := c.sets[rel]; known {
		paths = append(paths, rel)
	}
	if c.above[rel] == 0 {
		return paths
	}
	for path := range c.sets {
		if path != rel && tree.Below(path, rel) {
			paths = append(paths, path)
		}
	}
	return paths
}

// keptAlready reports whether one of the divergent copies of rel is what is there now.
func (a *Applier) keptAlready(rel string) bool {
	return slices.ContainsFunc(a.kept.sets[rel], func(set *Set) bool { return set.SameAs(rel) })
}

// settleKept takes the divergent copies back that are what the master has at rel.
func (a *Applier) settleKept(rel string) {
	sets, ok := a.kept.sets[rel]
	if !ok {
		return
	}
	a.kept.drop(rel)
	for _, set := range sets {
		if !set.SameAs(rel) {
			continue
		}
		if err := set.TakeBack(rel); err != nil {
			a.o.Log.Warn("a divergent copy equals the master's file and stays listed", "path", rel, "err", err)
		}
		_ = a.noteAt(rel) // it may have lost its other name, or be gone
	}
}

// SettleKept takes divergent copies of the paths back that are what is there.
func (a *Applier) SettleKept(paths []string) {
	for _, rel := range paths {
		a.settleKept(rel)
	}
}

// forgetKept leaves the divergent copies of what is at and below rel listed, where nothing more of the source's is
// to come that they could be equal to: a rename or a removal took the names, or a comparison has ended. While there are copies to
// compare nothing is published ahead of its durability.
func (a *Applier) forgetKept(rel string) {
	for _, path := range a.kept.under(rel) {
		if _, owed := a.owed.Get(path); !owed {
			a.kept.drop(path)
		}
	}
}
