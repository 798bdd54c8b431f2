package beat

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/election"
)

// The agent copies files all day, so it has ordinary priority, and this process
// waits for it: for its word, and for the flush of a planned switch. On a machine
// whose processors many programs want, an ordinary process waits for longer than
// the word may take. Nice values do not help, they count only within a session or a
// service (sched(7), autogroup and cgroups), and a single thread with real-time
// priority does not either: it needs what the Go runtime's other threads hold, which
// wait like everybody else (traced: 1.5 s). So this process lends the
// agent its own kind of priority while it waits, as a lock with priority
// inheritance does. An agent that is stopped, dead or stuck gains nothing by it.
const (
	lendAfter    = 250 * time.Millisecond // two words are missing
	lendMost     = 500 * time.Millisecond // of one loan: long enough for a word before WordTimeout ...
	lendPause    = 500 * time.Millisecond // ... and then everybody else's turn
	lendGiveUp   = 10 * time.Second       // an agent silent for so long does not lack a processor
	lentPriority = 1                      // the lowest: below this process and the thread that says the word
	maxThreads   = 512                    // of the agent; a Go program with more than that has other troubles
)

// loan is whether the agent has the priority now, as the loop decides.
type loan struct {
	on    bool
	until time.Duration // its end; if it is off, none begins before
}

// decide begins and ends loans; need says that something waits for the agent.
func (o *loan) decide(need bool, now time.Duration) (changed bool) {
	switch {
	case o.on && !need:
		o.on, o.until = false, now
	case o.on && now >= o.until:
		o.on, o.until = false, now+lendPause
	case !o.on && need && now >= o.until:
		o.on, o.until = true, now+lendMost
	default:
		return false
	}
	return true
}

// awaits reports whether something waits for the agent: its word is late, its
// flush ends a switch, or a master flushes to this node.
func (l *loop) awaits(now time.Duration) bool {
	silent := now - l.spoke
	return l.spoke != 0 && silent >= lendAfter && silent < lendGiveUp || l.st.Handover().ID != 0 ||
		l.awaited != 0 && now-l.awaited < 2*time.Duration(l.cfg.Timers.Heartbeat)
}

// lend begins or ends a loan when it is time to.
func (l *loop) lend() {
	now := time.Duration(l.now())
	if l.lender == nil || !l.loan.decide(l.awaits(now), now) {
		return
	}
	if l.loan.on {
		l.tell.counters.Loans++
	}
	l.lender.set(l.loan.on)
}

// lendRefused adds to what the system did not allow, once.
func (l *loop) lendRefused() {
	if l.lender == nil {
		return
	}
	if why := l.lender.refused.Load(); why != nil {
		l.refused = append(l.refused, (*why).Error())
		l.lender.close()
		l.lender = nil
	}
}

// lendAt is when a loan may begin or end next by time alone; 0 if nothing is known.
func (l *loop) lendAt() election.Time {
	switch {
	case l.lender == nil || l.spoke == 0:
		return 0
	case l.loan.on:
		return election.Time(l.loan.until)
	}
	return election.Time(max(l.spoke+lendAfter, l.loan.until))
}

// borrower is a thread of the agent and what it had before.
type borrower struct {
	tid    int
	before unix.SchedAttr
}

// lender changes the priorities, beside the loop: listing threads takes a moment.
type lender struct {
	agent   int
	want    atomic.Bool
	kick    chan struct{}
	ended   chan struct{}
	raised  []borrower
	refused atomic.Pointer[error] // why it cannot
}

func newLender(agent int) *lender {
	return &lender{agent: agent, kick: make(chan struct{}, 1), ended: make(chan struct{})}
}

// set says what is wanted; the latest counts.
func (n *lender) set(on bool) {
	n.want.Store(on)
	select {
	case n.kick <- struct{}{}:
	default: // it will see what is wanted when it comes to the one before
	}
}

// Run lends and takes back until the loop closes it; nothing stays lent.
func (n *lender) Run() {
	defer close(n.ended)
	for range n.kick {
		n.takeBack()
		if n.want.Load() && n.refused.Load() == nil {
			if err := n.raise(); err != nil {
				n.refused.Store(&err)
			}
		}
	}
	n.takeBack()
}

// close ends Run, which the loop has started, and waits for it.
func (n *lender) close() {
	close(n.kick)
	<-n.ended
}

// raise gives every ordinary thread of the agent the priority. What it starts
// meanwhile, threads and programs, does not inherit it.
func (n *lender) raise() error {
	tasks, err := n.threads()
	if err != nil {
		return err
	}
	for _, tid := range tasks {
		before, err := unix.SchedGetAttr(tid, 0)
		if err != nil || before.Policy != unix.SCHED_NORMAL && before.Policy != unix.SCHED_BATCH {
			continue // it has ended, or has a priority of its own
		}
		lent := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: lentPriority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
		switch err := unix.SchedSetAttr(tid, &lent, 0); {
		case err == unix.ESRCH:
		case err != nil:
			n.takeBack()
			return fmt.Errorf("priority for an agent whose word is late: %w", err)
		default:
			n.raised = append(n.raised, borrower{tid, *before})
		}
	}
	return nil
}

// takeBack gives every thread what it had before.
func (n *lender) takeBack() {
	for k := range n.raised {
		b := &n.raised[k]
		err := unix.SchedSetAttr(b.tid, &b.before, 0)
		if err == unix.EPERM { // without CAP_SYS_NICE this flag cannot be taken away (sched(7)); it changes nothing for an ordinary thread
			b.before.Flags |= unix.SCHED_FLAG_RESET_ON_FORK
			_ = unix.SchedSetAttr(b.tid, &b.before, 0)
		}
	}
	n.raised = n.raised[:0]
}

// threads lists the agent's threads, if it still is this process's parent and
// /proc speaks of the same processes as we do.
func (n *lender) threads() (tids []int, err error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return nil, err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("priority for an agent whose word is late: /proc is that of other processes")
	}
	if os.Getppid() != n.agent {
		return nil, nil // it is gone, and the loop learns of it by its socket
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.agent))
	if err != nil {
		return nil, nil // gone just now
	}
	for _, t := range tasks[:min(len(tasks), maxThreads)] {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}
