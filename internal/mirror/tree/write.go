package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/syswait"
)

// Create makes a new empty file at rel with mode 0600; it fails if one is there.
func (r *Root) Create(rel string) (*os.File, error) {
	fd, err := r.open(rel, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// TempFile makes an empty file without a name in the directory rel. It goes when it is closed.
func (r *Root) TempFile(rel string) (*os.File, error) {
	fd, err := r.open(rel, unix.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// Mkdir makes the directory rel; it is no error if one is there.
func (r *Root) Mkdir(rel string, mode uint32) error {
	fd, base, err := r.parent(rel)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Mkdirat(fd, base, mode)
	if err == unix.EEXIST {
		if m, serr := statAt(fd, base); serr == nil && m.Kind == Dir {
			return nil
		}
	}
	return wrap("mkdir", rel, err)
}

// MkdirAll makes rel and its missing parents with mode 0700.
func (r *Root) MkdirAll(rel string) error {
	if rel == "" {
		return nil
	}
	err := r.Mkdir(rel, 0o700)
	if !IsGone(err) {
		return err
	}
	if err := r.MkdirAll(Parent(rel)); err != nil {
		return err
	}
	return r.Mkdir(rel, 0o700)
}

// Symlink makes a symbolic link at rel; it fails if something is there.
func (r *Root) Symlink(target, rel string) error {
	fd, base, err := r.parent(rel)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return wrap("symlink", rel, unix.Symlinkat(target, fd, base))
}

// Link gives the inode at old the further name new.
func (r *Root) Link(old, new string) error {
	return r.two("link", old, new, func(ofd int, oname string, nfd int, nname string) error {
		return unix.Linkat(ofd, oname, nfd, nname, 0)
	})
}

// Rename moves old to new, over what is there if the kernel allows it.
func (r *Root) Rename(old, new string) error {
	return r.two("rename", old, new, func(ofd int, oname string, nfd int, nname string) error {
		return unix.Renameat2(ofd, oname, nfd, nname, 0)
	})
}

// RenameNew moves old to new and fails with fs.ErrExist if something is there.
func (r *Root) RenameNew(old, new string) error {
	return r.two("rename", old, new, func(ofd int, oname string, nfd int, nname string) error {
		return unix.Renameat2(ofd, oname, nfd, nname, unix.RENAME_NOREPLACE)
	})
}

func (r *Root) two(op, old, new string, do func(int, string, int, string) error) error {
	ofd, oname, err := r.parent(old)
	if err != nil {
		return err
	}
	defer unix.Close(ofd)
	nfd, nname, err := r.parent(new)
	if err != nil {
		return err
	}
	defer unix.Close(nfd)
	if err := do(ofd, oname, nfd, nname); err != nil {
		return &os.LinkError{Op: op, Old: old, New: new, Err: gone(err)}
	}
	return nil
}

// Remove deletes the file, link or empty directory at rel.
func (r *Root) Remove(rel string) error {
	fd, base, err := r.parent(rel)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Unlinkat(fd, base, 0)
	if err == unix.EISDIR {
		err = unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
	}
	return wrap("remove", rel, err)
}

// RemoveAll deletes rel and everything below it; nothing there is no error.
func (r *Root) RemoveAll(rel string) error { return r.removeAll(rel, 0) }

// removeAll is at level hoists: what lies too deep for a path is moved up first.
func (r *Root) removeAll(rel string, hoists int) error {
	err := r.Remove(rel)
	if err == nil || IsGone(err) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	names, err := r.Names(rel)
	if err != nil {
		return err
	}
	for _, name := range names {
		below := Join(rel, name)
		if len(below) >= MaxPath {
			if below, err = r.hoist(rel, name, hoists); err != nil {
				return err
			}
			if err := r.removeAll(below, hoists+1); err != nil {
				return err
			}
			continue
		}
		if err := r.removeAll(below, hoists); err != nil {
			return err
		}
	}
	return r.Remove(rel)
}

// hoist moves an entry of rel into the hidden directory.
func (r *Root) hoist(rel, name string, level int) (to string, err error) {
	to = Hidden + "/deep-" + strconv.Itoa(level)
	if err := r.removeAll(to, level+1); err != nil { // of a removal that was interrupted
		return "", err
	}
	from, err := r.open(rel, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(from)
	own, err := r.open(Hidden, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(own)
	return to, wrap("rename", to, unix.Renameat(from, name, own, path.Base(to)))
}

// Refused is what this node may not set: no privilege, or an id that the user
// namespace does not map, or a filesystem that has no such thing.
type Refused struct{ Owner, Xattrs bool }

// SetMeta gives the open file f owner, mode, extended attributes and time, in
// that order: chown clears setuid and capabilities (chown(2)), and an ACL has the
// last word about the mode.
func SetMeta(f *os.File, m Meta) (not Refused, err error) {
	return setMeta(int(f.Fd()), f.Name(), m, nil)
}

// setMeta is SetMeta for a file that has the owner and attributes of has; nil: nothing is known.
func setMeta(fd int, name string, m Meta, has *Meta) (not Refused, err error) {
	if has == nil || m.UID != has.UID || m.GID != has.GID {
		if not.Owner, err = chownRefused(unix.Fchown(fd, int(m.UID), int(m.GID))); err != nil {
			return not, wrap("chown", name, err)
		}
	}
	if err := unix.Fchmod(fd, m.Mode); err != nil {
		return not, wrap("chmod", name, err)
	}
	if has == nil || m.Xattrs != has.Xattrs {
		if not.Xattrs, err = byFD(fd).write(m.Xattrs); err != nil {
			return not, wrap("setxattr", name, err)
		}
	}
	// utimensat with an empty path needs AT_EMPTY_PATH of 5.8 and later; futimens is the same call with a null path.
	return not, wrap("utimes", name, futimes(fd, m.MTime))
}

func futimes(fd int, mtime int64) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime)}
	return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
}

// SetMetaAt is SetMeta for the directory, link or special file at rel; links have no mode.
func (r *Root) SetMetaAt(rel string, m Meta) (not Refused, err error) {
	if m.Kind == Dir {
		fd, err := r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return not, err
		}
		f := os.NewFile(uintptr(fd), rel)
		defer f.Close()
		return SetMeta(f, m)
	}
	// Opened as itself: what is at rel cannot be another one between two of these calls.
	fd, err := r.open(rel, unix.O_PATH, 0)
	if err != nil {
		return not, err
	}
	defer unix.Close(fd)
	if not.Owner, err = chownRefused(unix.Fchownat(fd, "", int(m.UID), int(m.GID), unix.AT_EMPTY_PATH)); err != nil {
		return not, wrap("chown", rel, err)
	}
	if m.Kind != Symlink {
		if err := unix.Chmod(procPath(fd, ""), m.Mode); err != nil {
			return not, wrap("chmod", rel, err)
		}
	}
	if not.Xattrs, err = byPath(procPath(fd, ""), true).write(m.Xattrs); err != nil {
		return not, wrap("setxattr", rel, err)
	}
	return not, wrap("utimes", rel, futimes(fd, m.MTime))
}

// SetTime sets the time of what is at rel and nothing else.
func (r *Root) SetTime(rel string, mtime int64) error {
	fd, err := r.open(rel, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return wrap("utimes", rel, futimes(fd, mtime))
}

// chownRefused separates "this node may not give files away", which the caller
// counts, from real failures.
func chownRefused(err error) (refused bool, real error) {
	switch err {
	case nil:
		return false, nil
	case unix.EPERM, unix.EINVAL:
		return true, nil
	}
	return false, err
}

// Mknod makes a special file at rel; it fails if something is there. made is
// false if this node may not make devices.
func (r *Root) Mknod(rel string, m Meta) (made bool, err error) {
	fd, base, err := r.parent(rel)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	mode := map[Kind]uint32{FIFO: unix.S_IFIFO, Socket: unix.S_IFSOCK, Char: unix.S_IFCHR, Block: unix.S_IFBLK}[m.Kind]
	err = unix.Mknodat(fd, base, mode|0o600, int(m.Rdev))
	if err == unix.EPERM {
		return false, nil
	}
	return err == nil, wrap("mknod", rel, err)
}

// SyncDir makes the names in the directory rel durable.
func (r *Root) SyncDir(rel string) error {
	fd, err := r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return wrap("fsync", rel, syswait.Fsync(fd))
}

// SyncAll makes the whole filesystem of the root durable. syncfs(2) reports
// write-back errors since Linux 5.8.
func (r *Root) SyncAll() error { return wrap("syncfs", r.path, syswait.Syncfs(r.fd)) }

// Free is the number of bytes that may still be written, and the size of the filesystem.
func (r *Root) Free() (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(r.fd, &st); err != nil {
		return 0, 0, wrap("statfs", r.path, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

func wrap(op, rel string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: strings.ToValidUTF8(rel, "?"), Err: gone(err)}
}

// OpenAppend opens or creates the file at rel for appending.
func (r *Root) OpenAppend(rel string) (*os.File, error) {
	fd, err := r.open(rel, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// WriteFile replaces the file at rel atomically and durably; mode 0600.
func (r *Root) WriteFile(rel string, b []byte) error {
	aside := rel + ".new"
	if err := r.Remove(aside); err != nil && !IsGone(err) {
		return err
	}
	f, err := r.Create(aside)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := r.Rename(aside, rel); err != nil {
		return err
	}
	return r.SyncDir(Parent(rel))
}

// ReadFile reads the file at rel if it is not larger than max bytes.
func (r *Root) ReadFile(rel string, max int64) ([]byte, error) {
	f, m, err := r.OpenFile(rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if m.Size > max {
		return nil, wrap("read", rel, unix.EFBIG)
	}
	return io.ReadAll(io.LimitReader(f, max))
}
