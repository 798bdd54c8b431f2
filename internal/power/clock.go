package power

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Uptime is how long the kernel of this machine has run, sleep included, whatever the clock on the wall says
// (clock_gettime(2), CLOCK_BOOTTIME). In a container it is that of the whole machine: that the container was begun
// anew says nothing about who switched the machine on. 0: it is not known.
func Uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Boot names this run of the kernel (random(4)). "": it is not known.
func Boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
