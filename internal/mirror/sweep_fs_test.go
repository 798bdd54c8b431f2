package mirror

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// sweepOn is about the rows that no notification tells of: a file that is never closed, an AIO write, a store into a
// mapping are found on every filesystem that volumes are on. (tmpfs changes no times for stores: found when the
// file is closed.)
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
