package outsider

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCluster tells one long story on one cluster; each chapter begins and
// ends with everything in-sync.
func TestCluster(t *testing.T) {
	l := newLab(t, nil)
	ref := l.referee()
	l.link = watchLink(l)
	began := time.Now()
	for _, n := range l.nodes {
		n.start()
	}
	master := l.settled(l.nodes)
	t.Logf("after %v: %s is master, all in-sync", time.Since(began).Round(time.Millisecond), master.name)
	for _, chapter := range []struct {
		name string
		tell func(*testing.T, *lab)
	}{
		{"files with all they are", files},
		{"every kind of inode", inodes},
		{"oddities", oddities},
		{"too deep", tooDeep},
		{"immutable", immutable},
		{"hard links", hardLinks},
		{"twins", twins},
		{"clones of a repository", clones},
		{"after a change", hooks},
		{"doctor", examined},
		{"renames and deletes", renames},
		{"switch", switches},
		{"hold and maintenance", stepsAside},
		{"power cut and return", powerCut},
		{"frozen master", frozen},
		{"agent killed", killed},
		{"link cut", linkCut},
		{"standby restarts", restart},
		{"progress", progresses},
		{"foreign write on a standby", foreign},
		{"what was kept comes back", comesBack},
		{"cold start by freshness", coldStart},
		{"storm", storms},
		{"directory times", func(_ *testing.T, l *lab) { l.becomeEqual(l.nodes, true) }},
	} {
		if !t.Run(chapter.name, func(t *testing.T) {
			l.t = t
			chapter.tell(t, l)
			l.settled(l.nodes)
			l.becomeEqual(l.nodes, false)
		}) {
			t.Log("the next chapters begin with what this one left")
		}
	}
	l.t = t
	ref.stop(t)
	l.link.stop(t)
}

// files makes one of everything on the master; after the barrier it is on all nodes.
func files(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	home := m.vol["home"]
	at := func(rel string) string { return filepath.Join(home, rel) }
	must(t, os.MkdirAll(at("dir/sub/deep"), 0o750))
	must(t, os.Mkdir(at("empty"), 0o700))
	must(t, os.WriteFile(at("dir/small"), []byte("small"), 0o640))
	must(t, os.WriteFile(at("dir/sub/empty"), nil, 0o600))
	must(t, os.WriteFile(at("big"), []byte(strings.Repeat("0123456789abcdef", 3<<16)), 0o644))
	must(t, os.WriteFile(at("odd \n\xff name"), []byte("odd"), 0o644))
	must(t, os.WriteFile(at("setuid"), []byte("#!"), 0o755))
	must(t, os.Symlink("../nowhere", at("dir/link")))
	must(t, os.Lchown(at("dir/small"), 1234, 4321))
	must(t, os.Lchown(at("dir/link"), 1234, 4321))
	must(t, os.Chmod(at("setuid"), 0o755|os.ModeSetuid))
	must(t, os.Chmod(at("empty"), 0o777|os.ModeSticky))
	when := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC)
	must(t, os.Chtimes(at("dir/small"), when, when))
	must(t, os.Chtimes(at("dir/sub/deep"), when, when))
	must(t, os.WriteFile(filepath.Join(m.vol["zones"], "zone"), []byte("zone"), 0o644))
	l.sync(m)
	l.allEqual(l.nodes)
}

// renames stay renames, and what a standby deletes goes to its trash.
func renames(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	home := m.vol["home"]
	standby := l.others(m)[0]
	must(t, os.MkdirAll(filepath.Join(home, "old/sub"), 0o755))
	for _, f := range []string{"old/sub/f", "victim", "doomed", "over"} {
		must(t, os.WriteFile(filepath.Join(home, f), []byte("content of "+f), 0o644))
	}
	l.sync(m)
	before := inode(t, filepath.Join(standby.vol["home"], "old/sub/f"))
	must(t, os.Rename(filepath.Join(home, "old"), filepath.Join(home, "new")))
	must(t, os.Rename(filepath.Join(home, "over"), filepath.Join(home, "victim")))
	must(t, os.Remove(filepath.Join(home, "doomed")))
	l.sync(m)
	l.allEqual(l.nodes)
	if after := inode(t, filepath.Join(standby.vol["home"], "new/sub/f")); after != before {
		t.Errorf("the rename of a directory became a copy: inode %d, was %d", after, before)
	}
	for _, n := range l.others(m) {
		for _, lost := range []string{"content of doomed", "content of victim"} {
			if !holds(t, filepath.Join(n.vol["home"], ".revolve", "trash"), lost) {
				t.Errorf("%s has not %q in its trash", n.name, lost)
			}
		}
	}
	must(t, os.RemoveAll(filepath.Join(home, "new")))
	l.sync(m)
	l.allEqual(l.nodes)
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ino
}

