package stories

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/testbed"
)

// do runs a command on the node itself, as a person there would.
func (n *node) do(args ...string) (string, error) {
	n.lab.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	out, err := n.Run(ctx, append(append([]string{os.Getenv(envBin)}, args...), "--state", filepath.Join(n.lab.bed.Self(), "state"))...)
	return string(out), err
}

func (n *node) must(args ...string) string {
	n.lab.t.Helper()
	out, err := n.do(args...)
	must(n.lab.t, err)
	return out
}

// refuses runs a command that must fail with the status and say something.
func (n *node) refuses(status int, says string, args ...string) {
	n.lab.t.Helper()
	_, err := n.do(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status || !strings.Contains(err.Error(), says) {
		n.lab.t.Errorf("on %s: wanted exit status %d and %q, got %v", n.name, status, says, err)
	}
}

// everywhere waits until all running nodes have the content at a path.
func (l *lab) everywhere(rel, content string) {
	l.t.Helper()
	l.eventually(rel+" everywhere", askEvery, func() error {
		var errs []error
		for _, n := range l.nodes {
			if n.runs {
				errs = append(errs, have(n.home(rel), content))
			}
		}
		return errors.Join(errs...)
	})
}

// says waits until the status of a node gives a reason with all the words, or no such reason.
func (n *node) says(want bool, words ...string) {
	n.lab.t.Helper()
	n.lab.eventually(fmt.Sprintf("status of %s with %q: %v", n.name, words, want), askEvery, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		found := false
		for _, r := range s.Reasons {
			all := true
			for _, w := range words {
				all = all && strings.Contains(r, w)
			}
			found = found || all
		}
		if found != want {
			return fmt.Errorf("reasons %q", s.Reasons)
		}
		return nil
	})
}

// A person stands on the master; what it overwrote and deleted is on the standbys.
func TestP6RestoreFromTheMaster(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		large(t, m.home("large"), 3<<20)
		m.sync()
		l.equal(m)
		was, err := os.ReadFile(m.home("large"))
		must(t, err)
		write(t, m.home("changed"), "changed by mistake")
		for _, name := range []string{"deleted", "gone", "large"} {
			must(t, os.RemoveAll(m.home(name)))
		}
		m.sync()
		l.equal(m)
		b := l.others(m)[0]
		out := m.must("trash", "list")
		if on := l.others(m)[0].name + "," + l.others(m)[1].name; !strings.Contains(out, on) && !strings.Contains(out, l.others(m)[1].name+","+l.others(m)[0].name) || !strings.Contains(out, `"gone/00/file-000"`) {
			t.Errorf("the master does not list what its standbys (%s) keep:\n%s", on, out)
		}
		if out := m.must("trash", "list", "--here"); strings.Contains(out, "deleted") {
			t.Errorf("the master has none itself:\n%s", out)
		}
		m.must("trash", "restore", "home", "deleted")
		m.must("trash", "restore", "home", "gone", "--from", b.name)
		m.must("trash", "restore", "home", "changed")
		m.must("trash", "restore", "home", "large")
		l.everywhere("deleted", "deleted as all agreed")
		l.everywhere("gone/00/file-000", string(mustRead(t, m.home("gone", "00", "file-000"))))
		l.everywhere("changed", "changed as all agreed")
		l.everywhere("large", string(was))
		m.sync()
		l.equal(m)
		if left, _ := filepath.Glob(m.home(hidden, "fetched", "*")); len(left) > 0 {
			t.Errorf("left of what was fetched: %v", left)
		}
		m.refuses(12, "no such version", "trash", "restore", "home", "never-was")
		m.refuses(12, "not in the configuration", "trash", "restore", "home", "deleted", "--from", "x")
		m.refuses(12, "no such volume", "trash", "restore", "hime", "deleted")
		m.refuses(11, "", "trash", "restore", "home", "../../etc/passwd", "--from", b.name)
		b.refuses(13, "type it on "+m.name, "trash", "restore", "home", "deleted")
		c := l.others(m)[1]
		must(t, os.Mkdir(filepath.Join(c.Root(), "aside"), 0o755))
		c.must("trash", "restore", "home", "deleted", "--from", b.name, "--to", filepath.Join(l.bed.Self(), "aside"))
		must(t, have(filepath.Join(c.Root(), "aside", "deleted"), "deleted as all agreed"))
	})
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// Divergent changes that lie on another node are listed, brought back and dropped from the master.
func TestP5DivergentFromTheMaster(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		b := l.others(m)[0]
		write(t, b.home("changed"), "changed by hand")
		write(t, b.home("new", "deep", "file"), "new by hand")
		l.eventually("the standby to be as the master says again", askEvery, func() error { return differ(m.home(), b.home()) })
		l.eventually("it to be kept", askEvery, func() error {
			if n := len(b.divergent()); n < 2 {
				return fmt.Errorf("%d are kept", n)
			}
			return nil
		})
		m.says(true, b.name+" keeps", "divergent changes aside")
		set := b.divergent()[0].Set
		out := m.must("divergent", "list")
		if !strings.Contains(out, set) {
			t.Fatalf("the master does not list the set of %s:\n%s", b.name, out)
		}
		if out := m.must("divergent", "show", set); !strings.Contains(out, `"new/deep/file"`) {
			t.Errorf("divergent show:\n%s", out)
		}
		m.refuses(12, "nothing of that name", "divergent", "restore", set, "nonsense")
		l.others(m)[1].refuses(13, "type it on "+m.name, "divergent", "restore", set)
		m.must("divergent", "restore", set, "changed")
		l.everywhere("changed", "changed by hand")
		for _, d := range b.divergent() {
			if d.Path == "changed" && d.File != "" {
				t.Errorf("what was brought back is still in the set: %+v", d)
			}
		}
		if len(b.divergent()) == 0 {
			t.Error("what was not brought back is gone")
		}
		m.refuses(11, "not agreed", "divergent", "drop", set)
		m.must("divergent", "drop", set, "--yes")
		if list := b.divergent(); len(list) > 0 {
			t.Errorf("dropped, and still there: %+v", list)
		}
		m.says(false, "divergent changes aside")
		m.refuses(12, "no such set", "divergent", "restore", set)
		m.sync()
		l.equal(m)
	})
}

