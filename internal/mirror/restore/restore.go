// Package restore brings back what was kept: divergent changes and files in the
// trash, into the volume or into another directory.
//
// It works on the files alone, as any program would that writes into the volume:
// on the master that is a change like every other, and the standbys get it. It
// never takes anything away before the new is in its place: what stands where
// something is brought back goes to the trash first. It never logs, and does
// not know who is master: the caller does.
//
//	r := restore.Into(volume, volume, time.Now)
//	result, err := r.Set("20261124T144222.795-17-a-unreceived", nil)
package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// Restorer brings things from a volume's hidden directory to a place.
type Restorer struct {
	volume, to *tree.Root
	now        func() time.Time
	next       int
	brought    map[uint64]string // kept inodes with several names -> where the first of them was brought
}

// Result is what became of what was asked for.
type Result struct {
	Restored []string `json:"restored"`
	Left     []Left   `json:"left"` // what a person has to decide
}

// Left is an entry that was left alone.
type Left struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Into prepares bringing things back from the volume to a directory: the volume itself, or any other.
func Into(volume, to *tree.Root, now func() time.Time) *Restorer {
	return &Restorer{volume: volume, to: to, now: now, brought: map[uint64]string{}}
}

// home reports whether the place is the volume.
func (r *Restorer) home() bool { return r.volume.Path() == r.to.Path() }

// Item is one thing to bring back: where it belongs, and where it is kept, both relative to the volume.
type Item struct {
	Path string `json:"path"`
	File string `json:"file"`
}

// PickSet chooses what of a divergent set can be brought back, all of it or what
// is at or below the paths, and says what a person has to decide.
func PickSet(volume *tree.Root, name string, only []string) (items []Item, left []Left, err error) {
	_, kept, err := apply.OpenSet(volume, name)
	if err != nil {
		return nil, nil, noSet(name, err)
	}
	newest := map[string]int{}
	for i, k := range kept {
		newest[k.Path] = i
	}
	matched := false
	for i, k := range kept {
		if !chosen(k.Path, only) {
			continue
		}
		matched = true
		if why := leave(k, newest[k.Path] != i); why != "" {
			left = append(left, Left{k.Path, why})
			continue
		}
		items = append(items, Item{k.Path, k.File})
	}
	if !matched {
		return nil, nil, &problem.Problem{Op: "restore divergent changes", Kind: problem.NotFound, Subject: name, Err: errors.New("the set has nothing of that name"), Hint: "revolve divergent show " + name}
	}
	return items, left, nil
}

// Set brings the changes of a divergent set back, or those at or below the
// paths. In the volume they leave the set; elsewhere they are copied and it
// stays. Interrupted, it can be done again.
func (r *Restorer) Set(name string, only []string) (Result, error) {
	items, left, err := PickSet(r.volume, name, only)
	if err != nil {
		return Result{}, err
	}
	result, err := r.Items(items, left)
	if err != nil || !r.home() { // what was brought back is durable before the set forgets it
		return result, err
	}
	_, err = Forget(r.volume, name, items)
	return result, err
}

// Items brings things back from where they are kept, durably.
func (r *Restorer) Items(items []Item, left []Left) (Result, error) {
	result := Result{Restored: []string{}, Left: append([]Left{}, left...)}
	for _, i := range items {
		if err := r.bring(i.File, i.Path); err != nil {
			return result, err
		}
		result.Restored = append(result.Restored, i.Path)
	}
	return result, r.end()
}

