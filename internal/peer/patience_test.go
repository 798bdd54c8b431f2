package peer

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// A far end that reads nothing for longer than deadAfter, because its disk is busy,
// still gets everything: its kernel answers every probe of the closed window.
func TestASlowReaderIsNotDead(t *testing.T) {
	t.Parallel()
	ids := newCluster(t, "homelab", "a", "b")
	const frames = 64 // of a megabyte: more than both kernels' buffers hold
	got := make(chan int, 1)
	l, _ := start(t, ids["a"], all, func(_ context.Context, c *Conn) {
		time.Sleep(deadAfter + 2*time.Second)
		n := 0
		for ; n < frames; n++ {
			if _, _, err := c.Read(); err != nil {
				break
			}
		}
		got <- n
	}, "127.0.0.1")
	c, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- c.Patient(ctx) }()
	for range frames {
		must(t, c.Write(1, make([]byte, 1<<20)))
	}
	must(t, c.Flush())
	if n := <-got; n != frames {
		t.Errorf("%d of %d frames came", n, frames)
	}
	stop()
	must(t, <-watched)
	must(t, c.Close())
}

// A kernel that answers nothing is given up, by a patient connection too.
func TestAPatientConnectionNoticesADeadKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: a network namespace needs root")
	}
	t.Parallel()
	runtime.LockOSThread() // the thread ends with the test, and its namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("SKIPPED PART: no network namespace: %v", err)
	}
	loopback := func(state string) {
		if out, err := exec.Command("ip", "link", "set", "lo", state).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	loopback("up")
	a, b := tcp(t)
	defer b.Close()
	c := newConn(a, a)
	defer c.Close()
	watched := make(chan error, 1)
	go func() { watched <- c.Patient(t.Context()) }()
	loopback("down")
	must(t, c.Write(1, []byte("x")))
	must(t, c.Flush())
	select {
	case err := <-watched:
		if problem.KindOf(err) != problem.Unavailable {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody noticed")
	}
}
