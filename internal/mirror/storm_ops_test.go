package mirror

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// stormOp is one step of a storm: a change of the source's tree, or something
// that happens to the events, the connection or the follower. A change that
// the tree does not allow does nothing, so any subset of a storm is a storm.
type stormOp struct {
	What string
	A, B string
	N    uint64
}

func (o stormOp) String() string { return fmt.Sprintf("{%q, %q, %q, %d}", o.What, o.A, o.B, o.N) }

// stampBase is the time of the first change of a directory.
const stampBase = 1_600_000_000_000_000_000

// kernelTick is that of the kernel's timestamps with 250 Hz: what happens within one has one time.
const kernelTick = 4 * time.Millisecond

// weights of what happens; the first group changes the tree.
type weight struct {
	what string
	n    int
}

func stormWeights() []weight {
	return []weight{
		{"write", 16}, {"append", 6}, {"slow-write", 4}, {"big", 2}, {"twin", 8}, {"mkdir", 12}, {"rename", 24}, {"exchange", 5},
		{"remove", 10}, {"rmtree", 4}, {"symlink", 4}, {"chmod", 5}, {"utimes", 4}, {"replace-dir", 4}, {"save", 6},
		{"link", 14}, {"link-write-remove", 3}, {"link-big", 1}, {"copy", 6}, {"move", 4},
		// From here on: not the tree.
		{"emit", 30}, {"settle", 3}, {"wait", 14}, {"pass", 3}, {"calm", 3}, {"cut", 3}, {"cut-later", 2}, {"crash", 2}, {"crash-in", 2}, {"leave", 2},
	}
}

func stormPath(rnd *rand.Rand) string {
	parts := make([]string, 0, 3)
	for range 1 + rnd.IntN(3) {
		parts = append(parts, string(rune('a'+rnd.IntN(4))))
	}
	return strings.Join(parts, "/")
}

func newStorm(seed uint64, steps int) []stormOp {
	return stormOf(stormWeights(), rand.New(rand.NewPCG(seed, 7)), steps)
}

func stormOf(weights []weight, rnd *rand.Rand, steps int) []stormOp {
	total := 0
	for i := range weights { // every storm has a temper of its own
		if rnd.IntN(5) == 0 {
			weights[i].n = 0
		}
		total += weights[i].n
	}
	ops := make([]stormOp, 0, steps)
	for range steps {
		at := rnd.IntN(max(total, 1))
		for _, w := range weights {
			if at -= w.n; at < 0 {
				ops = append(ops, stormOp{w.what, stormPath(rnd), stormPath(rnd), rnd.Uint64N(1 << 20)})
				break
			}
		}
	}
	return ops
}

// source is a master's tree with the events that its changes cause, in the
// order and with the meaning that package watch promises.
type source struct {
	dir      string
	events   []happened   // and not yet read
	settling []string     // written and not closed
	newDirs  journal.Kind // what a new directory is reported as: Dirty (fanotify) or Tree (inotify)
	stamp    int64
}

// happened is a change with what the watcher knows besides.
type happened struct {
	journal.Record
	inode uint64 // of a new name of several
	dir   bool
}

func (s *source) abs(rel string) string { return filepath.Join(s.dir, rel) }

// event notes a change. Directories get times that no follower has by chance:
// the kernel's clock ticks only every few milliseconds.
func (s *source) event(kind journal.Kind, path, old string) {
	dirs := []string{tree.Parent(path)}
	if old != "" {
		dirs = append(dirs, tree.Parent(old))
	}
	for _, p := range dirs {
		s.stamp++
		at := unix.NsecToTimespec(stampBase + s.stamp)
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, s.abs(p), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil && !errors.Is(err, os.ErrNotExist) {
			panic(err)
		}
	}
	m, err := os.Lstat(s.abs(path))
	s.events = append(s.events, happened{Record: journal.Record{Kind: kind, Path: path, Old: old}, dir: err == nil && m.IsDir()})
}

// link gives a file a further name; the watcher knows the inode.
func (s *source) link(old, path string) bool {
	m, err := os.Lstat(s.abs(old))
	if err != nil || m.IsDir() || os.Link(s.abs(old), s.abs(path)) != nil {
		return false
	}
	s.event(journal.Dirty, path, "")
	s.events[len(s.events)-1].inode = m.Sys().(*syscall.Stat_t).Ino
	return true
}

func (s *source) content(n uint64, size int) []byte {
	b := binary.BigEndian.AppendUint64(nil, n)
	return bytes.Repeat(b, size/8+1)[:size]
}

