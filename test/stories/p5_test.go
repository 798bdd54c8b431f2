package stories

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// unchanged are the files that a story's faults must not touch.
func before(t *testing.T, dir string) {
	t.Helper()
	fill(t, filepath.Join(dir, "calm"), 20)
	for _, name := range []string{"changed", "deleted", "renamed", "rewritten"} {
		put(t, filepath.Join(dir, name), name+" as all agreed")
	}
	fill(t, filepath.Join(dir, "dir"), 5)
	fill(t, filepath.Join(dir, "gone"), 3)
}

// lonely makes every kind of change that nobody receives.
func lonely(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "changed"), "changed when nobody heard")
	write(t, filepath.Join(dir, "new", "deep", "file"), "new when nobody heard")
	must(t, os.Remove(filepath.Join(dir, "deleted")))
	must(t, os.Rename(filepath.Join(dir, "renamed"), filepath.Join(dir, "renamed-now")))
	write(t, filepath.Join(dir, "rewritten"), "rewritten as all agreed") // the same bytes again
	must(t, os.Rename(filepath.Join(dir, "dir"), filepath.Join(dir, "dir-now")))
	must(t, os.RemoveAll(filepath.Join(dir, "gone")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
}

// keptAside checks what `divergent list` of a node says after lonely, and the bytes.
func keptAside(t *testing.T, n *node) {
	t.Helper()
	list := n.divergent()
	t.Log(n.lab.mustRevolve("divergent", "list", "--state", n.state()))
	paths := map[string]control.Divergent{}
	for _, d := range list {
		paths[d.Path] = d
	}
	for path, content := range map[string]string{
		"changed": "changed when nobody heard", "new/deep/file": "new when nobody heard", "renamed-now": "renamed as all agreed",
	} {
		d, ok := paths[path]
		if !ok {
			t.Errorf("%s is not listed", path)
			continue
		}
		// The node names files as it sees its own disk.
		file := strings.Replace(d.File, n.lab.bed.Self(), n.Root(), 1)
		if err := have(file, content); err != nil {
			t.Errorf("%s is not kept byte for byte: %v", path, err)
		}
	}
	for _, path := range []string{"deleted", "gone/00/file-000", "link"} {
		if _, ok := paths[path]; !ok && !slices.ContainsFunc(list, func(d control.Divergent) bool { return strings.HasPrefix(path, d.Path+"/") }) {
			t.Errorf("%s is not listed", path)
		}
	}
	if !slices.ContainsFunc(list, func(d control.Divergent) bool { return d.Path == "dir-now" || d.Old == "dir" || d.Path == "dir" }) {
		t.Error("the renamed directory is not listed")
	}
	for path := range paths {
		if path == "rewritten" || strings.HasPrefix(path, "calm") {
			t.Errorf("%s is listed and is the same everywhere", path)
		}
	}
	if len(list) == 0 {
		return
	}
	out := n.lab.mustRevolve("divergent", "show", list[0].Set, "--state", n.state())
	if !strings.Contains(out, list[0].Path) {
		t.Errorf("divergent show does not name %s:\n%s", list[0].Path, out)
	}
	alarmed(t, n)
}

// alarmed checks that `status` of a node does not look as if nothing were kept aside.
func alarmed(t *testing.T, n *node) {
	t.Helper()
	s, err := n.status()
	must(t, err)
	if s.Verdict == control.OK || !strings.Contains(strings.Join(s.Reasons, "\n"), "divergent") {
		t.Errorf("status of %s says %s, reasons %q", n.name, s.Verdict, s.Reasons)
	}
}

// Changes that nobody had received when their master died come back as divergent.
func TestP5UnreceivedChanges(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		want, err := scan(m.home())
		must(t, err)
		// Cut, not held: what waits in the buffers of a held node is received when it goes on.
		m.cable(lan, m.CutSilently)
		m.cable(fast, m.CutSilently)
		lonely(t, m.home())
		l.journaled(m)
		m.off()
		next := l.newMaster(m)
		l.settled()
		m.boot()
		l.settled()
		l.equal(next)
		must(t, differMap(want, next.home()))
		keptAside(t, m)
	})
}

// journaled waits until the node's position has stood still for a moment: its
// journal has what was written.
func (l *lab) journaled(n *node) {
	l.t.Helper()
	last, same := control.Volume{}, 0
	l.eventually("the journal of "+n.name+" to have it", askEvery, func() error {
		v, err := n.volumeStatus("home")
		if err != nil {
			return err
		}
		if same++; v.Position != last.Position {
			last, same = v, 0
		}
		if same < 3 {
			return fmt.Errorf("it moves: %v", v.Position)
		}
		return nil
	})
}

