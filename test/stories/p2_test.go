package stories

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// vipGone is promise P2's bound.
const vipGone = 1300 * time.Millisecond

// A node whose agent is killed, frozen or starved loses its VIPs within 1.3 s.
func TestP2VIPsLeaveADeadNode(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		l.form()
		for _, c := range []struct {
			what   string
			strike func(m *node)
			mend   func(m *node)
		}{
			{"everything is frozen", (*node).hold, (*node).resume},
			{"agent and beat are killed together", func(m *node) {
				agent, beat := m.agent.PID(), m.beat()
				// Stopped first: neither may run a single instruction for the other.
				must(t, unix.Kill(beat, unix.SIGSTOP))
				must(t, unix.Kill(agent, unix.SIGSTOP))
				must(t, unix.Kill(beat, unix.SIGKILL))
				must(t, unix.Kill(agent, unix.SIGKILL))
			}, (*node).start},
			{"the agent alone is frozen", func(m *node) { must(t, unix.Kill(m.agent.PID(), unix.SIGSTOP)) },
				func(m *node) { must(t, unix.Kill(m.agent.PID(), unix.SIGCONT)) }},
			{"the agent alone is killed", func(m *node) { must(t, unix.Kill(m.agent.PID(), unix.SIGKILL)) }, (*node).start},
			{"beat alone is killed", func(m *node) { must(t, unix.Kill(m.beat(), unix.SIGKILL)) }, func(m *node) {
				m.waitEnd()
				m.start()
			}},
		} {
			m := l.settled()
			began := time.Now()
			c.strike(m)
			m.runs = false
			for _, a := range []netip.Addr{vip4.Addr(), vip6.Addr()} {
				l.within(2*vipGone, "the kernel to remove "+a.String()+" when "+c.what, lookEvery, func() error {
					if at, ok := l.line.gone(m.name, a, began); !ok {
						return errStill
					} else {
						t.Logf("%s: %v left %s after %v", c.what, a, m.name, at.Sub(began).Round(time.Millisecond))
						l.bound(c.what+": "+a.String()+" stayed", at.Sub(began), vipGone)
					}
					return nil
				})
			}
			if next := l.newMaster(m); next == m {
				t.Fatalf("%s: nobody took over", c.what)
			}
			c.mend(m)
			m.runs = true
		}
		l.equal(l.settled())
	})
}