// change does one operation on the tree; false if it is none of the tree's.
func (s *source) change(o stormOp) bool {
	a := s.abs(o.A)
	switch o.What {
	case "write", "slow-write":
		if os.WriteFile(a, s.content(o.N, int(o.N%40)), 0o600+os.FileMode(o.N%64)) == nil {
			s.written(o.A, o.What == "slow-write")
		}
	case "append":
		if f, err := os.OpenFile(a, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			f.Write(s.content(o.N, 3))
			f.Close()
			s.written(o.A, false)
		}
	case "big":
		if os.WriteFile(a, s.content(o.N, wire.InlineMax+1+int(o.N%4)), 0o644) == nil {
			s.written(o.A, false)
		}
	case "twin":
		s.twin(o.A, s.content(o.N, []int{16, 16, wire.InlineMax + 8}[o.N%3]))
	case "save": // as editors do
		if os.WriteFile(a+"~", s.content(o.N, 9), 0o644) == nil {
			s.written(o.A+"~", false)
			s.rename(o.A+"~", o.A)
		}
	case "copy": // cp -p
		s.copy(o.A, o.B)
	case "move": // mv, between filesystems
		if b := s.abs(o.B); o.A != o.B {
			if m, err := os.Lstat(s.abs(o.A)); err == nil && m.Mode().IsRegular() && unix.Unlink(b) == nil {
				s.removed(o.B, false)
			}
			if s.copy(o.A, o.B) && unix.Unlink(a) == nil {
				s.removed(o.A, false)
			}
		}
	case "link":
		s.link(o.A, o.B)
	case "link-write-remove": // the name that was used is gone when it is told
		if s.link(o.A, o.B) && os.WriteFile(s.abs(o.B), s.content(o.N, int(o.N%30)), 0o600) == nil {
			s.written(o.B, false)
			if unix.Unlink(s.abs(o.B)) == nil {
				s.removed(o.B, false)
			}
		}
	case "link-big":
		if os.WriteFile(a, s.content(o.N, wire.InlineMax+1+int(o.N%4)), 0o644) == nil {
			s.written(o.A, false)
			s.link(o.A, o.B)
		}
	case "mkdir":
		if os.Mkdir(a, 0o700+os.FileMode(o.N%64)) == nil {
			s.event(s.newDirs, o.A, "")
		}
	case "replace-dir": // a directory goes to another name and a new one takes the old
		if s.rename(o.A, o.B) && os.Mkdir(a, 0o755) == nil {
			s.event(s.newDirs, o.A, "")
		}
	case "rename":
		s.rename(o.A, o.B)
	case "exchange":
		s.exchange(o.A, o.B)
	case "remove":
		if unix.Unlink(a) == nil {
			s.removed(o.A, false)
		} else if unix.Rmdir(a) == nil {
			s.removed(o.A, true)
		}
	case "rmtree":
		s.removeTree(o.A)
	case "symlink":
		if os.Symlink(fmt.Sprint("nowhere/", o.N), a) == nil {
			s.event(journal.Dirty, o.A, "")
		}
	case "chmod":
		if m, err := os.Lstat(a); err == nil && m.Mode()&os.ModeSymlink == 0 && os.Chmod(a, 0o700+os.FileMode(o.N%64)) == nil {
			s.event(journal.Dirty, o.A, "")
		}
	case "utimes":
		at := unix.NsecToTimespec(time.Unix(int64(o.N), int64(o.N)).UnixNano())
		if unix.UtimesNanoAt(unix.AT_FDCWD, a, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW) == nil {
			s.event(journal.Dirty, o.A, "")
		}
	default:
		return false
	}
	return true
}

// twin makes a file of one size and, within a tick, of one time with others; what has the name is another inode's afterwards.
func (s *source) twin(rel string, content []byte) {
	name := rel
	if _, err := os.Lstat(s.abs(rel)); err == nil {
		name += "~"
	}
	if unix.Unlink(s.abs(name)) == nil { // never the inode that had it: see afterItsTick
		s.removed(name, false)
	}
	if os.WriteFile(s.abs(name), content, 0o644) != nil {
		return
	}
	at := unix.NsecToTimespec(time.Now().Truncate(kernelTick).UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, s.abs(name), []unix.Timespec{at, at}, 0); err != nil {
		panic(err)
	}
	s.written(name, false)
	if name != rel {
		s.rename(name, rel)
	}
}