// Forget takes what was brought back out of its set, and says how many entries.
func Forget(volume *tree.Root, name string, items []Item) (n int, err error) {
	set, kept, err := apply.OpenSet(volume, name)
	if err != nil {
		return 0, noSet(name, err)
	}
	gone := map[Item]bool{}
	for _, i := range items {
		gone[i] = true
	}
	for i := len(kept) - 1; i >= 0; i-- { // directories were kept before what is in them
		if k := kept[i]; k.File != "" && gone[Item{k.Path, k.File}] {
			if err := set.Forget(k); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

func noSet(name string, err error) error {
	if tree.IsGone(err) {
		return &problem.Problem{Op: "open divergent set", Kind: problem.NotFound, Subject: name, Err: errors.New("there is no such set on this node"), Hint: "revolve divergent list"}
	}
	return err
}

// leave says why an entry cannot be brought back without a person's word.
func leave(k apply.Kept, older bool) string {
	switch {
	case k.What == "removed":
		return "it was removed here; remove it yourself if that was right"
	case k.What == "renamed":
		return fmt.Sprintf("it was renamed from %q here; rename it yourself if that was right", k.Old)
	case k.File == "":
		return "nothing of it was kept"
	case older:
		return "a newer version is in the same set; this one stays there"
	}
	return ""
}

func chosen(path string, only []string) bool {
	for _, o := range only {
		if tree.Below(path, o) {
			return true
		}
	}
	return len(only) == 0
}

// Drop forgets the changes of a set for good, or those at or below the paths,
// and says how many.
func Drop(volume *tree.Root, name string, only []string) (n int, err error) {
	set, kept, err := apply.OpenSet(volume, name)
	if err != nil {
		return 0, noSet(name, err)
	}
	for i := len(kept) - 1; i >= 0; i-- {
		if !chosen(kept[i].Path, only) {
			continue
		}
		if err := set.Forget(kept[i]); err != nil {
			return n, err
		}
		n++
	}
	if n == 0 && len(kept) > 0 {
		return 0, &problem.Problem{Op: "drop divergent changes", Kind: problem.NotFound, Subject: name, Err: errors.New("the set has nothing of that name"), Hint: "revolve divergent show " + name}
	}
	return n, nil
}

// PickTrash chooses the newest version of path, a file or everything below it,
// in the trash; slot names another time than the newest.
func PickTrash(volume *tree.Root, path, slot string) ([]Item, error) {
	if err := tree.Check(path); err != nil || path == "" {
		return nil, &problem.Problem{Op: "restore from trash", Kind: problem.Invalid, Subject: path, Err: err, Hint: "name a path relative to the volume, as `revolve trash list` does"}
	}
	all, err := apply.ListTrash(volume, path)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var items []Item
	for _, t := range all {
		if slot != "" && t.Slot != slot || seen[t.Path] {
			continue
		}
		seen[t.Path] = true
		items = append(items, Item{t.Path, t.File})
	}
	if len(items) == 0 {
		return nil, &problem.Problem{Op: "restore from trash", Kind: problem.NotFound, Subject: path, Err: errors.New("the trash of this node has no such version"), Hint: "revolve trash list; every standby has a trash of its own"}
	}
	return items, nil
}

// Trash brings the newest version of path, a file or everything below it, back
// from the trash; slot names another time than the newest. The trash keeps its
// own until its time is over.
func (r *Restorer) Trash(path, slot string) (Result, error) {
	items, err := PickTrash(r.volume, path, slot)
	if err != nil {
		return Result{Restored: []string{}, Left: []Left{}}, err
	}
	return r.Items(items, nil)
}

// bring puts what is kept in file at rel; the kept one stays.
func (r *Restorer) bring(file, rel string) error {
	m, err := r.volume.Lstat(file)
	if tree.IsGone(err) {
		return nil // brought back by an attempt before this one
	}
	if err != nil {
		return err
	}
	have, err := r.to.Lstat(rel)
	switch {
	case err == nil && r.home() && have.Inode == m.Inode:
		return nil // it never went
	case err == nil && have.Kind == tree.Dir && m.Kind == tree.Dir:
		_, err := r.to.SetMetaAt(rel, m)
		return err
	case err == nil && !r.home():
		return &problem.Problem{Op: "restore", Kind: problem.Conflict, Subject: rel, Err: errors.New("it is there already"), Hint: "choose an empty directory"}
	case err != nil && !tree.IsGone(err):
		return err
	}
	if m.Kind == tree.Dir {
		return r.bringDir(rel, m)
	}
	from, err := r.beside(file, m)
	if err != nil {
		return err
	}
	if err := r.clear(rel); err != nil {
		return errors.Join(err, r.to.Remove(from))
	}
	if m.Links > 1 {
		r.brought[m.Inode] = rel
	}
	return r.to.Rename(from, rel)
}

// clear puts what stands in the way into the trash, at rel or above it, and
// makes the directories that are missing above.
func (r *Restorer) clear(rel string) error {
	if err := r.parents(tree.Parent(rel)); err != nil || !r.home() {
		return err
	}
	return apply.PutInTrash(r.to, rel, r.now())
}

// parents makes dir and what is missing above it. What they were is not known
// any more: each takes after the directory that it is in.
func (r *Restorer) parents(dir string) error {
	if dir == "" {
		return nil
	}
	m, err := r.to.Lstat(dir)
	switch {
	case err == nil && m.Kind == tree.Dir:
		return nil
	case err == nil && !r.home():
		return &problem.Problem{Op: "restore", Kind: problem.Conflict, Subject: dir, Err: errors.New("it is no directory"), Hint: "choose an empty directory"}
	case err == nil:
		if err := errors.Join(apply.PutInTrash(r.to, dir, r.now()), r.to.Remove(dir)); err != nil {
			return err
		}
	case !tree.IsGone(err):
		return err
	}
	up := tree.Parent(dir)
	if err := r.parents(up); err != nil {
		return err
	}
	m, err = r.to.Lstat(up)
	if err != nil {
		return err
	}
	if err := r.to.Mkdir(dir, 0o700); err != nil {
		return err
	}
	m.MTime = r.now().UnixNano()
	_, err = r.to.SetMetaAt(dir, m)
	return err
}

func (r *Restorer) bringDir(rel string, m tree.Meta) error {
	if err := r.clear(rel); err != nil {
		return err
	}
	if have, err := r.to.Lstat(rel); err == nil && have.Kind != tree.Dir { // its second name is in the trash
		if err := r.to.Remove(rel); err != nil {
			return err
		}
	}
	if err := r.to.Mkdir(rel, 0o700); err != nil {
		return err
	}
	_, err := r.to.SetMetaAt(rel, m)
	return err
}

// end makes what was brought durable, and leaves nothing of ours in a directory that is no volume.
func (r *Restorer) end() error {
	if !r.home() {
		_ = r.to.Remove(tree.Hidden) // only if it is empty
	}
	return r.to.SyncAll()
}

// beside makes a second one of the file, under a name that is not mirrored.
func (r *Restorer) beside(file string, m tree.Meta) (name string, err error) {
	if err := r.to.MkdirAll(tree.Hidden); err != nil {
		return "", err
	}
	for {
		r.next++
		name = tree.Hidden + "/restore-" + strconv.Itoa(unix.Getpid()) + "-" + strconv.Itoa(r.next)
		if err = r.make(file, name, m); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

func (r *Restorer) make(file, name string, m tree.Meta) error {
	if first, ok := r.brought[m.Inode]; ok && m.Links > 1 { // they were one file, and are one again
		if err := r.to.Link(first, name); err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if m.Kind == tree.Symlink {
		if err := r.to.Symlink(m.Target, name); err != nil {
			return err
		}
		_, err := r.to.SetMetaAt(name, m)
		return err
	}
	if m.Kind.Special() {
		if made, err := r.to.Mknod(name, m); err != nil || !made {
			return errors.Join(err, &problem.Problem{Op: "restore", Kind: problem.Permission, Subject: file, Err: errors.New("devices can be made by root only")})
		}
		_, err := r.to.SetMetaAt(name, m)
		return err
	}
	from, m, err := r.volume.OpenFile(file)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := r.to.Create(name)
	if err != nil {
		return err
	}
	// A copy and no second name: whoever writes into the one that was brought back must not change the kept one.
	_, err = io.Copy(to, from) // copy_file_range(2): blocks are shared where the filesystem can
	if err == nil {
		_, err = tree.SetMeta(to, m)
	}
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		return errors.Join(err, r.to.Remove(name))
	}
	return nil
}
