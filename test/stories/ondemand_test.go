package stories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

const (
	steadyFiles = 64
	steadySize  = 512 << 10 // each; together far more than the names of what changed
	// A journal reaches back 64 MiB (eight segments of 8 MiB): so many changes of so long a path are more.
	churned       = 11_000
	churnedPath   = 3600
	journalAtMost = 80 << 20 // of one volume, on disk
	churnFor      = 3 * time.Minute
)

// TestOnDemand: a node that may be off is off while more changes than the
// journal can hold. Nobody minds, nothing waits for it, and when it returns the
// trees are compared instead of copied.
func TestOnDemand(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: func(name string) string {
			if name == "c" {
				return ", power: { mode: on-demand, on: \"touch SELF/woke-c\", off: \"touch SELF/was-off\" }, priority: 1"
			}
			return ""
		}})
		m := l.form()
		c := l.nodes["c"]
		l.refusesToBeOff(m, c)
		steady(t, m)
		m.sync()
		l.equal(m)
		l.powersItselfOff(m, c)
		c.stop()
		c.off()
		l.lastKnown(c, false)
		if left := c.knewOn(); len(left) != len(l.others(c)) {
			t.Errorf("c has written down that it left %v on, want all others", left)
		}
		l.wellWithout(m, c)
		m.churn()
		m.journalBounded()
		m.sync() // the barrier does not wait for it
		began := time.Now()
		l.switchTo("", m) // nor does a switch, which never chooses it
		m = l.newMaster(m)
		t.Logf("planned switch with %s off: %v", c.name, time.Since(began).Round(time.Millisecond))
		put(t, m.home("after"), "the switch")
		l.settled()

		l.powerTyped(m, 0, "was told to power on", "on", "c", "--within", "0s")
		if _, err := os.Stat(filepath.Join(m.Root(), "woke-c")); err != nil {
			t.Error(err)
		}
		c.boot()
		l.settled()
		l.lastKnown(c, true)
		l.powerTyped(m, 0, "c is on", "on", "c") // already, or as soon as it is heard
		m.sync()
		l.equal(m)
		l.eventually("rsync to find nothing", askEvery, func() error { return rsyncSame(m.home(), c.home()) })
		got := c.received()
		content := int64(steadyFiles * steadySize)
		t.Logf("%s received %d KiB on its return; the volume's content is %d KiB, the names of the changes it slept through were %d KiB", c.name, got>>10, content>>10, int64(2*churned*churnedPath)>>10)
		if got > content/4 {
			t.Errorf("%s received %d bytes on its return: that is no comparison", c.name, got)
		}
		l.coldStart(c)
	})
}

// lastKnown: the others have written down whether a node was on when they last knew: with that, its silence says whether it may run machines.
func (l *lab) lastKnown(c *node, on bool) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("the others to know that c is on: %v", on), askEvery, func() error {
		for _, n := range l.others(c) {
			if known := n.knewOn(); slices.Contains(known, c.name) != on {
				return fmt.Errorf("%s knows %v", n.name, known)
			}
		}
		return nil
	})
}

// knewOn are those that a node has written down to be on.
func (n *node) knewOn() []string {
	n.lab.t.Helper()
	var record struct {
		On []string `json:"on"`
	}
	b, err := os.ReadFile(filepath.Join(n.state(), "term.json"))
	must(n.lab.t, err)
	must(n.lab.t, json.Unmarshal(b, &record))
	return record.On
}

// powerTyped types a power command on a node.
func (l *lab) powerTyped(n *node, want int, says string, args ...string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	c := l.stage.Command(ctx, append([]string{os.Getenv(envBin), "power", "--state", n.state()}, args...)...)
	out, _ := c.CombinedOutput()
	if status := c.ProcessState.ExitCode(); status != want || !strings.Contains(string(out), says) {
		l.t.Errorf("power %v: exit status %d: %s, want %d, %q", args, status, out, want, says)
	}
}

// refusesToBeOff has nodes power themselves off that must not: one that is not on demand, the master, and the last standby that could take over.
func (l *lab) refusesToBeOff(m, c *node) {
	l.t.Helper()
	l.powerTyped(m, 11, "it is not on demand", "off", m.name)
	l.powerTyped(m, 12, "it is no node of this cluster", "off", "nobody")
	l.switchTo("c", m)
	l.settled()
	l.powerTyped(m, 13, "it is master", "off", "c")
	l.switchTo(m.name, c)
	l.settled()
	for _, n := range l.others(c) {
		if n == m {
			continue
		}
		l.mustRevolve("maintenance", "on", "--state", n.state())
		l.eventually("the master to know of the maintenance", askEvery, func() error {
			s, err := m.status()
			for _, x := range s.Nodes {
				if err == nil && string(x.Name) == n.name && x.Maintenance == control.Yes {
					return nil
				}
			}
			return errors.Join(err, errStill)
		})
		l.powerTyped(m, 13, "no other standby could take over then", "off", "c")
		l.mustRevolve("maintenance", "off", "--state", n.state())
	}
	l.settled()
	if _, err := os.Stat(filepath.Join(c.Root(), "was-off")); err == nil {
		l.t.Error("it was told to power off")
	}
}

