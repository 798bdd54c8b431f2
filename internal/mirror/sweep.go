package mirror

import (
	"bufio"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
)

// What the kernel does not notify of (package watch: Linux AIO, stores into a
// shared mapping) is found by looking at the live set: the files that some
// process has open for writing, or mapped writable and shared (proc(5)).
const (
	// sweepEvery is how often the live set is looked at: the bound for what nobody is notified of.
	sweepEvery = 5 * time.Second
	// sweepShare: a sweep is followed by a pause of at least so many times what it took, whatever sweepEvery says: 0.5 % of one CPU at most.
	sweepShare = 200
	// maxLive bounds the live files of one volume; more are not looked at.
	maxLive = 10_000
)

// LiveSet is what the last look at the live set found. The zero value: nobody looked, since another leads.
type LiveSet struct {
	Files int           // open for writing, or mapped so
	Bound time.Duration // how long a change that nothing notifies of stays unseen at most
}

func (v *volume) looked(l LiveSet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.live = l
}

// sweeper remembers how the live files looked.
type sweeper struct {
	proc string // /proc
	root *tree.Root
	path string // of the volume, as the kernel tells it
	self string // our own process, which is not looked at
	seen map[string]look
}

type look struct {
	size, mtime, ctime int64
	inode              uint64
}

// sweeps looks at the live set for as long as this node's own reign is recorded here.
func (v *volume) sweeps(ctx context.Context, o *opened) error {
	path, err := filepath.EvalSymlinks(v.c.Path)
	if err != nil {
		return nil // the root is gone: others tell
	}
	s := &sweeper{proc: cmp.Or(v.e.o.Proc, "/proc"), root: o.root, path: path, self: strconv.Itoa(os.Getpid()), seen: map[string]look{}}
	for pause := sweepEvery; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		v.mu.Lock()
		own := v.mode == record
		v.mu.Unlock()
		if !own {
			clear(s.seen)
			v.looked(LiveSet{})
			continue
		}
		began := time.Now()
		var batch []watch.Event
		for _, rel := range s.sweep() {
			if !v.excluded(rel) {
				batch = append(batch, watch.Event{Kind: watch.Dirty, Path: rel})
			}
		}
		if len(batch) > 0 {
			if err := v.events(batch); err != nil {
				return err
			}
		}
		took := time.Since(began)
		pause = max(sweepEvery, sweepShare*took)
		v.looked(LiveSet{Files: len(s.seen), Bound: pause + took})
	}
}

// sweep returns the live files that do not look as they did, or are seen for the first time.
func (s *sweeper) sweep() (changed []string) {
	now := map[string]look{}
	for rel, mapped := range s.live() {
		if mapped {
			s.protect(rel)
		}
		m, err := s.root.Glance(rel)
		if err != nil || m.Kind != tree.File {
			continue
		}
		l := look{m.Size, m.MTime, m.CTime, m.Inode}
		if now[rel] = l; s.seen[rel] != l {
			changed = append(changed, rel)
		}
	}
	s.seen = now
	return changed
}

// protect writes out what was stored through mappings; the next store faults,
// and changes the file's times. A filesystem in memory does neither.
func (s *sweeper) protect(rel string) {
	f, _, err := s.root.OpenFile(rel)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // best effort: the next sweep tries again
}

// live are the files of the volume that are open for writing, and whether they are mapped.
func (s *sweeper) live() map[string]bool {
	out := map[string]bool{}
	pids, err := os.ReadDir(s.proc)
	if err != nil {
		return out
	}
	for _, p := range pids {
		if _, err := strconv.Atoi(p.Name()); err != nil || p.Name() == s.self {
			continue
		}
		dir := filepath.Join(s.proc, p.Name())
		s.open(dir, out)
		s.mapped(dir, out)
		if len(out) >= maxLive {
			break
		}
	}
	return out
}

// rel is a path of the kernel's relative to the volume.
func (s *sweeper) rel(path string) (string, bool) {
	rel, ok := strings.CutPrefix(path, s.path+"/")
	return rel, ok && !strings.HasSuffix(rel, " (deleted)") && tree.Check(rel) == nil
}

func (s *sweeper) open(dir string, out map[string]bool) {
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return // it has gone, or belongs to somebody whom we may not look at
	}
	for _, fd := range fds {
		path, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		if err != nil || len(path) == 0 || path[0] != '/' {
			continue
		}
		rel, ok := s.rel(path)
		if _, known := out[rel]; !ok || known || len(out) >= maxLive {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd.Name()))
		if err == nil && writable(string(b)) {
			out[rel] = false
		}
	}
}

// writable reads the flags of open(2), in octal, out of fdinfo (proc(5)).
func writable(info string) bool {
	_, after, _ := strings.Cut(info, "flags:")
	line, _, _ := strings.Cut(after, "\n")
	flags, err := strconv.ParseUint(strings.TrimSpace(line), 8, 64)
	return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
}

func (s *sweeper) mapped(dir string, out map[string]bool) {
	f, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f) // a line too long ends it: what is behind is found by its descriptor, or not
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " ", 6) // address perms offset dev inode path
		if len(fields) < 6 || len(fields[1]) < 4 || fields[1][1] != 'w' || fields[1][3] != 's' {
			continue
		}
		if rel, ok := s.rel(strings.TrimLeft(fields[5], " ")); ok && len(out) < maxLive {
			out[rel] = true
		}
	}
}
