package stories

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

// oneMaster is promise P1's bound, T_dead + 2 heartbeats of the default
// profile, and what a busy machine may add to our own reading of the clock.
const oneMaster = (200+2*50)*time.Millisecond + readingLate

// readingLate: the story's own process is scheduled like any other.
const readingLate = 100 * time.Millisecond

// settle is how long a fault lasts at least: longer than detection (200 ms),
// probe (100 ms) and the kernel's lifetime (1.3 s) together, so that whatever
// the cluster makes of it has happened; half of the faults are shorter.
const settle = 1800 * time.Millisecond

// cable does something to a node's link and notes which paths that opens or closes.
func (n *node) cable(link cluster.LinkID, do func(cluster.LinkID) error) {
	l := n.lab
	l.t.Helper()
	before := l.paths()
	must(l.t, do(link))
	for pair, on := range l.paths() {
		if on != before[pair] {
			l.line.add(event{at: time.Now(), pair: pair, on: on})
		}
	}
}

// paths says which pairs of nodes have a two-way path.
func (l *lab) paths() map[[2]string]bool {
	out := map[[2]string]bool{}
	for i, x := range l.names {
		for _, y := range l.names[i+1:] {
			for _, link := range []cluster.LinkID{lan, fast} {
				out[[2]string{x, y}] = out[[2]string{x, y}] || l.nodes[x].Connected(link) && l.nodes[y].Connected(link) && l.nodes[x].Far(link) == l.nodes[y].Far(link)
			}
		}
	}
	return out
}

func (l *lab) healAll() {
	l.t.Helper()
	for _, name := range l.names {
		for _, link := range []cluster.LinkID{lan, fast} {
			if n := l.nodes[name]; !n.Connected(link) || n.Far(link) {
				n.cable(link, n.Mend)
			}
		}
	}
}

// oneAfterHeal checks the promise once all links are there again.
func (l *lab) oneAfterHeal(what string) *node {
	l.t.Helper()
	m := l.settled()
	l.eventually("all nodes to name the same master", askEvery, func() error {
		// A machine that stands still moves the VIPs without our doing; that is no breach.
		who := l.holders()
		if len(who) != 1 {
			return fmt.Errorf("the VIPs are on %v", who)
		}
		m = l.nodes[who[0]]
		for _, n := range l.nodes {
			s, err := n.status()
			if err != nil {
				return err
			}
			if s.Master != m.name {
				return fmt.Errorf("%s names %s, the VIPs are on %s", n.name, s.Master, m.name)
			}
		}
		return nil
	})
	longest, who := l.line.together(vip4.Addr(), l.names)
	l.t.Logf("%s: two connected masters for at most %v", what, longest.Round(time.Millisecond))
	if longest > oneMaster {
		l.t.Fatalf("%s: %s, connected, both held %v for %v", what, who, vip4, longest)
	}
	return m
}

// Connected nodes have at most one master, and exactly one once an eligible
// node is heard: cuts that a person would think of.
func TestP1OneMaster(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()

		m.cable(fast, m.Cut)
		l.during(settle, "the other link is cut", l.atMostOne)
		m.cable(fast, m.Mend)
		m = l.settled()

		m.cable(lan, m.Cut)
		next := l.newMaster(m)
		m.cable(lan, m.Mend)
		m = l.oneAfterHeal("the VIPs' link cut")
		if m != next {
			t.Logf("%s took the VIPs from %s again: this machine is busy", m.name, next.name)
		}

		// Two sides: each serves (availability), one remains.
		m.cable(lan, m.CutSilently)
		m.cable(fast, m.CutSilently)
		l.newOther(m)
		l.healAll()
		m = l.oneAfterHeal("silent partition")

		// The same with a standby alone: it reigns, writes nothing, and loses.
		alone := l.others(m)[0]
		alone.cable(lan, alone.CutSilently)
		alone.cable(fast, alone.CutSilently)
		l.newOther(m)
		l.healAll()
		m = l.oneAfterHeal("a lonely standby")

		// Two nodes that do not hear each other, and a third that hears both.
		x, y := m, l.others(m)[0]
		x.cable(fast, x.CutSilently)
		y.cable(lan, y.CutSilently)
		l.during(settle, "a hears c, b hears c, a does not hear b", l.atMostOne)
		l.healAll()
		l.oneAfterHeal("triangle")
	})
}

// The same under random schedules of cuts.
func TestP1RandomCuts(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		s := seed(t)
		l := newLab(t, stage, plan{})
		l.form()
		for round := range uint64(3) {
			rnd := rand.New(rand.NewPCG(s, round))
			for range 4 {
				n, link := l.nodes[l.names[rnd.IntN(3)]], []cluster.LinkID{lan, fast}[rnd.IntN(2)]
				what, do := "mend", n.Mend
				if n.Connected(link) {
					what, do = "cut", n.Cut
					if rnd.IntN(2) == 0 {
						what, do = "cut silently", n.CutSilently
					}
				}
				dwell := time.Duration(rnd.IntN(int(settle)))
				t.Logf("round %d: %s %s of %s for %v", round, what, link, n.name, dwell.Round(time.Millisecond))
				n.cable(link, do)
				l.during(dwell, what, func() error { return nil })
			}
			l.healAll()
			l.oneAfterHeal(fmt.Sprintf("round %d", round))
		}
	})
}

// during checks that cond holds all the time.
func (l *lab) during(d time.Duration, what string, cond func() error) {
	l.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(lookEvery) {
		if err := cond(); err != nil {
			l.t.Fatalf("while %s: %v", what, err)
		}
	}
}

func (l *lab) atMostOne() error {
	if who := l.holders(); len(who) > 1 {
		return fmt.Errorf("the VIPs are on %v", who)
	}
	return nil
}

// newOther waits until a node other than m holds the VIPs, whatever m does.
func (l *lab) newOther(m *node) (other *node) {
	l.t.Helper()
	l.eventually("a master on the other side", lookEvery, func() error {
		for _, name := range l.holders() {
			if name != m.name {
				other = l.nodes[name]
				return nil
			}
		}
		return fmt.Errorf("the VIPs are on %v", l.holders())
	})
	return other
}

// formAround is form with one node first, which leads: what it has already is what the others get. Started together with it, an empty one
// may be the first to hear that there is no master.
func (l *lab) formAround(first *node) (master *node) {
	l.t.Helper()
	first.start()
	l.eventually(first.name+" leads alone", askEvery, func() error {
		s, err := first.status()
		if err == nil && s.Master != first.name {
			err = fmt.Errorf("master is %q", s.Master)
		}
		return err
	})
	for _, n := range l.others(first) {
		n.start()
	}
	return l.settled()
}

func (l *lab) others(m *node) (list []*node) {
	for _, name := range l.names {
		if name != m.name {
			list = append(list, l.nodes[name])
		}
	}
	return list
}
