package watch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/syswait"
)

// TestNobodyIsWokenWhileNotificationsGather: one of them ends a wait; those that come until the next wait make nothing readable for whoever waits
// for the network, and the next wait ends at once.
func TestNobodyIsWokenWhileNotificationsGather(t *testing.T) {
	dir := t.TempDir()
	queue, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	defer unix.Close(queue)
	_, err = unix.InotifyAddWatch(queue, dir, unix.IN_CREATE)
	must(t, err)
	p, err := park(queue)
	must(t, err)
	defer p.close()
	never := func() bool { return false }
	change := func(name string) { must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644)) }
	readable := func() bool {
		var now unix.Timespec
		n, err := syswait.Poll([]unix.PollFd{{Fd: int32(p.gate.Fd()), Events: unix.POLLIN}}, &now)
		must(t, err)
		return n > 0
	}
	change("before") // there is something already
	must(t, p.wait(time.Hour, never))
	for _, name := range []string{"a", "b", "c"} {
		if change(name); readable() {
			t.Errorf("%q, which nobody waits for, is told", name)
		}
	}
	must(t, p.wait(time.Hour, never))
	buf := make([]byte, 4096)
	_, err = unix.Read(queue, buf)
	must(t, err)
	time.AfterFunc(20*time.Millisecond, func() { os.WriteFile(filepath.Join(dir, "while"), nil, 0o644) })
	must(t, p.wait(time.Hour, never))
	_, err = unix.Read(queue, buf)
	must(t, err)
	must(t, p.wait(time.Millisecond, never)) // nothing came
	if change("late"); readable() {
		t.Error("what comes behind a wait that was in vain is told")
	}
	_, err = unix.Read(queue, buf)
	must(t, err)
	time.AfterFunc(20*time.Millisecond, p.wake)
	must(t, p.wait(time.Hour, never))
}
