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
	born *Meta // of a file that Draft makes here; nil: not known yet
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

// Glance is Root's for a name in the directory.
func (h *Held) Glance(name string) (Meta, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(h.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Meta{}, &fs.PathError{Op: "lstat", Path: name, Err: gone(err)}
	}
	return metaOf(&st), nil
}

// SetTime sets the directory's time.
func (h *Held) SetTime(mtime int64) error { return wrap("utimes", h.rel, futimes(h.fd, mtime)) }

// RenameNew moves the entry name to the name base in to and fails with fs.ErrExist if something is there.
func (h *Held) RenameNew(name string, to *Held, base string) error {
	if err := unix.Renameat2(h.fd, name, to.fd, base, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: Join(h.rel, name), New: Join(to.rel, base), Err: gone(err)}
	}
	return nil
}