// holds looks for a file with the content below a directory.
func holds(t *testing.T, dir, content string) bool {
	t.Helper()
	found := false
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			found = found || err == nil && string(b) == content
		}
		return nil
	})
	return found
}

// switches moves the role there and back; the last write before is there at once.
func switches(t *testing.T, l *lab) {
	for i := range 3 {
		m := l.settled(l.nodes)
		to := l.others(m)[i%2]
		name := fmt.Sprintf("before-switch-%d", i)
		must(t, os.WriteFile(filepath.Join(m.vol["home"], name), []byte(name), 0o644))
		at := time.Now()
		l.revolve(l.others(m, to)[0], "switch", to.name).want(t, 0)
		took := time.Since(at)
		l.lookNow()
		blackout := between(m, to)
		if b, err := os.ReadFile(filepath.Join(to.vol["home"], name)); err != nil || string(b) != name {
			t.Errorf("%s is not on the new master when the switch has returned: %q %v", name, b, err)
		}
		if h, err := holder(l.nodes); err != nil || h != to {
			t.Errorf("after switch to %s: %v", to.name, err)
		}
		l.bound("planned switch: nobody held the VIPs", blackout, 100*time.Millisecond)
		t.Logf("%s -> %s: no VIP for %v, the command took %v", m.name, to.name, blackout, took.Round(time.Millisecond))
	}
	m := l.settled(l.nodes)
	a := l.revolve(m, "switch", "nobody")
	if a.status == 0 || !strings.Contains(a.errors, "nobody") {
		t.Errorf("switch to an unknown node: exit %d: %s", a.status, a.errors)
	}
}

// writer makes files on a node until told to stop.
type writer struct {
	dir        string
	quit, done chan struct{}
	wrote      int // files 0..wrote-1 are closed; valid after stop
	failed     error
}

