package stories

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// inside runs a command of the product on the node itself, with input, and
// returns what it printed and its exit status.
func (n *node) inside(input string, args ...string) (out string, status int) {
	n.lab.t.Helper()
	dir := n.lab.t.TempDir()
	log, in := filepath.Join(dir, "out"), filepath.Join(dir, "in")
	must(n.lab.t, os.WriteFile(in, []byte(input), 0o600))
	script := `in=$1; shift; exec "$@" < "$in"`
	argv := append([]string{"/bin/sh", "-c", script, "sh", in, os.Getenv(envBin)}, args...)
	p, err := n.Start(testbed.Command{Argv: argv, Log: log})
	must(n.lab.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	status, err = p.Wait(ctx)
	must(n.lab.t, err)
	b, err := os.ReadFile(log)
	must(n.lab.t, err)
	return string(b), status
}

// ownState is the node's state directory as the node sees it.
func (n *node) ownState() string { return filepath.Join(n.lab.bed.Self(), "state") }

// join makes the node join with a token, by way of another node.
func (n *node) join(token, address string) (out string, status int) {
	n.lab.t.Helper()
	return n.inside(token, "join", address, "--token-file", "-", "--node", n.name, "--state", n.ownState())
}

// token makes one for the node, where the CA is: on a.
func (l *lab) token(node string, more ...string) string {
	l.t.Helper()
	return strings.TrimSpace(l.mustRevolve(append([]string{"token", node, "--state", l.nodes["a"].state()}, more...)...))
}

// startJoined starts the node's agent without a configuration file.
func (n *node) startJoined() {
	n.lab.t.Helper()
	n.logs++
	var err error
	n.agent, err = n.Start(testbed.Command{Argv: []string{os.Getenv(envBin), "agent", "--node", n.name, "--state", n.ownState()}, Log: n.log()})
	must(n.lab.t, err)
	n.runs = true
	n.lab.line.watch(n.lab.t, n)
}

// members writes a configuration with these nodes of the plan.
func (l *lab) members(file string, names ...string) string {
	l.t.Helper()
	all := l.configText()
	var lines []string
	for _, line := range strings.SplitAfter(all, "\n") {
		node, isNode := strings.CutPrefix(line, "  ")
		name, _, _ := strings.Cut(node, ":")
		if isNode && len(name) == 1 && strings.Contains(line, "links:") && !contains(names, name) {
			continue
		}
		lines = append(lines, line)
	}
	path := filepath.Join(l.stage.Dir, file)
	must(l.t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644))
	return path
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// keepsServing runs do while a writer writes on the master, and wants the address
// on the same node all the time.
func (l *lab) keepsServing(m *node, what string, do func()) {
	l.t.Helper()
	stop, done := make(chan struct{}), make(chan string)
	go func() {
		wrong := ""
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- wrong
				return
			case <-time.After(5 * time.Millisecond):
			}
			if err := os.WriteFile(m.home(fmt.Sprintf("during-%d", i%50)), fmt.Appendf(nil, "%s %d", what, i), 0o644); err != nil {
				wrong = err.Error()
			}
			if list, err := m.Addresses(); err == nil {
				held := false
				for _, p := range list {
					held = held || p.Addr() == vip4.Addr()
				}
				if !held {
					wrong = "the address left " + m.name
				}
			}
		}
	}()
	do()
	close(stop)
	if wrong := <-done; wrong != "" {
		l.t.Errorf("%s: %s", what, wrong)
	}
}

// reaches waits until the node says that it is of that generation.
func (n *node) reaches(generation uint32) {
	n.lab.t.Helper()
	n.lab.eventually(fmt.Sprintf("%s to reach generation %d", n.name, generation), askEvery, func() error {
		s, err := n.status()
		if err == nil && s.Generation < generation {
			err = fmt.Errorf("it is of generation %d", s.Generation)
		}
		return err
	})
}

