package watch

import (
	"encoding/binary"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel names directories in fanotify events by file handle. This file asks it where such a
// directory is; CAP_DAC_READ_SEARCH is needed, except for directories of a
// filesystem or mount that belongs to our own user namespace.

var (
	errElsewhere = errors.New("not in the volume")           // on the same filesystem, or deleted
	errUnsteady  = errors.New("directory will not be still") // it moved during every attempt
)

// step is one directory on the way up from an unknown one to a known one.
type step struct {
	key  string
	name string
}

const (
	// maxDepth bounds the way up; PATH_MAX allows 2048 components.
	maxDepth = 4096
	// maxAttempts bounds the races against renames on the way up that we run again.
	maxAttempts = 8
)

// openHandle opens what a handle (see fanEvent) names, without permission to read it.
func openHandle(rootFD int, handle []byte, flags int) (int, error) {
	kind := int32(binary.NativeEndian.Uint32(handle))
	return unix.OpenByHandleAt(rootFD, unix.NewFileHandle(kind, handle[4:]), flags|unix.O_PATH|unix.O_CLOEXEC)
}

// handleOf is the handle of an open file, as fanotify would write it.
func handleOf(fd int) (string, error) {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return "", err
	}
	return string(binary.NativeEndian.AppendUint32(nil, uint32(h.Type()))) + string(h.Bytes()), nil
}

// climb finds the steps from the directory up to the first one that is known,
// lowest first, and the known one's key. It tells where things are now, which
// may be ahead of the event stream; see fan.rename for what comes of it.
func climb(rootFD int, handle []byte, known func(key string) bool) (steps []step, top string, err error) {
	fd, err := openHandle(rootFD, handle, unix.O_DIRECTORY)
	if err != nil {
		if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil, "", errElsewhere
		}
		return nil, "", err
	}
	defer func() { _ = unix.Close(fd) }()
	base, err := fdPath(rootFD)
	if err != nil {
		return nil, "", err
	}
	if at, err := pathAbove(fd); err != nil {
		return nil, "", err
	} else if base != "/" && !strings.HasPrefix(at, base+"/") {
		return nil, "", errElsewhere // the quick answer for most of what is not ours
	}
	key := string(handle)
	for range maxDepth {
		up, name, parent, err := stepUp(fd)
		if err != nil {
			return nil, "", err
		}
		_ = unix.Close(fd)
		fd = up
		steps = append(steps, step{key, name})
		if known(parent) {
			return steps, parent, nil
		}
		if parent == key {
			return nil, "", errElsewhere // the root of the filesystem
		}
		key = parent
	}
	return nil, "", errElsewhere
}

// pathAbove is the path of the directory or, if that is too long to be one
// (proc_pid_fd(5): ENAMETOOLONG beyond a page), of the lowest directory above it that has
// one: enough to see whether it is in the volume. Programs make such directories, and
// somebody else's must not cost us anything.
func pathAbove(fd int) (string, error) {
	at, err := fdPath(fd)
	above := -1
	defer func() { _ = unix.Close(above) }() // refused where nothing was opened
	for depth := 0; errors.Is(err, unix.ENAMETOOLONG) && depth < maxDepth; depth++ {
		up, gone := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if gone != nil {
			return "", errElsewhere
		}
		_ = unix.Close(above)
		fd, above = up, up
		at, err = fdPath(fd)
	}
	return at, err
}

// stepUp opens the directory's parent and tells the directory's name in it. The
// name counts only if it was the same before and after the parent was opened.
func stepUp(fd int) (up int, name, parent string, err error) {
	before, err := fdPath(fd)
	for range maxAttempts {
		if err != nil {
			return -1, "", "", err
		}
		up, err = unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return -1, "", "", errElsewhere // deleted, or not below our mount
		}
		if err != nil {
			return -1, "", "", err
		}
		if parent, err = handleOf(up); err != nil {
			_ = unix.Close(up)
			return -1, "", "", err
		}
		after, err2 := fdPath(fd)
		if err2 == nil && after == before {
			name := path.Base(after)
			if strings.HasSuffix(name, deletedMark) && !sameEntry(up, name, fd) {
				_ = unix.Close(up)
				return -1, "", "", errElsewhere
			}
			return up, name, parent, nil
		}
		_ = unix.Close(up)
		before, err = after, err2
	}
	return -1, "", "", errUnsteady
}

// deletedMark is what the kernel appends to the path of a directory that is gone but still open somewhere (proc(5)).
const deletedMark = " (deleted)"

// sameEntry reports whether the name in dir is the file that is open as fd.
func sameEntry(dir int, name string, fd int) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(dir, name, &a, unix.AT_SYMLINK_NOFOLLOW) == nil && unix.Fstat(fd, &b) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}

// statIn looks at an entry of the directory that a handle names, wherever that directory is now.
func statIn(rootFD int, dir []byte, name string) (st unix.Stat_t, err error) {
	fd, err := openHandle(rootFD, dir, unix.O_DIRECTORY)
	if err != nil {
		return st, err
	}
	defer func() { _ = unix.Close(fd) }()
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}
