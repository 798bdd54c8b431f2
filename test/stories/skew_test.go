package stories

import (
	"fmt"
	"os"
	"testing"

	"revolve/internal/testbed"
)

// envBefore names the binary of the version before this one; scripts/test.sh builds it from the
// commit before the last change of the product, or from BEFORE.
const envBefore = "REVOLVE_BEFORE"

// TestSkew: nodes of the release before and of this one in one cluster, as in every upgrade. Each
// leads the other; each dies as master and returns; nothing that was everywhere is lost.
func TestSkew(t *testing.T) {
	t.Parallel() // it asserts no times
	before := os.Getenv(envBefore)
	if before == "" {
		t.Skip("SKIPPED PART: nodes of two versions in one cluster (" + envBefore + " names no binary; ./scripts/test.sh builds it)")
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		for _, n := range l.nodes {
			n.binary = before
		}
		s := &skew{lab: l, written: map[string]string{}}
		l.form()
		m := s.writes("all are of the version before")
		newer := l.others(m)[0]
		s.upgrade(newer)
		m = s.writes("one standby is newer")
		s.dies(m)
		m = s.writes("an older master died and is back")
		if m != newer {
			l.switchTo(newer.name, m)
			l.newMaster(m)
		}
		m = s.writes("a newer one leads")
		s.dies(m)
		m = s.writes("a newer master died and is back")
		for _, n := range l.others(m) {
			s.upgrade(n)
		}
		m = s.writes("the master alone is older")
		l.switchTo("", m)
		l.newMaster(m)
		for _, n := range l.nodes {
			if n.binary != "" {
				s.upgrade(n)
			}
		}
		s.writes("all are of this version")
	})
}

// skew is a cluster in the middle of an upgrade.
type skew struct {
	*lab
	written map[string]string // files that every node had, and what is in them
}

// upgrade stops a node in order and starts it as this version, as the package does.
func (s *skew) upgrade(n *node) {
	s.t.Helper()
	n.stop()
	n.binary = ""
	n.start()
	s.settled()
}

// writes makes a file on the master and changes another, and every node gets them and has all that there was.
func (s *skew) writes(when string) (m *node) {
	s.t.Helper()
	s.t.Log("--- " + when)
	m = s.settled()
	name := fmt.Sprintf("file %d", len(s.written))
	write(s.t, m.home(name), when)
	write(s.t, m.home("changes"), when)
	s.written[name], s.written["changes"] = when, when
	m.sync()
	for _, n := range s.others(m) {
		s.eventually("the same on "+n.name+" when "+when, askEvery, func() error { return differ(m.home(), n.home()) })
	}
	for name, want := range s.written {
		if got, err := os.ReadFile(m.home(name)); err != nil || string(got) != want {
			s.t.Errorf("%s: what was on every node is gone: %s has %q, not %q (%v)", when, name, got, want, err)
		}
	}
	if len(m.divergent()) > 0 {
		s.t.Logf("%s: %s keeps aside: %+v", when, m.name, m.divergent())
	}
	return m
}

// dies cuts the power of the master in mid-write, and lets it return.
func (s *skew) dies(m *node) {
	s.t.Helper()
	s.t.Logf("%s loses its power as master; it is of the version before: %v", m.name, m.binary != "")
	m.off()
	next := s.newMaster(m)
	write(s.t, next.home(fmt.Sprintf("while %s was off, %d", m.name, len(s.written))), "x")
	m.boot()
	s.settled()
}
