package apply

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

const (
	divergentDir = tree.Hidden + "/divergent"
	indexName    = "index.jsonl"
	keptName     = "files"
)

// Why a change was set aside.
const (
	WhyUnreceived = "unreceived" // made under a reign that the next master never received
	WhyForeign    = "foreign"    // written on a standby
	WhyConflict   = "conflict"   // written on a new master while it took the same path from a survivor
	WhyUnfinished = "unfinished" // was seen on a standby before it was on the disk, and power was lost
	WhyUnknown    = "unknown"    // was here when the node joined, and no history explains it
)

// Kept is one divergent change that was kept.
type Kept struct {
	Set  string         `json:"set"`
	Node cluster.NodeID `json:"node"`
	Term cluster.Term   `json:"term"`
	Time time.Time      `json:"time"`
	Why  string         `json:"why"`
	What string         `json:"what"` // changed, removed, renamed
	Path string         `json:"path"`
	Old  string         `json:"old,omitempty"`
	File string         `json:"file,omitempty"` // where its bytes are, relative to the volume
	Size int64          `json:"size"`
	Gone bool           `json:"gone,omitempty"` // index only: the entry of this path was taken back
}

// Set is one occasion on which changes were set aside: a directory below
// .revolve/divergent named by time, term and node.
type Set struct {
	root *tree.Root
	kept Kept // what all entries share
	dir  string

	entries map[entry]bool    // noted by this process and not taken back
	newest  map[string]string // path -> where its newest bytes are, "" if it has none
}

// entry tells the entries of one path apart: each version has a file of its own.
type entry struct{ path, file string }

// maxVersions bounds the versions of one path in one set; the next session makes a new set.
const maxVersions = 1000

// NewSet names a set; its directory is made with the first entry.
func NewSet(root *tree.Root, node cluster.NodeID, term cluster.Term, why string, at time.Time) *Set {
	name := fmt.Sprintf("%s-%d-%s-%s", at.UTC().Format("20060102T150405.000"), term, node, why)
	return &Set{root: root, dir: divergentDir + "/" + name, kept: Kept{Set: name, Node: node, Term: term, Time: at.UTC(), Why: why}}
}

// Name is the set's name, as `revolve divergent show` takes it.
func (s *Set) Name() string { return s.kept.Set }

// Keep keeps what is at rel and leaves it in its place, as a second name of the
// same inode. A directory is only noted as such; its entries are kept one by one.
func (s *Set) Keep(rel string) error {
	m, err := s.root.Lstat(rel)
	if tree.IsGone(err) {
		// A plan that was interrupted may have kept it and then moved it away.
		if had, err := s.root.Lstat(s.file(rel, 0)); err == nil && had.Kind != tree.Dir {
			return s.note("changed", rel, "", s.file(rel, 0), had.Size)
		}
		return s.note("removed", rel, "", "", 0)
	}
	if err != nil {
		return err
	}
	var put func(to string) error
	switch m.Kind {
	case tree.Other:
		return nil
	case tree.Dir:
		put = s.root.MkdirAll
	default:
		put = func(to string) error { return s.link(rel, to) }
	}
	to, err := s.place(rel, put, func(have tree.Meta) bool {
		return have.Kind == m.Kind && (m.Kind == tree.Dir || have.Inode == m.Inode)
	})
	if tree.IsGone(err) { // it went between the look and the link: whoever writes here goes on writing
		return s.note("removed", rel, "", "", 0)
	}
	if err == nil && m.Kind == tree.Dir { // it may be there already, for an entry that was kept before it
		_, err = s.root.SetMetaAt(to, m)
	}
	if err != nil {
		return err
	}
	return s.note("changed", rel, "", to, m.Size)
}

func (s *Set) link(rel, to string) error {
	err := s.root.Link(rel, to)
	if errors.Is(err, fs.ErrPermission) { // protected_hardlinks: move it, the master's version will come
		return s.root.RenameNew(rel, to)
	}
	return err
}

// place puts something at a free place for rel; one whose occupant is the same already will do.
func (s *Set) place(rel string, put func(to string) error, same func(have tree.Meta) bool) (string, error) {
	for n := range maxVersions {
		to := s.file(rel, n)
		have, err := s.root.Lstat(to)
		switch {
		case err == nil && same(have):
			return to, nil
		case err == nil:
			continue
		case !tree.IsGone(err):
			return "", err
		}
		if err := s.retry(to, func() error { return put(to) }); !errors.Is(err, fs.ErrExist) {
			return to, err
		}
	}
	return "", fmt.Errorf("more than %d versions of %q in one set", maxVersions, rel)
}

func never(tree.Meta) bool { return false }

// KeepAway moves what is at rel, file or tree, into the set.
func (s *Set) KeepAway(rel string) error {
	m, err := s.root.Lstat(rel)
	if err != nil {
		return ignoreGone(err)
	}
	to, err := s.place(rel, func(to string) error { return s.root.RenameNew(rel, to) }, never)
	if err != nil {
		return err
	}
	return s.note("changed", rel, "", to, m.Size)
}

// KeepFile moves the file staged (ours, not published) into the set as the content of rel.
func (s *Set) KeepFile(staged, rel string, size int64) error {
	to, err := s.place(rel, func(to string) error { return s.root.RenameNew(staged, to) }, never)
	if err != nil {
		return err
	}
	return s.note("changed", rel, "", to, size)
}

