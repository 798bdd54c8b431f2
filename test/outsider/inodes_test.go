package outsider

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inodes makes, changes and turns into each other everything that a directory can
// hold, and has rsync compare, too. A standby that was away gets it all the same.
func inodes(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	dir := filepath.Join(m.vol["home"], "inodes")
	at := func(rel string) string { return filepath.Join(dir, rel) }
	must(t, os.Mkdir(dir, 0o755))
	for _, name := range []string{"plain", "acl", "cap", "trusted", "turns"} {
		must(t, os.WriteFile(at(name), []byte(name), 0o755))
	}
	must(t, os.MkdirAll(at("inherits/sub"), 0o750))
	must(t, os.WriteFile(at(strings.Repeat("x", 255)), nil, 0o600))
	must(t, unix.Setxattr(at("plain"), "user.comment", []byte("hello \x00 world"), 0))
	must(t, unix.Setxattr(at("plain"), "user.empty", nil, 0))
	must(t, unix.Setxattr(at("inherits"), "user.of.a.directory", []byte("x"), 0))
	must(t, unix.Setxattr(at("trusted"), "trusted.revolve-test", []byte("root's"), 0))
	must(t, unix.Setxattr(at("cap"), "security.capability", netBind(), 0))
	must(t, unix.Setxattr(at("acl"), "system.posix_acl_access", acl(4321), 0))
	must(t, unix.Setxattr(at("inherits"), "system.posix_acl_default", acl(1234), 0))
	must(t, os.WriteFile(at("inherits/file"), []byte("takes after its directory"), 0o666))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("loop"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, os.Lchown(at("fifo"), 1234, 4321))
	sparse(t, at("sparse-small"), 200<<10, 100<<10, 4<<10)
	sparse(t, at("sparse-large"), 256<<20, 100<<20, 4<<20)
	l.sync(m)
	l.sameInodes(t)
	for _, n := range l.nodes {
		for name, most := range map[string]int64{"sparse-small": 16 << 10, "sparse-large": 5 << 20} {
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(n.vol["home"], "inodes", name), &st))
			if st.Blocks*512 > most {
				t.Errorf("%s takes %d bytes on %s: its holes were filled", name, st.Blocks*512, n.name)
			}
		}
	}
	change := func(round int) {
		must(t, unix.Setxattr(at("plain"), "user.comment", []byte(fmt.Sprint("round ", round)), 0)) // nothing else changes
		must(t, unix.Setxattr(at("acl"), "system.posix_acl_access", acl(uint32(5000+round)), 0))
		must(t, unix.Setxattr(at("inherits/sub"), "user.sub", []byte(fmt.Sprint(round)), 0))
		for _, become := range []func(string) error{
			func(p string) error { return os.Mkdir(p, 0o700) },
			func(p string) error { return os.Symlink("elsewhere", p) },
			func(p string) error { return unix.Mkfifo(p, 0o600) },
			func(p string) error { return os.WriteFile(p, []byte(fmt.Sprint("round ", round)), 0o600) },
		}[:2+round] {
			must(t, os.RemoveAll(at("turns")))
			must(t, become(at("turns")))
		}
		must(t, os.Rename(at("fifo"), at("fifo2")))
		must(t, os.Rename(at("fifo2"), at("fifo")))
		must(t, os.Chmod(at("null"), os.FileMode(0o600+round)))
	}
	change(0)
	l.sync(m)
	l.sameInodes(t)
	standby := l.others(m)[0]
	standby.stop()
	change(1)
	must(t, unix.Removexattr(at("plain"), "user.empty"))
	must(t, unix.Removexattr(at("acl"), "system.posix_acl_access"))
	must(t, os.Remove(at("socket")))
	standby.start()
	l.settled(l.nodes)
	change(2)
	l.sync(m)
	l.sameInodes(t)
	must(t, os.RemoveAll(dir))
	l.sync(m)
}

// sameInodes has two judges: ourselves, and rsync with all that it can compare but hard links.
func (l *lab) sameInodes(t *testing.T) {
	t.Helper()
	l.allEqual(l.nodes)
	for _, n := range l.nodes[1:] {
		out, err := exec.Command("rsync", "-aAXn", "--delete", "--itemize-changes", "--exclude=/.revolve", "--omit-dir-times",
			l.nodes[0].vol["home"]+"/", n.vol["home"]+"/").CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("rsync finds differences between %s and %s: %v\n%s", l.nodes[0].name, n.name, err, out)
		}
	}
}

// acl is a POSIX ACL that lets one more user read (acl(5); linux/posix_acl_xattr.h).
func acl(uid uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, 1<<32 - 1}, {2, 4, uid}, {4, 5, 1<<32 - 1}, {16, 5, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// netBind is cap_net_bind_service=ep (linux/capability.h, struct vfs_cap_data).
func netBind() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, v := range []uint32{1 << unix.CAP_NET_BIND_SERVICE, 0, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// sparse makes a file of the size with some data at the offset, and holes else.
func sparse(t *testing.T, path string, size, at, data int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("data", int(data/4))), at)
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
}
