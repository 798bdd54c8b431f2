package power

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How long the machine has been up goes on, is the kernel's, and not that of a process; runs of a system have names.
func TestClock(t *testing.T) {
	var s unix.Sysinfo_t
	must(t, unix.Sysinfo(&s))
	if first := Uptime(); first <= 0 || Uptime() < first || first+time.Minute < time.Duration(s.Uptime)*time.Second {
		t.Errorf("%s, the kernel says %d s", first, s.Uptime)
	}
	if first := System(); len(Boot()) != 36 || !strings.HasPrefix(first, Boot()) || System() != first {
		t.Errorf("%q, %q", Boot(), first)
	}
	own, err := os.ReadFile("/proc/self/stat")
	must(t, err)
	if a := startOf(string(own)); a == "" || a == "0" {
		t.Errorf("%q began at %q", own, a)
	}
	fields := strings.Repeat("1 ", 18)
	for stat, want := range map[string]string{"": "", "1 (a) S": "", "1 (a b) c) S " + fields + "250 7": "250"} {
		if got := startOf(stat); got != want {
			t.Errorf("%q: %q", stat, got)
		}
	}
}
