package outsider

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// oddities are the corners of what a directory can hold.
func oddities(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	top := filepath.Join(m.vol["home"], "odd")
	at := func(rel string) string { return filepath.Join(top, rel) }
	must(t, os.Mkdir(top, 0o755))
	for _, name := range []string{"setuid", "cap", "zero"} {
		must(t, os.WriteFile(at(name), nil, 0o755))
	}
	l.sync(m)
	// chown(2) clears setuid and capabilities; whoever sets them again has the last word.
	must(t, os.Chown(at("setuid"), 1234, 1234))
	must(t, unix.Chmod(at("setuid"), 0o6755))
	must(t, os.Chown(at("cap"), 1234, 1234))
	must(t, unix.Setxattr(at("cap"), "security.capability", netBind(), 0))
	must(t, os.Truncate(at("zero"), 3<<20)) // nothing but a hole
	sparse(t, at("hole-at-the-end"), 1<<20, 0, 4096)
	must(t, os.Mkdir(at("sticky"), 0o755))
	must(t, unix.Chmod(at("sticky"), 0o3777))
	socket, err := net.Listen("unix", at("s"))
	must(t, err)
	defer socket.Close()
	l.sync(m)
	l.sameLinks(t)
	// Every kind becomes every other.
	for i, from := range kinds() {
		for j := range kinds() {
			must(t, from(at(fmt.Sprintf("turn-%d-%d", i, j)), 0))
		}
	}
	l.sync(m)
	l.sameLinks(t)
	for i := range kinds() {
		for j, to := range kinds() {
			path := at(fmt.Sprintf("turn-%d-%d", i, j))
			must(t, os.RemoveAll(path))
			must(t, to(path, 1))
		}
	}
	l.sync(m)
	l.sameLinks(t)
	must(t, socket.Close())
	must(t, os.RemoveAll(top))
	l.sync(m)
}

// kinds make one of each kind of inode.
func kinds() []func(path string, n int) error {
	return []func(string, int) error{
		func(p string, n int) error { return os.WriteFile(p, []byte(strings.Repeat("x", n)), 0o640) },
		func(p string, n int) error { return os.WriteFile(p, []byte(strings.Repeat("large", 80_000+n)), 0o640) },
		func(p string, n int) error { return os.MkdirAll(filepath.Join(p, "below", fmt.Sprint(n)), 0o750) },
		func(p string, n int) error { return os.Symlink(fmt.Sprint("nowhere", n), p) },
		func(p string, n int) error { return unix.Mkfifo(p, uint32(0o600+n)) },
		func(p string, n int) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
		func(p string, n int) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(3+n)))) },
		func(p string, n int) error {
			return os.Link(filepath.Join(filepath.Dir(p), "zero"), p)
		},
	}
}

// tooDeep makes a tree deeper than any path can be long. What lies too deep stays
// on the master, and nothing else suffers.
func tooDeep(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	top := filepath.Join(m.vol["home"], "deep")
	must(t, os.Mkdir(top, 0o755))
	fd, err := unix.Open(top, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	must(t, err)
	for range 20 { // 5,100 bytes
		name := strings.Repeat("n", 255)
		must(t, unix.Mkdirat(fd, name, 0o755))
		down, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = down
	}
	must(t, unix.Close(fd))
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "beside"), []byte("goes on"), 0o644))
	l.sync(m)
	standby := l.others(m)[0]
	standby.stop() // a comparison must get past it, too
	must(t, os.RemoveAll(filepath.Join(standby.state, "journal")))
	standby.start()
	l.settled(l.nodes)
	for _, n := range l.nodes {
		if b, err := os.ReadFile(filepath.Join(n.vol["home"], "beside")); err != nil || string(b) != "goes on" {
			t.Errorf("on %s: %q %v", n.name, b, err)
		}
	}
	must(t, os.RemoveAll(top))
	must(t, os.Remove(filepath.Join(m.vol["home"], "beside")))
	l.sync(m)
}

// immutable has a file on a standby refuse to change: that one stands still and says so, and goes on by itself.
func immutable(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	standby := l.others(m)[0]
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "fixed"), []byte("one"), 0o644))
	l.sync(m)
	there := filepath.Join(standby.vol["home"], "fixed")
	if err := setFlags(there, unix.STATX_ATTR_IMMUTABLE); err != nil { // FS_IMMUTABLE_FL has the same value (linux/fs.h)
		t.Skipf("SKIPPED PART: no immutable files here: %v", err)
	}
	defer func() { _ = setFlags(there, 0) }()
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "fixed"), []byte("two"), 0o644))
	l.eventually("status tells of it", func() error {
		if a := l.revolve(standby, "status", "--json"); !strings.Contains(a.out, "fixed") {
			return fmt.Errorf("exit %d: %s", a.status, a.out)
		}
		return nil
	})
	other := l.others(m, standby)[0]
	l.eventually("the other standby goes on", func() error {
		if b, err := os.ReadFile(filepath.Join(other.vol["home"], "fixed")); err != nil || string(b) != "two" {
			return fmt.Errorf("%q %v", b, err)
		}
		return nil
	})
	must(t, setFlags(there, 0))
	l.settled(l.nodes)
	l.sync(m)
	l.allEqual(l.nodes)
	must(t, os.Remove(filepath.Join(m.vol["home"], "fixed")))
	l.sync(m)
}

func setFlags(path string, flags int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}
