package send

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

const (
	// young is how long a file's time may be that of another file which a follower has in its place: longer than a follower is
	// behind while it follows. From then on an equal size and time count as rsync's quick check does, and the proof looks at the bytes.
	young = time.Minute
	// tickTries bounds the wait for the kernel's clock, a millisecond each.
	tickTries = 20
)

// originOf is the number by which a follower tells a young file from another one with the same size and time: the
// kernel stamps inodes every 4 ms (10 ms with 100 Hz), and a disk writes megabytes in one such tick.
func originOf(m tree.Meta, now time.Time) uint64 {
	age := now.Sub(time.Unix(0, m.MTime))
	if m.Kind != tree.File || age > young || age < -young {
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
