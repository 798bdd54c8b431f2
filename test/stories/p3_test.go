package stories

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

// killAgent kills the node's agent, waits for its end and starts it again.
func (n *node) killAgent() {
	n.lab.t.Helper()
	must(n.lab.t, n.agent.Signal(unix.SIGKILL))
	n.waitEnd()
	n.start()
}

// A frozen master comes back, with writes on its tree from before it knows, to
// standbys of which one has been restarted.
func TestP3FrozenMaster(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		m.hold()
		next := l.newMaster(m)
		l.settled()
		put(t, next.home("agreed"), "in the new reign")
		next.sync()
		third := l.third(m, next)
		third.killAgent()
		l.settled()
		// Its connections still exist; these wait in its queues.
		put(t, m.home("agreed"), "in the old reign")
		put(t, m.home("stale"), "in the old reign")
		must(t, os.Remove(m.home("changed")))
		m.resume()
		l.during(settle, "the old master finds out", func() error { return errors.Join(noStale(next), noStale(third)) })
		now := l.settled()
		l.equal(now)
		must(t, errors.Join(noStale(next), noStale(third), have(m.home("agreed"), "in the new reign")))
		for _, n := range []*node{next, third} {
			if kept := found(t, n.home(hidden), "in the old reign"); len(kept) > 0 {
				t.Errorf("%s accepted a change of the old reign: %v", n.name, kept)
			}
		}
		if kept := found(t, m.home(hidden, "divergent"), "in the old reign"); len(kept) != 2 {
			t.Errorf("%s keeps %v of its 2 changes", m.name, kept)
		}
	})
}

func noStale(n *node) error {
	if _, err := os.Lstat(n.home("stale")); err == nil {
		return fmt.Errorf("%s has a file of the old reign", n.name)
	}
	if _, err := os.Lstat(n.home("changed")); err != nil {
		return fmt.Errorf("%s lost a file to the old reign: %w", n.name, err)
	}
	return have(n.home("agreed"), "in the new reign")
}

// A master that really sends with an old term: a standby that has restarted
// since it saw the newer one accepts nothing, and serves it nothing.
func TestP3HostileMaster(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: func(name string) string {
			return map[string]string{"a": ", priority: 100", "b": ", priority: 50", "c": ", candidate: false"}[name]
		}})
		m := l.form()
		put(t, m.home("first"), "in the first reign")
		m.sync()
		s, err := m.status()
		must(t, err)
		old := cluster.Reign{Term: s.Term, Owner: cluster.NodeID(m.name)}
		m.off()
		liar := l.newMaster(m)
		l.settled()
		put(t, liar.home("second"), "in the second reign")
		liar.sync()
		s, err = liar.status()
		must(t, err)
		second := s.Term
		c := l.nodes["c"]
		liar.stop()
		c.killAgent() // what it has seen must be on its disk

		reign, err := json.Marshal(old)
		must(t, err)
		exe, err := os.Executable()
		must(t, err)
		log := filepath.Join(stage.Dir, "logs", "hostile.log")
		_, err = liar.Start(testbed.Command{Argv: []string{exe, progHostile, l.config(), liar.name, filepath.Join(l.bed.Self(), "state"), string(reign)}, Log: log})
		must(t, err)
		text := ""
		l.eventually("the hostile master to be done", lookEvery, func() error {
			b, err := os.ReadFile(log)
			if text = string(b); !strings.Contains(text, "\n"+saidHonest+"\n") && !strings.HasPrefix(text, saidHonest) {
				return errors.New(text)
			}
			return err
		})
		t.Log(text)
		for _, bad := range []string{saidTaken, saidPullTook} {
			if strings.Contains(text, bad+"\n") {
				t.Errorf("the standby said yes to an old reign: %s", bad)
			}
		}
		for _, good := range []string{saidRefused, saidPullNo} {
			if !strings.Contains(text, good+"\n") {
				t.Errorf("it never came to %q: this story shows nothing", good)
			}
		}
		// It was told of no term at all: it can only have learned it from c, which must have remembered.
		_, won, _ := strings.Cut(text, saidWon+" ")
		won, _, _ = strings.Cut(won, "\n")
		if n, err := strconv.ParseUint(won, 10, 64); err != nil || cluster.Term(n) <= second {
			t.Errorf("c followed a reign of term %s after it had seen term %d", won, second)
		}
		if _, err := os.Lstat(c.home(staleFile)); err == nil {
			t.Errorf("c has the old reign's file")
		}
		if _, err := os.Lstat(c.home(honestFile)); err != nil {
			t.Errorf("c has not even the honest file, this story shows nothing: %v", err)
		}
	})
}
