package stories

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// descriptors is a limit that leaves an agent with three volumes little to spare.
const descriptors = 256

// An agent that may open 256 files mirrors three volumes all the same, small
// files, large ones and a comparison at once.
func TestFewDescriptors(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		volumes := []string{"home", "zones", "mail"}
		l := newLab(t, stage, plan{volumes: volumes, under: []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", descriptors, descriptors)}})
		m := l.form()
		late := l.others(m)[1]
		late.stop()
		must(t, os.RemoveAll(late.state()))
		l.mustRevolve("identity", "issue", late.name, "--out", late.state(), "--state", l.nodes["a"].state())
		for _, v := range volumes {
			fill(t, m.volume(v), 3000)
			for i := range 20 {
				put(t, m.volume(v)+fmt.Sprint("/large-", i), strings.Repeat("large", 100_000))
			}
		}
		late.start()
		l.settled()
		m.sync()
		l.equal(m)
		for _, n := range l.nodes {
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.agent.PID()))
			must(t, err)
			t.Logf("%s has %d descriptors open", n.name, len(open))
			if text := n.lastLog(); strings.Contains(text, "too many open files") {
				t.Errorf("%s ran out of descriptors:\n%.2000s", n.name, text)
			}
		}
	})
}

// A standby whose disk is full leaves in-sync and says why, the others go on
// without it, and when there is space again it has everything by itself.
func TestFullDiskOnAStandby(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		const size = 64 << 20
		l := newLab(t, stage, plan{node: func(name string) string { return map[string]string{"a": ", priority: 100"}[name] },
			disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: size} }})
		m := l.form()
		full, well := l.others(m)[0], l.others(m)[1]
		before(t, m.home())
		m.sync()
		filler := full.Root() + "/filler"
		_ = os.WriteFile(filler, make([]byte, size), 0o644) // until the disk is full
		put(t, m.home("too-much"), strings.Repeat("x", 4<<20))
		fill(t, m.home("many"), 500)
		stateOn := func(n *node) (sb control.Standby, err error) {
			v, err := m.volumeStatus("home")
			for _, s := range v.Standbys {
				if string(s.Node) == n.name {
					return s, err
				}
			}
			return sb, err
		}
		l.eventually("the full one to leave in-sync", askEvery, func() error {
			s, err := stateOn(full)
			if err == nil && s.State == "in-sync" {
				err = fmt.Errorf("%s is %s", full.name, s.State)
			}
			return err
		})
		l.eventually("the full one to say why", askEvery, func() error {
			v, err := full.volumeStatus("home")
			if err == nil && !strings.Contains(v.Problem, "no space left") {
				err = fmt.Errorf("it says %q", v.Problem)
			}
			return err
		})
		m.sync() // of the one that is well
		must(t, have(well.home("too-much"), strings.Repeat("x", 4<<20)))
		must(t, os.Remove(filler))
		l.settled()
		m.sync()
		l.equal(m)
		if n := strings.Count(full.lastLog(), "\n"); n > 60 {
			t.Errorf("it logged %d lines meanwhile", n)
		}
	})
}

// The same when the reign turns while the disk is full: the standby cannot make
// the new term durable, says so, and follows again when there is space.
func TestReignTurnsWhileADiskIsFull(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		const size = 64 << 20
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: size} }})
		m := l.form()
		full, well := l.others(m)[0], l.others(m)[1]
		put(t, m.home("before"), "all have it")
		m.sync()
		filler := full.Root() + "/filler"
		_ = os.WriteFile(filler, make([]byte, size), 0o644) // until the disk is full
		l.eventually("a switch to "+well.name, askEvery, func() error {
			if _, complaint, status := l.revolve("switch", well.name, "--state", m.state()); status != 0 && !well.holds(vip4.Addr()) {
				return errors.New(complaint)
			}
			return nil
		})
		next := l.newMaster(m)
		put(t, next.home("after"), "of the next reign")
		l.eventually("the full one to say why it does not follow", askEvery, func() error {
			v, err := full.volumeStatus("home")
			if err == nil && !strings.Contains(v.Problem, "no space left") {
				err = fmt.Errorf("it says %q", v.Problem)
			}
			return err
		})
		next.sync() // of the one that is well
		must(t, have(m.home("after"), "of the next reign"))
		must(t, os.Remove(filler))
		l.settled()
		next.sync()
		l.equal(next)
		if n := strings.Count(full.lastLog(), "\n"); n > 60 {
			t.Errorf("it logged %d lines meanwhile", n)
		}
	})
}
