package outsider

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// refused runs an agent that must end by itself and say why.
func (l *lab) refused(cmd *exec.Cmd, says ...string) {
	l.t.Helper()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	must(l.t, cmd.Start())
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		l.t.Errorf("the agent goes on; it should have ended, saying %q:\n%s", says, &errs)
		return
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() < 10 {
		l.t.Errorf("ended with %v, want an exit status of a failure", err)
	}
	for _, s := range says {
		if !strings.Contains(errs.String(), s) {
			l.t.Errorf("says nothing of %q:\n%s", s, &errs)
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	l := newLab(t, nil)
	good, err := os.ReadFile(l.config)
	must(t, err)
	bad := string(good)
	for _, r := range [][2]string{
		{"port: 7373", "port: 99999"}, {"10.99.0.12", "10.99.0.11"}, {"link: lan }\n  - {", "link: wan }\n  - {"},
		{"cluster: outsider", "clutser: outsider"}, {"10.99.0.13", "10.99.0.1333"},
	} {
		if !strings.Contains(bad, r[0]) {
			t.Fatalf("no %q in %s", r[0], bad)
		}
		bad = strings.Replace(bad, r[0], r[1], 1)
	}
	must(t, os.WriteFile(l.config, []byte(bad), 0o644))
	l.refused(l.nodes[0].agent("a"), "99999", "10.99.0.11", "wan", "clutser", "10.99.0.1333", l.config+":2:")
	must(t, os.WriteFile(l.config, good, 0o644))
	l.refused(l.nodes[0].agent("nobody"), "nobody")
	l.refused(l.nodes[0].agent("b"), "b") // the identity in this state is a's
}

func TestPortInUse(t *testing.T) {
	l := newLab(t, nil)
	n := l.nodes[0]
	n.start()
	l.eventually("the agent is there", func() error { _, err := n.status(); return err })
	second := n.agent("b")
	second.Args[len(second.Args)-1] = l.nodes[1].state
	// The same namespace, port and address as the first one: only the port is in the way.
	other := filepath.Join(l.dir, "other.yaml")
	text, err := os.ReadFile(l.config)
	must(t, err)
	swapped := strings.NewReplacer("lan: "+n.addr, "lan: "+l.nodes[1].addr, "lan: "+l.nodes[1].addr, "lan: "+n.addr).Replace(string(text))
	must(t, os.WriteFile(other, []byte(swapped), 0o644))
	for i, a := range second.Args {
		if a == l.config {
			second.Args[i] = other
		}
	}
	l.refused(second, "7373")
	if _, err := n.status(); err != nil {
		t.Errorf("the first agent: %v", err)
	}
}

// complains wants an agent that ended with an error, or a status that is not ok; either naming what is wrong.
func (l *lab) complains(n *node, about ...string) {
	l.t.Helper()
	l.eventually("a complaint of "+n.name, func() error {
		select {
		case <-n.exited:
			log, err := os.ReadFile(filepath.Join(l.dir, "log-"+n.name))
			must(l.t, err)
			if n.cmd.ProcessState.ExitCode() == 0 {
				l.t.Fatal("the agent ended with status 0")
			}
			return mentions(string(log), about)
		default:
		}
		s, err := n.status()
		if err != nil {
			return err
		}
		if s.Verdict == "ok" {
			return fmt.Errorf("verdict ok")
		}
		return mentions(fmt.Sprintf("%+v", s), about)
	})
}

func mentions(text string, about []string) error {
	for _, s := range about {
		if strings.Contains(text, s) {
			return nil
		}
	}
	return fmt.Errorf("none of %q in %s", about, text)
}

// TestReadOnlyVolume has a standby whose volume cannot be written.
func TestReadOnlyVolume(t *testing.T) {
	l := newLab(t, nil)
	c := l.nodes[2]
	ro := c.vol["home"]
	must(t, os.WriteFile(filepath.Join(ro, "precious"), []byte("precious"), 0o644))
	must(t, unix.Mount(ro, ro, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(ro, unix.MNT_DETACH) })
	must(t, unix.Mount("", ro, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for _, n := range l.nodes {
		n.start()
	}
	l.complains(c, "read-only", "home")
	good := l.nodes[:2]
	var m *node
	l.eventually("the others serve", func() (err error) {
		if m, err = holder(l.nodes); err != nil {
			return err
		}
		return inSync(m, good)
	})
	if m == c {
		t.Fatal("a node with a read-only volume is master")
	}
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "f"), []byte("x"), 0o644))
	l.eventually("equal trees on the two", func() error { return equal("home", good, false) })
	if b, err := os.ReadFile(filepath.Join(ro, "precious")); err != nil || string(b) != "precious" {
		t.Errorf("on the read-only volume: %q %v", b, err)
	}
}

// TestFullVolume has a standby whose volume is too small for a while.
func TestFullVolume(t *testing.T) {
	l := newLab(t, func(n *node, name, path string) {
		if n.name != "c" || name != "home" {
			return
		}
		must(t, unix.Mount("tmpfs", path, "tmpfs", 0, "size=4m"))
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	})
	for _, n := range l.nodes {
		n.start()
	}
	m := l.settled(l.nodes)
	c := l.node("c")
	if m == c {
		l.revolve(c, "switch", "a").want(t, 0)
		m = l.settled(l.nodes)
	}
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "kept"), []byte("kept"), 0o644))
	l.sync(m)
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "large"), make([]byte, 8<<20), 0o644))
	l.complains(c, "no space left", "full", "home")
	l.eventually("equal trees on the two with room", func() error { return equal("home", l.others(c), false) })
	if h, err := holder(l.nodes); err != nil || h != m {
		t.Errorf("a full standby changed who is master: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(c.vol["home"], "kept")); err != nil || string(b) != "kept" {
		t.Errorf("on the full volume: %q %v", b, err)
	}
	must(t, os.Remove(filepath.Join(m.vol["home"], "large")))
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "small"), []byte("x"), 0o644))
	select {
	case <-c.exited:
		c.start() // it may end with the error; an operator starts it again
	default:
	}
	l.settled(l.nodes)
	l.becomeEqual(l.nodes, false)
}
