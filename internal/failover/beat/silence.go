package beat

import (
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

func (q *quiet) init(now election.Time) {
	q.all, q.err = silence.New()
	q.clock = silence.Now() - time.Duration(now)
}

// guard puts link k's addresses under the silence. Without it a frozen node's kernel answers
// until their lifetime ends, which costs time and no safety: it is told, and the link works.
func (l *loop) guard(k int) {
	n := &l.lanes[k]
	if len(n.vips) == 0 || l.cfg.External {
		return
	}
	addrs := make([]netip.Addr, len(n.vips))
	for i, a := range n.vips {
		addrs[i] = l.addrs[a].prefix.Addr()
	}
	err := l.quiet.err
	if err == nil {
		n.guard, err = l.quiet.all.Guard(n.index, addrs)
	}
	l.tell.fault(&n.unguarded, err)
}

// quieten says until when the kernel may speak for the addresses: as long as this node may keep
// them if its next turn is late. A turn after that begins with giving them up (rule R2), and
// what was silent until then stays so.
func (l *loop) quieten(next election.Time) {
	switch {
	case l.st.Holding():
		l.quiet.all.Until(l.quiet.clock + time.Duration(next+l.cfg.Timers.Fence))
	case !l.holds():
		l.quiet.all.Open()
	}
}

// holds reports whether an address is still here.
func (l *loop) holds() bool {
	for k := range l.addrs {
		if l.addrs[k].held {
			return true
		}
	}
	return false
}
