package beat

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/election"
)

// A loan begins when it is needed, ends when it is not or when it has lasted long
// enough, and then others get their turn.
func TestLoan(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		what string
		need func(at time.Duration) bool
		want []time.Duration // changes, on and off in turn
	}{
		{"never needed", func(time.Duration) bool { return false }, nil},
		{"needed for a moment", func(at time.Duration) bool { return at >= 100*ms && at < 120*ms }, []time.Duration{100 * ms, 120 * ms}},
		{"twice", func(at time.Duration) bool { return at >= 100*ms && at < 120*ms || at >= 130*ms && at < 140*ms },
			[]time.Duration{100 * ms, 120 * ms, 130 * ms, 140 * ms}},
		{"for ever", func(time.Duration) bool { return true },
			[]time.Duration{0, lendMost, lendMost + lendPause, 2*lendMost + lendPause, 2*lendMost + 2*lendPause}},
	} {
		var o loan
		var got []time.Duration
		for at := time.Duration(0); at <= 2*lendMost+2*lendPause; at += 10 * ms {
			if o.decide(c.need(at), at) {
				got = append(got, at)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: changes at %v, want %v", c.what, got, c.want)
			continue
		}
		for k := range got {
			if got[k] != c.want[k] {
				t.Errorf("%s: changes at %v, want %v", c.what, got, c.want)
				break
			}
		}
	}
	if lendAfter+lendMost >= time.Duration(election.WordTimeout) {
		t.Error("a loan does not end before the leave does: the others' turn would never come")
	}
}

// lent counts this process's threads that have the priority that beat lends.
func lent(t *testing.T) (n int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range tasks {
		tid, _ := strconv.Atoi(k.Name())
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil && attr.Policy == unix.SCHED_RR && attr.Priority == lentPriority {
			if attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
				t.Error("what the agent starts would inherit the priority")
			}
			n++
		}
	}
	return n
}

// TestALateAgentIsLentPriority: a real beat process raises the threads of its
// agent, which is this process, while the word is late, and takes it back.
func TestALateAgentIsLentPriority(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	l := newLab(t, 1, "lan")
	l.start(0)
	l.within(10*time.Second, "it leads", func() bool { return l.only(0) })
	if r := l.report(0); !r.RealTime {
		t.Skipf("SKIPPED PART: priority for a late agent: %v", r.Refused)
	}
	silent := func(on bool) {
		l.mu[0].Lock()
		l.hush[0] = on
		l.mu[0].Unlock()
	}
	silent(true)
	l.within(10*time.Second, "threads have the priority", func() bool { return lent(t) > 1 })
	l.within(10*time.Second, "the leave ends in spite of it", func() bool { return l.held(0) == 0 })
	silent(false)
	l.within(10*time.Second, "it leads again", func() bool { return l.only(0) })
	l.within(10*time.Second, "nothing stays lent", func() bool { return lent(t) == 0 })
	r := l.report(0)
	if r.Counters.Loans == 0 || len(r.Refused) > 0 {
		t.Errorf("%d loans, refused %v", r.Counters.Loans, r.Refused)
	}
}
