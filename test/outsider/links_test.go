package outsider

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hardLinks makes, changes, moves and breaks groups of names, through every name and in
// every way by which a standby can get to know of it. rsync -H is the judge.
func hardLinks(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	g := &group{t: t, top: filepath.Join(m.vol["home"], "links")}
	must(t, os.MkdirAll(g.at("one/deep"), 0o755))
	must(t, os.Mkdir(g.at("two"), 0o755))
	g.write("one/a", "first")
	l.sync(m)
	must(t, os.Link(g.at("one/a"), g.at("two/b"))) // long after the file was sent
	must(t, os.Link(g.at("one/a"), g.at("one/deep/c \n\xff")))
	g.write("big", strings.Repeat("large ", 400<<10/6))
	must(t, os.Link(g.at("big"), g.at("two/big")))
	must(t, os.Symlink("nowhere", g.at("sym")))
	must(t, os.Link(g.at("sym"), g.at("two/sym")))
	must(t, unix.Mkfifo(g.at("fifo"), 0o600))
	must(t, os.Link(g.at("fifo"), g.at("two/fifo")))
	g.write("only", "one name")
	l.sync(m)
	l.sameLinks(t)
	standby := l.others(m)[0]
	before := inode(t, filepath.Join(standby.vol["home"], "links/big"))
	must(t, os.Link(g.at("big"), g.at("one/big")))
	l.sync(m)
	if after := inode(t, filepath.Join(standby.vol["home"], "links/big")); after != before {
		t.Errorf("a further name of a large file had it sent again")
	}
	for round := range 3 {
		g.change(round)
		l.sync(m)
		l.sameLinks(t)
	}
	standby.stop() // catch-up from the journal
	g.change(3)
	g.write("two/b", "written while a standby was away, and the name removed")
	must(t, os.Remove(g.at("two/b")))
	standby.start()
	l.settled(l.nodes)
	l.sync(m)
	l.sameLinks(t)
	must(t, standby.cmd.Process.Kill()) // and after an unclean stop
	<-standby.exited
	must(t, os.Link(g.at("one/a"), g.at("two/b")))
	g.change(4)
	standby.start()
	l.settled(l.nodes)
	l.sync(m)
	l.sameLinks(t)
	g.foreign(l, m, standby)
	l.revolve(m, "switch", standby.name).want(t, 0) // whoever leads now has groups that it has only received
	m = l.settled(l.nodes)
	g.top = filepath.Join(m.vol["home"], "links")
	g.write("two/b", "through one name, on a new master")
	l.sync(m)
	l.sameLinks(t)
	must(t, os.RemoveAll(g.top))
	l.sync(m)
}

// group is where the names are.
type group struct {
	t   *testing.T
	top string
}

func (g *group) at(rel string) string { return filepath.Join(g.top, rel) }

func (g *group) write(rel, content string) {
	g.t.Helper()
	must(g.t, os.WriteFile(g.at(rel), []byte(content), 0o644))
}

// change does everything that can happen to a name of several.
func (g *group) change(round int) {
	t := g.t
	t.Helper()
	g.write("two/b", fmt.Sprint("through b in round ", round))
	g.write("two/big", strings.Repeat(fmt.Sprint(round), 300<<10))
	must(t, os.Chmod(g.at("one/a"), os.FileMode(0o600+round)))
	must(t, os.Lchown(g.at("two/sym"), 1000+round, 1000))
	must(t, os.Rename(g.at("one/deep"), g.at("deeper")))
	must(t, os.Rename(g.at("deeper"), g.at("one/deep")))
	must(t, os.Rename(g.at("big"), g.at("two/large")))
	must(t, os.Link(g.at("two/large"), g.at("big")))
	must(t, os.Remove(g.at("two/large")))
	g.write(".b", "another file takes a name")
	must(t, os.Rename(g.at(".b"), g.at("two/b")))
	must(t, os.Remove(g.at("two/b")))
	must(t, os.Link(g.at("one/a"), g.at("two/b")))
	must(t, os.Link(g.at("only"), g.at("short"))) // written under a name that is gone at once
	g.write("short", fmt.Sprint("and removed ", round))
	must(t, os.Remove(g.at("short")))
	must(t, unix.Renameat2(unix.AT_FDCWD, g.at("only"), unix.AT_FDCWD, g.at("two/b"), unix.RENAME_EXCHANGE))
	must(t, unix.Renameat2(unix.AT_FDCWD, g.at("only"), unix.AT_FDCWD, g.at("two/b"), unix.RENAME_EXCHANGE))
}