// TestMembers is the life of a cluster's membership while it serves: a fifth node
// joins by token, a node that was off learns of it, one is removed, one is
// revoked, and another machine takes its place.
func TestMembers(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{names: []string{"a", "b", "c", "d", "e"}})
		e := l.nodes["e"]
		must(t, os.RemoveAll(e.state()))
		five := l.members("five.yaml", "a", "b", "c", "d", "e")
		must(t, os.Rename(l.members("four.yaml", "a", "b", "c", "d"), l.config()))
		l.names = []string{"a", "b", "c", "d"}
		m := l.form()
		before(t, m.home())
		m.sync()

		// Off during the change: d returns with the old list.
		d := l.nodes["d"]
		d.stop()

		// A node that the configuration does not have gets no token, and is told what to do.
		if _, complaint, status := l.revolve("token", "e", "--state", l.nodes["a"].state()); status != problem.NotFound.ExitStatus() || !strings.Contains(complaint, "--link lan=") {
			t.Errorf("a token for an unknown node: status %d, %s", status, complaint)
		}
		l.keepsServing(m, "a node is added", func() {
			if _, complaint, status := l.revolve("config", "apply", five, "--base", "7", "--state", l.nodes["b"].state()); status != problem.Conflict.ExitStatus() {
				t.Errorf("a change made from another generation: status %d, %s", status, complaint)
			}
			out := l.mustRevolve("config", "apply", five, "--base", "0", "--state", l.nodes["b"].state())
			if !strings.Contains(out, "+ node e") || !strings.Contains(out, "d was not reached") {
				t.Errorf("config apply says:\n%s", out)
			}
			began := time.Now()
			token := l.token("e")
			out, status := e.join(token, "10.77.0.12") // b has not the CA: it says who has
			if status != 0 {
				t.Fatalf("join: status %d\n%s", status, out)
			}
			if out, status := e.join(token, "10.77.0.11"); status != problem.Conflict.ExitStatus() {
				t.Errorf("a second join: status %d\n%s", status, out)
			}
			e.startJoined()
			l.names = append(l.names, "e")
			l.settled()
			t.Logf("e is a member, in-sync, %v after its token was asked for", time.Since(began).Round(time.Millisecond))
			d.start()
			d.reaches(1)
			l.settled()
		})
		m.sync()
		l.equal(m)
		l.noToken(t)

		l.theNewOneLeads(e)
		m = l.settled()
		l.remove(m, "c")
		m = l.settled()
		l.revoke(m)
	})
}

// noToken wants no token in any log.
func (l *lab) noToken(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.stage.Dir, "logs", "*.log"))
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		if strings.Contains(string(b), "rvj1-") {
			t.Errorf("a token is in %s", f)
		}
	}
}

// theNewOneLeads: the joined node is a full one.
func (l *lab) theNewOneLeads(e *node) {
	l.t.Helper()
	l.switchTo("e", e)
	m := l.settled()
	if m != e {
		l.t.Errorf("%s leads after the switch to e", m.name)
	}
	put(l.t, e.home("written-on-e"), "the fifth")
	e.sync()
	l.equal(e)
	l.switchTo("b", e)
}

// switchTo moves the address, as soon as the successor ("": any) counts as in-sync.
func (l *lab) switchTo(name string, by *node) {
	l.t.Helper()
	args := []string{"switch", "--state", by.state()}
	if name != "" {
		args = append(args, name)
	}
	l.eventually("a switch to "+name, askEvery, func() error {
		if _, complaint, status := l.revolve(args...); status != 0 {
			return fmt.Errorf("status %d: %s", status, complaint)
		}
		return nil
	})
}

