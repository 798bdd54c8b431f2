package journal

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
)

// Position is the position of the last change.
func (j *Journal) Position() cluster.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.history.End()
}

// Next is the position of the next change in the current reign.
func (j *Journal) Next() cluster.Position {
	p := j.Position()
	p.Seq++
	return p
}

// History is a copy of the reigns so far.
func (j *Journal) History() reconcile.History {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append(reconcile.History(nil), j.state.history...)
}

// Owed is a copy of the paths that are owed to this node.
func (j *Journal) Owed() reconcile.Owed {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.owed.Clone()
}

// Oldest is the oldest position behind which everything can be read.
func (j *Journal) Oldest() cluster.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.segments[0].after
}

// Changed is closed when something is appended after the call.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// Reader reads changes in order. It is used by one goroutine.
type Reader struct {
	j       *Journal
	after   cluster.Position
	file    *os.File
	number  uint64
	offset  int64
	pending []byte // read and not yet decoded; a part of buf
	buf     []byte
}

// Reader starts behind position after; ErrTrimmed if that is no longer here.
func (j *Journal) Reader(after cluster.Position) (*Reader, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.segments) - 1; i >= 0; i-- {
		if s := j.segments[i]; s.after.Compare(after) <= 0 {
			return &Reader{j: j, after: after, number: s.number}, nil
		}
	}
	return nil, ErrTrimmed
}

// Close releases the reader's file.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

const (
	// readChunk is how much of a segment is read at a time.
	readChunk = 256 << 10
	// leastBuffer holds some 50 records. A reader keeps its buffer: a new one of readChunk for each change of a busy
	// volume was most of what a master's streams allocated.
	leastBuffer = 4 << 10
)

// Next returns up to max changes and reigns (kinds Dirty to Begun), none if the
// end is reached.
func (r *Reader) Next(max int) ([]Record, error) {
	var out []Record
	for len(out) < max {
		rec, n, err := decodeFrame(r.pending)
		if err == nil {
			r.pending = r.pending[n:]
			if rec.Kind.IsChange() && rec.Pos.Compare(r.after) > 0 {
				r.after = rec.Pos
				out = append(out, rec)
			} else if rec.Kind == Begun && rec.Reign.Term > r.after.Term {
				out = append(out, rec)
			}
			continue
		}
		more, err := r.fill()
		if err != nil {
			return nil, err
		}
		if !more {
			return out, nil
		}
	}
	return out, nil
}

// fill reads on; false means that there is nothing more now.
func (r *Reader) fill() (bool, error) {
	if r.file == nil {
		f, err := os.Open(r.j.path(segmentName(r.number)))
		if errors.Is(err, fs.ErrNotExist) {
			return false, ErrTrimmed
		}
		if err != nil {
			return false, fail("read journal", r.j.dir, err)
		}
		r.file = f
	}
	end, last := r.end()
	if r.offset < end {
		kept, want := len(r.pending), int(min(end-r.offset, readChunk))
		if len(r.buf) < kept+want { // a stream that keeps up reads a few records at a time
			r.buf = append(make([]byte, 0, max(kept+want, leastBuffer)), r.pending...)
			r.buf = r.buf[:cap(r.buf)]
		} else {
			copy(r.buf, r.pending)
		}
		n, err := r.file.ReadAt(r.buf[kept:kept+want], r.offset)
		if err != nil && (err != io.EOF || n == 0) {
			return false, fail("read journal", r.j.dir, err)
		}
		r.offset += int64(n)
		r.pending = r.buf[:kept+n]
		return true, nil
	}
	if last {
		return false, nil
	}
	r.file.Close()
	r.file, r.offset, r.pending = nil, 0, nil
	r.number++
	return true, nil
}

// end is how far the reader's segment may be read, and whether it is the one
// that is written to.
func (r *Reader) end() (int64, bool) {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	if r.number == r.j.segments[len(r.j.segments)-1].number {
		return r.j.size, true
	}
	info, err := r.file.Stat()
	if err != nil {
		return r.offset, false
	}
	return info.Size(), false
}

// OwedLen is the number of paths that are owed to this node.
func (j *Journal) OwedLen() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.owed.Len()
}

// OwedTrees is the number of whole trees that are owed to this node.
func (j *Journal) OwedTrees() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.owed.Trees()
}

// Collapsed is how often the debts became one for everything since Open: whoever
// kept account of them has to ask Owed again.
func (j *Journal) Collapsed() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.collapsed
}

// Durable is the position up to which the files of this node's own changes are
// known to be on the disk.
func (j *Journal) Durable() cluster.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.durable
}
