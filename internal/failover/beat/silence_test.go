package beat

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/silence"
)

// A frozen master's kernel keeps the addresses for their second, and does not answer for
// them: its successor leads meanwhile, and is not disturbed.
func TestFrozenMasterIsSilent(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: programs in the kernel need root")
	}
	if s, err := silence.New(); errors.Is(err, unix.EPERM) {
		t.Skip("SKIPPED PART: programs in the kernel: this root may not load any:", err)
	} else {
		s.Close()
	}
	l := newLab(t, 2, "lan", "side")
	l.start(0)
	l.start(1)
	l.within(10*time.Second, "one leads", func() bool { return l.only(0) || l.only(1) })
	const rounds = 5
	meanwhile := 0
	for range rounds {
		m := 0
		if l.only(1) {
			m = 1
		}
		term := l.report(m).Reign.Term
		l.must(syscall.Kill(l.beats[m].Pid(), syscall.SIGSTOP))
		l.within(10*time.Second, "the other one leads", func() bool { return l.report(1-m).Role == cluster.Master })
		if l.held(m) == len(testVIPs) {
			meanwhile++
		}
		l.within(10*time.Second, "the addresses of the frozen one end", func() bool { return l.held(m) == 0 })
		l.must(syscall.Kill(l.beats[m].Pid(), syscall.SIGCONT))
		l.within(10*time.Second, "the frozen one follows", func() bool { r := l.report(m); return r.Role == cluster.Standby && r.Master == l.cfg.Nodes[1-m].ID })
		if got := l.report(1 - m).Reign.Term; got != term+1 {
			t.Errorf("the reign after term %d has term %d: something came between", term, got)
		}
	}
	t.Logf("%d of %d successors led while the frozen kernel had the addresses", meanwhile, rounds)
	if meanwhile == 0 {
		t.Error("no successor led before the addresses of the frozen node had ended: its kernel goes on answering")
	}
}

// A machine that stands still while beat compares its clock with the kernel's makes no silence of its own.
func TestClocksAreComparedOnABusyMachine(t *testing.T) {
	start, looks := time.Now(), 0
	now := func() election.Time {
		if looks++; looks <= 4 {
			time.Sleep(100 * time.Millisecond)
		}
		return election.Time(time.Since(start))
	}
	want := silence.Now() - time.Since(start)
	for range 20 { // what comes in between makes it too early
		want = max(want, silence.Now()-time.Since(start))
	}
	if got := clockOf(now); got < want-10*time.Millisecond || got > want+10*time.Millisecond {
		t.Errorf("the kernel's clock is taken for %v later than it is", got-want)
	}
}
