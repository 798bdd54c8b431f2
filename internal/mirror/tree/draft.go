package tree

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// Draft begins a new file at name, which must be free, with the permissions of mode as the umask leaves them.
func (h *Held) Draft(name string, mode uint32) (*Draft, error) {
	fd, err := h.begin(name, mode&0o777)
	if err != nil {
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

func (h *Held) begin(name string, mode uint32) (fd int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		fd, err = unix.Openat(h.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	}
	return fd, err
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

// Finish gives the file its metadata, in the order of SetMeta, and says what the inode is then, without its extended attributes.
func (d *Draft) Finish(m Meta) (not Refused, now Meta, err error) {
	has := d.in.born
	if m.Xattrs != has.Xattrs || has.Xattrs != "" { // an ACL has the last word about the mode
		if not, err = setMeta(d.fd, d.Name(), m, has); err == nil {
			now, err = fstat(d.fd)
		}
		return not, now, err
	}
	if m.UID != has.UID || m.GID != has.GID {
		if not.Owner, err = chownRefused(unix.Fchown(d.fd, int(m.UID), int(m.GID))); err != nil {
			return not, now, wrap("chown", d.Name(), err)
		}
	}
	if err := futimes(d.fd, m.MTime); err != nil {
		return not, now, wrap("utimes", d.Name(), err)
	}
	if now, err = fstat(d.fd); err != nil || now.Mode == m.Mode { // as nearly always: it was made with its mode
		return not, now, err
	}
	if err := unix.Fchmod(d.fd, m.Mode); err != nil {
		return not, now, wrap("chmod", d.Name(), err)
	}
	now, err = fstat(d.fd)
	return not, now, err
}
