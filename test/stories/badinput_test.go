package stories

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// progListen is this test binary as a program that holds a port.
const progListen = "stories-listen"

func listenMain(address string) int {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer l.Close()
	fmt.Println("listening")
	time.Sleep(hostileFor) // its story ends first, and it with the story
	return 0
}

// tenMistakes has one mistake on each line that ends with "# n".
const tenMistakes = `cluster: "two words"                                  # 1
port: 70000                                           # 2
nodes:
  a: { links: { lan: 10.77.0.11 }, priority: high }   # 3
  b: { links: { lan: 10.77.0.999 } }                  # 4
  c: { links: { lan: 10.77.0.13 }, candidat: false }  # 5
vips:
  - { address: 10.77.0.200, link: lan }               # 6
  - { address: 10.77.0.201/24, link: wan }            # 7
failover: { engine: builtin, profile: hasty }         # 8
volumes:
  home: { path: srv/home }                            # 9
  rest: { path: /srv/rest, trash: soon }              # 10
`

// Every mistake of a configuration is told at once, with its line and what to do.
func TestBadConfiguration(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := &lab{t: t, stage: stage}
		file := filepath.Join(stage.Dir, "ten.yaml")
		must(t, os.WriteFile(file, []byte(tenMistakes), 0o644))
		for _, args := range [][]string{
			{"config", "check", file}, {"agent", "--config", file, "--node", "a", "--state", stage.Dir}, {"init", "--config", file, "--node", "a", "--state", stage.Dir + "/new"},
		} {
			_, complaint, status := l.revolve(args...)
			if status != problem.Invalid.ExitStatus() {
				t.Errorf("%s: exit status %d", args[0], status)
			}
			for i, line := range strings.Split(tenMistakes, "\n") {
				if strings.Contains(line, "#") && !strings.Contains(complaint, fmt.Sprintf("ten.yaml:%d: ", i+1)) {
					t.Errorf("%s says nothing of line %d: %s\n%s", args[0], i+1, line, complaint)
				}
			}
		}
		if _, err := os.Stat(stage.Dir + "/new"); err == nil {
			t.Error("init made something of a wrong configuration")
		}
	})
}

// refused starts an agent that cannot run and returns what it said.
func (n *node) refused(want problem.Kind, argv ...string) string {
	t := n.lab.t
	t.Helper()
	log := filepath.Join(n.lab.stage.Dir, "logs", "refused.log")
	must(t, errorsOr(os.RemoveAll(log)))
	p, err := n.Start(testbed.Command{Argv: append([]string{os.Getenv(envBin), "agent"}, argv...), Log: log})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := p.Wait(ctx)
	if err != nil {
		t.Fatalf("agent %v goes on: %v", argv, err)
	}
	b, err := os.ReadFile(log)
	must(t, err)
	t.Logf("exit status %d\n%s", status, bytes.TrimSpace(b))
	if status != want.ExitStatus() {
		t.Errorf("exit status %d instead of %d", status, want.ExitStatus())
	}
	if !strings.Contains(string(b), "hint: ") {
		t.Error("it does not say what to do")
	}
	return string(b)
}

// A node that is not in the file, a port in use, a state in use, another's
// identity: a clear error, an exit status, and nothing lost.
func TestBadStart(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		a := l.nodes["a"]
		put(t, a.home("mine"), "was here before")
		state := filepath.Join(l.bed.Self(), "state")
		if out := a.refused(problem.NotFound, "--config", l.config(), "--node", "z", "--state", state); !strings.Contains(out, "z") {
			t.Error("it does not name the node")
		}
		a.refused(problem.Conflict, "--config", l.config(), "--node", "b", "--state", state)
		a.refused(problem.NotFound, "--config", l.config(), "--node", "a", "--state", filepath.Join(l.bed.Self(), "none"))

		exe, err := os.Executable()
		must(t, err)
		log := filepath.Join(stage.Dir, "logs", "listen.log")
		holder, err := a.Start(testbed.Command{Argv: []string{exe, progListen, fmt.Sprintf("10.77.0.11:%d", port)}, Log: log})
		must(t, err)
		l.eventually("the port to be taken", lookEvery, func() error { return have(log, "listening\n") })
		if out := a.refused(problem.Conflict, "--config", l.config(), "--node", "a", "--state", state); !strings.Contains(out, fmt.Sprint(port)) {
			t.Error("it does not name the port")
		}
		must(t, holder.Signal(unix.SIGKILL))

		l.formAround(a)
		a.refused(problem.Conflict, "--config", l.config(), "--node", "a", "--state", state)
		must(t, have(a.home("mine"), "was here before"))
		l.equal(l.settled())
	})
}

