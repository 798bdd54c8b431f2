//go:build !race

package syswait

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// flush is as poll.
//
//go:norace
//go:nosplit
func flush(files, dirs []int) (at int, errno syscall.Errno) {
	entersyscallblock()
	for i := 0; i < len(files) && errno == 0; i++ {
		at = files[i]
		_, _, errno = syscall.RawSyscall6(unix.SYS_SYNC_FILE_RANGE, uintptr(at), 0, 0, unix.SYNC_FILE_RANGE_WRITE, 0, 0)
		if errno == unix.ENOSYS || errno == unix.EINTR {
			errno = 0 // fsync writes it
		}
	}
	for i := 0; i < len(files)+len(dirs) && errno == 0; i++ {
		if i < len(files) {
			at = files[i]
		} else {
			at = dirs[i-len(files)]
		}
		for errno = unix.EINTR; errno == unix.EINTR; {
			_, _, errno = syscall.RawSyscall6(unix.SYS_FSYNC, uintptr(at), 0, 0, 0, 0, 0)
		}
	}
	exitsyscall()
	return at, errno
}
