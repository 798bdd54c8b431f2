package send

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	// maxVersions bounds the files of which clones are kept. A clone costs the blocks that were rewritten since.
	maxVersions = 64
	// versionsEach: followers may stand at different versions of one file; older ones take it whole.
	versionsEach = 3
	// stampTick is how long a file must have stood still before its time proves that it did: a kernel with 100 Hz stamps inodes every 10 ms.
	stampTick = 20 * time.Millisecond
)

// Versions are clones of the large files that were sent lately, as they were
// sent: against them only what changed has to be read and to travel. They share
// their blocks with the files, have no names and end with the process. Where the
// filesystem cannot share blocks there are none. Its methods may be called concurrently.
type Versions struct {
	root *tree.Root
	mu   sync.Mutex
	off  bool
	of   map[uint64][]*version    // by inode, newest first
	odd  int64                    // clones of files that were written meanwhile
	busy map[uint64]chan struct{} // inodes that are being cloned; closed behind it
}

// version is a file at one moment; its fields do not change. The lock of Versions guards uses and doomed, its own what was compared.
type version struct {
	f      *os.File
	path   string // where it was, to see whether the file is still there
	meta   tree.Meta
	at     time.Time
	uses   int
	doomed bool

	comparing sync.Mutex
	with      *os.File      // the one that it was compared with last
	changed   []block.Range // and what changed since
}

// maxChanged bounds the ranges that are remembered of a comparison.
const maxChanged = 10_000

// since is what changed since the version was. All streams ask for the same: the kernel is asked for its maps once.
func (v *version) since(was *version) ([]block.Range, error) {
	v.comparing.Lock()
	defer v.comparing.Unlock()
	if v.with == was.f {
		return v.changed, nil
	}
	changed, err := block.Changed(was.f, v.f, v.meta.Size)
	changed = slices.Clip(changed) // nobody appends to what others read
	if err == nil && len(changed) <= maxChanged {
		v.with, v.changed = was.f, changed
	}
	return changed, err
}

// NewVersions keeps the clones of one volume.
func NewVersions(root *tree.Root) *Versions {
	return &Versions{root: root, of: map[uint64][]*version{}, busy: map[uint64]chan struct{}{}}
}

// Close lets go of every clone.
func (vs *Versions) Close() {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for inode := range vs.of {
		vs.drop(inode, 0)
	}
	vs.off = true
}

// Sweep lets go of the clones of files that are not where they were: a deleted
// file's space must come back.
func (vs *Versions) Sweep() {
	vs.mu.Lock()
	paths := map[uint64]string{}
	for inode, list := range vs.of {
		paths[inode] = list[0].path
	}
	vs.mu.Unlock()
	for inode, path := range paths {
		if m, err := vs.root.Glance(path); err == nil && m.Inode == inode {
			continue
		}
		vs.mu.Lock()
		vs.drop(inode, 0)
		vs.mu.Unlock()
	}
}

// drop lets go of all but the newest keep versions; the lock is held.
func (vs *Versions) drop(inode uint64, keep int) {
	list := vs.of[inode]
	for _, v := range list[min(keep, len(list)):] {
		v.doomed = true
		if v.uses == 0 {
			v.f.Close()
		}
	}
	if vs.of[inode] = list[:min(keep, len(list))]; len(vs.of[inode]) == 0 {
		delete(vs.of, inode)
	}
}

// match finds the version of the inode at path that a follower has; release it.
func (vs *Versions) match(inode uint64, path string, have wire.Have) *version {
	if have.Origin != 0 && have.Origin != inode {
		return nil // another file of that size and time
	}
	v := vs.find(inode, func(m tree.Meta) bool { return m.Size == have.Size && m.MTime == have.MTime && have.Size > 0 })
	if v != nil && have.Origin == 0 && v.path != path {
		// The follower does not know where its file came from, and this one had another name: what was here before may look the same.
		vs.release(v)
		return nil
	}
	return v
}

func (vs *Versions) find(inode uint64, is func(m tree.Meta) bool) *version {
	if vs == nil {
		return nil
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for _, v := range vs.of[inode] {
		if is(v.meta) {
			v.uses++
			return v
		}
	}
	return nil
}

func (vs *Versions) release(v *version) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if v.uses--; v.uses == 0 && v.doomed {
		v.f.Close()
	}
}