func write(n *node, dir string) *writer {
	w := &writer{dir: filepath.Join(n.vol["home"], dir), quit: make(chan struct{}), done: make(chan struct{})}
	_ = os.Mkdir(w.dir, 0o755)
	go func() {
		defer close(w.done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ; w.wrote++ {
			select {
			case <-w.quit:
				return
			case <-tick.C:
			}
			if w.failed = os.WriteFile(filepath.Join(w.dir, file(w.wrote)), []byte(content(dir, w.wrote)), 0o644); w.failed != nil {
				return
			}
		}
	}()
	return w
}

func (w *writer) stop(t *testing.T) {
	t.Helper()
	close(w.quit)
	<-w.done
	must(t, w.failed)
}

func file(i int) string                { return fmt.Sprintf("%05d", i) }
func content(dir string, i int) string { return fmt.Sprintf("%s %d", dir, i) }

// divergent is an entry of `revolve divergent list --json`.
type divergent struct{ Volume, Set, Node, Why, What, Path, File string }

func (n *node) divergent() []divergent {
	n.lab.t.Helper()
	var list []divergent
	a := n.lab.revolve(n, "divergent", "list", "--json").want(n.lab.t, 0)
	if err := json.Unmarshal([]byte(a.out), &list); err != nil {
		n.lab.t.Fatalf("divergent list: %v: %s", err, a.out)
	}
	return list
}

// kept counts the files of the writer that are on the node now, and wants every
// other one kept aside on the node that wrote it.
func (l *lab) kept(w *writer, dir string, master, wrote *node) (there, aside int) {
	l.t.Helper()
	list := wrote.divergent()
	for i := range w.wrote {
		b, err := os.ReadFile(filepath.Join(master.vol["home"], dir, file(i)))
		if err == nil && string(b) == content(dir, i) {
			there++
			continue
		}
		found := false
		for _, d := range list {
			if d.Path != filepath.Join(dir, file(i)) {
				continue
			}
			b, err := os.ReadFile(d.File)
			found = found || err == nil && string(b) == content(dir, i) && strings.Contains(d.File, "/.revolve/divergent/")
		}
		if !found {
			l.t.Errorf("%s/%s is neither on the master %s nor kept aside on %s", dir, file(i), master.name, wrote.name)
			continue
		}
		aside++
	}
	return there, aside
}

// powerCut takes the master away in the middle of writing, and brings it back.
func powerCut(t *testing.T, l *lab) {
	old := l.settled(l.nodes)
	w := write(old, "cut")
	acked := 0
	l.eventually("some writes", func() error {
		entries, err := os.ReadDir(w.dir)
		acked = max(0, len(entries)-1) // the last one may not be closed yet
		if err == nil && acked < 50 {
			err = fmt.Errorf("%d files", acked)
		}
		return err
	})
	l.sync(old) // what was closed before is acknowledged
	at := time.Now()
	old.powerOff()
	w.stop(t)
	rest := l.others(old)
	now, blackout := l.moved(rest, at)
	l.bound("power cut: nobody held the VIPs", blackout, 600*time.Millisecond)
	for i := range acked {
		if b, err := os.ReadFile(filepath.Join(now.vol["home"], "cut", file(i))); err != nil || string(b) != content("cut", i) {
			t.Errorf("acknowledged file %d: %q %v", i, b, err)
		}
	}
	l.settled(rest)
	must(t, os.WriteFile(filepath.Join(now.vol["home"], "while-away"), []byte("x"), 0o644))
	must(t, os.RemoveAll(filepath.Join(now.vol["home"], "empty")))
	l.sync(now)
	old.powerOn()
	if m := l.settled(l.nodes); m != now {
		t.Errorf("the return of %s moved the VIPs from %s to %s", old.name, now.name, m.name)
	}
	l.becomeEqual(l.nodes, false)
	there, aside := l.kept(w, "cut", now, old)
	for _, d := range old.divergent() {
		mine, err := describe(d.File, false)
		theirs, err2 := describe(filepath.Join(now.vol[d.Volume], d.Path), false)
		if d.What == "changed" && err == nil && err2 == nil && withoutTime(mine) == withoutTime(theirs) {
			t.Errorf("kept aside though the master has the same: %+v: %s", d, mine)
		}
	}
	t.Logf("%s -> %s in %v; of %d files %d were acknowledged, %d survived, %d are kept aside", old.name, now.name,
		blackout.Round(time.Millisecond), w.wrote, acked, there, aside)
}

func withoutTime(description string) string {
	return regexp.MustCompile(` mtime [0-9.]+`).ReplaceAllString(description, "")
}

// frozen stops every process of the master: it runs no code, and must lose the VIPs.
func frozen(t *testing.T, l *lab) {
	old := l.settled(l.nodes)
	at := time.Now()
	old.eyes.connect(false) // it hears nobody; what it still has without a word is the onlooker's to judge
	old.signalAll(unix.SIGSTOP)
	const name = "written-on-a-frozen-node"
	gone := l.gone(old, at)
	l.bound("frozen: the VIPs stayed", gone, 1300*time.Millisecond)
	now, blackout := l.moved(l.others(old), at)
	l.bound("service was away", blackout, 1600*time.Millisecond)
	two, said := l.link.longest(at)
	if two > bothAtMost {
		t.Errorf("two cards answered: %s", said)
	}
	must(t, os.WriteFile(filepath.Join(old.vol["home"], name), []byte(name), 0o644))
	old.signalAll(unix.SIGCONT)
	old.eyes.connect(true)
	if m := l.settled(l.nodes); m != now {
		t.Errorf("the thawed %s took the VIPs to %s", old.name, m.name)
	}
	l.becomeEqual(l.nodes, false)
	l.eventually("the write on the frozen node is on all or kept aside", func() error {
		if _, err := os.Stat(filepath.Join(now.vol["home"], name)); err == nil {
			return nil
		}
		for _, d := range old.divergent() {
			if b, err := os.ReadFile(d.File); d.Path == name && err == nil && string(b) == name {
				return nil
			}
		}
		return fmt.Errorf("not in %+v", old.divergent())
	})
	t.Logf("frozen %s: VIPs gone after %v, on %s after %v, two answered for %v", old.name, gone.Round(time.Millisecond), now.name, blackout.Round(time.Millisecond), two)
}

// killed ends the agent alone, as the kernel's OOM killer would.
func killed(t *testing.T, l *lab) {
	old := l.settled(l.nodes)
	before := old.divergent()
	at := time.Now()
	must(t, old.cmd.Process.Kill())
	<-old.exited
	gone := l.gone(old, at)
	l.bound("killed: the VIPs stayed", gone, 1300*time.Millisecond)
	now, blackout := l.moved(l.others(old), at)
	l.bound("service was away", blackout, 1600*time.Millisecond)
	l.eventually("no process is left of the killed agent", func() error {
		if p := old.pids(); len(p) > 0 {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
	a := l.revolve(old, "status", "--json").want(t, 1)
	if !strings.Contains(a.out, `"unknown"`) {
		t.Errorf("status without an agent: %s", a.out)
	}
	old.start()
	l.settled(l.nodes)
	// A scan after an unclean stop keeps what it cannot be sure of, until the master turns out to have the same.
	l.eventually("nothing more is kept aside, as nobody wrote anything", func() error {
		for _, d := range old.divergent() {
			if !slices.Contains(before, d) {
				return fmt.Errorf("kept aside: %+v", d)
			}
		}
		return nil
	})
	t.Logf("killed %s: VIPs gone after %v, on %s after %v", old.name, gone.Round(time.Millisecond), now.name, blackout.Round(time.Millisecond))
}

// linkCut takes the only link of the master: it is alone, and the others go on.
func linkCut(t *testing.T, l *lab) {
	old := l.settled(l.nodes)
	at := time.Now()
	old.cut()
	now, blackout := l.moved(l.others(old), at)
	l.bound("link cut: service was away", blackout, 600*time.Millisecond)
	gone := l.gone(old, at)
	w := write(now, "link")
	l.settled(l.others(old))
	must(t, os.WriteFile(filepath.Join(old.vol["home"], "lonely"), []byte("lonely"), 0o644))
	w.stop(t)
	old.mend()
	m := l.settled(l.nodes)
	l.becomeEqual(l.nodes, false)
	if there, aside := l.kept(w, "link", m, now); there != w.wrote {
		t.Errorf("of %d files written on the connected side, %d are there and %d kept aside", w.wrote, there, aside)
	}
	l.eventually("the isolated write is kept aside", func() error {
		for _, d := range old.divergent() {
			if b, err := os.ReadFile(d.File); d.Path == "lonely" && err == nil && string(b) == "lonely" {
				return nil
			}
		}
		return fmt.Errorf("not in %+v", old.divergent())
	})
	t.Logf("cut off %s: VIPs gone there after %v, on %s after %v", old.name, gone.Round(time.Millisecond), now.name, blackout.Round(time.Millisecond))
}

// restart stops a standby well, changes things, and starts it again.
func restart(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	standby := l.others(m)[0]
	before := len(standby.divergent())
	home := m.vol["home"]
	must(t, os.MkdirAll(filepath.Join(home, "stays/d"), 0o755))
	must(t, os.WriteFile(filepath.Join(home, "stays/d/f"), []byte("1"), 0o644))
	must(t, os.WriteFile(filepath.Join(home, "goes"), []byte("1"), 0o644))
	l.sync(m)
	standby.stop()
	must(t, os.WriteFile(filepath.Join(home, "stays/d/f"), []byte("22"), 0o644))
	must(t, os.Rename(filepath.Join(home, "stays"), filepath.Join(home, "moved")))
	must(t, os.Remove(filepath.Join(home, "goes")))
	must(t, os.WriteFile(filepath.Join(home, "comes"), []byte("1"), 0o644))
	standby.start()
	if now := l.settled(l.nodes); now != m {
		t.Errorf("the restart of a standby moved the VIPs to %s", now.name)
	}
	l.becomeEqual(l.nodes, false)
	if after := len(standby.divergent()); after != before {
		t.Errorf("a clean restart made %d divergent changes: %+v", after-before, standby.divergent())
	}
}

// foreign writes on a standby: kept aside there, and the master's state comes back.
func foreign(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	standby := l.others(m)[0]
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "theirs"), []byte("the master's"), 0o644))
	l.sync(m)
	must(t, os.WriteFile(filepath.Join(standby.vol["home"], "theirs"), []byte("by mistake"), 0o644))
	l.eventually("the foreign write is kept aside and undone", func() error {
		b, err := os.ReadFile(filepath.Join(standby.vol["home"], "theirs"))
		if err != nil || string(b) != "the master's" {
			return fmt.Errorf("the file is %q (%v)", b, err)
		}
		for _, d := range standby.divergent() {
			if b, err := os.ReadFile(d.File); d.Path == "theirs" && err == nil && string(b) == "by mistake" {
				return nil
			}
		}
		return fmt.Errorf("not in %+v", standby.divergent())
	})
}

// coldStart stops everything with one node behind, and starts that one first.
func coldStart(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	behind := l.others(m)[0]
	behind.stop()
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "newest"), []byte("newest"), 0o644))
	l.sync(m)
	l.others(m, behind)[0].stop()
	m.stop()
	behind.start()
	for _, n := range l.others(behind) {
		n.start()
	}
	now := l.settled(l.nodes)
	if now == behind {
		t.Errorf("%s leads, though it was behind", behind.name)
	}
	l.becomeEqual(l.nodes, false)
	for _, n := range l.nodes {
		if b, err := os.ReadFile(filepath.Join(n.vol["home"], "newest")); err != nil || string(b) != "newest" {
			t.Errorf("on %s: %q %v", n.name, b, err)
		}
	}
}
