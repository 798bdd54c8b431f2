package stories

import (
	"fmt"
	"os"
	"testing"

	"revolve/internal/testbed"
)

// envBefore names the binary of the release before this one; scripts/test.sh builds it
// from the commit before, or from BEFORE.
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
		s := &skew{lab: l}
		m := l.form()
		s.writes(m, "all are of the version before")
		newer := l.others(m)[0]
		s.upgrade(newer)
		s.writes(m, "one standby is newer")
		m = s.dies(m)
		s.writes(m, "an older master died and is back")
		if m != newer {
			l.switchTo(newer.name, m)
			m = l.newMaster(m)
		}
		s.writes(m, "a newer one leads")
		m = s.dies(m)
		s.writes(m, "a newer master died and is back")
		for _, n := range l.others(m) {
			s.upgrade(n)
		}
		s.writes(m, "the master alone is older")
		l.switchTo("", m)
		m = l.newMaster(m)
		for _, n := range l.nodes {
			if n.binary != "" {
				s.upgrade(n)
			}
		}
		s.writes(m, "all are of this version")
	})
}

// skew is a cluster in the middle of an upgrade.
type skew struct {
	*lab
	written []string // names of files that every node had
}

// upgrade stops a node in order and starts it as this version, as the package does.
func (s *skew) upgrade(n *node) {
	s.t.Helper()
	n.stop()
	n.binary = ""
	n.start()
	s.settled()
}

// writes makes a file and changes another, and every node gets them and has all that there was.
func (s *skew) writes(m *node, when string) {
	s.t.Helper()
	s.t.Log("--- " + when)
	s.settled()
	name := fmt.Sprintf("file %d", len(s.written))
	write(s.t, m.home(name), when)
	write(s.t, m.home("changes"), when)
	s.written = append(s.written, name)
	m.sync()
	for _, n := range s.others(m) {
		s.eventually("the same on "+n.name+" when "+when, askEvery, func() error { return differ(m.home(), n.home()) })
	}
	for _, name := range s.written {
		if _, err := os.Stat(m.home(name)); err != nil {
			s.t.Errorf("%s: what was on every node is gone: %v", when, err)
		}
	}
	if len(m.divergent()) > 0 {
		s.t.Logf("%s: %s keeps aside: %+v", when, m.name, m.divergent())
	}
}

// dies cuts the power of the master in mid-write, and lets it return.
func (s *skew) dies(m *node) *node {
	s.t.Helper()
	m.off()
	next := s.newMaster(m)
	write(s.t, next.home(fmt.Sprintf("while %s was off, %d", m.name, len(s.written))), "x")
	m.boot()
	s.settled()
	return next
}
