package links

import (
	"context"
	"errors"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// inTable finds the inode's names in the directories where the last scan saw it.
func (f *Finder) inTable(inode uint64) map[string]bool {
	f.mu.Lock()
	var dirs []string
	for i := sort.Search(len(f.table), func(i int) bool { return f.table[i].inode >= inode }); i < len(f.table) && f.table[i].inode == inode; i++ {
		dirs = append(dirs, f.dirs[f.table[i].dir])
	}
	f.mu.Unlock()
	slices.Sort(dirs)
	paths := map[string]bool{}
	for _, dir := range slices.Compact(dirs) {
		list, err := f.root.Inodes(dir)
		if err != nil {
			continue // it moved: a scan will tell
		}
		for _, n := range list {
			if n.Inode == inode {
				paths[tree.Join(dir, n.Name)] = true
			}
		}
	}
	return paths
}

// scan reads all names of the volume, those that are not mirrored as well: a name
// that is known to be elsewhere need not be looked for.
func (f *Finder) scan(ctx context.Context) error {
	f.mu.Lock()
	f.wanted, f.moved = false, false
	f.begun++
	number, turns := f.begun, f.turns
	f.mu.Unlock()
	table, dirs, err := read(ctx, f.root)
	if err != nil || ctx.Err() != nil {
		return err
	}
	var twice []uint64
	for i := 1; i < len(table); i++ {
		if n := table[i].inode; n == table[i-1].inode && (len(twice) == 0 || twice[len(twice)-1] != n) {
			twice = append(twice, n)
		}
	}
	f.mu.Lock()
	f.table, f.dirs, f.made, f.then, f.used = table, dirs, number, turns, time.Now()
	f.stats.Scans++
	f.mu.Unlock()
	f.learn(ctx, table, dirs, twice)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moved { // what moved from where we had not been to where we had been was missed
		f.wantLocked()
	}
	close(f.done)
	f.done = make(chan struct{})
	return nil
}

// learn notes the names of what a scan found twice, one directory after the other.
func (f *Finder) learn(ctx context.Context, table []place, dirs []string, twice []uint64) {
	if len(twice) == 0 {
		return
	}
	in := map[uint32]bool{}
	for _, n := range twice {
		for i := sort.Search(len(table), func(i int) bool { return table[i].inode >= n }); i < len(table) && table[i].inode == n; i++ {
			in[table[i].dir] = true
		}
	}
	for d := range in {
		if ctx.Err() != nil {
			return
		}
		list, err := f.root.Inodes(dirs[d])
		if err != nil {
			continue
		}
		for _, e := range list {
			if _, ok := slices.BinarySearch(twice, e.Inode); ok && e.Kind != tree.Dir {
				f.Note(tree.Join(dirs[d], e.Name), e.Inode)
			}
		}
	}
}

// read reads the names of everything at and below root: a table in order of
// inode, of what is no directory, and the directories that it refers to.
func read(ctx context.Context, root *tree.Root) (table []place, dirs []string, err error) {
	todo := []string{""}
	for len(todo) > 0 && len(table) < maxNames && ctx.Err() == nil {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if tree.Check(dir) != nil {
			continue // too deep to have a path
		}
		list, err := root.Inodes(dir)
		if tree.IsGone(err) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EACCES) {
			continue // it went, is another filesystem, or none of ours to read
		}
		if err != nil {
			return nil, nil, err
		}
		for _, n := range list {
			kind := n.Kind
			if kind == 0 {
				m, err := root.Lstat(tree.Join(dir, n.Name))
				if err != nil {
					continue
				}
				kind = m.Kind
			}
			switch {
			case kind == tree.Dir:
				todo = append(todo, tree.Join(dir, n.Name))
			default:
				table = append(table, place{n.Inode, uint32(len(dirs))})
			}
		}
		dirs = append(dirs, dir)
	}
	slices.SortFunc(table, func(a, b place) int {
		switch {
		case a.inode < b.inode:
			return -1
		case a.inode > b.inode:
			return 1
		}
		return int(a.dir) - int(b.dir)
	})
	return table, dirs, nil
}

// Find returns the names of the inodes, found by reading all names once.
func Find(ctx context.Context, root *tree.Root, inodes map[uint64]bool) (map[uint64][]string, error) {
	found := map[uint64][]string{}
	table, dirs, err := read(ctx, root)
	if err != nil {
		return nil, err
	}
	for _, p := range table {
		if !inodes[p.inode] {
			continue
		}
		list, err := root.Inodes(dirs[p.dir])
		if err != nil {
			continue
		}
		for _, n := range list {
			if path := tree.Join(dirs[p.dir], n.Name); n.Inode == p.inode && !tree.IsHidden(path) && !slices.Contains(found[p.inode], path) {
				found[p.inode] = append(found[p.inode], path)
			}
		}
	}
	return found, nil
}