// Changes made while the agent was dead, and nobody watched, are divergent too.
func TestP5WhileNobodyWatched(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		want, err := scan(m.home())
		must(t, err)
		beat := m.beat()
		must(t, m.agent.Signal(unix.SIGKILL))
		_ = unix.Kill(beat, unix.SIGKILL) // it may have ended with its agent
		m.waitEnd()
		next := l.newMaster(m)
		write(t, m.home("changed"), "changed when nobody heard")
		write(t, m.home("new", "deep", "file"), "new when nobody heard")
		must(t, os.Remove(m.home("deleted")))
		must(t, os.Rename(m.home("renamed"), m.home("renamed-now")))
		must(t, os.RemoveAll(m.home("gone")))
		m.start()
		l.settled()
		l.equal(next)
		must(t, differMap(want, next.home()))
		if len(found(t, m.home(hidden, "divergent"), "changed when nobody heard")) == 0 || len(found(t, m.home(hidden, "divergent"), "new when nobody heard")) == 0 {
			t.Errorf("what was written is not kept: %+v", m.divergent())
		}
		alarmed(t, m)
	})
}

// differMap compares a tree with what it was.
func differMap(want map[string]string, root string) error {
	now, err := scan(root)
	if err != nil {
		return err
	}
	var errs []error
	for p, x := range want {
		if now[p] != x {
			errs = append(errs, fmt.Errorf("%s: %q instead of %q", p, now[p], x))
		}
	}
	for p := range now {
		if _, ok := want[p]; !ok {
			errs = append(errs, fmt.Errorf("%s: too much", p))
		}
	}
	return errors.Join(errs...)
}

// A partition in which two sides took writes: both are kept.
func TestP5Partition(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		m.cable(lan, m.CutSilently)
		m.cable(fast, m.CutSilently)
		other := l.newOther(m)
		lonely(t, m.home())
		write(t, other.home("changed"), "changed on the other side")
		write(t, other.home("other"), "new on the other side")
		l.eventually("the other side to agree", askEvery, func() error {
			return errors.Join(acked(other, l.third(m, other), "home"), have(l.third(m, other).home("other"), "new on the other side"))
		})
		l.healAll()
		winner := l.oneAfterHeal("partition")
		l.equal(winner)
		if winner == m {
			// The lonely side won: then the other two keep theirs.
			must(t, have(m.home("changed"), "changed when nobody heard"))
			for _, n := range l.others(m) {
				if len(found(t, n.home(hidden, "divergent"), "changed on the other side")) == 0 {
					t.Errorf("%s does not keep what was changed on its side", n.name)
				}
				alarmed(t, n)
			}
			return
		}
		must(t, have(winner.home("changed"), "changed on the other side"))
		keptAside(t, m)
	})
}

func (l *lab) third(x, y *node) *node {
	for _, n := range l.nodes {
		if n != x && n != y {
			return n
		}
	}
	return nil
}

// Foreign writes on a standby are noticed, kept, repaired and alarmed.
func TestP5ForeignWrites(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		want, err := scan(m.home())
		must(t, err)
		b := l.others(m)[0]
		lonely(t, b.home())
		l.eventually("the standby to be as the master says again", askEvery, func() error { return differMap(want, b.home()) })
		must(t, differMap(want, m.home()))
		l.settled()
		keptAside(t, b)
	})
}

// A large file of which a standby had only a part when the master died is
// either everywhere or kept, whole, when the master returns.
func TestP5LargeFileUnderWay(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		const size = 256 << 20
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: 1 << 30} }})
		m := l.form()
		put(t, m.home("replaced"), "what all agreed")
		m.sync()
		large(t, m.home("replaced.tmp"), size)
		must(t, os.Rename(m.home("replaced.tmp"), m.home("replaced")))
		b, c := l.others(m)[0], l.others(m)[1]
		l.eventually("a part to be on a standby", time.Millisecond, func() error {
			if errB := staged(b, size); errB == nil {
				return nil
			}
			return staged(c, size)
		})
		m.off()
		next := l.newMaster(m)
		l.settled()
		content := "what all agreed"
		if info, err := os.Stat(next.home("replaced")); err == nil && info.Size() == size {
			t.Log("SKIPPED PART: it had arrived after all")
			content = ""
		} else {
			must(t, have(next.home("replaced"), content))
		}
		m.boot()
		l.settled()
		next.sync()
		l.equal(next)
		if content == "" {
			return
		}
		must(t, have(m.home("replaced"), content))
		kept, err := filepath.Glob(m.home(hidden, "divergent", "*", "files", "replaced*"))
		must(t, err)
		for _, k := range kept {
			if info, err := os.Stat(k); err == nil && info.Size() == size {
				alarmed(t, m)
				return
			}
		}
		t.Errorf("the large file is nowhere any more; kept is %v, in the trash %v", kept, trashed(m, "replaced"))
	})
}

func trashed(n *node, name string) []string {
	list, _ := filepath.Glob(n.home(hidden, "trash", "*", name+"*"))
	return list
}
