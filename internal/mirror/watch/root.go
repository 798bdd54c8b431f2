package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// ownDir is the product's own directory in the root of a volume (staging,
// trash, divergent): never mirrored, so never in the stream.
const ownDir = ".revolve"

// root is the volume's directory, held open, and what it was when it was opened. The open
// descriptor keeps the mount busy: the identity below cannot be given to another one meanwhile.
type root struct {
	path string
	fd   int
	id   identity
}

// identity tells one directory from every other. The mount is part of it: a
// filesystem that was unmounted and mounted again has lost its marks.
type identity struct {
	dev, ino, mount uint64
}

func openRoot(path string) (*root, error) {
	bad := func(kind problem.Kind, err error, hint string) error {
		return &problem.Problem{Op: "watch volume", Kind: kind, Subject: path, Err: err, Hint: hint}
	}
	if !filepath.IsAbs(path) {
		return nil, bad(problem.Invalid, errors.New("not an absolute path"), "give the volume's whole path")
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT):
		return nil, bad(problem.NotFound, err, "create the directory, or mount what belongs there")
	case errors.Is(err, unix.ENOTDIR):
		return nil, bad(problem.Invalid, err, "a volume is a directory")
	case errors.Is(err, unix.EACCES):
		return nil, bad(problem.Permission, err, "run the agent as root")
	default:
		return nil, bad(problem.Unavailable, err, "")
	}
	id, err := identify(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		_ = unix.Close(fd)
		return nil, bad(problem.Unavailable, err, "")
	}
	return &root{path: filepath.Clean(path), fd: fd, id: id}, nil
}

// check looks whether the path still leads here.
func (r *root) check() error {
	now, err := identify(unix.AT_FDCWD, r.path, 0)
	if err == nil && now == r.id {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("another directory is there now (device %d inode %d mount %d, was %d %d %d)",
			now.dev, now.ino, now.mount, r.id.dev, r.id.ino, r.id.mount)
	}
	return &problem.Problem{Op: "check volume root", Kind: problem.Conflict, Subject: r.path, Err: err,
		Hint: "mount or move the volume back, then restart the agent"}
}

func (r *root) close() { _ = unix.Close(r.fd) }

// identify asks for the mount id that is never reused where the kernel has it
// (6.8, STATX_MNT_ID_UNIQUE), else for the older one (5.8). An older kernel gives
// none: 0 then, always the same.
func identify(dirfd int, path string, flags int) (identity, error) {
	var st unix.Statx_t
	err := unix.Statx(dirfd, path, flags|unix.AT_NO_AUTOMOUNT, unix.STATX_INO|unix.STATX_MNT_ID_UNIQUE, &st)
	if err == nil && st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		err = unix.Statx(dirfd, path, flags|unix.AT_NO_AUTOMOUNT, unix.STATX_INO|unix.STATX_MNT_ID, &st)
	}
	if err != nil {
		return identity{}, err
	}
	id := identity{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino}
	if st.Mask&(unix.STATX_MNT_ID_UNIQUE|unix.STATX_MNT_ID) != 0 {
		id.mount = st.Mnt_id
	}
	return id, nil
}

// fdPath is where the descriptor's directory is now, as this process sees it.
func fdPath(fd int) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}
