package watch

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blindSpots asserts that what the package comment calls invisible is: the
// mirror has other means for those files, and a kernel that begins to report them should be noticed.
func blindSpots(t *testing.T, d string, b Backend) {
	path := filepath.Join(d, "f")
	write(t, path, string(make([]byte, 8192)))
	r := watching(t, Options{Root: d, Backend: b, KeepOwn: true}).start(nil)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	silent := func(what string) {
		t.Helper()
		if got := r.drained(); len(got) > 0 {
			t.Errorf("%s is not invisible any more: %s", what, lines(got))
		}
	}
	if err := aioWrite(int(f.Fd()), []byte("aio")); err != nil {
		t.Logf("SKIPPED PART: io_submit: %v", err)
	}
	silent("an AIO write")

	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(m, "mapped")
	must(t, unix.Msync(m, unix.MS_SYNC))
	silent("a store into a mapping")
	must(t, f.Close())
	silent("closing a file that is still mapped")
	must(t, unix.Munmap(m))
	if got := lines(r.drained()); got != "dirty f" {
		t.Errorf("the last unmapping: %q", got)
	}

	g, err := os.Open(path)
	must(t, err)
	defer func() { _ = g.Close() }()
	if err := unix.IoctlSetPointerInt(int(g.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_NODUMP); err != nil {
		t.Logf("SKIPPED PART: chattr: %v", err)
	}
	silent("chattr")
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
	_, _, e := syscall.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(ring), 1, 1, uintptr(unsafe.Pointer(&done)), 0, 0)
	if e != 0 {
		return e
	}
	if int64(done[2]) != int64(len(data)) {
		return syscall.Errno(-int64(done[2]))
	}
	return nil
}