// foreign writes through one name on a standby: it is undone under all names, and kept.
func (g *group) foreign(l *lab, m, standby *node) {
	t := g.t
	t.Helper()
	must(t, os.WriteFile(filepath.Join(standby.vol["home"], "links/two/b"), []byte("by mistake, under each name"), 0o644))
	l.eventually("the foreign write is undone under every name", func() error {
		for _, name := range []string{"links/two/b", "links/one/a"} {
			if b, err := os.ReadFile(filepath.Join(standby.vol["home"], name)); err != nil || strings.Contains(string(b), "mistake") {
				return fmt.Errorf("%s is %q (%v)", name, b, err)
			}
		}
		for _, d := range standby.divergent() {
			if b, err := os.ReadFile(d.File); d.Path == "links/two/b" && err == nil && strings.Contains(string(b), "mistake") {
				return nil
			}
		}
		return fmt.Errorf("not in %+v", standby.divergent())
	})
	l.sync(m)
	l.sameLinks(t)
}

// sameLinks has rsync compare all nodes with each other, in all that it can.
func (l *lab) sameLinks(t *testing.T) {
	t.Helper()
	l.eventually("rsync -aHAX finds no difference", func() error {
		for _, from := range l.nodes {
			for _, to := range l.nodes {
				if from == to {
					continue
				}
				out, err := exec.Command("rsync", "-aHAXn", "--delete", "--itemize-changes", "--exclude=/.revolve", from.vol["home"]+"/", to.vol["home"]+"/").CombinedOutput()
				if err != nil || len(out) > 0 {
					return fmt.Errorf("%s against %s: %v\n%s", from.name, to.name, err, out)
				}
			}
		}
		return equal("home", l.nodes, true)
	})
}

// clones has git make clones that share their objects by hard links, and change them.
func clones(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	top := filepath.Join(m.vol["home"], "git")
	must(t, os.Mkdir(top, 0o755))
	git := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+l.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git(top, "init", "-q", "origin")
	origin := filepath.Join(top, "origin")
	for commit := range 20 {
		for i := range 20 {
			must(t, os.WriteFile(filepath.Join(origin, fmt.Sprint("file", i)), []byte(fmt.Sprint(commit, i)), 0o644))
		}
		git(origin, "add", "-A")
		git(origin, "commit", "-q", "-m", fmt.Sprint("commit ", commit))
	}
	git(top, "clone", "-q", "--local", "origin", "second")
	git(origin, "gc", "-q")
	git(top, "clone", "-q", "--local", "origin", "third")
	git(filepath.Join(top, "second"), "pull", "-q")
	git(filepath.Join(top, "third"), "checkout", "-q", "HEAD~10")
	must(t, exec.Command("cp", "-al", origin, filepath.Join(top, "linked")).Run())
	l.sync(m)
	l.sameLinks(t)
	for _, n := range l.others(m) {
		git(filepath.Join(n.vol["home"], "git/third"), "-c", "safe.directory=*", "fsck", "--full")
	}
	must(t, os.RemoveAll(top))
	l.sync(m)
}

// knot links, renames, writes and removes at random among a few names.
func knot(rnd *rand.Rand, top string) {
	name := func() string { return filepath.Join(top, string(rune('a'+rnd.IntN(3))), string(rune('k'+rnd.IntN(4)))) }
	a, b := name(), name()
	switch n := rnd.IntN(12); {
	case n < 5:
		_ = os.Link(a, b)
	case n < 8:
		_ = os.WriteFile(a, []byte(strings.Repeat(fmt.Sprint(rnd.Uint64()), 1+rnd.IntN(2)*20_000)), 0o644)
	case n < 9:
		_ = os.Rename(a, b)
	case n < 10:
		_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	case n < 11:
		_ = os.Chmod(a, 0o600+os.FileMode(rnd.IntN(64)))
	default:
		_ = os.Remove(a)
	}
}
