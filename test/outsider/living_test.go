package outsider

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// This file is what an operator does on an ordinary day.

// hooks: the volume's command runs on every node, knows what changed and in
// which role, and its failure is a warning until it ends well.
func hooks(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	zone := func(content string) {
		must(t, os.WriteFile(filepath.Join(m.vol["zones"], "zone"), []byte(content), 0o644))
		l.sync(m)
	}
	zone("fine")
	l.eventually("every node's command to be told", func() error {
		for _, n := range l.nodes {
			role := "standby"
			if n == m {
				role = "master"
			}
			b, err := os.ReadFile(filepath.Join(l.dir, "hook-"+n.name))
			if err != nil || !strings.Contains(string(b), role+"\nzone\n") {
				return fmt.Errorf("%s: %q %v", n.name, b, err)
			}
		}
		return nil
	})
	zone("broken")
	l.eventually("every node to warn", func() error {
		for _, n := range l.nodes {
			s, err := n.status()
			if err != nil || s.Verdict != "warning" || !strings.Contains(strings.Join(s.Reasons, "; "), "exit status 1") {
				return fmt.Errorf("%s says %s: %q (%v)", n.name, s.Verdict, s.Reasons, err)
			}
		}
		return nil
	})
	zone("mended")
	l.settled(l.nodes) // which wants nothing to warn of
}

// examined: beside a running agent the doctor finds nothing that will not work, disturbs
// nothing, and outside of the node's network it says what is missing.
func examined(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	args := []string{"doctor", "--config", l.config, "--node", m.name, "--state", m.state}
	out, err := exec.Command("ip", append([]string{"netns", "exec", m.ns, os.Getenv(binEnv)}, args...)...).CombinedOutput()
	other := "node " + l.others(m)[0].name
	if !strings.Contains(string(out), other+": its clock is at most") || !strings.Contains(string(out), "agent: runs") {
		t.Errorf("no clock of the other, or no agent: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "critical") || !strings.Contains(string(out), "volume home: is watched by a mark") || !strings.Contains(string(out), other+" over lan: answers") {
		t.Errorf("on the node: %v\n%s", err, out)
	}
	if a := l.revolve(m, args[:5]...); a.status != 2 || !strings.Contains(a.out, m.addr+" is on no interface") {
		t.Errorf("outside of it: exit %d\n%s", a.status, a.out)
	}
}

// comesBack brings a foreign write and a deleted file back, and drops the rest:
// afterwards nothing is left to warn of.
func comesBack(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	standby := l.others(m)[0]
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "wanted"), []byte("the master's"), 0o644))
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "deleted"), []byte("by mistake"), 0o644))
	l.sync(m)
	must(t, os.Remove(filepath.Join(m.vol["home"], "deleted")))
	l.sync(m)
	must(t, os.WriteFile(filepath.Join(standby.vol["home"], "wanted"), []byte("worth keeping"), 0o644))
	set := ""
	l.eventually("the foreign write is kept aside", func() error {
		for _, d := range standby.divergent() {
			if d.Path == "wanted" && d.Volume == "home" {
				set = d.Set
				return nil
			}
		}
		return fmt.Errorf("not in %+v", standby.divergent())
	})
	l.settled(l.nodes)

	if a := l.revolve(standby, "divergent", "restore", set, "wanted"); a.status != 13 || !strings.Contains(a.errors, "revolve switch "+standby.name) {
		t.Errorf("restore on a standby: exit %d: %s", a.status, a.errors)
	}
	aside := t.TempDir()
	l.revolve(standby, "divergent", "restore", set, "wanted", "--to", aside).want(t, 0)
	l.revolve(standby, "trash", "restore", "home", "deleted", "--to", aside).want(t, 0)
	for name, want := range map[string]string{"wanted": "worth keeping", "deleted": "by mistake"} {
		if b, err := os.ReadFile(filepath.Join(aside, name)); err != nil || string(b) != want {
			t.Errorf("copied aside, %s is %q (%v)", name, b, err)
		}
	}
	if a := l.revolve(standby, "trash", "list", "home", "--path", "deleted").want(t, 0); !strings.Contains(a.out, `"deleted"`) {
		t.Errorf("trash list: %s", a.out)
	}

	l.revolve(standby, "switch", standby.name).want(t, 0)
	l.settled(l.nodes)
	l.revolve(standby, "divergent", "restore", set, "wanted").want(t, 0)
	l.revolve(standby, "trash", "restore", "home", "deleted").want(t, 0)
	l.sync(standby)
	for _, n := range l.nodes {
		for name, want := range map[string]string{"wanted": "worth keeping", "deleted": "by mistake"} {
			if b, err := os.ReadFile(filepath.Join(n.vol["home"], name)); err != nil || string(b) != want {
				t.Errorf("on %s, %s is %q (%v)", n.name, name, b, err)
			}
		}
	}
	l.allEqual(l.nodes)
	for _, n := range l.nodes {
		dropped := map[string]bool{}
		for _, d := range n.divergent() {
			if d.Set == set && d.Path == "wanted" {
				t.Errorf("restored and still listed: %+v", d)
			}
			if !dropped[d.Set] {
				dropped[d.Set] = true
				l.revolve(n, "divergent", "drop", d.Set, "--yes").want(t, 0)
			}
		}
		if left := n.divergent(); len(left) > 0 {
			t.Errorf("dropped and still listed on %s: %+v", n.name, left)
		}
	}
	l.revolve(standby, "trash", "unpin", "home") // what earlier chapters deleted was meant; there may be nothing
	l.eventually("nothing is left to warn of", func() error {
		for _, n := range l.nodes {
			if s, err := n.status(); err != nil || s.Verdict != "ok" {
				return fmt.Errorf("%s says %s: %q (%v)", n.name, s.Verdict, s.Reasons, err)
			}
		}
		return nil
	})
}
