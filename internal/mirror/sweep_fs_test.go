package mirror

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// What no notification tells of is found on every filesystem that volumes are
// on: a file that is never closed, an AIO write, a store into a mapping. (tmpfs
// changes no times for stores: found when the file is closed.)
func TestSweepOnFilesystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: mounting filesystems needs root")
	}
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			runtime.LockOSThread() // the thread ends with the test, and its mounts with it
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				t.Skipf("SKIPPED PART: no mounts of our own: %v", err)
			}
			must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			sweepOn(t, kind, mountOf(t, kind))
		})
	}
}

func mountOf(t *testing.T, kind string) string {
	t.Helper()
	at := t.TempDir()
	if kind == "tmpfs" {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	} else {
		image := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, 512<<20))
		if out, err := exec.Command("mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED PART: sweeps on %s: %v %s", kind, err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED PART: sweeps on %s: %v %s", kind, err, out)
		}
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	return at
}

func sweepOn(t *testing.T, kind, at string) {
	dir, err := filepath.EvalSymlinks(at)
	must(t, err)
	root, err := tree.Open(dir)
	must(t, err)
	defer root.Close()
	for _, name := range []string{"open", "aio", "mapped"} {
		must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 8192), 0o644))
	}
	s := &sweeper{proc: "/proc", root: root, path: dir, seen: map[string]look{}}
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	f, a, g := open("open"), open("aio"), open("mapped")
	m, err := unix.Mmap(int(g.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	must(t, g.Close())
	t.Cleanup(func() { must(t, unix.Munmap(m)) })
	_ = s.sweep() // first sight of all three

	_, err = f.WriteAt([]byte("x"), 0)
	must(t, err)
	foundBy(t, s, "open", func() {})
	if err := aioWrite(int(a.Fd()), []byte("aio")); err != nil {
		t.Logf("SKIPPED PART: io_submit on %s: %v", kind, err)
	} else {
		foundBy(t, s, "aio", func() {})
	}
	if kind == "tmpfs" {
		return
	}
	for range 3 { // each store behind a sweep is found by one to come
		m[0]++
		foundBy(t, s, "mapped", func() { m[1]++ }) // the first store may have been into a page that was writable still
	}
}

// foundBy sweeps until the file is found; the filesystem's clock is coarse.
func foundBy(t *testing.T, s *sweeper, name string, again func()) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if slices.Contains(s.sweep(), name) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the change of %s was never found", name)
		}
		again()
	}
}

// iocb is struct iocb of linux/aio_abi.h.
type iocb struct {
	_      uint64 // data
	_      [2]uint32
	opcode uint16
	_      int16 // priority
	fd     uint32
	buf    uint64
	nbytes uint64
	_      int64 // offset
	_      [2]uint64
}

// aioWrite writes at offset 0 with io_submit(2) and waits for it.
func aioWrite(fd int, data []byte) error {
	const pwrite = 1 // IOCB_CMD_PWRITE
	var ring uint64
	if _, _, e := syscall.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ring)), 0); e != 0 {
		return e
	}
	defer func() { _, _, _ = syscall.Syscall(unix.SYS_IO_DESTROY, uintptr(ring), 0, 0) }()
	cb := &iocb{opcode: pwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&data[0]))), nbytes: uint64(len(data))}
	if _, _, e := syscall.Syscall(unix.SYS_IO_SUBMIT, uintptr(ring), 1, uintptr(unsafe.Pointer(&cb))); e != 0 {
		return e
	}
	var done [4]uint64
	if _, _, e := syscall.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(ring), 1, 1, uintptr(unsafe.Pointer(&done)), 0, 0); e != 0 {
		return e
	}
	if int64(done[2]) != int64(len(data)) {
		return syscall.Errno(-int64(done[2]))
	}
	return nil
}

// A report says the bound of what nobody notifies of, and the lag of the last hour, where the node leads.
func TestReportOfLagAndLiveSet(t *testing.T) {
	base := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		w, err := newModelWorld(base, 0)
		must(t, err)
		time.Sleep(3 * time.Second)
		for i := range 20 {
			must(t, w.step(stormOp{"write", "f", "", 16 * uint64(i+1)}))
			w.let(100)
			time.Sleep(time.Second)
		}
		l := w.leader(w.nodes[0])
		for _, n := range w.nodes {
			r := n.engine.Reports()[0]
			switch {
			case n == l && r.Live.Bound < SweepEvery:
				t.Errorf("the bound on the master is %v", r.Live.Bound)
			case n != l && r.Live.Bound != 0:
				t.Errorf("the bound on a standby, which does not look, is %v", r.Live.Bound)
			}
			for _, s := range r.Standbys {
				if s.LagP50 <= 0 || s.LagP99 < s.LagP50 {
					t.Errorf("%s says of %s: p50 %v ms, p99 %v ms", n.id, s.Node, s.LagP50, s.LagP99)
				}
			}
			if len(r.Standbys) != 2 {
				t.Errorf("%s tells of %d standbys", n.id, len(r.Standbys))
			}
		}
		for _, n := range w.nodes {
			must(t, n.stop(true))
		}
	})
}