// Note lists a change that has no bytes: a removal, a rename.
func (s *Set) Note(what, rel, old string) error { return s.note(what, rel, old, "", 0) }

// file is where version n of rel is kept.
func (s *Set) file(rel string, n int) string {
	dir := s.dir + "/" + keptName
	if n > 0 {
		dir += fmt.Sprintf(".%d", n)
	}
	return dir + "/" + rel
}

// retry makes the parents of to when they are missing.
func (s *Set) retry(to string, do func() error) error {
	err := do()
	if !tree.IsGone(err) {
		return err
	}
	if err := s.root.MkdirAll(tree.Parent(to)); err != nil {
		return err
	}
	return do()
}

func (s *Set) note(what, rel, old, file string, size int64) error {
	k := s.kept
	k.What, k.Path, k.Old, k.File, k.Size = what, rel, old, file, size
	if s.entries == nil {
		s.entries, s.newest = map[entry]bool{}, map[string]string{}
	}
	s.entries[entry{rel, file}] = true
	s.newest[rel] = file
	return s.write(k)
}

func (s *Set) write(k Kept) error {
	line, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := s.root.MkdirAll(s.dir); err != nil {
		return err
	}
	f, err := s.root.OpenAppend(s.dir + "/" + indexName)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	return nil
}

// TakeBack forgets the newest entry of rel: it turned out to be what the master has.
func (s *Set) TakeBack(rel string) error {
	file, ok := s.newest[rel]
	if !ok {
		return nil
	}
	if file != "" {
		// A directory may hold other entries of the set: only an empty one goes.
		if err := ignoreNotEmpty(s.root.Remove(file)); err != nil && !tree.IsGone(err) {
			return err
		}
	}
	delete(s.newest, rel)
	delete(s.entries, entry{rel, file})
	k := s.kept
	k.Path, k.File, k.Gone = rel, file, true
	if err := s.write(k); err != nil || len(s.entries) > 0 {
		return err
	}
	// Another stream's set of this millisecond has the same name.
	if left, err := readIndex(s.root, s.dir); err != nil || len(left) > 0 {
		return err
	}
	return s.root.RemoveAll(s.dir)
}

func ignoreNotEmpty(err error) error {
	if errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// SameAs reports whether what was kept last for rel is what is at rel now.
func (s *Set) SameAs(rel string) bool {
	file, ok := s.newest[rel]
	if !ok {
		return false
	}
	now, err := s.root.Lstat(rel)
	if file == "" {
		return tree.IsGone(err) // removed here, and there
	}
	mine, gone := s.root.Lstat(file)
	if gone != nil || err != nil || mine.Kind != now.Kind || mine.Mode != now.Mode || mine.UID != now.UID || mine.GID != now.GID || mine.Xattrs != now.Xattrs {
		return false
	}
	switch now.Kind {
	case tree.Symlink:
		return mine.Target == now.Target
	case tree.Dir:
		return true
	case tree.File:
		return mine.Inode == now.Inode || mine.Size == now.Size && sameBytes(s.root, file, rel)
	}
	return mine.Rdev == now.Rdev
}

func sameBytes(root *tree.Root, a, b string) bool {
	fa, _, err := root.OpenFile(a)
	if err != nil {
		return false
	}
	defer fa.Close()
	fb, _, err := root.OpenFile(b)
	if err != nil {
		return false
	}
	defer fb.Close()
	ba, bb := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		na, ea := io.ReadFull(fa, ba)
		nb, eb := io.ReadFull(fb, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return false
		}
		if ea != nil || eb != nil {
			return na == nb && (ea == io.EOF || ea == io.ErrUnexpectedEOF) && (eb == io.EOF || eb == io.ErrUnexpectedEOF)
		}
	}
}

// maxListed bounds what ListDivergent returns.
const maxListed = 100_000

// ListDivergent reads every divergent change kept in a volume, newest set first.
func ListDivergent(root *tree.Root) ([]Kept, error) {
	sets, err := root.List(divergentDir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	slices.Reverse(sets)
	var all []Kept
	for _, e := range sets {
		kept, err := readIndex(root, divergentDir+"/"+e.Name)
		if err != nil {
			return all, err
		}
		all = append(all, kept...)
		if len(all) > maxListed {
			return all[:maxListed], nil
		}
	}
	return all, nil
}

// maxLine bounds a line of an index: three paths, of which JSON may write every byte as six.
const maxLine = 3*6*tree.MaxPath + 4096

func readIndex(root *tree.Root, dir string) ([]Kept, error) {
	f, _, err := root.OpenFile(dir + "/" + indexName)
	if err != nil {
		return nil, ignoreGone(err)
	}
	defer f.Close()
	last := map[entry]int{} // place in kept
	var kept []Kept
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var k Kept
		if json.Unmarshal(lines.Bytes(), &k) != nil {
			continue // a line torn by a power cut: its change is set aside again
		}
		e := entry{k.Path, k.File}
		if i, ok := last[e]; ok {
			kept[i] = k
			continue
		}
		last[e] = len(kept)
		kept = append(kept, k)
	}
	return slices.DeleteFunc(kept, func(k Kept) bool { return k.Gone }), lines.Err()
}
