package doctor

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/watch"
)

// change is one kind of change to a volume.
type change struct {
	what    string
	path    string     // whose event must come, in the change's own directory
	kind    watch.Kind // which event
	prepare func(d string) error
	do      func(d string) (end func() error, err error) // end ends the use of the file
	covers  string
}

// step is a change that is over when it returns.
func step(do func(d string) error) func(string) (func() error, error) {
	return func(d string) (func() error, error) { return done, do(d) }
}

func done() error            { return nil }
func nothing(_ string) error { return nil }

// file makes d/f with a block of data in it.
func file(d string) error { return os.WriteFile(d+"/f", make([]byte, 8192), 0o600) }

func twoDirs(d string) error {
	return errors.Join(os.Mkdir(d+"/a", 0o700), os.Mkdir(d+"/b", 0o700), file(d+"/a"))
}

const (
	coversOpen  = "a look at the files that are open finds it within seconds (`revolve status` says the bound); on tmpfs a store into a mapping is found when the file is closed"
	coversNot   = "standbys do not get it"
	coversFlags = "flags are not mirrored: each node keeps its own"
	onlyReflink = "clone blocks into a file" // told with the abilities
	onlyBtrfs   = "write below a btrfs subvolume"
)

// changes is the table of what programs do to files, worst-watched last
// (measured on each filesystem; fanotify(7) and inotify(7), BUGS and NOTES).
func changes() []change {
	return append(namesAndContents(), blindSpots()...)
}

func namesAndContents() []change {
	return []change{
		{what: "create, write and close", path: "f", kind: watch.Dirty, prepare: nothing, do: step(file)},
		{what: "write to a file that stays open", path: "f", kind: watch.Dirty, prepare: file, do: opened(func(f *os.File) error { _, err := f.Write([]byte("x")); return err })},
		{what: "truncate without opening", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error { return os.Truncate(d+"/f", 1) })},
		{what: "punch a hole", path: "f", kind: watch.Dirty, prepare: file, do: opened(func(f *os.File) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		})},
		{what: "change the mode", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error { return os.Chmod(d+"/f", 0o640) })},
		{what: "change the owner", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error { return os.Chown(d+"/f", os.Geteuid(), os.Getegid()) })},
		{what: "change the times", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, d+"/f", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
		})},
		{what: "set an extended attribute", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error { return unix.Setxattr(d+"/f", "user.doctor", []byte("x"), 0) })},
		{what: "set an ACL", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error { return unix.Setxattr(d+"/f", "system.posix_acl_access", acl(), 0) })},
		{what: "make a directory", path: "n", kind: watch.Dirty, prepare: nothing, do: step(func(d string) error { return os.Mkdir(d+"/n", 0o700) })},
		{what: "make a symbolic link", path: "l", kind: watch.Dirty, prepare: nothing, do: step(func(d string) error { return os.Symlink("nowhere", d+"/l") })},
		{what: "give a file another name", path: "g", kind: watch.Dirty, prepare: file, do: step(func(d string) error { return os.Link(d+"/f", d+"/g") })},
		{what: "rename within a directory", path: "g", kind: watch.Renamed, prepare: file, do: step(func(d string) error { return os.Rename(d+"/f", d+"/g") })},
		{what: "rename across directories", path: "b/f", kind: watch.Renamed, prepare: twoDirs, do: step(func(d string) error { return os.Rename(d+"/a/f", d+"/b/f") })},
		{what: "rename a directory", path: "c", kind: watch.Renamed, prepare: twoDirs, do: step(func(d string) error { return os.Rename(d+"/a", d+"/c") })},
		{what: "write in a renamed directory", path: "c/f", kind: watch.Dirty, prepare: func(d string) error { return errors.Join(twoDirs(d), os.Rename(d+"/a", d+"/c")) },
			do: step(func(d string) error { return file(d + "/c") })},
		{what: "exchange two names", path: "g", kind: watch.Dirty, prepare: func(d string) error {
			return errors.Join(file(d), os.Link(d+"/f", d+"/x"), os.WriteFile(d+"/g", nil, 0o600))
		},
			do: step(func(d string) error {
				return unix.Renameat2(unix.AT_FDCWD, d+"/f", unix.AT_FDCWD, d+"/g", unix.RENAME_EXCHANGE)
			})},
		{what: "delete a file", path: "f", kind: watch.Removed, prepare: file, do: step(func(d string) error { return os.Remove(d + "/f") })},
		{what: "delete a directory", path: "a", kind: watch.Removed, prepare: twoDirs, do: step(func(d string) error { return os.RemoveAll(d + "/a") })},
		{what: onlyReflink, path: "f", kind: watch.Dirty, prepare: file, do: opened(cloneOnto),
			covers: coversOpen},
	}
}

func blindSpots() []change {
	return []change{
		{what: "write through another mount of the filesystem", path: "f", kind: watch.Dirty, prepare: file, do: step(throughAnotherMount), covers: coversNot},
		{what: "write by a container whose layer is on the volume", path: "upper/f", kind: watch.Dirty, prepare: func(d string) error {
			return errors.Join(os.Mkdir(d+"/upper", 0o700), os.Mkdir(d+"/lower", 0o700), os.Mkdir(d+"/work", 0o700))
		}, do: throughOverlay, covers: coversNot},
		{what: onlyBtrfs, path: "s/f", kind: watch.Dirty, prepare: subvolume, do: func(d string) (func() error, error) {
			return func() error { return errors.Join(os.Remove(d+"/s/f"), os.Remove(d+"/s")) }, file(d + "/s")
		}, covers: coversNot + "; make the subvolume a volume of its own, or mount the filesystem's top (subvolid=5) there"},
		{what: "write with Linux AIO (io_submit)", path: "f", kind: watch.Dirty, prepare: file, do: opened(func(f *os.File) error { return aioWrite(int(f.Fd()), []byte("aio")) }),
			covers: coversOpen},
		{what: "store into a shared mapping", path: "f", kind: watch.Dirty, prepare: file, do: mapped, covers: coversOpen},
		{what: "change file flags (chattr)", path: "f", kind: watch.Dirty, prepare: file, do: step(func(d string) error {
			f, err := os.Open(d + "/f")
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_NODUMP)
		}), covers: coversFlags},
	}
}

// opened does something with d/f and leaves it open until the end.
func opened(do func(f *os.File) error) func(string) (func() error, error) {
	return func(d string) (func() error, error) {
		f, err := os.OpenFile(d+"/f", os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err := do(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f.Close, nil
	}
}

// mapped stores into a shared mapping of d/f, which stays until the end.
func mapped(d string) (func() error, error) {
	var m []byte
	end, err := opened(func(f *os.File) (err error) {
		if m, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		copy(m, "mapped")
		return unix.Msync(m, unix.MS_SYNC)
	})(d)
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(end(), unix.Munmap(m)) }, nil
}

// cloneOnto shares the blocks of a file without a name with f (ioctl_ficlone(2)).
func cloneOnto(f *os.File) error {
	fd, err := unix.Open(filepath.Dir(f.Name()), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
		return err
	}
	return unix.IoctlFileClone(int(f.Fd()), fd)
}

// acl gives one more user the right to read: version 2, then entries of tag,
// permissions and id (linux/posix_acl_xattr.h).
func acl() []byte {
	const none = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, none}, {0x02, 4, uint32(os.Geteuid())}, {0x04, 0, none}, {0x10, 4, none}, {0x20, 0, none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}
