package apply

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/syswait"
)

// transfers are the large files on their way. Data, Seal and Gone are called by
// the goroutine of the second connection, all else by the Applier's; only the
// map is shared, so a write of megabytes never holds up small files.
type transfers struct {
	doomed  []*transfer // cancelled; their files are not yet removed
	orphans bool        // some were cancelled: other names of a file may have waited for it
	mu      sync.Mutex
	byID    map[uint64]*transfer
	ready   []uint64 // sealed, not yet staged
	refused Stats    // what could not be set
	stale   []string // paths whose transfer was told against a file that is not there any more
}

// transfer is one large file. Its path follows renames in the stream.
type transfer struct {
	path string
	meta tree.Meta
	// looks is what came, as Looks.
	looks uint32
	// offered is what it was announced as; meta is what came.
	offered tree.Meta
	name    string // staging
	f       *os.File
	size    int64
	flow    flow
	// based: f began as a clone of the file that is to be replaced.
	based bool
	// sealed: all of it has come, and is durable. Guarded by the lock of transfers.
	sealed bool
	// stale: that file is not the one that the source meant; the rest of the transfer is void.
	stale bool
}

// get is the transfer that more may come of.
func (ts *transfers) get(id uint64) *transfer {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.byID[id]; t != nil && !t.sealed {
		return t
	}
	return nil
}

// known reports whether a transfer is under way, or has come and is not published.
func (ts *transfers) known(id uint64) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.byID[id] != nil
}

// Anew drops what came of transfers before the second connection broke: on the next one each begins at its beginning.
func (a *Applier) Anew() {
	a.sweep()
	for _, id := range a.Unsealed() {
		if t := a.transfers.get(id); t != nil {
			a.discard(t)
			t.stale = false
		}
	}
}

