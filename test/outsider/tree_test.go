package outsider

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is everything of a volume that has to be equal on every node;
// the directories' own times only if asked for.
func tree(root string, dirTimes bool) (map[string]string, error) {
	found := map[string]string{}
	first := map[uint64]string{} // inodes with several names
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel == ".revolve" {
			return fs.SkipDir
		}
		if found[rel], err = describe(path, dirTimes); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if name, ok := first[st.Ino]; ok {
			found[rel] += " is " + name
		} else if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			first[st.Ino] = rel
		}
		return nil
	})
	delete(found, ".") // the root's own attributes belong to the node: its path may be a mount
	return found, err
}

func describe(path string, dirTimes bool) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	s := fmt.Sprintf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
	if dirTimes || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		s += fmt.Sprintf(" mtime %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	xattrs, err := attributes(path)
	if err != nil {
		return "", err
	}
	s += xattrs
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf("%s device %d:%d", s, unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return s + " -> " + to, err
	case unix.S_IFREG:
		content, err := os.ReadFile(path)
		return fmt.Sprintf("%s size %d sha256 %x", s, st.Size, sha256.Sum256(content)), err
	}
	return s, nil
}

// attributes are the extended ones, ACLs and capabilities included.
func attributes(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.EOPNOTSUPP || err == nil && n == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	s := ""
	for _, name := range names {
		if name == "security.selinux" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" %s=%x", name, buf[:n])
	}
	return s, nil
}

// equal compares a volume on the nodes with the first one's.
func equal(volume string, nodes []*node, dirTimes bool) error {
	want, err := tree(nodes[0].vol[volume], dirTimes)
	if err != nil {
		return err
	}
	for _, n := range nodes[1:] {
		have, err := tree(n.vol[volume], dirTimes)
		if err != nil {
			return err
		}
		if d := difference(want, have); d != "" {
			return fmt.Errorf("volume %s, %s against %s:\n%s", volume, nodes[0].name, n.name, d)
		}
	}
	return nil
}

func difference(want, have map[string]string) string {
	var d []string
	for path, w := range want {
		if h := have[path]; h != w {
			d = append(d, fmt.Sprintf("  %q\n    want %s\n    have %s", path, w, h))
		}
	}
	for path, h := range have {
		if _, ok := want[path]; !ok {
			d = append(d, fmt.Sprintf("  %q is too much: %s", path, h))
		}
	}
	slices.Sort(d)
	if len(d) > 10 {
		d = append(d[:10], fmt.Sprintf("  and %d more", len(d)-10))
	}
	return strings.Join(d, "\n")
}

// allEqual wants both volumes equal now, without waiting.
func (l *lab) allEqual(nodes []*node) {
	l.t.Helper()
	for _, v := range []string{"home", "zones"} {
		if err := equal(v, nodes, true); err != nil {
			l.t.Error(err)
		}
	}
}

// becomeEqual waits for it.
func (l *lab) becomeEqual(nodes []*node, dirTimes bool) {
	l.t.Helper()
	l.eventually("equal trees", func() error {
		for _, v := range []string{"home", "zones"} {
			if err := equal(v, nodes, dirTimes); err != nil {
				return err
			}
		}
		return nil
	})
}