// The alarm of a mass deletion is seen on the master, outlives a restart of the
// standby, and ends when a person says so there.
func TestP6AlarmIsPinned(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		fill(t, m.home("many"), 300)
		put(t, m.home("stays"), "stays")
		m.sync()
		l.equal(m)
		must(t, os.RemoveAll(m.home("many")))
		m.sync()
		for _, n := range l.others(m) {
			n.says(true, "more than half of the volume", "pinned")
			m.says(true, "more than half of the volume", "on "+n.name, "revolve trash unpin home")
		}
		b := l.others(m)[0]
		b.stop()
		b.start()
		l.settled()
		b.says(true, "more than half of the volume", "pinned")
		m.says(true, "more than half of the volume", "on "+b.name)
		m.refuses(12, "no such volume", "trash", "unpin", "hime")
		m.unpinsAll(l.others(m))
		for _, n := range l.others(m) {
			n.says(false, "more than half of the volume")
		}
		m.says(false, "more than half of the volume")
		for _, n := range l.others(m) {
			if kept, _ := filepath.Glob(n.home(hidden, "trash", "*", "many", "*", "file-*")); len(kept) != 300 {
				t.Errorf("unpinning took files from the trash of %s: %d of 300 are left", n.name, len(kept))
			}
		}
	})
}

// unpinsAll types trash unpin until all of them have done it: it names each, or says that it did not answer.
func (n *node) unpinsAll(others []*node) {
	n.lab.t.Helper()
	left := map[string]bool{}
	for _, o := range others {
		left[o.name] = true
	}
	n.lab.eventually("the trash of all to be unpinned", askEvery, func() error {
		out, complaint, status := n.lab.revolve("trash", "unpin", "home", "--state", n.state())
		for name := range left {
			switch {
			case strings.Contains(out, "unpinned on "+name):
				delete(left, name)
			case status != 0 || !strings.Contains(complaint, name+" did not answer"):
				n.lab.t.Errorf("trash unpin does not name %s: exit status %d\n%s%s", name, status, out, complaint)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("not yet on %v", left)
		}
		return nil
	})
}

// A standby whose disk is full lets its trash go before the volume stops for
// good; what is pinned stays, and a person is asked.
func TestP6FullDiskTakesTheTrash(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: onlyA, disk: func(name string) testbed.Disk {
			if name == "b" {
				return testbed.Disk{FS: "tmpfs", Size: 64 << 20}
			}
			return testbed.Disk{FS: "tmpfs", Size: 512 << 20}
		}})
		a := l.form()
		b := l.nodes["b"]
		random(t, a.home("old"), 24<<20)
		a.sync()
		must(t, os.Remove(a.home("old")))
		a.sync()
		if kept := trashed(b, "old"); len(kept) != 1 {
			t.Fatalf("in the trash of b: %v", kept)
		}
		random(t, a.home("new"), 40<<20)
		l.eventually("the trash to make room", askEvery, func() error { return differ(a.home(), b.home()) })
		if kept := trashed(b, "old"); len(kept) != 0 {
			t.Errorf("in the trash of b, which was full: %v", kept)
		}
		l.settled()

		// The same with pinned trash: it stays, and says so.
		must(t, os.Remove(a.home("new")))
		a.sync()
		kept := trashed(b, "new")
		if len(kept) != 1 {
			t.Fatalf("in the trash of b: %v", kept)
		}
		must(t, os.WriteFile(filepath.Dir(kept[0])+".pinned", nil, 0o644))
		random(t, a.home("more"), 40<<20)
		b.says(true, "disk is full", "pinned", "revolve trash unpin home")
		put(t, a.home("small"), "others are not held up")
		l.eventually("the other standby to have it", askEvery, func() error { return have(l.nodes["c"].home("small"), "others are not held up") })
		if kept := trashed(b, "new"); len(kept) != 1 {
			t.Errorf("what was pinned is gone: %v", kept)
		}
		a.must("trash", "unpin", "home")
		l.settled()
		l.equal(a)
	})
}

// random writes a file that no filesystem can make smaller.
func random(t *testing.T, path string, size int) {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	must(t, os.WriteFile(path, b, 0o644))
}