// Unsealed are the transfers of which something is still to come.
func (a *Applier) Unsealed() (ids []uint64) {
	a.transfers.mu.Lock()
	defer a.transfers.mu.Unlock()
	for id, t := range a.transfers.byID {
		if !t.sealed {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Coming is the number of transfers that are not staged yet.
func (a *Applier) Coming() int {
	a.transfers.mu.Lock()
	defer a.transfers.mu.Unlock()
	return len(a.transfers.byID)
}

func (ts *transfers) offer(id uint64, path string, m tree.Meta) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.byID[id] = &transfer{path: path, meta: m, offered: m}
}

// Data takes the next piece of a transfer. Pieces of an unknown or cancelled
// transfer are dropped: the stream has overtaken it.
func (a *Applier) Data(id uint64, data []byte) error {
	a.sweep()
	t := a.transfers.get(id)
	if t == nil || t.stale {
		return nil
	}
	if t.f == nil {
		name := stagingDir + "/b" + strconv.FormatUint(id, 10)
		_ = a.o.Root.Remove(name) // an attempt before this one
		f, err := a.o.Root.Create(name)
		if err != nil {
			return err
		}
		t.f, t.name, t.size, t.based = f, name, 0, false
		t.flow = flow{}
	}
	n, err := t.f.Write(data)
	t.size += int64(n)
	if err == nil {
		err = t.flow.wrote(t, n)
	}
	if errors.Is(err, os.ErrClosed) {
		return nil // it is sealed: what comes behind the end is ignored
	}
	return err
}

// Hole is a piece of a transfer that has no data.
func (a *Applier) Hole(id uint64, length int64) error {
	if err := a.Data(id, nil); err != nil { // so that there is a file
		return err
	}
	t := a.transfers.get(id)
	if t == nil || t.stale {
		return nil
	}
	if length < 0 || length > maxFile-t.size {
		return fmt.Errorf("transfer %d: a hole of %d bytes behind %d", id, length, t.size)
	}
	if t.based && length > 0 {
		if err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, t.size, length); err != nil {
			return fmt.Errorf("transfer %d: punch a hole: %w", id, err)
		}
	}
	_, err := t.f.Seek(length, io.SeekCurrent)
	t.size += length
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Base begins a transfer as a clone of the file that is at its path, which must
// have the size and the time that the source means. If it has not, the transfer
// is void and the path is asked for again.
func (a *Applier) Base(id uint64, size, mtime int64) error {
	a.sweep()
	t := a.transfers.get(id)
	if t == nil {
		return nil
	}
	a.discard(t) // an attempt before this one
	a.transfers.mu.Lock()
	path := t.path
	a.transfers.mu.Unlock()
	t.stale = true
	old, m, err := a.o.Root.OpenFile(path)
	if err != nil {
		return ignoreGone(err)
	}
	defer old.Close()
	if m.Size != size || m.MTime != mtime {
		return nil
	}
	name := stagingDir + "/b" + strconv.FormatUint(id, 10)
	f, err := a.o.Root.Create(name)
	if err != nil {
		return err
	}
	t.f, t.name, t.size, t.based = f, name, 0, true
	t.flow = flow{}
	if err = block.Clone(f, old); errors.Is(err, block.ErrUnsupported) {
		_, err = io.Copy(f, old)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	after, err := tree.FStat(int(old.Fd()))
	t.stale = err != nil || after.CTime != m.CTime // somebody writes to it here
	return err
}

// Keep says that the next bytes are those of the transfer's base.
func (a *Applier) Keep(id uint64, length int64) error {
	t := a.transfers.get(id)
	if t == nil || t.stale {
		return nil
	}
	if !t.based || length < 0 || length > maxFile-t.size {
		return fmt.Errorf("transfer %d: %d bytes to keep behind %d of no base", id, length, t.size)
	}
	_, err := t.f.Seek(length, io.SeekCurrent)
	t.size += length
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// void gives a stale transfer up.
func (a *Applier) void(id uint64, t *transfer) {
	ts := &a.transfers
	ts.mu.Lock()
	delete(ts.byID, id)
	ts.stale = append(ts.stale, t.path)
	ts.mu.Unlock()
	a.discard(t)
}

// takeStale are the paths of transfers that were void.
func (ts *transfers) takeStale() (paths [][]byte) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, p := range ts.stale {
		paths = append(paths, []byte(p))
	}
	ts.stale = nil
	return paths
}

// maxFile is the largest size of a file (MAX_LFS_FILESIZE).
const maxFile = 1<<63 - 1

// Seal makes a complete transfer durable and lays it ready for StageReady.
func (a *Applier) Seal(id uint64, m tree.Meta) error {
	a.sweep()
	t := a.transfers.get(id)
	if t == nil {
		return nil
	}
	if t.stale {
		a.void(id, t)
		return nil
	}
	if t.f == nil { // an empty file
		if err := a.Data(id, nil); err != nil {
			return err
		}
	}
	if t.size != m.Size {
		return fmt.Errorf("transfer %d: %d bytes came for a size of %d", id, t.size, m.Size)
	}
	err := t.f.Truncate(t.size) // it may end in a hole
	var not tree.Refused
	var looks uint32
	if err == nil {
		not, err = tree.SetMeta(t.f, m)
	}
	if err == nil {
		var now tree.Meta
		now, err = tree.FStat(int(t.f.Fd()))
		a.own.note(now)
		a.origins.note(now.Inode, m.Origin)
		looks = Looks(now)
	}
	if err == nil {
		// Synced here and not in Commit, where small files would wait behind it.
		err = syswait.Sync(t.f)
		t.flow.ended(t)
		err = errors.Join(err, t.f.Close())
	}
	if errors.Is(err, os.ErrClosed) {
		return nil // sealed before
	}
	if err != nil { // it may not be on the disk, and nothing syncs it later
		return err
	}
	a.transfers.mu.Lock()
	defer a.transfers.mu.Unlock()
	a.transfers.refused.refused(not)
	t.meta, t.looks, t.sealed = m, looks, true
	a.transfers.ready = append(a.transfers.ready, id)
	return nil
}

// Gone says that the source could not read the transfer; it stays owed.
func (a *Applier) Gone(id uint64) {
	a.sweep()
	if t := a.transfers.get(id); t != nil {
		a.discard(t)
		t.stale = false
	}
}

// Sealed reports whether a transfer waits for StageReady, or was void and is to be asked for again.
func (a *Applier) Sealed() bool {
	a.transfers.mu.Lock()
	defer a.transfers.mu.Unlock()
	return len(a.transfers.ready)+len(a.transfers.stale) > 0
}

// StageReady stages the sealed transfers as ordinary files at the paths that
// they have now, and says how many. Commit publishes them.
func (a *Applier) StageReady() int {
	ts := &a.transfers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	n := 0
	for _, id := range ts.ready {
		t, ok := ts.byID[id]
		if !ok {
			continue
		}
		delete(ts.byID, id)
		a.staged = append(a.staged, staged{op: wire.Op{Kind: wire.OpFile, Path: t.path, Meta: t.meta, ID: id}, term: a.term, file: t.name, looks: t.looks, other: t.another()})
		n++
	}
	ts.ready = nil
	a.stats.ChownRefused += ts.refused.ChownRefused
	a.stats.XattrRefused += ts.refused.XattrRefused
	ts.refused = Stats{}
	return n
}

// another reports whether what came is another inode than the one that was offered.
func (t *transfer) another() bool {
	o, m := t.offered, t.meta
	switch {
	case o.Origin == 0: // an earlier release does not say it
		return o.Group != 0 && m.Group != 0 && o.Group != m.Group
	case o.Group != 0: // other names wait for it
		return m.Origin != o.Origin
	}
	return m.Origin != 0 && m.Origin != o.Origin // 0: it did not stay what was offered, for seconds: some filesystems number their inodes anew
}

// dropTransfers cancels the transfers whose path is chosen. Their files belong
// to the second connection's goroutine, which sweeps them.
func (a *Applier) dropTransfers(chosen func(path string) bool) {
	ts := &a.transfers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for id, t := range ts.byID {
		if chosen(t.path) {
			delete(ts.byID, id)
			ts.doomed = append(ts.doomed, t)
			ts.orphans = true
		}
	}
}

// sweep removes what was written for cancelled transfers.
func (a *Applier) sweep() {
	ts := &a.transfers
	ts.mu.Lock()
	doomed := ts.doomed
	ts.doomed = nil
	ts.mu.Unlock()
	for _, t := range doomed {
		a.discard(t)
	}
}

func (a *Applier) discard(t *transfer) {
	if t.f == nil {
		return
	}
	t.f.Close()
	_ = a.o.Root.Remove(t.name) // what stays is removed at the next start
	t.f = nil
}

func (a *Applier) moveTransfers(old, new string) {
	a.dropTransfers(func(path string) bool { return tree.Below(path, new) && !tree.Below(path, old) })
	ts := &a.transfers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.byID {
		if tree.Below(t.path, old) {
			t.path = tree.Moved(t.path, old, new)
		}
	}
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
