package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extended attributes travel and are compared as one string: for each, in order
// of name, the name and the value with their lengths before them. "" is none.

const (
	// MaxXattrs bounds the string of one inode. ext4 holds 4 KiB, XFS 64 KiB a value; what lies beyond is left out, on every node the same.
	MaxXattrs = 128 << 10
	// maxXattrName and maxXattrValue are XATTR_NAME_MAX and XATTR_SIZE_MAX (limits.h).
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// mirrored says which attributes are the same everywhere: users' own, POSIX
// ACLs, file capabilities, root's own, and the Windows ACLs that Samba keeps. Labels
// and seals of this one machine (SELinux, IMA, overlayfs) are not.
func mirrored(name string) bool {
	switch {
	case strings.HasPrefix(name, "user."), name == "system.posix_acl_access", name == "system.posix_acl_default",
		name == "security.capability", name == "security.NTACL":
		return true
	}
	return strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "trusted.overlay.")
}

// CheckXattrs refuses a string that xattrsOf would not make.
func CheckXattrs(s string) error {
	last := ""
	for len(s) > 0 {
		name, value, rest, ok := nextXattr(s)
		if !ok || name <= last || len(name) > maxXattrName || len(value) > maxXattrValue || strings.IndexByte(name, 0) >= 0 || !mirrored(name) {
			return fmt.Errorf("extended attribute %q is not allowed", name)
		}
		last, s = name, rest
	}
	return nil
}

func nextXattr(s string) (name, value, rest string, ok bool) {
	if name, s, ok = cutString(s); ok {
		value, rest, ok = cutString(s)
	}
	return name, value, rest, ok
}

func cutString(s string) (head, rest string, ok bool) {
	n, used := binary.Uvarint([]byte(s[:min(len(s), binary.MaxVarintLen64)]))
	if used <= 0 || n > uint64(len(s)-used) {
		return "", "", false
	}
	return s[used : used+int(n)], s[used+int(n):], true
}

func appendXattr(b []byte, name string, value []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// procPath names what is open as fd, or name in it. Descriptors of O_PATH are
// refused by fgetxattr(2) and its like; by this path they are allowed.
func procPath(fd int, name string) string {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if name != "" {
		p += "/" + name
	}
	return p
}

// xattrOps are the calls for one inode, however it is named.
type xattrOps struct {
	list   func(dest []byte) (int, error)
	get    func(name string, dest []byte) (int, error)
	set    func(name string, value []byte) error
	remove func(name string) error
}

// byPath follows a final link only if that is procPath's own.
func byPath(path string, follow bool) xattrOps {
	if follow {
		return xattrOps{
			func(b []byte) (int, error) { return unix.Listxattr(path, b) },
			func(n string, b []byte) (int, error) { return unix.Getxattr(path, n, b) },
			func(n string, v []byte) error { return unix.Setxattr(path, n, v, 0) },
			func(n string) error { return unix.Removexattr(path, n) },
		}
	}
	return xattrOps{
		func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(n string, b []byte) (int, error) { return unix.Lgetxattr(path, n, b) },
		func(n string, v []byte) error { return unix.Lsetxattr(path, n, v, 0) },
		func(n string) error { return unix.Lremovexattr(path, n) },
	}
}

func byFD(fd int) xattrOps {
	return xattrOps{
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(n string, b []byte) (int, error) { return unix.Fgetxattr(fd, n, b) },
		func(n string, v []byte) error { return unix.Fsetxattr(fd, n, v, 0) },
		func(n string) error { return unix.Fremovexattr(fd, n) },
	}
}

// xattrsOf allocates nothing for the most inodes, which have none.
func xattrsOf(fd int) (string, error) {
	var names [256]byte
	if n, err := unix.Flistxattr(fd, names[:]); err == nil && n == 0 {
		return "", nil
	}
	return byFD(fd).read()
}

// xattrsIn are those of name in the directory that is open as dirfd. Where the kernel has listxattrat(2) (Linux 6.13), the
// most inodes, which have none, need no path through /proc: that costs as much as all else that a list says of them.
func xattrsIn(dirfd int, name string) (string, error) {
	var names [256]byte
	if n, err := listxattrat(dirfd, name, names[:]); err == nil && n == 0 {
		return "", nil
	}
	return byPath(procPath(dirfd, name), false).read()
}

// listxattrat is llistxattr(2) in a directory.
func listxattrat(dirfd int, name string, dest []byte) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(p)), unix.AT_SYMLINK_NOFOLLOW,
		uintptr(unsafe.Pointer(unsafe.SliceData(dest))), uintptr(len(dest)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// names lists the mirrored attributes in order. One call for the most inodes: they have none.
func (x xattrOps) names() ([]string, error) {
	buf := make([]byte, 256)
	n, err := x.list(buf)
	for errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 4*len(buf))
		n, err = x.list(buf)
	}
	if noXattrs(err) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if mirrored(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// noXattrs says that there are none here: the filesystem has no such thing, or the inode went.
func noXattrs(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func (x xattrOps) value(name string) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := x.get(name, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxXattrValue)
		n, err = x.get(name, buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

func (x xattrOps) read() (string, error) {
	names, err := x.names()
	if err != nil || len(names) == 0 {
		return "", err
	}
	var b []byte
	for _, name := range names {
		value, err := x.value(name)
		if noXattrs(err) || errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return "", err
		}
		if len(b)+len(name)+len(value) < MaxXattrs-16 {
			b = appendXattr(b, name, value)
		}
	}
	return string(b), nil
}

// write makes the mirrored attributes those of want, and reports whether all could be set.
func (x xattrOps) write(want string) (refused bool, err error) {
	have, err := x.read()
	if err != nil || have == want {
		return false, err
	}
	extra := map[string]bool{}
	was := map[string]string{}
	for s := have; len(s) > 0; {
		name, value, rest, ok := nextXattr(s)
		if !ok {
			break
		}
		extra[name], was[name], s = true, value, rest
	}
	for s := want; len(s) > 0; {
		name, value, rest, ok := nextXattr(s)
		if !ok {
			break
		}
		s = rest
		delete(extra, name)
		if old, there := was[name]; there && old == value {
			continue
		}
		no, err := refusedXattr(x.set(name, []byte(value)))
		if refused = refused || no; err != nil {
			return refused, err
		}
	}
	for name := range extra {
		no, err := refusedXattr(x.remove(name))
		if refused = refused || no; err != nil {
			return refused, err
		}
	}
	return refused, nil
}

// refusedXattr separates what this node may not or cannot set, which the caller
// counts, from real failures. ENOSPC is what ext4 says of an attribute larger
// than a block: a full disk says it of the file itself, too.
func refusedXattr(err error) (refused bool, real error) {
	switch {
	case err == nil, errors.Is(err, unix.ENODATA):
		return false, nil
	case noXattrs(err), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.E2BIG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return true, nil
	}
	return false, fmt.Errorf("set extended attribute: %w", err)
}