// keep takes a clone of what is at path if it is still as it was sent.
func (vs *Versions) keep(path string, sent tree.Meta) {
	if vs == nil || sent.Size < wire.DeltaLeast {
		return
	}
	f, m, err := vs.root.OpenFile(path)
	if err != nil {
		return
	}
	defer f.Close()
	if m.Inode != sent.Inode || m.CTime != sent.CTime {
		return
	}
	if v, err := vs.take(f, path); err == nil {
		vs.release(v)
	}
}

// take clones the open file as it is; release it. One that is written meanwhile is cloned as it was at one moment of that, and gets a
// time that it never had.
func (vs *Versions) take(f *os.File, path string) (*version, error) {
	vs.mu.Lock()
	off := vs.off
	vs.mu.Unlock()
	if off {
		return nil, block.ErrUnsupported
	}
	is, err := tree.FStat(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	defer vs.turn(is.Inode)()
	before, err := tree.FStat(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	time.Sleep(min(stampTick, time.Until(time.Unix(0, before.CTime).Add(stampTick))))
	if v := vs.find(before.Inode, func(m tree.Meta) bool { return m.CTime == before.CTime }); v != nil {
		return v, nil
	}
	// Written back first, since the kernel would do it while it holds every reader and writer of the file.
	_ = unix.Fdatasync(int(f.Fd())) // a failure is the writing application's to hear of
	c, err := vs.root.TempFile(tree.Hidden)
	if err != nil {
		return nil, err
	}
	if err := block.Clone(c, f); err != nil {
		c.Close()
		vs.mu.Lock()
		vs.off = true
		vs.mu.Unlock()
		return nil, err
	}
	m, err := tree.FStat(int(f.Fd()))
	if err == nil && m.CTime != before.CTime {
		m, err = vs.moving(c, before)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	v := &version{f: c, path: path, meta: m, at: time.Now(), uses: 1}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.of[m.Inode] = append([]*version{v}, vs.of[m.Inode]...)
	vs.drop(m.Inode, versionsEach)
	for len(vs.of) > maxVersions {
		vs.drop(vs.oldest(), 0)
	}
	return v, nil
}

// turn waits until no other stream clones the inode, and has it counted as cloned until end is called. All streams are
// told of a change at once: one clone serves them, and what one has read of it is in memory for the others.
func (vs *Versions) turn(inode uint64) (end func()) {
	for {
		vs.mu.Lock()
		busy := vs.busy[inode]
		if busy == nil {
			break
		}
		vs.mu.Unlock()
		<-busy
	}
	mine := make(chan struct{})
	vs.busy[inode] = mine
	vs.mu.Unlock()
	return func() {
		vs.mu.Lock()
		delete(vs.busy, inode)
		vs.mu.Unlock()
		close(mine)
	}
}

// oddTimes is how many clones of moving files have times of their own: no two of one file are taken within a millisecond.
const oddTimes = int64(time.Millisecond)

// moving describes a clone of a file that was written while it was cloned. The kernel holds the writers off meanwhile, so it
// is the file at one moment, between the times that the file had before and after. To give it either would say that it is what
// another follower has by that time, or that nothing was written since; the record that is to come brings the right one.
func (vs *Versions) moving(c *os.File, before tree.Meta) (tree.Meta, error) {
	is, err := tree.FStat(int(c.Fd()))
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.odd++
	before.Size = is.Size
	before.MTime += 1 + vs.odd%oddTimes
	return before, err
}

// reopen is the version's file with a place of its own to read from.
func (v *version) reopen() (*os.File, error) {
	return os.Open("/proc/self/fd/" + strconv.Itoa(int(v.f.Fd())))
}

// oldest is the file whose newest version is the oldest; the lock is held.
func (vs *Versions) oldest() (inode uint64) {
	var at time.Time
	for i, list := range vs.of {
		if at.IsZero() || list[0].at.Before(at) {
			inode, at = i, list[0].at
		}
	}
	return inode
}
