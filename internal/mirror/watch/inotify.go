package watch

import (
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// inotify is the backend for where filesystem marks are refused: one watch for
// each directory. Events carry no pid, a new directory may fill before
// it is watched (so it is reported with Tree), and the two halves of a rename are two records.
type inotify struct {
	fd    int
	root  *root
	o     Options
	stats *counters
	buf   []byte

	tree  *dirTree[int32]
	queue []inEvent // read and not understood yet: the first one is half a rename
	since time.Time // when the half at the head of the queue was read
	last  [ringSize]inRename
	next  int

	// A watch is put on a path, and what is at the path now may be ahead of the
	// stream. So what was placed since the queue was last empty is young, and
	// every place that a young one came to is checked when the queue is empty again.
	young map[*dirNode[int32]]struct{}
	check map[place]struct{}
}

// place is a name in a watched directory.
type place struct {
	parent *dirNode[int32]
	name   string
}

// inRename is one of the last renames, to know an exchange (see renameRing).
type inRename struct {
	old, path string
	dir       bool
	at        time.Time // when it was read
}

const (
	inMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY |
		unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK
	inRootMask = inMask | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF

	// halfWait is how long the second half of a rename may be late. Both are queued
	// by one system call, a few instructions apart, but its thread may lose the processor between them.
	halfWait = 10 * time.Millisecond
	// exchangeWithin is how long the halves of an exchange may lie apart: they are queued by one system call, too.
	exchangeWithin = time.Second
	// maxHalfQueue bounds what waits behind the first half of a rename (several MiB); then it counts as moved out.
	maxHalfQueue = 16384
	// dirChunk bounds what is held of a directory at once, as most entries are files.
	dirChunk = 1024
)

var errMoved = errors.New("the directories changed while they were being watched")

func openInotify(r *root, o Options, stats *counters) (*inotify, error) {
	in := &inotify{fd: -1, root: r, o: o, stats: stats, buf: make([]byte, readBuffer),
		young: make(map[*dirNode[int32]]struct{}), check: make(map[place]struct{})}
	if err := in.rebuild(); err != nil {
		_ = in.close()
		return nil, err
	}
	return in, nil
}

// rebuild starts over with a new queue and a watch on every directory. What
// changes before a directory's watch is seen by whoever scans after.
func (in *inotify) rebuild() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return in.problem("start inotify", err)
	}
	if in.fd >= 0 {
		// Onto the old number: whoever polls it goes on with the new queue.
		if err := unix.Dup3(fd, in.fd, unix.O_CLOEXEC); err != nil {
			_ = unix.Close(fd)
			return in.problem("start inotify", err)
		}
		_ = unix.Close(fd)
	} else {
		in.fd = fd
	}
	in.queue, in.since, in.last = nil, time.Time{}, [ringSize]inRename{}
	clear(in.young)
	clear(in.check)
	wd, err := unix.InotifyAddWatch(in.fd, "/proc/self/fd/"+itoa(in.root.fd)+"/.", inRootMask)
	if err != nil {
		return in.problem("watch directory", err)
	}
	in.tree = newDirTree(int32(wd), 0, in.o.Ignore)
	in.tree.gone = in.unwatch
	return in.watchBelow(in.tree.root)
}

func (in *inotify) problem(op string, err error) error {
	p := &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: in.root.path, Err: err}
	switch {
	case errors.Is(err, unix.ENOSPC):
		p.Hint = "raise the sysctl fs.inotify.max_user_watches above the number of directories, or run as root for fanotify"
	case errors.Is(err, unix.EMFILE):
		p.Hint = "raise the sysctl fs.inotify.max_user_instances"
	case errors.Is(err, unix.EACCES):
		p.Kind, p.Hint = problem.Permission, "every directory of the volume must be readable by the agent"
	}
	return p
}

func (in *inotify) unwatch(wd int32) {
	_, _ = unix.InotifyRmWatch(in.fd, uint32(wd)) // EINVAL when the directory is gone: fine
}

// watchBelow adds watches for all directories below a watched one, the watch
// always before the look inside.
func (in *inotify) watchBelow(top *dirNode[int32]) error {
	todo := []*dirNode[int32]{top}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		names, err := in.subdirs(n)
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, ok := in.tree.visible(n, name); !ok {
				continue
			}
			kid, err := in.watch(n, name)
			if err != nil {
				return err
			}
			if kid != nil {
				todo = append(todo, kid)
			}
		}
	}
	return nil
}

// watch adds one directory, or answers nil if it is none (any more). A
// directory that was known elsewhere is moved: its rename is still in the queue.
func (in *inotify) watch(parent *dirNode[int32], name string) (*dirNode[int32], error) {
	wd, err := in.addWatch(parent, name)
	if err != nil {
		return nil, err
	}
	if wd < 0 {
		in.check[place{parent, name}] = struct{}{} // gone, or it has another name already
		return nil, nil
	}
	n := in.tree.byKey[wd]
	if n != nil && n.parent == parent && n.name == name {
		return n, nil
	}
	if n != nil {
		in.check[place{n.parent, n.name}] = struct{}{} // what the stream has at this name may go, and this one with it
	}
	if n = in.tree.place(wd, parent, name); n == nil {
		return nil, errMoved
	}
	in.young[n] = struct{}{}
	in.check[place{parent, name}] = struct{}{}
	return n, nil
}

// addWatch watches what is at the name now; -1 if that is no directory.
func (in *inotify) addWatch(parent *dirNode[int32], name string) (int32, error) {
	wd, err := unix.InotifyAddWatch(in.fd, in.absolute(in.tree.join(parent, name)), inMask)
	if noDir(err) {
		return -1, nil
	}
	if err != nil {
		return -1, in.problem("watch directory", err)
	}
	return int32(wd), nil
}

