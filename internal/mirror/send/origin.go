package send

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

const (
	// tickTries bounds the wait for the kernel's clock, a millisecond each.
	tickTries = 20
)

// originOf is the number by which a follower tells a file from another one with the same size and time: the
// kernel stamps inodes every 4 ms (10 ms with 100 Hz), and a disk writes megabytes in one such tick.
func originOf(m tree.Meta) uint64 {
	if m.Kind != tree.File {
		return 0
	}
	return m.Inode
}

// afterItsTick waits until whatever changes the file from now on gives it another time, and says how it is then.
// Until then a change of what was read already would not be seen by it (kernels before 6.13).
func afterItsTick(f *os.File, m tree.Meta) (tree.Meta, error) {
	for range tickTries {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return m, err
		}
		if ahead := m.CTime - now.Nano(); ahead < 0 || ahead > int64(stampTick) { // the clock was set back: its time says nothing
			break
		}
		time.Sleep(time.Millisecond)
		var err error
		if m, err = tree.FStat(int(f.Fd())); err != nil {
			return m, err
		}
	}
	return m, nil
}
