// Package syswait makes the system calls that are expected to wait: for events
// and for disks.
//
// An ordinary system call keeps its processor (a P of the Go scheduler) until the
// scheduler's watch thread takes it away, which it does after 10 ms if nothing
// else wants to run. Until then that thread looks every 20 us whether it should:
// about fifty times for each call that waits longer. In an agent with little to
// do that was nearly all of its cost (measured, Linux 6.18, go1.26, three idle
// nodes: 87 % of 4,700 context switches a second). A call from here says first
// that it will wait, so the processor is free at once and the watch thread sleeps.
//
// It is as the calls of golang.org/x/sys/unix in all else, and decides nothing. It is of no
// use for calls that return at once: giving a processor up and taking it back costs about a microsecond.
package syswait

import (
	"io/fs"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime keeps these two for callers outside of it (proc.go, "hall of shame"; go.dev/issue/67401); its own timed
// sleeps use them in just this way (lock_futex.go, notetsleepg).

//go:linkname entersyscallblock runtime.entersyscallblock
func entersyscallblock()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// poll makes its system call between giving the processor up and taking one again, as fsync, syncfs, sleep and flush do.
// In there nothing may need a processor: no allocation, no growing stack, no instrumentation. Stacks do not move meanwhile.
//
//go:norace
//go:nosplit
func poll(fds *unix.PollFd, n int, timeout *unix.Timespec) (ready uintptr, errno syscall.Errno) {
	entersyscallblock()
	ready, _, errno = syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(fds)), uintptr(n), uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
	exitsyscall()
	return ready, errno
}

//go:norace
//go:nosplit
func sleep(most *unix.Timespec) {
	entersyscallblock()
	_, _, _ = syscall.RawSyscall6(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(most)), 0, 0, 0, 0, 0) // EINTR, or less than no time
	exitsyscall()
}

// onFD makes a system call that takes nothing but a descriptor.
//
//go:norace
//go:nosplit
func onFD(trap uintptr, fd int) (errno syscall.Errno) {
	entersyscallblock()
	_, _, errno = syscall.RawSyscall6(trap, uintptr(fd), 0, 0, 0, 0, 0)
	exitsyscall()
	return errno
}

// written is as onFD for sync_file_range(2), which takes a place as well.
//
//go:norace
//go:nosplit
func written(fd int, at, n int64, flags int) (errno syscall.Errno) {
	entersyscallblock()
	_, _, errno = syscall.RawSyscall6(unix.SYS_SYNC_FILE_RANGE, uintptr(fd), uintptr(at), uintptr(n), uintptr(flags), 0, 0)
	exitsyscall()
	return errno
}

func result(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// again repeats a call that a signal interrupted.
func again(trap uintptr, fd int) error {
	for {
		if errno := onFD(trap, fd); errno != unix.EINTR {
			return result(errno)
		}
	}
}

// Poll is ppoll(2) without a signal mask; nil waits for ever, and the kernel counts timeout down to what was left. EINTR is left to the caller.
func Poll(fds []unix.PollFd, timeout *unix.Timespec) (n int, err error) {
	ready, errno := poll(unsafe.SliceData(fds), len(fds), timeout)
	return int(ready), result(errno)
}

// Told takes one event of an epoll(7) and reports whether there was one. It does not wait, and does not count as a system call to the scheduler.
func Told(epoll int) (bool, error) {
	var event unix.EpollEvent
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&event)), 1, 0, 0, 0)
	if errno == unix.EINTR {
		return false, nil
	}
	return n > 0, result(errno)
}

// Sleep is nanosleep(2): a pause of this very thread, which a signal may end early.
func Sleep(d time.Duration) {
	most := unix.NsecToTimespec(int64(d))
	sleep(&most)
}

// Fsync is fsync(2).
func Fsync(fd int) error {
	return again(unix.SYS_FSYNC, fd)
}

// Written waits until the n bytes of a file at an offset are written to the disk, which may still lose them (sync_file_range(2)). An error of
// the disk that it returns is told to no fsync(2) of this descriptor any more.
func Written(fd int, at, n int64) error {
	const flags = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for {
		if errno := written(fd, at, n, flags); errno != unix.EINTR {
			return result(errno)
		}
	}
}

// Flush makes what is open as these descriptors durable, files first, each in its
// order, and gives the processor up once for all of them. Before any fsync(2) the
// writing of all files begins: blocks are allocated then, so that the first one commits them
// together. at is the descriptor that failed.
func Flush(files, dirs []int) (at int, err error) {
	if len(files)+len(dirs) == 0 {
		return 0, nil
	}
	at, errno := flush(files, dirs)
	return at, result(errno)
}

// Sync is f.Sync.
func Sync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err == nil {
		var failed error
		if err = conn.Control(func(fd uintptr) { failed = Fsync(int(fd)) }); err == nil { // f stays open meanwhile
			err = failed
		} else {
			err = os.ErrClosed // all that Control fails for
		}
	}
	if err != nil {
		return &fs.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	return nil
}

// Syncfs is syncfs(2).
func Syncfs(fd int) error {
	return again(unix.SYS_SYNCFS, fd)
}
