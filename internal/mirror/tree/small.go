package tree

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ReadSmall reads the regular file at rel if it is not larger than most, with
// what Lstat says of it; of a larger one, the first bytes: more than most of them. still says that it did not
// change meanwhile.
func (r *Root) ReadSmall(rel string, most int64) (m Meta, data []byte, still bool, err error) {
	fd, err := toRead(func(flags int) (int, error) { return r.open(rel, flags, 0) })
	return readSmall(fd, err, rel, most)
}

// ReadSmall is Root's for a name in the directory.
func (h *Held) ReadSmall(name string, most int64) (m Meta, data []byte, still bool, err error) {
	fd, err := toRead(func(flags int) (int, error) { return resolveAt(h.fd, name, flags, 0) })
	return readSmall(fd, err, name, most)
}

// readSmall reads what was opened as fd.
func readSmall(fd int, opened error, rel string, most int64) (m Meta, data []byte, still bool, err error) {
	if opened != nil {
		return Meta{}, nil, false, opened
	}
	defer unix.Close(fd)
	if m, err = FStat(fd); err != nil {
		return m, nil, false, err
	}
	if m.Kind != File {
		return m, nil, false, &fs.PathError{Op: "open", Path: rel, Err: fs.ErrNotExist}
	}
	data = make([]byte, min(m.Size, most)+1) // one byte more than there should be shows that it grew
	n, err := readAll(fd, data, m.Size)
	if err != nil {
		return m, nil, false, wrap("read", rel, err)
	}
	data = data[:n]
	after, err := fstat(fd)
	if err != nil {
		return m, nil, false, wrap("stat", rel, err)
	}
	// Whatever else changes, attributes too, changes the time of the inode.
	still = after.CTime == m.CTime && after.Size == m.Size && (int64(n) == m.Size || int64(n) > most)
	return m, data, still, nil
}

// readAll reads until b is full or the file ends. A reading that stops at size, short of what b could take, was stopped by
// the end: the look that follows says whether the file has grown since.
func readAll(fd int, b []byte, size int64) (n int, err error) {
	for n < len(b) && (n == 0 || int64(n) != size) {
		m, err := unix.Pread(fd, b[n:], int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return n, err
		case m == 0:
			return n, nil
		}
		n += m
	}
	return n, nil
}
