//go:build race

package syswait

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// flush makes its calls one by one: the race detector with coverage counts what is passed in a loop, which needs a processor.
func flush(files, dirs []int) (at int, errno syscall.Errno) {
	for _, at = range append(append([]int(nil), files...), dirs...) {
		for errno = unix.EINTR; errno == unix.EINTR; {
			errno = onFD(unix.SYS_FSYNC, at)
		}
		if errno != 0 {
			break
		}
	}
	return at, errno
}
