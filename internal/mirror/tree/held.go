package tree

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Held is a directory of the volume that is held open: what happens in it resolves
// no path again, and stays in it if it is renamed. One goroutine uses it.
type Held struct {
	fd   int
	rel  string
	born *Meta // of a file that Create makes here; nil: not known yet
}

// Hold opens the directory at rel.
func (r *Root) Hold(rel string) (*Held, error) {
	fd, err := r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Held{fd: fd, rel: rel}, nil
}

// LookDir is Lstat of a directory, and fs.ErrNotExist for all else.
func (r *Root) LookDir(rel string) (Meta, error) {
	h, err := r.Hold(rel)
	if errors.Is(err, fs.ErrPermission) { // it need not be readable
		m, err := r.Lstat(rel)
		if err == nil && m.Kind != Dir {
			err = &fs.PathError{Op: "open", Path: rel, Err: fs.ErrNotExist}
		}
		return m, err
	}
	if err != nil {
		return Meta{}, err
	}
	defer h.Close()
	return h.Meta()
}

// Keep is Hold of a directory that is used as long as the root is open; the same
// one is returned every time, and Close of the root closes it.
func (r *Root) Keep(rel string) (*Held, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.kept[rel]; h != nil {
		return h, nil
	}
	h, err := r.Hold(rel)
	if err != nil {
		return nil, err
	}
	if r.kept == nil {
		r.kept = map[string]*Held{}
	}
	r.kept[rel] = h
	return h, nil
}

func (r *Root) closeKept() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.kept {
		h.Close()
	}
	r.kept = nil
}

// FD is the directory's descriptor; it may be read and synced.
func (h *Held) FD() int { return h.fd }

// Path is where the directory was when it was opened.
func (h *Held) Path() string { return h.rel }

// Close lets go of the directory.
func (h *Held) Close() error { return unix.Close(h.fd) }

// Meta describes the directory.
func (h *Held) Meta() (Meta, error) { return FStat(h.fd) }

// SetTime sets the directory's time.
func (h *Held) SetTime(mtime int64) error { return wrap("utimes", h.rel, futimes(h.fd, mtime)) }

// RenameNew moves the entry name to the name base in to and fails with fs.ErrExist if something is there.
func (h *Held) RenameNew(name string, to *Held, base string) error {
	if err := unix.Renameat2(h.fd, name, to.fd, base, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: Join(h.rel, name), New: Join(to.rel, base), Err: gone(err)}
	}
	return nil
}

// Create makes a new empty file with mode 0600; it fails if one is there.
func (h *Held) Create(name string) (*Draft, error) {
	for {
		fd, err := unix.Openat(h.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "create", Path: Join(h.rel, name), Err: gone(err)}
		}
		d := &Draft{fd: fd, in: h, name: name}
		if h.born == nil { // an owner by the directory's group, an ACL by its default one: the same for all
			m, err := FStat(fd)
			if err != nil {
				d.Close()
				return nil, err
			}
			h.born = &m
		}
		return d, nil
	}
}

// Draft is a new file that is being written. It is an os.File without what a
// descriptor costs that could be waited for (two system calls for each), and knows what its metadata is already.
type Draft struct {
	fd   int
	in   *Held
	name string
}

// Name is the file's path.
func (d *Draft) Name() string { return Join(d.in.rel, d.name) }

// FD is the file's descriptor.
func (d *Draft) FD() int { return d.fd }

// Close ends the writing; what was written is not durable by that.
func (d *Draft) Close() error { return wrap("close", d.Name(), unix.Close(d.fd)) }

// Write appends b.
func (d *Draft) Write(b []byte) (n int, err error) {
	return d.all(b, func(b []byte, _ int) (int, error) { return unix.Write(d.fd, b) })
}

// WriteAt writes b at an offset.
func (d *Draft) WriteAt(b []byte, at int64) (n int, err error) {
	return d.all(b, func(b []byte, done int) (int, error) { return unix.Pwrite(d.fd, b, at+int64(done)) })
}

func (d *Draft) all(b []byte, write func(b []byte, done int) (int, error)) (n int, err error) {
	for n < len(b) {
		m, err := write(b[n:], n)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, wrap("write", d.Name(), err)
		}
		n += m
	}
	return n, nil
}

// Truncate sets the file's size.
func (d *Draft) Truncate(size int64) error {
	return wrap("truncate", d.Name(), unix.Ftruncate(d.fd, size))
}

// Stat is what the inode says of the file, without its extended attributes.
func (d *Draft) Stat() (Meta, error) { return fstat(d.fd) }

// SetMeta is SetMeta for a file that was just made.
func (d *Draft) SetMeta(m Meta) (Refused, error) { return setMeta(d.fd, d.Name(), m, d.in.born) }
