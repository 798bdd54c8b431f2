package beat

import (
	"math"
	"net/netip"
	"time"

	"revolve/internal/failover/election"
	"revolve/internal/failover/silence"
)

// quiet is what makes the kernel fall silent for the addresses while this process is late.
type quiet struct {
	all   *silence.Silence // nil where the kernel has none
	clock time.Duration    // of the kernel, at the loop's time 0
	err   error            // why it is not there
}

func (q *quiet) init(now func() election.Time) {
	q.all, q.err = silence.New()
	q.clock = clockOf(now)
}

// How exactly the two clocks are compared, and how often it is tried on a machine that is busy.
const (
	clockExact = 50 * time.Microsecond
	clockTries = 100
)

// clockOf is the kernel's clock at the loop's time 0. Between looking at one and at the other the machine
// may take the processor away, at its start more than ever; by as much the silence would come too early for
// good, and a healthy master would be silent in every turn. So the look counts that was done fastest.
func clockOf(now func() election.Time) (at0 time.Duration) {
	best := election.Time(math.MaxInt64)
	for range clockTries {
		before := now()
		kernel := silence.Now()
		after := now()
		if after-before < best {
			best, at0 = after-before, kernel-time.Duration(after)
		}
		if best < election.Time(clockExact) {
			break
		}
	}
	return at0
}

// guard puts all addresses under the silence of link k's interface: a kernel answers for its addresses on
// every card. Without it a frozen node's kernel answers until their lifetime ends, which costs time and
// no safety: it is told, and the link works.
func (l *loop) guard(k int) {
	n := &l.lanes[k]
	name := l.cfg.Cluster + "/" + string(n.id)
	if len(l.addrs) == 0 || l.cfg.External {
		silence.Clear(name, n.index) // of a beat that was killed and held addresses itself
		return
	}
	addrs := make([]netip.Addr, len(l.addrs))
	for i := range l.addrs {
		addrs[i] = l.addrs[i].prefix.Addr()
	}
	err := l.quiet.err
	if err == nil {
		n.guard, err = l.quiet.all.Guard(name, n.index, addrs)
	}
	if err != nil {
		silence.Clear(name, n.index)
	}
	l.tell.fault(&n.unguarded, err)
}

// quieten says until when the kernel may speak for the addresses: as long as this node may keep
// them if its next turn is late. A turn after that begins with giving them up (rule R2), and
// what was silent until then stays so. gone says that the kernel has just given up all of them.
func (l *loop) quieten(next election.Time, gone bool) {
	switch {
	case l.st.Holding():
		l.quiet.all.Until(l.quiet.clock + time.Duration(next+l.cfg.Timers.Fence))
	case gone:
		l.quiet.all.Open()
	}
}
