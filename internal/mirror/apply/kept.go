package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"revolve/internal/mirror/tree"
)

// This file is for those who look at, bring back or drop what was kept. It works
// on the files alone and needs no Applier.

// OpenSet reads a set; its entries are in the order in which they were kept. The
// error is fs.ErrNotExist if there is none of that name.
func OpenSet(root *tree.Root, name string) (*Set, []Kept, error) {
	if name == "" || strings.Contains(name, "/") || tree.Check(name) != nil {
		return nil, nil, fs.ErrNotExist
	}
	dir := divergentDir + "/" + name
	if _, err := root.Lstat(dir); err != nil {
		return nil, nil, err
	}
	kept, err := readIndex(root, dir)
	if err != nil {
		return nil, nil, err
	}
	s := &Set{root: root, dir: dir, kept: Kept{Set: name}, entries: map[entry]bool{}, newest: map[string]string{}}
	for _, k := range kept {
		s.entries[entry{k.Path, k.File}] = true
	}
	return s, kept, nil
}

// Forget takes one entry out of the set, with what is kept for it, and the set
// itself with its last entry.
func (s *Set) Forget(k Kept) error {
	if k.File != "" {
		if !tree.Below(k.File, s.dir) || k.File == s.dir {
			return fmt.Errorf("%q is not in the set %s", k.File, s.kept.Set)
		}
		m, err := s.root.Lstat(k.File)
		switch {
		case err == nil && m.Kind == tree.Dir: // other entries may be below it: those are kept one by one
			err = ignoreNotEmpty(s.root.Remove(k.File))
		case err == nil:
			err = s.root.Remove(k.File)
		}
		if err != nil && !tree.IsGone(err) {
			return err
		}
	}
	delete(s.entries, entry{k.Path, k.File})
	if len(s.entries) == 0 {
		return s.root.RemoveAll(s.dir)
	}
	k.Gone = true
	return s.write(k)
}

// Trashed is one version of a path in the trash of a volume.
type Trashed struct {
	Slot string    `json:"slot"` // name of the ten minutes in which it went
	Time time.Time `json:"time"` // their beginning
	Path string    `json:"path"`
	Kind tree.Kind `json:"-"`
	Size int64     `json:"size"`
	File string    `json:"file"` // where its bytes are, relative to the volume
}

// maxTrashed bounds what ListTrash returns.
const maxTrashed = 100_000

// ListTrash lists the versions at or below path that the trash holds, newest
// slot first, directories only if they are empty. An empty path means all.
func ListTrash(root *tree.Root, path string) ([]Trashed, error) {
	slots, err := root.List(trashDir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	slices.Reverse(slots)
	var all []Trashed
	for _, e := range slots {
		at, err := time.Parse(slotLayout, e.Name)
		if err != nil || e.Meta.Kind != tree.Dir {
			continue
		}
		slot := Trashed{Slot: e.Name, Time: at}
		if all, err = slot.below(root, path, all); err != nil || len(all) >= maxTrashed {
			return all, err
		}
	}
	return all, nil
}

func (t Trashed) below(root *tree.Root, path string, all []Trashed) ([]Trashed, error) {
	t.Path, t.File = path, trashDir+"/"+t.Slot
	if path != "" {
		t.File += "/" + path
	}
	m, err := root.Lstat(t.File)
	if err != nil || len(all) >= maxTrashed {
		return all, ignoreGone(err)
	}
	if m.Kind != tree.Dir {
		t.Kind, t.Size = m.Kind, m.Size
		return append(all, t), nil
	}
	list, err := root.List(t.File)
	if err != nil {
		return all, ignoreGone(err)
	}
	if len(list) == 0 && path != "" {
		t.Kind = tree.Dir
		return append(all, t), nil
	}
	for _, e := range list {
		if all, err = t.below(root, tree.Join(path, e.Name), all); err != nil {
			return all, err
		}
	}
	return all, nil
}

// maxAside bounds the versions of one path that a person may put into one slot.
const maxAside = 1000

// PutInTrash moves what is at rel into the trash, whatever its size: a person is
// about to put something else there. A file stays in place, too, until it is
// renamed over.
func PutInTrash(root *tree.Root, rel string, now time.Time) error {
	m, err := root.Lstat(rel)
	if err != nil {
		return ignoreGone(err)
	}
	put := root.Link
	if m.Kind == tree.Dir {
		put = root.RenameNew
	}
	base := trashDir + "/" + slotAt(now, DefaultEvery)
	to := base + "/" + rel
	for try := 1; try < maxAside; try++ {
		err := root.MkdirAll(tree.Parent(to))
		if err == nil {
			err = put(rel, to)
		}
		if !errors.Is(err, fs.ErrExist) && !tree.IsGone(err) {
			return err
		}
		to = base + "/.~restore" + strconv.Itoa(try) + "~/" + rel
	}
	return fmt.Errorf("more than %d versions of %q in one slot of the trash", maxAside, rel)
}
