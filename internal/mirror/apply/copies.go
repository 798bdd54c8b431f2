package apply

import (
	"maps"
	"slices"

	"revolve/internal/mirror/tree"
)

// copies are the divergent copies of paths that are compared with what the source sends, by path. A path may have
// some in several sets: what it wrote itself and nobody received, say, and what others wrote in the place of that.
type copies map[string][]*Set

// maxCopies bounds the sets that are remembered for one path, of which each stream may bring another; what is older stays listed.
const maxCopies = 8

// add has the copy of rel in set compared, too.
func (c copies) add(rel string, set *Set) {
	if slices.Contains(c[rel], set) {
		return
	}
	c[rel] = append(c[rel], set)
	c[rel] = c[rel][max(0, len(c[rel])-maxCopies):]
}

// keptAlready reports whether one of the divergent copies of rel is what is there now.
func (a *Applier) keptAlready(rel string) bool {
	return slices.ContainsFunc(a.kept[rel], func(set *Set) bool { return set.SameAs(rel) })
}

// settleKept takes the divergent copies back that are what the master has at rel.
func (a *Applier) settleKept(rel string) {
	sets, ok := a.kept[rel]
	if !ok {
		return
	}
	delete(a.kept, rel)
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
	maps.DeleteFunc(a.kept, func(path string, _ []*Set) bool {
		_, owed := a.owed.Get(path)
		return !owed && tree.Below(path, rel)
	})
}
