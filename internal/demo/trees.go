package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// hidden is the product's directory in each volume, which is never mirrored.
const hidden = ".revolve"

// shownDifferences is how many differences one complaint tells; the first few say
// what is wrong, the number of all says how much.
const shownDifferences = 3

// judgeNice is the niceness of the threads that read whole trees, so that the
// judge does not make the cluster late that it judges.
const judgeNice = 19

// entry is what an outsider can see of one name in a tree.
type entry struct {
	mode  uint32 // type and permissions, as in struct stat
	uid   uint32
	gid   uint32
	size  int64
	mtime int64 // nanoseconds; not compared for directories, whose time every entry changes
	link  string
	sum   [sha256.Size]byte
}

// fileID identifies content on one disk: whatever changes it changes the ctime too.
type fileID struct {
	dev, ino uint64
	ctime    int64
	size     int64
}

// tree is a volume of one node as it was at one look.
type tree struct {
	entries map[string]entry
	bytes   int64
	files   int
}

// scanner looks at trees and remembers sums of files that did not change since.
type scanner struct {
	sums map[fileID][sha256.Size]byte
	buf  []byte
}

func newScanner() *scanner {
	return &scanner{sums: map[fileID][sha256.Size]byte{}, buf: make([]byte, 256<<10)}
}

// scan reads the tree below root. Names that vanish meanwhile are left out.
func (s *scanner) scan(root string) (*tree, error) {
	t := &tree{entries: map[string]entry{}}
	fresh := map[fileID][sha256.Size]byte{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		if rel == "" {
			return nil
		}
		if rel == hidden {
			return fs.SkipDir
		}
		e, err := s.look(p, fresh)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		t.entries[rel] = e
		if e.mode&unix.S_IFMT == unix.S_IFREG {
			t.files++
			t.bytes += e.size
		}
		return nil
	})
	if err != nil {
		return nil, &problem.Problem{Op: "read tree", Subject: root, Kind: problem.Unavailable, Err: err}
	}
	s.sums = fresh
	return t, nil
}

func (s *scanner) look(p string, fresh map[fileID][sha256.Size]byte) (entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return entry{}, &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	e := entry{mode: st.Mode, uid: st.Uid, gid: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return e, nil
	case unix.S_IFLNK:
		e.mtime = st.Mtim.Nano()
		link, err := os.Readlink(p)
		e.link = link
		return e, err
	case unix.S_IFREG:
		e.size, e.mtime = st.Size, st.Mtim.Nano()
		id := fileID{dev: st.Dev, ino: st.Ino, ctime: st.Ctim.Nano(), size: st.Size}
		sum, known := s.sums[id]
		if !known {
			var err error
			if sum, err = s.sum(p); err != nil {
				return e, err
			}
		}
		e.sum, fresh[id] = sum, sum
	}
	return e, nil
}

func (s *scanner) sum(p string) (out [sha256.Size]byte, err error) {
	f, err := os.Open(p)
	if err != nil {
		return out, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, s.buf); err != nil {
		return out, err
	}
	h.Sum(out[:0])
	return out, nil
}

// gently runs f on a thread of its own with a lower priority. The thread ends
// with it: a priority raised once cannot be lowered again without privilege.
func gently(f func() error) error {
	var g errgroup.Group
	g.Go(func() error {
		runtime.LockOSThread()
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, unix.Gettid(), judgeNice) // only politeness
		return f()
	})
	return g.Wait()
}

// scanAll looks at the same volume of several nodes, one after the other.
func scanAll(ctx context.Context, scanners map[string]*scanner, roots map[string]string) (map[string]*tree, error) {
	out := map[string]*tree{}
	for _, node := range slices.Sorted(maps.Keys(roots)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := gently(func() error {
			if scanners[node] == nil {
				scanners[node] = newScanner()
			}
			t, err := scanners[node].scan(roots[node])
			out[node] = t
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// differs is one name in which two trees differ.
type differs struct{ path, how string }

// compare lists in what b differs from a, by name.
func compare(a, b *tree) []differs {
	var out []differs
	for _, p := range slices.Sorted(maps.Keys(a.entries)) {
		x := a.entries[p]
		if y, ok := b.entries[p]; !ok {
			out = append(out, differs{p, "missing"})
		} else if x != y {
			out = append(out, differs{p, difference(x, y)})
		}
	}
	for _, p := range slices.Sorted(maps.Keys(b.entries)) {
		if _, ok := a.entries[p]; !ok {
			out = append(out, differs{p, "too much"})
		}
	}
	return out
}

func difference(x, y entry) string {
	switch {
	case x.mode != y.mode:
		return fmt.Sprintf("mode %o instead of %o", y.mode, x.mode)
	case x.uid != y.uid || x.gid != y.gid:
		return fmt.Sprintf("owner %d:%d instead of %d:%d", y.uid, y.gid, x.uid, x.gid)
	case x.size != y.size:
		return fmt.Sprintf("%d bytes instead of %d", y.size, x.size)
	case x.link != y.link:
		return fmt.Sprintf("points to %q instead of %q", y.link, x.link)
	case x.sum != y.sum:
		return "other content"
	}
	return fmt.Sprintf("time off by %d ns", y.mtime-x.mtime)
}

// writerFiles reads what stands in the writers' directories of a volume: by run,
// by path, the number of the change that wrote the content.
func writerFiles(root string) (map[runID]map[string]int, error) {
	out := map[runID]map[string]int{}
	dirs, err := os.ReadDir(filepath.Join(root, writerDir))
	if os.IsNotExist(err) {
		return out, nil
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read", Subject: root, Kind: problem.Unavailable, Err: err}
	}
	for _, d := range dirs {
		node, number, _ := strings.Cut(d.Name(), "-")
		var id runID
		id.node = node
		if _, err := fmt.Sscan(number, &id.run); err != nil {
			return nil, &problem.Problem{Op: "read", Subject: d.Name(), Kind: problem.Invalid, Err: err}
		}
		files, err := os.ReadDir(filepath.Join(root, writerDir, d.Name()))
		if err != nil {
			return nil, &problem.Problem{Op: "read", Subject: d.Name(), Kind: problem.Unavailable, Err: err}
		}
		out[id] = map[string]int{}
		for _, f := range files {
			rel := filepath.Join(writerDir, d.Name(), f.Name())
			out[id][rel] = broken
			b, err := os.ReadFile(filepath.Join(root, rel))
			if err != nil {
				return nil, &problem.Problem{Op: "read", Subject: rel, Kind: problem.Unavailable, Err: err}
			}
			if s, ok := readStamp(b); ok && s.node == id.node && s.run == id.run {
				out[id][rel] = s.n
			}
		}
	}
	return out, nil
}

// stamps collects every whole stamped file below dir: what is kept there.
func stamps(dir string, into map[stamp]bool) error {
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 2*writeMax {
			return nil // not one of the writer's
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if s, ok := readStamp(b); ok {
			into[s] = true
		}
		return nil
	})
	if err != nil {
		return &problem.Problem{Op: "read", Subject: dir, Kind: problem.Unavailable, Err: err}
	}
	return nil
}
