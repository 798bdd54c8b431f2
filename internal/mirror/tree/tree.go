// Package tree touches the files below one volume root, and nothing else.
//
// Every operation is relative to a descriptor of the root and resolved by
// openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_XDEV: no
// symbolic link is ever followed, not even one that is swapped in while we
// work, and no other filesystem is entered. (rsync 3.5.0 had to retrofit this
// after 33 CVEs; see its NEWS.)
//
// It never decides anything and never logs. Paths are relative, slash
// separated and clean; "" is the root itself. Names are bytes: invalid UTF-8
// and newlines are ordinary.
//
//	root, err := tree.Open("/srv/home")
//	meta, err := root.Lstat("a/b")
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Hidden is the directory in the root that belongs to revolve and is never mirrored.
const Hidden = ".revolve"

// MaxPath bounds a relative path, as PATH_MAX does (limits.h).
const MaxPath = 4096

// maxOwn is how much longer than a mirrored path its place in trash or divergent may be.
const maxOwn = 512

// maxName is NAME_MAX of every filesystem that we support.
const maxName = 255

const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS

// Kind is the type of an inode.
type Kind byte

// The kinds that are mirrored. Other is everything else, and skipped.
const (
	File    Kind = 'f'
	Dir     Kind = 'd'
	Symlink Kind = 'l'
	FIFO    Kind = 'p'
	Socket  Kind = 's'
	Char    Kind = 'c'
	Block   Kind = 'b'
	Other   Kind = 'o'
)

// Special reports whether an inode of the kind is made by mknod(2).
func (k Kind) Special() bool { return k == FIFO || k == Socket || k == Char || k == Block }

// Meta is what is kept the same about an inode besides its content.
type Meta struct {
	Kind     Kind
	Mode     uint32 // permission bits with setuid, setgid, sticky
	UID, GID uint32
	Size     int64  // bytes; files only
	MTime    int64  // ns since the epoch
	CTime    int64  // ns since the epoch; local to this node, never sent
	Inode    uint64 // local to this node, never sent
	Links    uint32 // names of the inode, directories aside; local to this node, never sent
	Group    uint64 // as received: names of one inode have the same number, within one comparison; 0: it has one name only
	Holes    bool   // files only: not all of it has blocks; local to this node
	Origin   uint64 // as received, files only: the source's number of the inode; 0: not told
	Rdev     uint64 // devices only
	Target   string // symlinks only
	Xattrs   string // extended attributes, as in xattr.go
}

// Same reports whether two inodes look the same to rsync's quick check: kind,
// mode, owner, size, time and extended attributes. Directories are compared
// without time, which changes with every entry and is set last. What this node
// could not set is left out.
func (m Meta) Same(o Meta, not Refused) bool {
	if m.Kind != o.Kind || !not.Owner && (m.UID != o.UID || m.GID != o.GID) || !not.Xattrs && m.Xattrs != o.Xattrs {
		return false
	}
	switch {
	case m.Kind == File:
		return m.Mode == o.Mode && m.Size == o.Size && m.MTime == o.MTime
	case m.Kind == Symlink:
		return m.Target == o.Target && m.MTime == o.MTime
	case m.Kind.Special():
		return m.Mode == o.Mode && m.Rdev == o.Rdev && m.MTime == o.MTime
	}
	return m.Mode == o.Mode
}

// Entry is one name in a directory.
type Entry struct {
	Name string
	Meta Meta
}

// Root is an open volume root. Its methods may be called concurrently.
type Root struct {
	path string
	fd   int
	dev  uint64
	ino  uint64

	mu   sync.Mutex
	kept map[string]*Held // by path
}

// Open opens the directory at p, which may be reached through symbolic links:
// the configuration named it.
func Open(p string) (*Root, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	return &Root{path: p, fd: fd, dev: st.Dev, ino: st.Ino}, nil
}

// Close releases the root's descriptors.
func (r *Root) Close() error {
	r.closeKept()
	return unix.Close(r.fd)
}

// Path is the path that Open was given.
func (r *Root) Path() string { return r.path }

// StillThere reports whether the configured path still leads to the directory
// that Open opened: not unmounted, replaced or moved.
func (r *Root) StillThere() bool {
	var st unix.Stat_t
	return unix.Stat(r.path, &st) == nil && st.Dev == r.dev && st.Ino == r.ino
}

