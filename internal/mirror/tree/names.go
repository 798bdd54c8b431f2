package tree

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Name is a name as its directory holds it, without a look at the inode.
type Name struct {
	Name  string
	Inode uint64
	Kind  Kind // 0: the filesystem does not tell
}

// namesBuffer is how much of a directory one getdents64(2) returns: about a thousand names.
const namesBuffer = 32 << 10

// Inodes reads the names in the directory at rel with their inode numbers, in the
// directory's order. It costs one system call for a thousand names and looks at
// no inode; names of mount points carry the number of what is below the mount.
func (r *Root) Inodes(rel string) ([]Name, error) {
	fd, err := r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // O_NOATIME belongs to the owner only
		fd, err = r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []Name
	buf := make([]byte, namesBuffer)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return names, wrap("getdents", rel, err)
		}
		names = appendNames(names, buf[:n])
	}
}

// appendNames parses struct linux_dirent64 (getdents64(2)): inode, offset, length of the record, type, name.
func appendNames(names []Name, b []byte) []Name {
	const head = 19
	for len(b) > head {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= head || size > len(b) {
			return names
		}
		name, _, _ := bytes.Cut(b[head:size], []byte{0})
		if s := string(name); s != "." && s != ".." {
			names = append(names, Name{s, binary.NativeEndian.Uint64(b), direntKind(b[18])})
		}
		b = b[size:]
	}
	return names
}

func direntKind(t byte) Kind {
	switch t {
	case unix.DT_UNKNOWN:
		return 0
	case unix.DT_REG:
		return File
	case unix.DT_DIR:
		return Dir
	case unix.DT_LNK:
		return Symlink
	case unix.DT_FIFO:
		return FIFO
	case unix.DT_SOCK:
		return Socket
	case unix.DT_CHR:
		return Char
	case unix.DT_BLK:
		return Block
	}
	return Other
}