// copy writes what old holds into path, with its mode and its time. What has the size and the time of old already is left
// alone: a change in place that keeps both is taken for none (decision 0028).
func (s *source) copy(old, path string) bool {
	m, err := os.Lstat(s.abs(old))
	if err != nil || !m.Mode().IsRegular() {
		return false
	}
	if have, err := os.Stat(s.abs(path)); err == nil && (have.Size() == m.Size() && have.ModTime().Equal(m.ModTime()) || os.SameFile(have, m)) {
		return false
	}
	b, err := os.ReadFile(s.abs(old))
	if err != nil || os.WriteFile(s.abs(path), b, 0o600) != nil {
		return false
	}
	at := unix.NsecToTimespec(m.ModTime().UnixNano())
	if err := errors.Join(os.Chmod(s.abs(path), m.Mode().Perm()), unix.UtimesNanoAt(unix.AT_FDCWD, s.abs(path), []unix.Timespec{at, at}, 0)); err != nil {
		panic(err)
	}
	s.written(path, false)
	return true
}

func (s *source) written(rel string, slow bool) {
	if slow {
		s.settling = append(s.settling, rel)
		return
	}
	s.event(journal.Dirty, rel, "")
}

func (s *source) removed(rel string, dir bool) {
	s.settling = slices.DeleteFunc(s.settling, func(p string) bool { return tree.Below(p, rel) })
	s.event(journal.Removed, rel, "")
	s.events[len(s.events)-1].dir = dir
}

func (s *source) rename(old, path string) bool {
	before, err := os.Lstat(s.abs(old))
	if err != nil || old == path || os.Rename(s.abs(old), s.abs(path)) != nil {
		return false
	}
	if now, err := os.Lstat(s.abs(path)); err != nil || !os.SameFile(before, now) {
		return false
	}
	s.settling = slices.DeleteFunc(s.settling, func(p string) bool { return tree.Below(p, path) })
	for i, p := range s.settling {
		if tree.Below(p, old) {
			s.settling[i] = tree.Moved(p, old, path)
		}
	}
	s.event(journal.Renamed, path, old)
	return true
}

// exchange is reported as the first of its two renames and both names dirty (watch, fanrules.go).
func (s *source) exchange(a, b string) {
	ma, erra := os.Lstat(s.abs(a))
	mb, errb := os.Lstat(s.abs(b))
	if erra != nil || errb != nil || a == b || unix.Renameat2(unix.AT_FDCWD, s.abs(a), unix.AT_FDCWD, s.abs(b), unix.RENAME_EXCHANGE) != nil {
		return
	}
	s.settling = slices.DeleteFunc(s.settling, func(p string) bool { return tree.Below(p, b) })
	for i, p := range s.settling {
		if tree.Below(p, a) {
			s.settling[i] = tree.Moved(p, a, b)
		}
	}
	kind := journal.Dirty
	if ma.IsDir() || mb.IsDir() {
		kind = journal.Tree
	}
	s.event(journal.Renamed, b, a)
	s.event(kind, a, "")
	s.event(kind, b, "")
}

func (s *source) removeTree(rel string) {
	m, err := os.Lstat(s.abs(rel))
	if err != nil {
		return
	}
	if m.IsDir() {
		list, _ := os.ReadDir(s.abs(rel))
		for _, e := range list {
			s.removeTree(tree.Join(rel, e.Name()))
		}
	}
	if os.Remove(s.abs(rel)) == nil {
		s.removed(rel, m.IsDir())
	}
}

// settle reports what was written and not closed.
func (s *source) settle() {
	for _, p := range s.settling {
		s.event(journal.Dirty, p, "")
	}
	s.settling = nil
}

// pictureOf lists everything that a standby must have the same.
func pictureOf(dir string) ([]string, error) {
	root, err := tree.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	top, err := root.Lstat("")
	if err != nil {
		return nil, err
	}
	first := map[uint64]string{}
	lines := []string{fmt.Sprintf(". %o %d", top.Mode, top.MTime)}
	err = walk(root, "", tree.IsHidden, func(rel string, m tree.Meta) error {
		line := fmt.Sprintf("%s %c %o %d:%d %d %d %q", rel, m.Kind, m.Mode, m.UID, m.GID, m.MTime, m.Size, m.Target)
		if name, ok := first[m.Inode]; ok {
			line += " is " + name
		} else if m.Links > 1 && m.Kind != tree.Dir {
			first[m.Inode] = rel
		}
		if m.Kind == tree.File {
			b, err := os.ReadFile(filepath.Join(dir, rel))
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", b[:min(len(b), 12)])
			if !bytes.Equal(b, bytes.Repeat(b[:min(8, len(b))], len(b))[:len(b)]) {
				line += fmt.Sprintf(" %x", b[max(0, len(b)-12):])
			}
		}
		lines = append(lines, line)
		return nil
	})
	return lines, err
}
