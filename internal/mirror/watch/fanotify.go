package watch

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// fan is the fanotify backend: one mark on the whole filesystem, everything
// outside the volume dropped here.
type fan struct {
	fd      int
	root    *root
	rootKey string
	pid     int32 // events of this process are our own; 0 keeps them
	btrfs   bool
	stats   *counters
	buf     []byte
	ahead   []byte // read and not handled yet: whole records
	moves   int    // of those, how many move directories
	room    int    // how much more may be read ahead before the queue is found empty again

	tree    *dirTree[string]
	unsure  map[*dirNode[string]]struct{} // where they are was asked of the kernel, and moves that may explain it are still to come
	foreign *keySet                       // directories known to be elsewhere, or gone for good
	doubts  doubts
	renames renameRing

	linked    string    // the object of the nameless ATTRIB just read: the mark of link(2)
	unnamed   bool      // a file changed whose name we cannot find
	unnamedAt time.Time // when that last cost an Overflow
}

const (
	fanMask = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_RENAME | unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE |
		unix.FAN_ATTRIB | unix.FAN_ONDIR
	fanInit = unix.FAN_CLASS_NOTIF | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_REPORT_DFID_NAME_TARGET

	// readBuffer holds about 3,000 events: few calls under load, and a batch that the consumer can take in at once.
	readBuffer = 256 << 10
	// maxDirs bounds the directories whose place we know, about 300 bytes each.
	// More directories than that in use at once cost a look-up through the kernel each (3 us measured), no more.
	maxDirs = 65536
	// maxForeign bounds the directories known to be none of ours, about 100 bytes each.
	maxForeign = 16384
	// maxAhead bounds what one pass reads ahead to learn whether directories move: about 50,000 events.
	maxAhead = 4 << 20
	// unnamedEvery is the least time between two Overflows for files without a name: each costs a scan.
	unnamedEvery = 10 * time.Second
)

// openFanotify probes what the kernel, the filesystem and our rights allow, by
// doing it (distributions backport; version numbers tell nothing).
func openFanotify(r *root, o Options, stats *counters) (*fan, error) {
	fd, err := unix.FanotifyInit(fanInit|unix.FAN_UNLIMITED_QUEUE, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = unix.FanotifyInit(fanInit, 0) // in a user namespace the queue is bounded
	}
	if err != nil {
		return nil, fanProblem("start fanotify", r.path, err)
	}
	f := &fan{fd: fd, root: r, stats: stats, buf: make([]byte, readBuffer), room: maxAhead,
		foreign: newKeySet(maxForeign), unsure: make(map[*dirNode[string]]struct{})}
	// FAN_RENAME (5.17) is refused with EINVAL by older kernels.
	mark := "/proc/self/fd/" + itoa(r.fd)
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, fanMask, unix.AT_FDCWD, mark)
	if err == nil {
		err = f.probe()
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fanProblem("mark the filesystem", r.path, err)
	}
	f.tree = newDirTree(f.rootKey, maxDirs, o.Ignore)
	if !o.KeepOwn {
		f.pid = int32(unix.Getpid())
	}
	return f, nil
}

// probe tries what understanding the events will need: handles to and fro, and /proc.
func (f *fan) probe() (err error) {
	if f.rootKey, err = handleOf(f.root.fd); err != nil {
		return err
	}
	fd, err := openHandle(f.root.fd, []byte(f.rootKey), unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	f.btrfs = fs.Type == unix.BTRFS_SUPER_MAGIC
	_, err = fdPath(fd)
	return err
}

func fanProblem(op, path string, err error) error {
	kind := problem.Unavailable
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		kind = problem.Permission
	}
	return &problem.Problem{Op: op, Kind: kind, Subject: path, Err: err}
}

// overlook has the kernel queue nothing for what happens to files in dir, moves aside (FAN_MARK_IGNORE, Linux 6.0).
func (f *fan) overlook(dir string) error {
	const mask = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_ATTRIB | unix.FAN_EVENT_ON_CHILD
	return unix.FanotifyMark(f.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_IGNORE_SURV|unix.FAN_MARK_ONLYDIR|unix.FAN_MARK_DONT_FOLLOW, mask, unix.AT_FDCWD, dir)
}

func (f *fan) queueFD() int { return f.fd }

func (f *fan) queued() (int, error) {
	n, err := unix.IoctlGetInt(f.fd, unix.TIOCINQ)
	return n + countEvents(f.ahead)*fanMetadataLen, err
}

func (f *fan) owes() bool { return false }

func (f *fan) close() error { return unix.Close(f.fd) }

// read counts as FIONREAD does, fanMetadataLen for each event (fanotify_user.c, fanotify_ioctl).
func (f *fan) read(s *sink) (n int, err error) {
	if len(f.ahead) == 0 {
		n, err := readQueue(f.fd, f.buf)
		if err != nil {
			return 0, &problem.Problem{Op: "read fanotify", Kind: problem.Unavailable, Subject: f.root.path, Err: err}
		}
		f.ahead = f.buf[:n]
		f.moves = countMoves(f.ahead)
	}
	for len(f.ahead) > 0 {
		var ev fanEvent
		if ev, f.ahead, err = nextFanEvent(f.ahead); err != nil {
			return 0, &problem.Problem{Op: "read fanotify", Kind: problem.Internal, Subject: f.root.path, Err: err}
		}
		if ev.movesDir() {
			f.moves--
		}
		n += fanMetadataLen
		f.stats.raw.Add(1)
		f.handle(ev, s)
	}
	if f.room > 0 {
		clear(f.unsure) // every move that was made before we asked has been played
	}
	return n, nil
}