// powersItselfOff has a node on demand do so. It leads no more from then on, until it is started anew.
func (l *lab) powersItselfOff(m, c *node) {
	l.t.Helper()
	l.eventually("c to power itself off", askEvery, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), commandFor)
		defer cancel()
		out, err := l.stage.Command(ctx, os.Getenv(envBin), "power", "--state", m.state(), "off", "c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		_, err = os.Stat(filepath.Join(c.Root(), "was-off"))
		return err
	})
	if _, complaint, status := l.revolve("switch", "c", "--state", m.state()); status == 0 || !strings.Contains(complaint, "in-sync") && !strings.Contains(complaint, "not eligible") {
		l.t.Errorf("it is made master while it powers itself off: exit status %d, %s", status, complaint)
	}
}

func steady(t *testing.T, m *node) {
	t.Helper()
	rnd := rand.NewChaCha8([32]byte{7})
	b := make([]byte, steadySize)
	for i := range steadyFiles {
		_, _ = rnd.Read(b)
		put(t, m.home("steady", fmt.Sprint(i)), string(b))
	}
}

// wellWithout: that c is off is no reason for anything.
func (l *lab) wellWithout(m, c *node) {
	l.t.Helper()
	l.eventually("a status that is fine without "+c.name, askEvery, func() error {
		s, err := m.status()
		if err != nil || s.Verdict != "ok" {
			return fmt.Errorf("%v: %s %q", err, s.Verdict, s.Reasons)
		}
		for _, n := range s.Nodes {
			if string(n.Name) == c.name && n.State != "off" {
				return fmt.Errorf("it is %s", n.State)
			}
		}
		return nil
	})
}

// churn makes and removes many files with long paths, changes one of the steady files and adds one.
func (n *node) churn() {
	t := n.lab.t
	t.Helper()
	name := strings.Repeat("d", 200)
	deep := []string{"churn"}
	for length := 0; length < churnedPath; length += len(name) + 1 {
		deep = append(deep, name)
	}
	dir, err := os.OpenRoot(n.home())
	must(t, err)
	for _, d := range deep { // step by step: the whole path may be longer than a call takes
		must(t, dir.Mkdir(d, 0o755))
		next, err := dir.OpenRoot(d)
		must(t, err)
		must(t, dir.Close())
		dir = next
	}
	for i := range churned {
		must(t, dir.WriteFile(fmt.Sprint(i), nil, 0o644))
	}
	n.syncAtLast()
	for i := range churned {
		must(t, dir.Remove(fmt.Sprint(i)))
	}
	must(t, dir.Close())
	n.syncAtLast()
	must(t, os.RemoveAll(n.home("churn")))
	put(t, n.home("steady", "3"), "changed meanwhile")
	put(t, n.home("new"), "meanwhile")
	n.sync()
}

// syncAtLast is the barrier behind so much that one is not enough.
func (n *node) syncAtLast() {
	l := n.lab
	l.t.Helper()
	began := time.Now()
	l.within(churnFor, "the other standby to have everything", askEvery, func() error {
		if _, complaint, status := l.revolve("sync", "--wait", "--timeout", "15s", "--state", n.state()); status != 0 {
			return errors.New(complaint)
		}
		return nil
	})
	l.t.Logf("everything was on the other standby after %v", time.Since(began).Round(time.Millisecond))
}

// journalBounded: the master's journal does not grow for who is not there.
func (n *node) journalBounded() {
	t := n.lab.t
	t.Helper()
	size := int64(0)
	must(t, filepath.WalkDir(n.state(), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if info, e := d.Info(); err == nil && e == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	}))
	t.Logf("the state of %s takes %d MiB", n.name, size>>20)
	switch {
	case size > journalAtMost:
		t.Errorf("that is more than a journal may")
	case size < journalAtMost/2:
		t.Errorf("the journal was not filled: this story shows nothing")
	}
}

// received is how many bytes came in over the node's links since its boot.
func (n *node) received() (bytes int64) {
	t := n.lab.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	out, err := n.Run(ctx, "ip", "-s", "-j", "link", "show")
	must(t, err)
	var links []struct {
		IfName  string
		Stats64 struct{ Rx struct{ Bytes int64 } }
	}
	must(t, json.Unmarshal(out, &links))
	for _, l := range links {
		if l.IfName != "lo" {
			bytes += l.Stats64.Rx.Bytes
		}
	}
	return bytes
}

// coldStart: everybody stops, and c is not switched on again.
func (l *lab) coldStart(c *node) {
	l.t.Helper()
	c.stop()
	c.off()
	l.settled()
	l.lastKnown(c, true)            // nobody said that it would be off
	for _, n := range l.others(c) { // who goes second knows that the first lived on, and takes over from it
		n.stop()
	}
	l.eventually("records that are old enough to be believed about a node that may have frozen", askEvery, func() error {
		for _, n := range l.others(c) {
			info, err := os.Stat(filepath.Join(n.state(), "term.json"))
			if err != nil || time.Since(info.ModTime()) < 2*time.Second {
				return errors.Join(err, errStill)
			}
		}
		return nil
	})
	began := time.Now()
	for _, n := range l.others(c) {
		n.start()
	}
	m := l.newMaster(c)
	took := time.Since(began)
	l.t.Logf("cold start without %s: %s leads after %v", c.name, m.name, took.Round(time.Millisecond))
	l.bound("a cold start without a node on demand: nobody led", took, 1500*time.Millisecond)
	l.settled()
	l.wellWithout(m, c)
	l.lastKnown(c, true)
}
