package send

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// copyDelta sends what changed in a file since the version that the follower
// has. Both are clones that nobody writes to, so what is sent is one moment of
// the file, whatever its writers do meanwhile. block.ErrUnsupported if it has to
// be sent whole.
func (s *Stream) copyDelta(ctx context.Context, conn Conn, id uint64, f *os.File, path string, was *version, buf []byte) (tree.Meta, error) {
	now, err := s.o.Versions.take(f, path)
	if err != nil {
		return tree.Meta{}, err
	}
	defer s.o.Versions.release(now)
	changed, err := now.since(was)
	if err != nil {
		return now.meta, err
	}
	number := func(frame byte, n int64) error {
		return conn.Write(frame, wire.AppendID(wire.AppendID(nil, id), uint64(n)))
	}
	base := wire.AppendID(wire.AppendID(wire.AppendID(nil, id), uint64(was.meta.Size)), uint64(was.meta.MTime))
	if err := conn.Write(wire.FrameBulkBase, base); err != nil {
		return now.meta, err
	}
	at := int64(0)
	ahead := readAhead{f: now.f, left: changed}
	for i, r := range append(changed, block.Range{At: now.meta.Size}) { // what is behind the last change is kept, too
		ahead.upTo(i + aheadRanges)
		if r.At > at {
			if err := number(wire.FrameBulkKeep, r.At-at); err != nil {
				return now.meta, err
			}
			s.advance(id, r.At-at)
		}
		if at = r.At + r.Length; r.Hole {
			err = number(wire.FrameBulkHole, r.Length)
			s.advance(id, r.Length)
		} else {
			err = s.sendRange(ctx, conn, id, now.f, r, buf)
		}
		if err != nil {
			return now.meta, err
		}
	}
	return now.meta, nil
}

const (
	// aheadRanges and aheadBytes bound what is read ahead of a clone: the ranges behind the one being sent, and how much of each.
	aheadRanges = 64
	aheadBytes  = wire.BulkChunk
)

// readAhead has the disk read ranges of a clone before they are sent. What was written a moment ago is in memory as the
// file's and not as the clone's: read one after the other, each small range would be waited for.
type readAhead struct {
	f    *os.File
	left []block.Range
	done int
}

// upTo begins the reading of all ranges before the nth.
func (a *readAhead) upTo(n int) {
	for ; len(a.left) > 0 && a.done < n; a.done++ {
		if r := a.left[0]; !r.Hole {
			_ = unix.Fadvise(int(a.f.Fd()), r.At, min(r.Length, aheadBytes), unix.FADV_WILLNEED) // a hint
		}
		a.left = a.left[1:]
	}
}

// copyClone sends a file that may be written meanwhile as it is at one moment. block.ErrUnsupported where the filesystem
// cannot hold that.
func (s *Stream) copyClone(ctx context.Context, conn Conn, id uint64, f *os.File, path string, buf []byte) (tree.Meta, error) {
	if s.o.Versions == nil {
		return tree.Meta{}, block.ErrUnsupported
	}
	now, err := s.o.Versions.take(f, path)
	if err != nil {
		return tree.Meta{}, err
	}
	defer s.o.Versions.release(now)
	c, err := now.reopen()
	if err != nil {
		return now.meta, err
	}
	defer c.Close()
	is, err := tree.FStat(int(c.Fd()))
	if err == nil {
		_, err = s.copyWhole(ctx, conn, id, c, is, buf)
	}
	return now.meta, err
}

// sendRange sends one changed range.
func (s *Stream) sendRange(ctx context.Context, conn Conn, id uint64, f *os.File, r block.Range, buf []byte) error {
	for at, end := r.At, r.At+r.Length; at < end; {
		most, err := pacerOf(conn).bulk(ctx, len(buf))
		if err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:min(int64(most), end-at)], at)
		if n == 0 && err != nil {
			return err
		}
		if err := conn.Write(wire.FrameBulkData, wire.AppendID(nil, id), buf[:n]); err != nil {
			return err
		}
		at += int64(n)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !s.advance(id, int64(n)) {
			return errUnsteady
		}
	}
	return nil
}

// openPatience is how long a large file that somebody has open for writing is
// left alone at most: sent while it grows it would have to be sent again.
const openPatience = 3 * time.Second

// maxPatient bounds the files remembered as waited for.
const maxPatient = 1000

// beingWritten reports whether to wait for a file's writer to close it, and whether there is one.
func (s *Stream) beingWritten(path string, f *os.File) (wait, open bool) {
	// A read lease is refused with EAGAIN while anybody has the file open for writing (fcntl(2)); where
	// there are no leases nobody is waited for. It is given back at once: a writer that opens meanwhile waits for that.
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	since, waits := s.big.patient[path]
	switch {
	case err != unix.EAGAIN:
		delete(s.big.patient, path)
		return false, false
	case !waits:
		if len(s.big.patient) >= maxPatient {
			clear(s.big.patient)
		}
		s.big.patient[path] = time.Now()
		return true, true
	case time.Since(since) > openPatience:
		delete(s.big.patient, path)
		return false, true
	}
	return true, true
}