// moving reads ahead until the queue is empty and reports whether directories
// move in what was not handled yet: every move that an answer of the kernel's
// knows of is queued by then. Where there is too much to read, they may.
func (f *fan) moving() bool {
	for f.room > 0 {
		f.ahead = slices.Grow(f.ahead, readBuffer)
		at := len(f.ahead)
		n, err := readQueue(f.fd, f.ahead[at:at+min(f.room, readBuffer)])
		switch {
		case err != nil: // the room left is too small for the next event
			f.room = 0
		case n == 0:
			return f.moves > 0
		default:
			f.room -= n
			f.ahead = f.ahead[:at+n]
			f.moves += countMoves(f.ahead[at:])
		}
	}
	return true
}

// countMoves counts the events by which a directory moves, or may have.
func countMoves(buf []byte) (moves int) {
	for len(buf) > 0 {
		ev, rest, err := nextFanEvent(buf)
		if err != nil {
			return moves // told when it is handled
		}
		if buf = rest; ev.movesDir() {
			moves++
		}
	}
	return moves
}

func countEvents(buf []byte) (n int) {
	for ; len(buf) > 0; n++ {
		_, rest, err := nextFanEvent(buf)
		if err != nil {
			return n // told when it is handled
		}
		buf = rest
	}
	return n
}

// sure reports whether the directory is where the tree has it as of this place in the stream.
func (f *fan) sure(n *dirNode[string]) bool {
	if len(f.unsure) == 0 {
		return true
	}
	for ; n != nil; n = n.parent {
		if _, ok := f.unsure[n]; ok {
			return false
		}
	}
	return true
}

// readQueue reads from a non-blocking queue; 0 bytes mean that it is empty.
func readQueue(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, err
		}
	}
}

// pause looks again at what the pass left in doubt.
func (f *fan) pause(s *sink, empty, drain bool) (time.Duration, error) {
	if empty {
		f.tree.forgot = false
		f.linked = ""
		f.room = maxAhead
		clear(f.unsure)
	}
	f.doubts.settle(empty, func(e entry, there, own bool) {
		s.mute = own
		f.look(e, there, s)
		s.mute = false
	})
	if f.unnamed {
		if wait := f.unnamedAt.Add(unnamedEvery).Sub(s.now); wait <= 0 || drain {
			f.unnamed, f.unnamedAt = false, s.now
			s.overflow()
		} else if len(f.ahead) == 0 {
			return wait, nil
		}
	}
	if len(f.ahead) > 0 {
		return 1, nil // the looks read on: these come next
	}
	return 0, nil
}

// look reports a name whose state the stream may have wrong.
func (f *fan) look(e entry, there bool, s *sink) {
	d := f.dir([]byte(e.dir), s)
	if d == nil {
		return
	}
	st, err := statIn(f.root.fd, []byte(e.dir), e.name)
	if err != nil && !there {
		return // both say that it is gone
	}
	if kid := d.kids[e.name]; kid != nil {
		f.tree.drop(kid) // it may be another one; the next event in it asks the kernel
	}
	path, ok := f.tree.visible(d, e.name)
	if !ok {
		return
	}
	if !s.mute {
		f.stats.reconciled.Add(1)
	}
	dir := err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	s.changed(path, dir, dir)
}

// reset forgets what lost events may have made wrong, and says so.
func (f *fan) reset(s *sink) {
	f.tree.reset()
	f.foreign.clear()
	f.doubts.clear()
	f.renames = renameRing{}
	clear(f.unsure)
	s.suspect = true
	s.overflow()
}

// dir is the directory of a handle, nil if it is not in the volume (or gone).
func (f *fan) dir(handle []byte, s *sink) *dirNode[string] {
	if handle == nil {
		return nil
	}
	if n := f.tree.byKey[string(handle)]; n != nil {
		f.tree.use(n)
		return n
	}
	if f.foreign.has(handle) {
		return nil
	}
	f.stats.misses.Add(1)
	steps, top, err := climb(f.root.fd, handle, func(key string) bool { return f.tree.byKey[key] != nil })
	if errors.Is(err, errElsewhere) {
		f.foreign.add(string(handle))
		return nil
	}
	if err != nil {
		f.reset(s) // we cannot tell what was changed, so anything was
		return nil
	}
	n := f.tree.byKey[top]
	moving := f.moving()
	for i := len(steps) - 1; i >= 0 && n != nil; i-- {
		if n = f.tree.place(steps[i].key, n, steps[i].name); n != nil && moving {
			f.unsure[n] = struct{}{}
		}
	}
	if n == nil {
		f.reset(s)
	}
	return n
}