// Check refuses a path that is not clean and relative, or is too long.
func Check(rel string) error {
	if len(rel) >= MaxPath {
		return fmt.Errorf("path of %d bytes is longer than %d", len(rel), MaxPath-1)
	}
	return checkParts(rel)
}

func checkParts(rel string) error {
	if rel == "" {
		return nil
	}
	if rel[0] == '/' || strings.IndexByte(rel, 0) >= 0 {
		return fmt.Errorf("path %q is not relative", rel)
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == "" || part == "." || part == ".." || len(part) > maxName {
			return fmt.Errorf("path %q is not clean", rel)
		}
	}
	return nil
}

// IsHidden reports whether rel is revolve's own directory or below it.
func IsHidden(rel string) bool {
	return rel == Hidden || strings.HasPrefix(rel, Hidden+"/")
}

// Below reports whether p is dir or below it; everything is below "".
func Below(p, dir string) bool {
	return dir == "" || p == dir || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}

// Moved is p as it is called after old was renamed to new; p must be Below old.
func Moved(p, old, new string) string { return new + p[len(old):] }

// open resolves rel below the root; flags get O_CLOEXEC and O_NOFOLLOW.
func (r *Root) open(rel string, flags int, mode uint32) (int, error) {
	switch {
	case len(rel) >= MaxPath+maxOwn, len(rel) >= MaxPath && !IsHidden(rel):
		return -1, &fs.PathError{Op: "open", Path: rel[:maxName] + "...", Err: unix.ENAMETOOLONG}
	}
	if err := checkParts(rel); err != nil {
		return -1, err
	}
	if len(rel) < MaxPath {
		return resolveAt(r.fd, rel, flags, mode)
	}
	// The kernel takes no longer path: in two steps, each beneath the one before.
	cut := strings.LastIndexByte(rel[:MaxPath], '/')
	fd, err := resolveAt(r.fd, rel[:cut], unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return resolveAt(fd, rel[cut+1:], flags, mode)
}

func resolveAt(dirfd int, rel string, flags int, mode uint32) (int, error) {
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: uint64(mode), Resolve: resolve}
	for {
		fd, err := unix.Openat2(dirfd, rel, &how)
		// EAGAIN: a rename raced with a ".." check inside the kernel (openat2(2)); only a retry helps.
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: rel, Err: gone(err)}
		}
		return fd, nil
	}
}

// gone turns the errors of a path whose parents are no directories into
// fs.ErrNotExist: there is nothing at that path.
func gone(err error) error {
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return unix.ENOENT
	}
	return err
}

// IsGone reports whether err says that nothing is at the path.
func IsGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// parent opens the directory that holds rel's last name.
func (r *Root) parent(rel string) (int, string, error) {
	if rel == "" {
		return -1, "", &fs.PathError{Op: "open", Path: rel, Err: unix.EBUSY}
	}
	dir, base := path.Split(rel)
	fd, err := r.open(strings.TrimSuffix(dir, "/"), unix.O_PATH|unix.O_DIRECTORY, 0)
	return fd, base, err
}

// Lstat describes what is at rel.
func (r *Root) Lstat(rel string) (Meta, error) {
	// With O_PATH and O_NOFOLLOW a final symlink is opened itself, even under RESOLVE_NO_SYMLINKS (openat2(2)).
	fd, err := r.open(rel, unix.O_PATH, 0)
	if err != nil {
		return Meta{}, err
	}
	defer unix.Close(fd)
	m, err := fstat(fd)
	if err != nil {
		return m, err
	}
	if m.Kind == Symlink {
		if m.Target, err = readlink(fd, ""); err != nil {
			return m, err
		}
	}
	m.Xattrs, err = byPath(procPath(fd, ""), true).read()
	return m, err
}

// Glance is Lstat without a link's target and extended attributes, which cost more than the rest.
func (r *Root) Glance(rel string) (Meta, error) {
	fd, err := r.open(rel, unix.O_PATH, 0)
	if err != nil {
		return Meta{}, err
	}
	defer unix.Close(fd)
	return fstat(fd)
}

