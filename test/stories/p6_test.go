package stories

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// What replication overwrites or deletes is in the trash of every standby.
func TestP6Trash(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		fill(t, m.home("many"), 300)
		m.sync()
		l.equal(m)
		write(t, m.home("changed"), "changed on purpose")
		must(t, os.Remove(m.home("deleted")))
		must(t, os.RemoveAll(m.home("gone")))
		m.sync()
		l.equal(m)
		for _, n := range l.others(m) {
			for _, content := range []string{"changed as all agreed", "deleted as all agreed"} {
				if len(found(t, n.home(hidden, "trash"), content)) == 0 {
					t.Errorf("%q is not in the trash of %s", content, n.name)
				}
			}
			gone, err := filepath.Glob(n.home(hidden, "trash", "*", "gone", "00", "file-000"))
			must(t, err)
			if len(gone) == 0 {
				t.Errorf("the deleted tree is not in the trash of %s", n.name)
			}
			if s, err := n.volumeStatus("home"); err != nil || s.Divergent > 0 || s.Alarm != "" {
				t.Errorf("%s: %v, %d divergent, alarm %q: nothing bad happened", n.name, err, s.Divergent, s.Alarm)
			}
		}

		must(t, os.RemoveAll(m.home("many")))
		m.sync()
		l.equal(m)
		for _, n := range l.others(m) {
			l.eventually("the alarm of a mass deletion on "+n.name, askEvery, func() error {
				if v, err := n.volumeStatus("home"); err != nil || v.Alarm == "" {
					return fmt.Errorf("alarm %q, %v", v.Alarm, err)
				}
				return nil
			})
			kept := 0
			for i := range 300 {
				if list, _ := filepath.Glob(n.home(hidden, "trash", "*", "many", "*", fmt.Sprintf("file-%03d", i))); len(list) > 0 {
					kept++
				}
			}
			if kept != 300 {
				t.Errorf("%d of 300 deleted files are in the trash of %s", kept, n.name)
			}
		}
	})
}

// paused waits until the node says that the volume is paused, and what to do.
func (l *lab) paused(n *node) {
	l.t.Helper()
	l.eventually("the volume to pause on "+n.name, askEvery, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		if v := s.Volumes[0]; v.State != "paused" || v.Paused == nil || s.Verdict != control.Critical || !strings.Contains(v.Problem, ";") {
			return fmt.Errorf("state %s, verdict %s, problem %q", v.State, s.Verdict, v.Problem)
		}
		return nil
	})
	s, err := n.status()
	must(l.t, err)
	l.t.Logf("%s says: %s", n.name, s.Volumes[0].Problem)
}

// allAs waits until every node's tree is as it was.
func (l *lab) allAs(want map[string]string, nodes []*node) {
	l.t.Helper()
	for _, n := range nodes {
		if err := differMap(want, n.home()); err != nil {
			l.t.Errorf("%s: %v", n.name, err)
		}
	}
}

// Absence that was only inferred deletes nothing: the root swapped under a
// running master, and a node that restarts with an empty directory.
func TestP6LostRoot(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		l.equal(m)
		want, err := scan(m.home())
		must(t, err)

		// The disk is unmounted: the directory below it is empty.
		must(t, os.Rename(m.home(), m.Root()+"/aside"))
		must(t, os.Mkdir(m.home(), 0o755))
		l.paused(m)
		l.during(settle, "the root is another", func() error {
			var errs []error
			for _, n := range l.others(m) {
				errs = append(errs, differMap(want, n.home()))
			}
			return errors.Join(errs...)
		})
		must(t, os.Remove(m.home()))
		must(t, os.Rename(m.Root()+"/aside", m.home()))
		now := l.settled()
		l.allAs(want, []*node{l.nodes["a"], l.nodes["b"], l.nodes["c"]})
		put(t, now.home("goes-on"), "after the swap")
		now.sync()
		l.equal(now)
		want, err = scan(now.home())
		must(t, err)

		// The master restarts and its directory is empty.
		m = now
		m.stop()
		must(t, os.Rename(m.home(), m.Root()+"/aside"))
		must(t, os.Mkdir(m.home(), 0o755))
		next := l.newMaster(m)
		m.start()
		l.paused(m)
		if err := differMap(map[string]string{}, m.home()); err != nil {
			t.Errorf("something was written into the empty directory of %s: %v", m.name, err)
		}
		l.allAs(want, l.others(m))
		must(t, os.Remove(m.home()))
		must(t, os.Rename(m.Root()+"/aside", m.home()))
		l.settled()
		put(t, next.home("goes-on"), "after the restart")
		next.sync()
		l.equal(next)

		// All nodes stop; one comes back empty and first.
		for _, n := range l.nodes {
			n.stop()
		}
		must(t, os.Rename(m.home(), m.Root()+"/aside"))
		must(t, os.Mkdir(m.home(), 0o755))
		want, err = scan(next.home())
		must(t, err)
		m.start()
		l.paused(m)
		for _, n := range l.others(m) {
			n.start()
		}
		l.during(settle, "an empty node came first", func() error {
			return errors.Join(differMap(want, l.others(m)[0].home()), differMap(want, l.others(m)[1].home()))
		})
		must(t, os.Remove(m.home()))
		must(t, os.Rename(m.Root()+"/aside", m.home()))
		l.equal(l.settled())
		l.allAs(want, l.others(m))
	})
}
