package stories

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/failover/history"
	"revolve/internal/testbed"
)

// history is what `revolve history` of a node says.
func (n *node) history() (h control.History) {
	n.lab.t.Helper()
	out := n.lab.mustRevolve("history", "--json", "--state", n.state())
	if err := json.Unmarshal([]byte(out), &h); err != nil {
		n.lab.t.Fatalf("history: %v\n%s", err, out)
	}
	return h
}

// latest is the newest record that a node knows of.
func (n *node) latest() (r history.Record) {
	if list := n.history().Records; len(list) > 0 {
		return list[0]
	}
	return r
}

// TestHistory: a power cut and a planned switch leave one record each, on every
// node; what the dead master had alone is filled in when it has returned.
func TestHistory(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		first := m.latest()
		if first.Cause != history.CauseStart || string(first.Master) != m.name || first.Times.Announced == nil {
			t.Errorf("the first reign: %+v", first)
		}
		before(t, m.home())
		m.sync()
		t.Log("--- a planned switch")
		l.eventually("a switch", askEvery, func() error {
			if _, complaint, status := l.revolve("switch", "--state", m.state()); status != 0 {
				return errors.New(complaint) // the standbys' heartbeats say in-sync a moment later than their streams
			}
			return nil
		})
		n := l.newMaster(m)
		r := n.latest()
		if r.Cause != history.CauseSwitch || string(r.From) != m.name || r.RTO == nil || *r.RTO < 0 || r.Times.Released == nil {
			t.Errorf("after a switch: %+v", r)
		}
		l.settled()
		for _, x := range l.others(n) {
			l.eventually("the new master's stream has told", askEvery, func() error {
				v, err := x.volumeStatus("home")
				if err == nil && (v.State != "following" || len(v.Standbys) == 0 || v.Standbys[0].State != "in-sync") {
					err = fmt.Errorf("%s: %+v", x.name, v)
				}
				return err
			})
		}
		t.Log("--- the master is cut off and writes what nobody receives; then its power goes")
		n.cable(lan, n.CutSilently)
		n.cable(fast, n.CutSilently)
		lonely(t, n.home())
		l.journaled(n)
		n.off()
		next := l.newMaster(n)
		l.settled()
		lost := next.latest()
		if lost.Cause != history.CauseSilence || string(lost.From) != n.name || lost.FromTerm != r.Term || lost.RTO == nil || *lost.RTO <= 0 {
			t.Errorf("after the cut: %+v", lost)
		}
		for _, v := range lost.Volumes {
			if v.Advertised == nil || v.Missing == nil || v.RPO == nil || v.KeptAside != nil {
				t.Errorf("what was missing: %+v", v)
			}
		}
		t.Log("\n" + l.mustRevolve("history", fmt.Sprint(lost.Term), "--state", next.state()))
		n.boot()
		l.settled()
		l.eventually("what it had alone is counted", askEvery, func() error {
			for _, r := range next.history().Records {
				if lost.Term == r.Term && len(r.Volumes) == 1 && r.Volumes[0].KeptAside != nil {
					lost = r
					return nil
				}
			}
			return fmt.Errorf("it is not in %+v", next.history())
		})
		kept := 0
		for _, d := range n.divergent() {
			if d.Why == "unreceived" {
				kept++
			}
		}
		if got := *lost.Volumes[0].KeptAside; got != kept || kept == 0 {
			t.Errorf("%d kept aside in the record, %d on the node", got, kept)
		}
		t.Log("\n" + l.mustRevolve("history", "--state", n.state()))
		t.Log("--- who took over dies: the others still tell")
		third := l.others(next)[0]
		l.eventually("the record is copied", askEvery, func() error {
			if b, err := os.ReadFile(filepath.Join(third.state(), "history")); err != nil || !strings.Contains(string(b), `"kept_aside":`+fmt.Sprint(kept)) {
				return fmt.Errorf("%s has\n%s (%v)", third.name, b, err)
			}
			return nil
		})
		s, err := third.status()
		must(t, err)
		if s.Failovers.Last == nil || s.Failovers.Last.Term < lost.Term || s.Failovers.Known < 3 {
			t.Errorf("status: %+v", s.Failovers)
		}
	})
}