// Born is when the inode at rel was made, in ns since the epoch; where a
// filesystem does not tell (statx(2), STATX_BTIME), when it last changed.
func (r *Root) Born(rel string) (int64, error) {
	fd, err := r.open(rel, unix.O_PATH, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME|unix.STATX_CTIME, &st); err != nil {
		return 0, &fs.PathError{Op: "statx", Path: rel, Err: gone(err)}
	}
	at := st.Btime
	if st.Mask&unix.STATX_BTIME == 0 {
		at = st.Ctime
	}
	return at.Sec*1e9 + int64(at.Nsec), nil
}

func readlink(dirfd int, name string) (string, error) {
	var buf [MaxPath]byte
	n, err := unix.Readlinkat(dirfd, name, buf[:])
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: gone(err)}
	}
	return string(buf[:n]), nil
}

// FStat describes a file that is open for reading.
func FStat(fd int) (Meta, error) {
	m, err := fstat(fd)
	if err == nil {
		m.Xattrs, err = xattrsOf(fd)
	}
	return m, err
}

func fstat(fd int) (Meta, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Meta{}, err
	}
	return metaOf(&st), nil
}

func statAt(dirfd int, name string) (Meta, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Meta{}, &fs.PathError{Op: "lstat", Path: name, Err: gone(err)}
	}
	m := metaOf(&st)
	if m.Kind == Symlink {
		var err error
		if m.Target, err = readlink(dirfd, name); err != nil {
			return Meta{}, err
		}
	}
	var err error
	m.Xattrs, err = xattrsIn(dirfd, name)
	return m, err
}

func metaOf(st *unix.Stat_t) Meta {
	m := Meta{
		Kind: Other, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, MTime: st.Mtim.Nano(),
		CTime: st.Ctim.Nano(), Inode: st.Ino, Links: uint32(st.Nlink),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		m.Kind, m.Size, m.Holes = File, st.Size, st.Blocks*512 < st.Size
	case unix.S_IFDIR:
		m.Kind = Dir
	case unix.S_IFLNK:
		m.Kind = Symlink
	case unix.S_IFIFO:
		m.Kind = FIFO
	case unix.S_IFSOCK:
		m.Kind = Socket
	case unix.S_IFCHR:
		m.Kind, m.Rdev = Char, st.Rdev
	case unix.S_IFBLK:
		m.Kind, m.Rdev = Block, st.Rdev
	}
	return m
}

// OpenFile opens the regular file at rel for reading.
func (r *Root) OpenFile(rel string) (*os.File, Meta, error) {
	fd, err := toRead(func(flags int) (int, error) { return r.open(rel, flags, 0) })
	if err != nil {
		return nil, Meta{}, err
	}
	m, err := FStat(fd)
	if err != nil || m.Kind != File {
		unix.Close(fd)
		return nil, m, &fs.PathError{Op: "open", Path: rel, Err: fs.ErrNotExist}
	}
	return os.NewFile(uintptr(fd), rel), m, nil
}

// toRead opens for reading, by what it is given.
func toRead(open func(flags int) (int, error)) (int, error) {
	// O_NONBLOCK: a FIFO swapped in must not hold us.
	fd, err := open(unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) { // O_NOATIME belongs to the owner only
		fd, err = open(unix.O_RDONLY | unix.O_NONBLOCK)
	}
	return fd, err
}

// List describes the entries of the directory at rel in order of name, without
// the hidden directory of the root.
func (r *Root) List(rel string) ([]Entry, error) {
	names, err := r.Names(rel)
	if err != nil {
		return nil, err
	}
	return r.Entries(rel, names)
}

// Names lists the names in the directory at rel in order, without the hidden
// directory of the root. Of a directory with very many, Entries describes some at a time.
func (r *Root) Names(rel string) ([]string, error) {
	fd, err := r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), rel)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	if rel == "" {
		names = slices.DeleteFunc(names, func(n string) bool { return n == Hidden })
	}
	slices.Sort(names)
	return names, nil
}

// Entries describes those of the names that are in the directory at rel now, in the order of names.
func (r *Root) Entries(rel string, names []string) ([]Entry, error) {
	fd, err := r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	list := make([]Entry, 0, len(names))
	for _, name := range names {
		m, err := statAt(fd, name)
		if IsGone(err) {
			continue // it went while we read
		}
		if err != nil {
			return nil, err
		}
		list = append(list, Entry{name, m})
	}
	return list, nil
}

// Join is the path of name in the directory dir.
func Join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Parent is the directory that holds p; the root's parent is the root.
func Parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