// remove takes a running standby out: its agent ends by itself and says why.
func (l *lab) remove(m *node, name string) {
	l.t.Helper()
	gone := l.nodes[name]
	var rest []string
	for _, n := range l.names {
		if n != name {
			rest = append(rest, n)
		}
	}
	if _, complaint, status := l.revolve("config", "apply", l.members("none.yaml", without(l.names, m.name)...), "--state", m.state()); status != problem.Conflict.ExitStatus() {
		l.t.Errorf("the master is removed: status %d, %s", status, complaint)
	}
	l.keepsServing(m, "a node is removed", func() {
		l.mustRevolve("config", "apply", l.members("less.yaml", rest...), "--state", m.state())
		l.names = rest
		if status := gone.waitEnd(); status != problem.Permission.ExitStatus() {
			l.t.Errorf("the removed node's agent ended with %d", status)
		}
		l.settled()
	})
	if !strings.Contains(gone.lastLog(), "was removed from the cluster") {
		l.t.Errorf("the removed node does not say so:\n%s", gone.lastLog())
	}
	// It is out for good, whatever file it is started with.
	gone.start()
	if status := gone.waitEnd(); status != problem.Permission.ExitStatus() {
		l.t.Errorf("started again, it ended with %d", status)
	}
	m.sync()
	l.equal(m)
	// Its certificate is still genuine: that can be ended, too.
	if _, complaint, status := l.revolve("revoke", name, "--state", m.state()); status != problem.NotFound.ExitStatus() || !strings.Contains(complaint, "--removed") {
		l.t.Errorf("revoking a removed node: status %d, %s", status, complaint)
	}
	if out := l.mustRevolve("revoke", name, "--removed", "--state", m.state()); !strings.Contains(out, "the heartbeat key is changed") {
		l.t.Errorf("revoke --removed says:\n%s", out)
	}
	if _, epochs, _, err := rosterOf(m); err != nil || epochs[name] == 0 {
		l.t.Errorf("the removed node's certificate counts: %v, %v", epochs, err)
	}
	l.settled()
}

func without(list []string, s string) (out []string) {
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}

// revoke refuses d while it runs and while a is off; then another machine takes its place.
func (l *lab) revoke(m *node) {
	l.t.Helper()
	d, a := l.nodes["d"], l.nodes["a"]
	if m == d || m == a {
		l.t.Fatalf("%s leads", m.name)
	}
	a.stop()
	identity := filepath.Join(l.t.TempDir(), "identity")
	must(l.t, os.CopyFS(identity, os.DirFS(filepath.Join(d.state(), "identity"))))
	l.keepsServing(m, "a node is revoked", func() {
		out := l.mustRevolve("revoke", "d", "--state", m.state())
		if !strings.Contains(out, "the heartbeat key is changed") || !strings.Contains(out, "a was not reached") {
			l.t.Errorf("revoke says:\n%s", out)
		}
		if status := d.waitEnd(); status != problem.Permission.ExitStatus() {
			l.t.Errorf("the revoked node's agent ended with %d\n%s", status, d.lastLog())
		}
		a.start() // with the former key, and not knowing of the revocation
		l.settled()
	})
	// The stolen machine does not obey: it forgets that it is out.
	must(l.t, os.Remove(filepath.Join(d.state(), "roster.json")))
	d.start()
	if status := d.waitEnd(); status != problem.Permission.ExitStatus() {
		l.t.Errorf("the stolen machine's agent ended with %d\n%s", status, d.lastLog())
	}
	// A new machine of the same name.
	must(l.t, os.RemoveAll(d.state()))
	l.keepsServing(m, "a machine is replaced", func() {
		out, status := d.join(l.token("d"), "10.77.0.15")
		if status != 0 {
			l.t.Fatalf("join of the replacement: status %d\n%s", status, out)
		}
		d.startJoined()
		l.settled()
	})
	m.sync()
	l.equal(m)
	// The former certificate is refused now, too.
	d.stop()
	must(l.t, os.RemoveAll(d.state()))
	must(l.t, os.MkdirAll(d.state(), 0o700))
	must(l.t, os.CopyFS(filepath.Join(d.state(), "identity"), os.DirFS(identity)))
	must(l.t, keysPrivate(filepath.Join(d.state(), "identity")))
	d.start()
	if status := d.waitEnd(); status != problem.Permission.ExitStatus() {
		l.t.Errorf("with the former identity the agent ended with %d\n%s", status, d.lastLog())
	}
	l.settled()
}

func keysPrivate(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	for _, f := range files {
		if err == nil {
			err = os.Chmod(f, 0o600)
		}
	}
	return err
}
