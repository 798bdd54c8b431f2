package stories

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"revolve/internal/testbed"
)

// The record of terms is lost, as with a new disk: the node takes part as one that
// knows nothing, never uses a term again that anybody has heard, and may lead.
func TestLostTermRecord(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		for range 3 { // several reigns, so that a node that begins at one again would repeat terms
			m = l.ledBy(l.others(m)[0])
		}
		seen, err := m.status()
		must(t, err)
		s := l.others(m)[0]
		s.stop()
		must(t, os.Remove(filepath.Join(s.state(), "term.json")))
		s.start()
		l.settled()
		l.eventually("the node to know the reign", askEvery, func() error {
			st, err := s.status()
			if err == nil && (st.Term < seen.Term || st.Master != m.name) {
				err = fmt.Errorf("%s says term %d of %s, it was %d", s.name, st.Term, st.Master, seen.Term)
			}
			return err
		})
		next := l.ledBy(s)
		st, err := next.status()
		must(t, err)
		if st.Term <= seen.Term {
			t.Fatalf("%s reigns with term %d after term %d", next.name, st.Term, seen.Term)
		}
		put(t, next.home("after"), "a word of the new reign")
		next.sync()
		l.equal(next)
	})
}

// ledBy orders the switch until the node leads; right after another one it may not be eligible yet.
func (l *lab) ledBy(n *node) *node {
	l.t.Helper()
	l.eventually(n.name+" to lead", askEvery, func() error {
		if m := l.settled(); m != n {
			_, complaint, _ := l.revolve("switch", n.name, "--state", m.state())
			return fmt.Errorf("%s leads: %s", m.name, complaint)
		}
		return nil
	})
	return n
}
