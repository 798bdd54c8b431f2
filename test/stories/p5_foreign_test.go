package stories

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// foreignKinds are the ways in which somebody writes on a standby by hand: what
// is done to a file of that name, and the content that must be kept ("" where
// there is none to keep).
func foreignKinds() []struct {
	name, kept string
	do         func(path string) error
} {
	return []struct {
		name, kept string
		do         func(path string) error
	}{
		{"created", "created by hand", func(p string) error { return os.WriteFile(p, []byte("created by hand"), 0o644) }},
		{"modified", "modified by hand", func(p string) error { return os.WriteFile(p, []byte("modified by hand"), 0o644) }},
		{"appended", "appended as all agreed and more", func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(" and more")
			return errors.Join(err, f.Close())
		}},
		{"truncated", "", func(p string) error { return os.Truncate(p, 0) }},
		{"deleted", "", os.Remove},
		{"renamed", "renamed as all agreed", func(p string) error { return os.Rename(p, p+"-now") }},
		{"replaced", "created by hand", func(p string) error { return os.Rename(strings.TrimSuffix(p, "replaced")+"created-2", p) }},
		{"chmodded", "", func(p string) error { return os.Chmod(p, 0o600) }},
		{"touched", "", func(p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
		}},
		{"marked", "", func(p string) error { return unix.Setxattr(p, "user.hand", []byte("made"), 0) }},
		{"symlink", "", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("nowhere", p)) }},
		{"linked", "", func(p string) error { return os.Link(p, p+"-twice") }},
		{"dir", "", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o750)) }},
		{"dir-in", "deep by hand", func(p string) error {
			return errors.Join(os.Remove(p), os.MkdirAll(p+"/x/y", 0o755), os.WriteFile(p+"/x/y/deep", []byte("deep by hand"), 0o644))
		}},
		{"fifo", "", func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) }},
	}
}

// asAgreed makes a file for every kind, on the master.
func asAgreed(t *testing.T, m *node) {
	t.Helper()
	before(t, m.home())
	for _, k := range foreignKinds() {
		put(t, m.home("by-hand", k.name), k.name+" as all agreed")
	}
	must(t, os.Remove(m.home("by-hand", "created")))
	fill(t, m.home("tree"), 4)
	fill(t, m.home("tree-gone"), 4)
}

func byHand(t *testing.T, b *node) {
	t.Helper()
	must(t, os.WriteFile(b.home("by-hand", "created-2"), []byte("created by hand"), 0o644))
	for _, k := range foreignKinds() {
		if err := k.do(b.home("by-hand", k.name)); err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
	}
	must(t, os.Rename(b.home("tree"), b.home("tree-now")))
	must(t, os.RemoveAll(b.home("tree-gone")))
	must(t, os.Chmod(b.home("calm"), 0o700))
}

// repaired waits until the standby is as the master again, checks what is kept,
// that it is alarmed on both, and that the repair does not go on for ever.
func (l *lab) repaired(m, b *node, running bool) {
	l.t.Helper()
	l.eventually("the standby to be as the master says again", askEvery, func() error {
		if err := differ(m.home(), b.home()); err != nil {
			return err
		}
		if n, err := unix.Lgetxattr(b.home("by-hand", "marked"), "user.hand", nil); err == nil {
			return fmt.Errorf("the attribute of %d bytes is still there", n)
		}
		return nil
	})
	l.settled()
	for _, k := range foreignKinds() {
		if k.kept != "" && len(found(l.t, b.home(hidden, "divergent"), k.kept)) == 0 {
			l.t.Errorf("%s: %q is not kept", k.name, k.kept)
		}
	}
	list := b.divergent()
	if running { // a time alone is put right and holds nothing to keep
		for _, name := range []string{"deleted", "chmodded", "marked", "symlink", "linked-twice", "dir", "fifo", "truncated"} {
			if !slices.ContainsFunc(list, func(d control.Divergent) bool { return d.Path == "by-hand/"+name }) {
				l.t.Errorf("%s is not listed", name)
			}
		}
	}
	b.says(true, "keeps", "divergent changes aside")
	m.says(true, b.name+" keeps", "divergent changes aside")
	n, v := len(list), b.position()
	l.during(settle, "the repair is over", func() error {
		if now := len(b.divergent()); now != n {
			return fmt.Errorf("%d entries, and then %d", n, now)
		}
		if now := b.position(); now != v {
			return fmt.Errorf("the position went from %s to %s", v, now)
		}
		return nil
	})
}

func (n *node) position() string {
	n.lab.t.Helper()
	v, err := n.volumeStatus("home")
	must(n.lab.t, err)
	return v.Position.String()
}

// Every kind of foreign write on a standby is noticed, kept, repaired and alarmed: while the agent runs.
func TestP5ForeignOfEveryKind(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{Size: 512 << 20} }})
		m := l.form()
		asAgreed(t, m)
		m.sync()
		l.equal(m)
		b := l.others(m)[0]
		byHand(t, b)
		l.repaired(m, b, true)
	})
}

// And while it did not run: a node on demand that was written on while its agent was stopped.
func TestP5ForeignWhileStopped(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{Size: 512 << 20} }, node: func(name string) string {
			if name == "c" {
				return ", power: { mode: on-demand }, candidate: false"
			}
			return ""
		}})
		m := l.form()
		asAgreed(t, m)
		m.sync()
		l.equal(m)
		c := l.nodes["c"]
		c.stop()
		byHand(t, c)
		put(t, m.home("meanwhile"), "written while c was off")
		m.sync()
		c.start()
		l.settled()
		l.repaired(m, c, false)
		must(t, have(c.home("meanwhile"), "written while c was off"))
	})
}
