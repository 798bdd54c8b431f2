package send

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	// bulkRetry is how long a file that would not stand still is left alone at first; it doubles up to bulkRetryMax.
	bulkRetry    = 200 * time.Millisecond
	bulkRetryMax = 10 * time.Second
)

// bulk are the large files offered to and wanted by one follower. Paths follow
// the renames of the stream. The stream's lock guards it.
type bulk struct {
	next    uint64
	offered map[uint64]offer
	wanted  map[uint64]string    // id -> path now
	left    map[uint64]int64     // id -> bytes that are still to come, of those wanted
	of      map[uint64]offered   // id -> what was offered, of those wanted
	have    map[uint64]wire.Have // what the follower has instead of what it wants
	patient map[string]time.Time // being written, and waited for since
	waiting map[uint64]retry     // wanted, but not readable just now
	// restless are the files that changed whenever they were read, and since when.
	restless map[string]time.Time
	small    map[string]bool  // of those, the ones that travel in the stream
	done     map[uint64]offer // sent, and perhaps lost with the connection: the follower says so if they are
	dones    []uint64         // of these, in the order in which they were sent
	queue    []uint64
	wake     chan struct{} // holds one token when the queue may have work
	active   int
	turn     uint64 // of the second connections, the one that serves
}

type offer struct {
	path  string
	batch uint64
	size  int64
	turn  uint64 // of those done: the second connection that took it
	offered
}

// offered is the inode of which an offer told, and whether it has several names.
type offered struct {
	inode   uint64
	several bool
}

type retry struct {
	at   time.Time
	wait time.Duration
}

func newBulk() bulk {
	return bulk{
		offered: map[uint64]offer{}, wanted: map[uint64]string{}, left: map[uint64]int64{}, of: map[uint64]offered{}, have: map[uint64]wire.Have{},
		done: map[uint64]offer{}, restless: map[string]time.Time{}, small: map[string]bool{}, patient: map[string]time.Time{}, waiting: map[uint64]retry{}, wake: make(chan struct{}, 1),
	}
}

func (b *bulk) idle() bool { return len(b.offered) == 0 && len(b.wanted) == 0 && b.active == 0 }

func (b *bulk) offer(path string, batch uint64, m tree.Meta) uint64 {
	b.removed(path) // a newer version overtakes an older one
	b.next++
	b.offered[b.next] = offer{path: path, batch: batch, size: m.Size, offered: offered{m.Inode, m.Links > 1}}
	return b.next
}

// coming reports whether the follower wants the file at path and has not all of it.
func (b *bulk) coming(path string) bool {
	for _, p := range b.wanted {
		if p == path {
			return true
		}
	}
	return false
}

// mayWant reports whether the file at path is offered and the follower has not said whether it wants it.
func (b *bulk) mayWant(path string) bool {
	for _, o := range b.offered {
		if o.path == path {
			return true
		}
	}
	return false
}

// withdraw takes back what is offered for path and not yet wanted.
func (b *bulk) withdraw(path string) {
	for id, o := range b.offered {
		if o.path == path {
			delete(b.offered, id)
		}
	}
}

func (b *bulk) want(ids []uint64, have []wire.Have) {
	for _, id := range ids {
		if o, ok := b.offered[id]; ok {
			delete(b.offered, id)
			b.wanted[id], b.left[id], b.of[id] = o.path, o.size, o.offered
			b.queue = append(b.queue, id)
		} else if o, ok := b.done[id]; ok && o.turn != b.turn { // it was on its way when an earlier connection broke
			delete(b.done, id)
			b.wanted[id], b.left[id], b.of[id] = o.path, o.size, o.offered
			b.queue = append(b.queue, id)
		}
	}
	for _, h := range have {
		if _, ok := b.wanted[h.ID]; ok {
			b.have[h.ID] = h
		}
	}
	b.signal()
}

func (b *bulk) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// forget drops what the follower did not want of the batches up to this one.
func (b *bulk) forget(batch uint64) {
	for id, o := range b.offered {
		if o.batch <= batch {
			delete(b.offered, id)
		}
	}
}

func (b *bulk) removed(path string) {
	for id, o := range b.offered {
		if tree.Below(o.path, path) {
			delete(b.offered, id)
		}
	}
	for id, p := range b.wanted {
		if tree.Below(p, path) {
			b.over(id)
		}
	}
	for id, o := range b.done {
		if tree.Below(o.path, path) {
			delete(b.done, id)
		}
	}
}

// gone says that what was at path and below has another name, or none.
func (b *bulk) gone(path string) {
	for p := range b.restless {
		if tree.Below(p, path) {
			delete(b.restless, p)
			delete(b.small, p)
		}
	}
}

// maxDone bounds the transfers that are remembered after their last byte: many more than the buffers of a connection hold of files that are not all hole.
const maxDone = 1024

