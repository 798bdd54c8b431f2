package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// eyes see names appear in the directories of one standby.
type eyes struct {
	root string
	fd   int
	dirs map[int32]string

	mu   sync.Mutex
	seen map[string][]time.Time // name -> when its bytes were read and right, per version
}

// openEyes watches every directory of paced files below root.
func openEyes(root string) (*eyes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	e := &eyes{root: root, fd: fd, dirs: map[int32]string{}, seen: map[string][]time.Time{}}
	for i := range pacedDirs {
		dir := fmt.Sprintf("d%02d", i)
		wd, err := unix.InotifyAddWatch(fd, filepath.Join(root, dir), unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE)
		if err != nil {
			unix.Close(fd)
			return nil, err
		}
		e.dirs[int32(wd)] = dir
	}
	return e, nil
}

// watch notes the moment at which check finds a file right, until the eyes are
// closed by removing their watches.
func (e *eyes) watch(ctx context.Context, check func(name string) bool) error {
	buf := make([]byte, 256<<10)
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		if n, err := unix.Poll(fds, 100); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		n, err := unix.Read(e.fd, buf)
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask, size := binary.NativeEndian.Uint32(b[4:]), int(binary.NativeEndian.Uint32(b[12:]))
			name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], "\x00"))
			b = b[unix.SizeofInotifyEvent+size:]
			if mask&unix.IN_Q_OVERFLOW != 0 {
				return errors.New("the observer's own queue overflowed")
			}
			if name = e.dirs[wd] + "/" + name; !strings.Contains(name, "/.") && check(name) {
				e.mu.Lock()
				e.seen[name] = append(e.seen[name], time.Now())
				e.mu.Unlock()
			}
		}
	}
	return nil
}

func (e *eyes) close() { unix.Close(e.fd) }

// await returns when each of the roots has every file with its size and time.
// Both engines and peers publish by rename, so that size and time mean the
// bytes; compare judges those afterwards, off the clock.
func await(ctx context.Context, roots []string, files []file) (time.Time, error) {
	return each(ctx, roots, func(root string) error { return whole(ctx, root, files) })
}

// awaitMoved does that for files of which the old name has to be gone first.
func awaitMoved(ctx context.Context, roots []string, old string, files []file) (time.Time, error) {
	return each(ctx, roots, func(root string) error {
		if err := gone(ctx, root, old); err != nil {
			return err
		}
		return whole(ctx, root, files)
	})
}

// awaitGone returns when path is in none of the roots any more.
func awaitGone(ctx context.Context, roots []string, path string) (time.Time, error) {
	return each(ctx, roots, func(root string) error { return gone(ctx, root, path) })
}

// awaitEvery is how often a file that is not there yet is looked for.
const awaitEvery = 2 * time.Millisecond

// whole returns when root has every file. Each is looked at once it is there, in
// order, and below its directory: to look must not cost what is to be measured.
func whole(ctx context.Context, root string, files []file) error {
	g := glance{root: root}
	defer g.leave()
	for _, f := range files {
		for {
			have, err := g.at(f.path)
			if err == nil && have.size == f.size && have.mtime == f.mtime {
				break
			}
			g.leave() // another may have the directory's name by then
			if err := pause(ctx, awaitEvery); err != nil {
				return fmt.Errorf("%w: %s is not there, or is another", err, filepath.Join(root, f.path))
			}
		}
	}
	return nil
}

func gone(ctx context.Context, root, path string) error {
	for {
		if _, err := stat(filepath.Join(root, path)); errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err := pause(ctx, awaitEvery); err != nil {
			return fmt.Errorf("%w: %s is still there", err, filepath.Join(root, path))
		}
	}
}

// glance looks at files below root and stays in a directory while they are of that one.
type glance struct {
	root string
	dir  string
	fd   int
	in   bool
}

// at describes the file at path.
func (g *glance) at(path string) (f file, err error) {
	cut := strings.LastIndexByte(path, '/') + 1
	if !g.in || path[:cut] != g.dir {
		g.leave()
		if g.fd, err = unix.Open(g.root+"/"+path[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return f, err
		}
		g.dir, g.in = path[:cut], true
	}
	var st unix.Stat_t
	err = unix.Fstatat(g.fd, path[cut:], &st, unix.AT_SYMLINK_NOFOLLOW)
	return file{size: st.Size, mtime: st.Mtim.Nano()}, err
}

func (g *glance) leave() {
	if g.in {
		unix.Close(g.fd)
		g.in = false
	}
}

// each runs f for every root at once and returns when the last was done.
func each(ctx context.Context, roots []string, f func(root string) error) (time.Time, error) {
	errs := make([]error, len(roots))
	var wg sync.WaitGroup
	for i, root := range roots {
		wg.Go(func() { errs[i] = f(root) })
	}
	wg.Wait()
	return time.Now(), errors.Join(errs...)
}

// compare looks for a difference between two trees: names, kinds, modes, sizes,
// times, and bytes if asked for.
func compare(ctx context.Context, want, have string, content bool) error {
	theirs := map[string]bool{}
	buffers := sameness{make([]byte, compareBuffer), make([]byte, compareBuffer)}
	err := filepath.WalkDir(want, func(name string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, _ := filepath.Rel(want, name)
		if hidden(rel) {
			return skip(d)
		}
		theirs[rel] = true
		a, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.Lstat(filepath.Join(have, rel))
		if err != nil {
			return err
		}
		switch {
		case a.Mode() != b.Mode():
			return fmt.Errorf("%s: mode %v, not %v", rel, b.Mode(), a.Mode())
		case !a.Mode().IsRegular():
			return nil
		case a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()):
			return fmt.Errorf("%s: %d bytes of %v, not %d of %v", rel, b.Size(), b.ModTime(), a.Size(), a.ModTime())
		case content:
			return buffers.same(name, filepath.Join(have, rel))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return filepath.WalkDir(have, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(have, name)
		if hidden(rel) {
			return skip(d)
		}
		if !theirs[rel] {
			return fmt.Errorf("%s is extra", rel)
		}
		return nil
	})
}

func hidden(rel string) bool { return rel == ".revolve" || strings.HasPrefix(rel, ".revolve/") }

func skip(d fs.DirEntry) error {
	if d.IsDir() {
		return filepath.SkipDir
	}
	return nil
}

// sameness compares files by content. Its buffers serve all of a tree: made anew
// for each of 100,000 small files, clearing them took longer than any engine.
type sameness struct{ x, y []byte }

const compareBuffer = 1 << 20

func (s sameness) same(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	for {
		n, erra := io.ReadFull(fa, s.x)
		m, errb := io.ReadFull(fb, s.y)
		if n != m || !bytes.Equal(s.x[:n], s.y[:m]) {
			return fmt.Errorf("%s: other bytes", b)
		}
		if erra != nil || errb != nil {
			return nil // both ended: the lengths are the same
		}
	}
}

// percentile of unsorted values, p from 0 to 1: the nearest rank.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
