package stories

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/testbed"
)

// rosterOf is what a node durably knows of the cluster.
func rosterOf(n *node) (generation uint32, epochs map[string]uint32, key string, err error) {
	var s struct {
		Roster struct {
			Generation uint32
			Epochs     map[string]uint32
			Keys       struct{ Send, Next, Former string }
		}
	}
	b, err := os.ReadFile(filepath.Join(n.state(), "roster.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil && s.Roster.Keys.Next+s.Roster.Keys.Former != "" {
		err = errors.New("the heartbeat key is being changed")
	}
	return s.Roster.Generation, s.Roster.Epochs, s.Roster.Keys.Send, err
}

// refusedBy waits until all nodes go by one roster that refuses e, with a key that e never had.
func (l *lab) refusedBy(nodes ...*node) {
	l.t.Helper()
	l.eventually("every node to refuse e, by one list", askEvery, func() error {
		wantGeneration, _, wantKey, err := rosterOf(nodes[0])
		if err != nil {
			return err
		}
		for _, n := range nodes {
			g, epochs, key, err := rosterOf(n)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", n.name, err)
			case g != wantGeneration || key != wantKey:
				return fmt.Errorf("%s and %s go by different lists (%d, %d)", nodes[0].name, n.name, wantGeneration, g)
			case epochs["e"] == 0 || key == "":
				return fmt.Errorf("%s does not refuse e: generation %d, epochs %v, new key %v", n.name, g, epochs, key != "")
			}
		}
		return nil
	})
}

// halves forms a cluster of five, ends e, and splits the rest in two.
func halves(l *lab) (near, far []*node) {
	m := l.form()
	before(l.t, m.home())
	m.sync()
	if m.name != "a" {
		l.t.Fatalf("%s leads", m.name)
	}
	n := l.nodes
	n["e"].stop()
	l.names = []string{"a", "b", "c", "d"}
	near, far = []*node{n["a"], n["b"]}, []*node{n["c"], n["d"]}
	l.split(far...)
	l.sideMaster(near...)
	l.sideMaster(far...)
	return near, far
}

// A person who finds e stolen while the network is split revokes it on both
// sides. Each side then has a heartbeat key that the other never heard of.
func TestBothHalvesRevoke(t *testing.T) {
	t.Parallel() // it measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{names: []string{"a", "b", "c", "d", "e"}})
		near, far := halves(l)
		for _, n := range []*node{near[0], far[0]} {
			if out := l.mustRevolve("revoke", "e", "--state", n.state()); !strings.Contains(out, "the heartbeat key is changed") {
				t.Fatalf("revoke on %s says:\n%s", n.name, out)
			}
		}
		l.healAll()
		m := l.settled()
		l.refusedBy(append(near, far...)...)
		m.sync()
		l.equal(m)
	})
}

// One side revokes; the other changes something else more often, so that its list
// wins. The revocation holds everywhere all the same, with a new key, and the
// list that lost is kept.
func TestARevocationSurvivesTheOtherHalf(t *testing.T) {
	t.Parallel() // it measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{names: []string{"a", "b", "c", "d", "e"}})
		near, far := halves(l)
		l.mustRevolve("revoke", "e", "--state", near[0].state())
		text := l.configText()
		for i := range 9 { // a revocation is three generations
			path := filepath.Join(l.stage.Dir, "next.yaml")
			must(t, os.WriteFile(path, fmt.Appendf(nil, "%s# change %d\n", text, i), 0o644))
			l.mustRevolve("config", "apply", path, "--state", far[0].state())
		}
		l.healAll()
		m := l.settled()
		l.refusedBy(append(near, far...)...)
		kept, err := filepath.Glob(filepath.Join(near[0].state(), "roster.json.*"))
		if err != nil || len(kept) != 1 {
			t.Errorf("the list that lost is kept as %v, %v", kept, err)
		}
		m.sync()
		l.equal(m)
	})
}