// sent notes that the last byte of a transfer was written, which says nothing of whether it has come.
func (b *bulk) sent(id uint64, size int64) {
	delete(b.restless, b.wanted[id])
	o := offer{path: b.wanted[id], size: size, turn: b.turn, offered: b.of[id]}
	b.over(id)
	b.done[id] = o
	if b.dones = append(b.dones, id); len(b.dones) > maxDone {
		delete(b.done, b.dones[0])
		b.dones = b.dones[1:]
	}
}

// came says that the follower owes nothing: whatever was sent has come.
func (b *bulk) came() {
	clear(b.done)
	b.dones = b.dones[:0]
}

// over forgets a transfer that has come or is not needed any more.
func (b *bulk) over(id uint64) {
	delete(b.wanted, id)
	delete(b.left, id)
	delete(b.of, id)
	delete(b.waiting, id)
	delete(b.have, id)
}

func (b *bulk) renamed(old, new string) {
	b.gone(old)
	b.gone(new)
	if !tree.Below(new, old) && !tree.Below(old, new) {
		b.removed(new) // it is replaced, and the follower drops what it has of it
	}
	for id, o := range b.offered {
		if tree.Below(o.path, old) {
			o.path = tree.Moved(o.path, old, new)
			b.offered[id] = o
		}
	}
	for id, o := range b.done {
		if tree.Below(o.path, old) {
			o.path = tree.Moved(o.path, old, new)
			b.done[id] = o
		}
	}
	for id, p := range b.wanted {
		if tree.Below(p, old) {
			b.wanted[id] = tree.Moved(p, old, new)
			if _, waits := b.waiting[id]; waits {
				delete(b.waiting, id)
				b.queue = append(b.queue, id)
				b.signal()
			}
		}
	}
}

// retry puts what has waited long enough back into the queue.
func (b *bulk) retry() {
	now := time.Now()
	for id, r := range b.waiting {
		if now.After(r.at) {
			b.waiting[id] = retry{now.Add(time.Hour), r.wait} // queued; the next failure sets it anew
			b.queue = append(b.queue, id)
			b.signal()
		}
	}
}

// stuckAfter is the pause before a next try from which on a name counts as gone
// if nothing is there: it was tried for 1.4 s, and a rename's record comes sooner.
const stuckAfter = 8 * bulkRetry

// stuck are the paths of transfers that were tried in vain for a while.
func (b *bulk) stuck() (paths []string) {
	for id, r := range b.waiting {
		if path, wanted := b.wanted[id]; wanted && r.wait >= stuckAfter {
			paths = append(paths, path)
		}
	}
	return paths
}

// take removes the next wanted transfer from the queue.
func (b *bulk) take() (id uint64, path string, ok bool) {
	for len(b.queue) > 0 {
		id, b.queue = b.queue[0], b.queue[1:]
		if path, ok = b.wanted[id]; ok {
			b.active++
			return id, path, true
		}
	}
	return 0, "", false
}

