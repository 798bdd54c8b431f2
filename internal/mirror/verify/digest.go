package verify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// readChunk is how much is read, and accounted for, at once.
const readChunk = 256 << 10

// Reader digests names of one volume on this node. One goroutine uses it.
type Reader struct {
	Root     *tree.Root
	Excluded func(rel string) bool
	Index    *Index
	pace     pace
	buf      []byte
	Files    int64 // digested
	Bytes    int64
}

// Digests answers an Ask.
func (r *Reader) Digests(ctx context.Context, a Ask) (list []Entry, more bool, err error) {
	r.pace.rate = a.Rate
	dir := string(a.Dir)
	var names []string
	for _, n := range a.Only {
		if !r.Excluded(tree.Join(dir, string(n))) {
			names = append(names, string(n))
		}
	}
	if len(a.Only) == 0 {
		if names, err = r.names(dir); err != nil {
			return nil, false, err
		}
		names = slices.DeleteFunc(names, func(n string) bool {
			return len(a.After) > 0 && n <= string(a.After) || len(a.Until) > 0 && n > string(a.Until)
		})
		if more = len(names) > maxAnswer; more {
			names = names[:maxAnswer]
		}
	}
	for _, name := range names {
		e, err := r.entry(ctx, tree.Join(dir, name), a.Run)
		if err != nil {
			return nil, false, err
		}
		if e.Kind == 0 && len(a.Only) == 0 && e.Error == "" {
			continue // it went while we read
		}
		e.Name = []byte(name)
		list = append(list, e)
	}
	return list, more, nil
}

// names are those in dir that are mirrored.
func (r *Reader) names(dir string) ([]string, error) {
	names, err := r.Root.Names(dir)
	if err != nil {
		if tree.IsGone(err) {
			return nil, nil
		}
		return nil, err
	}
	return slices.DeleteFunc(names, func(n string) bool { return r.Excluded(tree.Join(dir, n)) }), nil
}

// entry looks at one name, and reads it if it is a file.
func (r *Reader) entry(ctx context.Context, rel string, run int64) (Entry, error) {
	if err := r.pace.take(ctx, fileCost); err != nil {
		return Entry{}, err
	}
	m, err := r.Root.Lstat(rel)
	switch {
	case tree.IsGone(err):
		return Entry{}, nil
	case err != nil:
		return Entry{Error: err.Error()}, nil
	case m.Kind == tree.Other:
		return Entry{}, nil
	}
	if m.Kind != tree.File {
		return entryOf(m), nil
	}
	f, _, err := r.Root.OpenFile(rel)
	if tree.IsGone(err) {
		return Entry{Moving: true}, nil
	}
	if err != nil {
		return Entry{Error: err.Error()}, nil
	}
	defer f.Close()
	return r.file(ctx, f, rel, run)
}

// file reads a file from the disk. What was stored through a mapping is written
// out first, and pages are read-only from then on: the next store changes the
// time of the inode, so that no store can come behind our back.
func (r *Reader) file(ctx context.Context, f *os.File, rel string, run int64) (Entry, error) {
	fd := int(f.Fd())
	flags := unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	_ = unix.SyncFileRange(fd, 0, 0, flags)          // not every filesystem can; then the cache is what is read
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)   // what is on the disk counts, not what the cache remembers
	defer unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) // nor is the cache filled with what nobody asked for
	before, err := tree.FStat(fd)
	if err != nil {
		return Entry{Error: err.Error()}, nil
	}
	began := time.Now()
	e := entryOf(before)
	e.Hash, err = r.content(ctx, f, before.Size)
	switch {
	case ctx.Err() != nil:
		return e, ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.Moving = true
		return e, nil
	case err != nil:
		e.Error = err.Error()
		return e, nil
	}
	after, err := tree.FStat(fd)
	if err != nil {
		return Entry{Error: err.Error()}, nil
	}
	e.Moving = stateOf(before) != stateOf(after)
	r.Files++
	if e.Moving || r.Index == nil || began.UnixNano()-before.CTime < int64(racy) {
		return e, nil
	}
	e.Was, e.proven, err = r.Index.seen(rel, e.state, e.Hash, run)
	return e, err
}

// content digests size bytes. Holes are not read, they are zeroes.
func (r *Reader) content(ctx context.Context, f *os.File, size int64) ([]byte, error) {
	if r.buf == nil {
		r.buf = make([]byte, readChunk)
	}
	h := blake3.New()
	zero := make([]byte, 32<<10)
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO:
			data = size
		case err != nil:
			data = at // a filesystem without holes
		}
		for data = min(data, size); at < data; {
			n := min(data-at, int64(len(zero)))
			_, _ = h.Write(zero[:n]) // a hash takes everything
			at += n
		}
		hole, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
		if err != nil || hole <= at {
			hole = size
		}
		for hole = min(hole, size); at < hole; {
			n := min(hole-at, int64(len(r.buf)))
			if err := r.pace.take(ctx, n); err != nil {
				return nil, err
			}
			got, err := f.ReadAt(r.buf[:n], at)
			if int64(got) < n {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return nil, err
			}
			_, _ = h.Write(r.buf[:n])
			at += n
			r.Bytes += n
		}
	}
	return h.Sum(nil), nil
}

func entryOf(m tree.Meta) Entry {
	e := Entry{Kind: m.Kind, Mode: m.Mode, UID: m.UID, GID: m.GID, Size: m.Size, MTime: m.MTime, Rdev: m.Rdev, Target: []byte(m.Target), state: stateOf(m)}
	if m.Xattrs != "" {
		sum := blake3.Sum256([]byte(m.Xattrs))
		e.Xattrs = sum[:]
	}
	return e
}

// differ says in what b is not what a is; "" if they are the same.
func differ(a, b *Entry, end End) string {
	switch {
	case a.Error != "" || b.Error != "":
		return Unreadable
	case a.Kind == 0 && b.Kind == 0:
		return ""
	case b.Kind == 0:
		if end.NoNodes && a.Kind.Special() {
			return ""
		}
		return Missing
	case a.Kind == 0:
		return Extra
	case a.Kind != b.Kind:
		return OtherKind
	case !end.NoOwner && (a.UID != b.UID || a.GID != b.GID), !end.NoXattrs && !bytes.Equal(a.Xattrs, b.Xattrs), a.Mode != b.Mode && a.Kind != tree.Symlink:
		return Metadata
	}
	switch {
	case a.Kind == tree.File && (a.Size != b.Size || !bytes.Equal(a.Hash, b.Hash)):
		return Content
	case a.Kind == tree.Symlink && !bytes.Equal(a.Target, b.Target):
		return Content
	case a.Kind.Special() && a.Rdev != b.Rdev:
		return Content
	case a.Kind != tree.Dir && a.MTime != b.MTime:
		return Metadata
	}
	return ""
}

// pace is a token bucket of a quarter of a second.
type pace struct {
	rate int64
	free float64 // may be negative: owed
	last time.Time
	busy func() error // told now and then; may be nil
}

// take waits until n bytes may be read.
func (p *pace) take(ctx context.Context, n int64) error {
	if p.busy != nil {
		if err := p.busy(); err != nil {
			return err
		}
	}
	now := time.Now()
	if p.last.IsZero() {
		p.last = now
	}
	p.free = min(p.free+now.Sub(p.last).Seconds()*float64(p.rate), float64(p.rate)/4)
	p.last = now
	p.free -= float64(n)
	if p.free >= 0 {
		return ctx.Err()
	}
	wait := time.NewTimer(time.Duration(-p.free / float64(p.rate) * float64(time.Second)))
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return nil
	}
}