// troubled waits until the node says that its volume does not work, with a hint.
func (l *lab) troubled(n *node, words ...string) {
	l.t.Helper()
	l.eventually("a clear word of "+n.name, askEvery, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		text := strings.Join(s.Reasons, "\n")
		for _, w := range words {
			if s.Verdict == control.OK || !strings.Contains(text, w) {
				return fmt.Errorf("no word of %q: %s %q", w, s.Verdict, s.Reasons)
			}
		}
		l.t.Logf("%s: %s", n.name, s.Volumes[0].Problem)
		return nil
	})
}

// A read-only volume and a full one: a clear word, the others go on, nothing is
// lost, and it goes on by itself.
func TestBadDisks(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		// A filesystem of its own for the volume, so that the state's disk is not concerned.
		const small = 16 << 20
		for _, n := range l.nodes {
			must(t, unix.Mount("small", n.home(), "tmpfs", 0, fmt.Sprintf("size=%d", small)))
			t.Cleanup(func() { _ = unix.Unmount(n.home(), unix.MNT_DETACH) })
		}
		m := l.form()
		before(t, m.home())
		m.sync()
		l.equal(m)
		b, c := l.others(m)[0], l.others(m)[1]

		remount := func(n *node, flags uintptr) {
			t.Helper()
			must(t, unix.Mount("small", n.home(), "", unix.MS_REMOUNT|flags, fmt.Sprintf("size=%d", small)))
		}
		remount(b, unix.MS_RDONLY)
		put(t, m.home("more"), "while b is read-only")
		l.troubled(b, "read-only")
		l.eventually("c to have it", lookEvery, func() error { return have(c.home("more"), "while b is read-only") })
		remount(b, 0)
		l.settled()
		l.equal(m)

		put(t, b.home(hidden, "filler"), string(make([]byte, small-4<<20))) // what somebody else keeps there
		put(t, m.home("large"), strings.Repeat("large", 1<<20))
		l.troubled(b, "space")
		put(t, m.home("more"), "while b is full")
		l.eventually("c to have it", lookEvery, func() error { return have(c.home("more"), "while b is full") })
		must(t, os.Remove(b.home(hidden, "filler")))
		l.settled()
		l.equal(m)

		// The master: its programs are told by the kernel; what fitted is everywhere.
		err := os.WriteFile(m.home("too-large"), make([]byte, small), 0o644)
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the master's disk is not full: %v", err)
		}
		l.eventually("what fitted to be told", askEvery, func() error { _, err := m.status(); return err })
		must(t, os.Remove(m.home("too-large")))
		put(t, m.home("more"), "when there is space again")
		m = l.settled()
		m.sync()
		l.equal(m)
		must(t, have(m.home("more"), "when there is space again"))
		for _, n := range l.nodes {
			if list := n.divergent(); len(list) > 0 {
				t.Errorf("%s keeps %d changes aside, such as %+v", n.name, len(list), list[0])
			}
		}
	})
}

// The master's only disk is full, journal and all: nothing that its programs
// could still do is lost, and it goes on when there is space.
func TestBadFullDisk(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		const size = 32 << 20
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: size} }})
		m := l.form()
		before(t, m.home())
		m.sync()
		l.equal(m)
		// The filler is none of the volume's, so that the standbys' disks do not fill.
		filler := filepath.Join(m.Root(), "filler")
		if err := os.WriteFile(filler, make([]byte, size), 0o644); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		must(t, os.Remove(m.home("deleted")))
		must(t, os.Rename(m.home("renamed"), m.home("renamed-now")))
		must(t, os.Rename(m.home("dir"), m.home("dir-now")))
		for i := range 2000 { // more than the last page of the journal takes
			must(t, os.Chmod(m.home("changed"), 0o600+os.FileMode(i%2)))
			must(t, os.Rename(m.home("rewritten"), m.home("rewritten-now")))
			must(t, os.Rename(m.home("rewritten-now"), m.home("rewritten")))
		}
		l.during(settle, "the disk is full", func() error { return nil })
		must(t, os.Remove(filler))
		now := l.settled()
		put(t, now.home("more"), "when there is space again")
		now.sync()
		l.equal(now)
		for _, n := range l.nodes {
			for _, gone := range []string{"deleted", "renamed", "dir"} {
				if _, err := os.Lstat(n.home(gone)); err == nil && now == m {
					t.Errorf("%s is back on %s", gone, n.name)
				}
			}
			if len(found(t, n.home(), "renamed as all agreed")) == 0 {
				t.Errorf("the renamed file is lost on %s", n.name)
			}
		}
	})
}