// Bulk serves the follower's second connection: one large file after the other,
// at the rate of that connection's link.
func (s *Stream) Bulk(ctx context.Context, conn Conn, rate *Pacer) error {
	conn = Paced(conn, rate)
	buf := make([]byte, wire.BulkChunk)
	s.mu.Lock()
	s.big.turn++
	turn := s.big.turn
	s.mu.Unlock()
	// No transfer has that number. It says that from here on nothing goes into an earlier connection, which may be dead and take it all
	// the same: what the follower asks for anew from now on comes over this one.
	if err := errors.Join(conn.Write(wire.FrameBulkGone, wire.AppendID(nil, 0)), conn.Flush()); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		var id uint64
		var path string
		ok, over := false, s.big.turn != turn
		if !over {
			id, path, ok = s.big.take()
		}
		s.mu.Unlock()
		if over {
			s.big.signal() // the token is another's
			return errSuperseded
		}
		if !ok {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.big.wake:
			}
			continue
		}
		err := s.transfer(ctx, conn, turn, id, path, buf)
		s.mu.Lock()
		s.big.active--
		if err != nil { // the connection broke: the transfer starts again on the next
			s.big.queue = append(s.big.queue, id)
			s.big.signal()
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// errUnsteady says that a file changed or went while it was read.
var errUnsteady = errors.New("send: the file did not stand still")

// errSuperseded says that the follower has opened another connection.
var errSuperseded = errors.New("send: another second connection has taken over")

func (s *Stream) transfer(ctx context.Context, conn Conn, turn, id uint64, path string, buf []byte) error {
	m, err := s.copyFile(ctx, conn, id, path, buf)
	if err == nil {
		defer s.o.Versions.keep(path, m) // behind the transfer: it may have to wait for the disk
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.big.turn != turn {
		return errSuperseded
	}
	if _, still := s.big.wanted[id]; err == nil && !still {
		err = errUnsteady // a record of the stream has overtaken it
	}
	switch {
	case errors.Is(err, errUnsteady):
		wait := min(max(bulkRetry, 2*s.big.waiting[id].wait), bulkRetryMax)
		if _, still := s.big.wanted[id]; still {
			s.big.waiting[id] = retry{time.Now().Add(wait), wait}
		}
		return errors.Join(conn.Write(wire.FrameBulkGone, wire.AppendID(nil, id)), conn.Flush())
	case err != nil:
		return err
	}
	if s.big.of[id].inode == m.Inode {
		m.Origin = m.Inode // the follower sees that it is what was offered
	}
	if m.Links > 1 {
		m.Group = m.Inode
	}
	done := wire.Op{Kind: wire.OpFile, Path: path, ID: id, Meta: m}
	if err := errors.Join(conn.Write(wire.FrameBulkDone, done.Append(nil)), conn.Flush()); err != nil {
		return err // on the next connection once more
	}
	s.big.sent(id, m.Size)
	s.meter.now.Files++
	return nil
}

// copyFile sends a file's bytes; what changed under the reading is not
// published: half-old half-new content must never appear on a standby.
func (s *Stream) copyFile(ctx context.Context, conn Conn, id uint64, path string, buf []byte) (tree.Meta, error) {
	f, before, err := s.o.Root.OpenFile(path)
	if err != nil {
		if tree.IsGone(err) {
			return before, errUnsteady
		}
		return before, err
	}
	defer f.Close()
	if before, err = afterItsTick(f, before); err != nil {
		return before, err
	}
	s.begins(id, before.Size)
	s.mu.Lock()
	have, of, waited := s.big.have[id], s.big.of[id], s.big.waiting[id].wait
	patience := waited < stuckAfter
	s.mu.Unlock()
	if before.Inode != of.inode && (patience || of.several) {
		return before, errUnsteady // a record to come says that this name is another file's
	}
	if was := s.o.Versions.match(before.Inode, path, have); was != nil {
		defer s.o.Versions.release(was)
		if m, err := s.copyDelta(ctx, conn, id, f, path, was, buf); !errors.Is(err, block.ErrUnsupported) {
			return m, err
		}
	}
	wait, open := s.beingWritten(path, f)
	if wait {
		return before, errUnsteady
	}
	if open || waited > 0 {
		if m, err := s.copyClone(ctx, conn, id, f, path, buf); !errors.Is(err, block.ErrUnsupported) {
			return m, err
		}
	}
	return s.copyWhole(ctx, conn, id, f, before, buf)
}

func (s *Stream) copyWhole(ctx context.Context, conn Conn, id uint64, f *os.File, before tree.Meta, buf []byte) (tree.Meta, error) {
	size := int64(0)
	for more := true; more; {
		piece, n := buf, int64(0)
		if before.Holes {
			var run int64
			var err error
			if n, run, err = sendHole(f, conn, id, size, before.Size); err != nil {
				return before, err
			}
			size += n
			piece = buf[:min(int64(len(buf)), max(run, 1))]
		}
		hole := n
		most, err := pacerOf(conn).bulk(ctx, len(piece))
		if err != nil {
			return before, err
		}
		piece = piece[:most]
		n, again, err := sendData(f, conn, id, piece)
		if err != nil {
			return before, err
		}
		more = again
		size += n
		if ctx.Err() != nil {
			return before, ctx.Err()
		}
		if !s.advance(id, hole+n) {
			return before, errUnsteady
		}
	}
	after, err := tree.FStat(int(f.Fd()))
	if err != nil || after.CTime != before.CTime || after.Size != size {
		s.mu.Lock()
		defer s.mu.Unlock()
		if path, still := s.big.wanted[id]; still {
			s.big.moves(path, false)
		}
		return before, errUnsteady
	}
	return after, nil
}

// sendData sends the next piece of the file; more is false at its end.
func sendData(f *os.File, conn Conn, id uint64, buf []byte) (sent int64, more bool, err error) {
	n, err := f.Read(buf)
	if n > 0 {
		if err := conn.Write(wire.FrameBulkData, wire.AppendID(nil, id), buf[:n]); err != nil {
			return 0, false, err
		}
	}
	if err == io.EOF {
		return int64(n), false, nil
	}
	return int64(n), true, err
}

// sendHole tells the hole that the file has at the offset, if there is one, and
// goes behind it, where there are run bytes of data. Where a filesystem cannot
// tell, all is data (lseek(2)).
func sendHole(f *os.File, conn Conn, id uint64, at, size int64) (hole, run int64, err error) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		data = max(at, size) // nothing but a hole up to the end
	case err != nil:
		data = at
	}
	end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		end = size
	}
	if _, err := f.Seek(data, io.SeekStart); err != nil {
		return 0, 0, err
	}
	if data == at {
		return 0, end - data, nil
	}
	return data - at, end - data, conn.Write(wire.FrameBulkHole, wire.AppendID(wire.AppendID(nil, id), uint64(data-at)))
}

// begins notes that a transfer begins (again), and how large the file is now.
func (s *Stream) begins(id uint64, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, wanted := s.big.wanted[id]; wanted {
		s.big.left[id] = size
	}
}
