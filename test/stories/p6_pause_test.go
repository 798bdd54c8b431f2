package stories

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/testbed"
)

// freshDisk puts an empty directory where the node's volume was, as a new disk or an unmounted one would.
func (n *node) freshDisk() (aside string) {
	n.lab.t.Helper()
	aside = filepath.Join(n.Root(), "aside")
	must(n.lab.t, os.RemoveAll(aside))
	must(n.lab.t, os.Rename(n.home(), aside))
	must(n.lab.t, os.Mkdir(n.home(), 0o755))
	return aside
}

// A volume whose root is another waits for a person; resumed, it is filled from
// the others, and nothing is deleted anywhere. On a standby and on a master.
func TestP6Resume(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		l.equal(m)
		if out := m.must("volume", "resume", "home"); !strings.Contains(out, "nothing is paused") {
			t.Errorf("nothing is paused: %s", out)
		}
		m.refuses(12, "no such volume", "volume", "resume", "hime")

		// A standby's root is emptied, with everything that is revolve's own.
		b := l.others(m)[0]
		list, err := os.ReadDir(b.home())
		must(t, err)
		for _, e := range list {
			must(t, os.RemoveAll(b.home(e.Name())))
		}
		write(t, m.home("goes-on"), "while b is paused")
		l.paused(b)
		b.says(true, "paused", "look: ", "go on: ", "revolve volume resume home")
		want, err := scan(m.home())
		must(t, err)
		l.allAs(want, []*node{m, l.third(m, b)})
		b.must("volume", "resume", "home")
		l.settled()
		l.equal(m)
		l.allAs(want, []*node{m, b, l.third(m, b)})

		// The master's directory is gone.
		must(t, os.Rename(m.home(), filepath.Join(m.Root(), "gone")))
		l.paused(m)
		m.refuses(13, "the reason still holds", "volume", "resume", "home")
		l.newMaster(m) // a master without its files hands over
		l.allAs(want, l.others(m))
		must(t, os.Rename(filepath.Join(m.Root(), "gone"), m.home()))
		m = l.settled()
		l.equal(m)
		l.allAs(want, []*node{l.nodes["a"], l.nodes["b"], l.nodes["c"]})

		// The master's disk is replaced while it is down.
		m.stop()
		aside := m.freshDisk()
		put(t, m.home("found"), "was on the new disk")
		next := l.newMaster(m)
		m.start()
		l.paused(m)
		m.says(true, "paused", "has lost its mark")
		l.allAs(want, l.others(m))
		m.must("volume", "resume", "home")
		l.settled()
		l.equal(next)
		l.allAs(want, []*node{m, next, l.third(m, next)})
		if len(found(t, m.home(hidden, "divergent"), "was on the new disk")) == 0 {
			t.Errorf("what was on the new disk is not kept: %+v", m.divergent())
		}
		must(t, os.RemoveAll(aside))
		// It is a full member again: it may lead.
		l.eventually("a switch to "+m.name, askEvery, func() error { _, err := next.do("switch", m.name); return err })
		put(t, m.home("after"), "all")
		l.everywhere("after", "all")
	})
}

// onlyA lets only node a lead, so that nobody takes over while it is down.
func onlyA(name string) string {
	if name == "a" {
		return ""
	}
	return ", candidate: false"
}

// Deleted while the only node that may lead was down: nobody saw it. The
// standbys keep everything until a person accepts the deletions.
func TestP6DeletedWhileDown(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: onlyA})
		a := l.form()
		before(t, a.home())
		fill(t, a.home("many"), 120)
		a.sync()
		l.equal(a)
		want, err := scan(a.home())
		must(t, err)
		a.stop()
		list, err := os.ReadDir(a.home())
		must(t, err)
		for _, e := range list {
			if e.Name() != hidden {
				must(t, os.RemoveAll(a.home(e.Name())))
			}
		}
		a.start()
		l.settled()
		put(t, a.home("goes-on"), "while deletions wait")
		l.everywhere("goes-on", "while deletions wait")
		a.says(true, "were not found on the master", "b", "look: ", "go on: revolve volume resume home")
		want["goes-on"], err = describe(a.home("goes-on"))
		must(t, err)
		l.allAs(want, l.others(a))
		a.refuses(13, "on b (", "volume", "resume", "home")
		l.nodes["b"].says(true, "were not found on the master")
		l.nodes["b"].refuses(13, "a is the master", "volume", "resume", "home", "--accept-deletions")
		_, err = a.do("volume", "resume", "home")
		t.Log(err)
		l.allAs(want, l.others(a))

		// It is remembered over a restart of a standby, and of the master.
		l.nodes["b"].stop()
		l.nodes["b"].start()
		l.settled()
		a.says(true, "were not found on the master", "on b")
		l.allAs(want, l.others(a))

		out := a.must("volume", "resume", "home", "--accept-deletions")
		t.Log(out)
		l.equal(a)
		a.says(false, "were not found on the master")
		for _, n := range l.others(a) {
			if kept, _ := filepath.Glob(n.home(hidden, "trash", "*", "many", "*", "file-*")); len(kept) != 120 {
				t.Errorf("%d of 120 accepted deletions are in the trash of %s", len(kept), n.name)
			}
			n.says(true, "more than half of the volume", "pinned")
		}
		a.must("trash", "restore", "home", "many")
		a.sync()
		l.equal(a)
		if back, _ := filepath.Glob(a.home("many", "*", "file-*")); len(back) != 120 {
			t.Errorf("%d of 120 came back", len(back))
		}
	})
}

// Deleted while nobody watched, and wanted back: a node that has the names becomes the master.
func TestP6HaveThemBack(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: func(name string) string {
			if name == "c" {
				return ", candidate: false"
			}
			return ""
		}})
		m := l.form()
		before(t, m.home())
		m.sync()
		l.equal(m)
		want, err := scan(m.home())
		must(t, err)
		for _, n := range l.nodes { // all stop, so that nobody takes over
			if n != m {
				n.stop()
			}
		}
		m.stop()
		must(t, os.RemoveAll(m.home("calm")))
		m.start()
		l.settled()
		for _, n := range l.others(m) {
			n.start()
		}
		now := l.settled()
		if now != m {
			t.Logf("SKIPPED PART: %s leads, not %s, and has everything: nothing is paused", now.name, m.name)
			l.equal(now)
			l.allAs(want, l.others(now))
			return
		}
		b := l.nodes["b"]
		if b == m {
			b = l.nodes["a"]
		}
		m.says(true, "were not found on the master", "on "+b.name)
		l.allAs(want, l.others(m))
		l.eventually("a switch to "+b.name, askEvery, func() error { _, err := m.do("switch", b.name); return err })
		l.settled()
		l.equal(b)
		l.allAs(want, []*node{l.nodes["a"], l.nodes["b"], l.nodes["c"]})
		b.says(false, "were not found on the master")
	})
}