func noDir(err error) bool {
	return isGone(err) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// verify compares the checked places with the disk. The queue was just empty,
// so they agree unless a young directory was mistaken for another one or missed, or something changed this very moment.
func (in *inotify) verify(s *sink) error {
	check := in.check
	in.check = make(map[place]struct{})
	clear(in.young)
	for p := range check {
		if in.tree.byKey[p.parent.key] != p.parent {
			continue // it left
		}
		wd, err := in.addWatch(p.parent, p.name)
		if err != nil {
			return err
		}
		n := p.parent.kids[p.name]
		switch {
		case n != nil && n.key == wd:
		case n == nil && wd < 0:
			in.lookAgain(p, s)
		case n == nil && in.tree.byKey[wd] == nil:
			// It had another name when it was to be watched.
			if path, ok := in.tree.visible(p.parent, p.name); ok {
				if err := in.arrived(p.parent, p.name, path, true, s); err != nil {
					return err
				}
			}
		case !in.idle():
			in.check[p] = struct{}{} // this moment: check again when that has been read
			if n != nil {
				in.young[n] = struct{}{}
			}
		default:
			return errMoved
		}
	}
	return nil
}

// lookAgain reports what stands at a place that is no directory, if anything does.
func (in *inotify) lookAgain(p place, s *sink) {
	path, ok := in.tree.visible(p.parent, p.name)
	var st unix.Stat_t
	if ok && unix.Lstat(in.absolute(path), &st) == nil {
		s.closed(path)
	}
}

func (in *inotify) queued() (int, error) { return unix.IoctlGetInt(in.fd, unix.TIOCINQ) }

// idle reports whether nothing is queued, as far as that can be known.
func (in *inotify) idle() bool {
	n, err := in.queued()
	return err != nil || n == 0
}

// absolute goes through the open root, so that it is right wherever the root is now.
func (in *inotify) absolute(rel string) string {
	return "/proc/self/fd/" + itoa(in.root.fd) + "/" + rel
}

// subdirs lists the directories in a directory; none if it is gone.
func (in *inotify) subdirs(n *dirNode[int32]) ([]string, error) {
	fd, err := unix.Open(in.absolute(in.tree.path(n)), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if noDir(err) {
		return nil, nil
	}
	if err != nil {
		return nil, in.problem("read directory", err)
	}
	f := os.NewFile(uintptr(fd), in.absolute(in.tree.path(n)))
	defer func() { _ = f.Close() }()
	var names []string
	for {
		entries, err := f.ReadDir(dirChunk)
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
		if err != nil { // io.EOF, or it was removed as we looked
			return names, nil
		}
	}
}

func (in *inotify) queueFD() int { return in.fd }

func (in *inotify) close() error {
	if in.fd < 0 {
		return nil
	}
	return unix.Close(in.fd)
}

func (in *inotify) read(s *sink) (int, error) {
	n, err := readQueue(in.fd, in.buf)
	if err != nil {
		return 0, in.problem("read inotify", err)
	}
	if len(in.queue) == 0 {
		in.since = s.now
	}
	for buf := in.buf[:n]; len(buf) > 0; {
		var ev inEvent
		if ev, buf, err = nextInEvent(buf); err != nil {
			return 0, in.problem("read inotify", err)
		}
		in.stats.raw.Add(1)
		in.queue = append(in.queue, ev)
	}
	return n, in.work(s, len(in.queue) > maxHalfQueue)
}

// pause gives up on a second half that is overdue, or that would have to be here by now.
func (in *inotify) pause(s *sink, empty, drain bool) (time.Duration, error) {
	for len(in.queue) > 0 {
		late := s.now.Sub(in.since)
		if !drain && late < halfWait {
			return halfWait - late, nil
		}
		if err := in.work(s, true); err != nil {
			return 0, err
		}
	}
	if empty && len(in.check) > 0 {
		if err := in.verify(s); err != nil {
			return 0, in.recover(err, s)
		}
	}
	return 0, nil
}

// owes: a place that is to be checked may be a directory with all that is in it. Who takes its watch away queues a notification,
// so the queue can hold more than was in it when a drain began, though nobody changed anything since.
func (in *inotify) owes() bool { return len(in.check) > 0 }

// work understands the queue up to the first half rename; with force, that one too.
func (in *inotify) work(s *sink, force bool) error {
	done := 0
	for done < len(in.queue) {
		ev := in.queue[done]
		if ev.mask&unix.IN_MOVED_FROM == 0 {
			done++
			if err := in.handle(ev, s); err != nil {
				return in.recover(err, s)
			}
			continue
		}
		at := slices.IndexFunc(in.queue[done+1:], func(o inEvent) bool {
			return o.mask&unix.IN_MOVED_TO != 0 && o.cookie == ev.cookie
		})
		if at < 0 && !force {
			break
		}
		force = false
		to := inEvent{wd: -1}
		if at >= 0 {
			to = in.queue[done+1+at]
			in.queue = slices.Delete(in.queue, done+1+at, done+2+at)
		}
		done++
		if err := in.rename(ev, to, s); err != nil {
			return in.recover(err, s)
		}
	}
	if done > 0 {
		in.since = s.now
	}
	in.queue = slices.Delete(in.queue, 0, done)
	return nil
}

// recover starts over when the tree and the directories disagree, or events were lost.
func (in *inotify) recover(err error, s *sink) error {
	if !errors.Is(err, errMoved) {
		return err
	}
	if err := in.rebuild(); err != nil {
		return err
	}
	s.suspect = true
	s.overflow()
	return nil
}
