package power

import (
	"context"
	"os"
	"os/exec"
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

// System names this run of the system: of the kernel, and of the first process, which a container has of its own. "": it is not known.
// Where this program is the first process, its own start is no other run.
func System() string {
	boot := Boot()
	if boot == "" || os.Getpid() == 1 {
		return boot
	}
	b, err := os.ReadFile("/proc/1/stat")
	if err != nil {
		return boot
	}
	return boot + "/" + startOf(string(b))
}

// startOf is when a process began, as the kernel says it (proc(5), stat: starttime). "": it is not said.
func startOf(stat string) string {
	const starttime = 22
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // from the third on
	if len(fields) <= starttime-3 {
		return ""
	}
	return fields[starttime-3]
}

// Stopping reports whether the system of this machine is being shut down, as far as systemd says so.
func Stopping(ctx context.Context) bool {
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // its exit status says that it is not running
	return strings.TrimSpace(string(out)) == "stopping"
}
