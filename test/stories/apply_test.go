package stories

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/roster"
	"revolve/internal/testbed"
)

// A new configuration is tried: these stories look at what becomes of it, good
// and bad, on real agents.

const (
	applyFor  = 90 * time.Second // a trial with its deadline, on a busy machine
	deadline  = 12 * time.Second
	otherVIP  = "10.77.0.201"
	fastOfC   = "10.78.0.13"
	fastMoved = "10.78.0.33"
)

// change writes a configuration in which old is replaced by new.
func (l *lab) change(file string, pairs ...string) string {
	l.t.Helper()
	text := l.configText()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			l.t.Fatalf("%q is not in the configuration", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	path := filepath.Join(l.stage.Dir, file)
	must(l.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// apply starts revolve config apply on a node, and returns how to wait for its end.
func (n *node) apply(file string, more ...string) (wait func() (out string, status int)) {
	n.lab.t.Helper()
	log := filepath.Join(n.lab.t.TempDir(), "out")
	argv := append([]string{os.Getenv(envBin), "config", "apply", file, "--state", n.ownState()}, more...)
	p, err := n.Start(testbed.Command{Argv: argv, Log: log})
	must(n.lab.t, err)
	return func() (string, int) {
		n.lab.t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), applyFor)
		defer cancel()
		status, err := p.Wait(ctx)
		must(n.lab.t, err)
		b, err := os.ReadFile(log)
		must(n.lab.t, err)
		return string(b), status
	}
}

// goesBy waits until the nodes go by a generation with this text in its configuration, for good.
func (l *lab) goesBy(want bool, text string, nodes ...*node) (generation uint32) {
	l.t.Helper()
	for _, n := range nodes {
		l.within(applyFor, fmt.Sprintf("the configuration of %s to say %q: %v", n.name, text, want), askEvery, func() error {
			out, complaint, status := l.revolve("config", "show", "--json", "--state", n.state())
			var c struct {
				Generation uint32
				Config     string
				Trial      *struct{}
			}
			if status != 0 {
				return fmt.Errorf("status %d: %s", status, complaint)
			}
			if err := json.Unmarshal([]byte(out), &c); err != nil {
				return err
			}
			if c.Trial != nil || strings.Contains(c.Config, text) != want {
				return fmt.Errorf("generation %d, tried: %v\n%s", c.Generation, c.Trial != nil, c.Config)
			}
			generation = max(generation, c.Generation)
			return nil
		})
	}
	return generation
}

// tries waits until the node tries what is being applied, or the command has ended.
func (l *lab) tries(n *node, after uint32, wait func() (string, int)) {
	l.t.Helper()
	late := time.Now().Add(patience)
	for {
		g, _, _, err := rosterOf(n)
		if err == nil && g > after {
			return
		}
		if time.Now().After(late) {
			out, status := wait()
			l.t.Fatalf("%s tries nothing: generation %d, %v; config apply: status %d\n%s", n.name, g, err, status, out)
		}
		time.Sleep(lookEvery)
	}
}

func (n *node) addAddress(addr, dev string) {
	n.lab.t.Helper()
	_, err := n.Run(context.Background(), "ip", "address", "add", addr, "dev", dev)
	must(n.lab.t, err)
}

// card is the name of the interface that has an address.
func (n *node) card(addr string) string {
	n.lab.t.Helper()
	out, err := n.Run(context.Background(), "ip", "-o", "-4", "address", "show")
	must(n.lab.t, err)
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > 3 && strings.HasPrefix(f[3], addr+"/") {
			return f[1]
		}
	}
	n.lab.t.Fatalf("%s is on no card of %s:\n%s", addr, n.name, out)
	return ""
}

// TestApply: a configuration that works, and one after another that does not.
func TestApply(t *testing.T) {
	t.Parallel() // it measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		a, b, c := l.nodes["a"], l.nodes["b"], l.nodes["c"]
		all := []*node{a, b, c}
		generation := l.applyWhatWorks(m, all)
		generation = l.applyWhatIsRefused(b, generation)
		l.applyAnAddress(c, all)
		m = l.settled()
		l.applyFloating(m, all)
		m = l.settled()
		l.applyWhatCutsOff(m, all)
		m = l.settled()
		m.sync()
		l.equal(m)
		_ = generation
	})
}

// applyWhatWorks: at once, without a move of the addresses.
func (l *lab) applyWhatWorks(m *node, all []*node) uint32 {
	l.t.Helper()
	file := l.change("priority.yaml", "fast: 10.78.0.12 }", "fast: 10.78.0.12 }, priority: 70")
	out := l.mustRevolve("config", "diff", file, "--state", m.state())
	if !strings.Contains(out, "+ nodes.b.priority: 70\n    at once\n") {
		l.t.Errorf("config diff says:\n%s", out)
	}
	l.keepsServing(m, "a priority changes", func() {
		out, status := all[1].apply(file)()
		if status != 0 || !strings.Contains(out, "~ node b") {
			l.t.Errorf("config apply: status %d\n%s", status, out)
		}
	})
	return l.goesBy(true, "priority: 70", all...)
}

// applyWhatIsRefused: what a node cannot do is known before anything changes.
func (l *lab) applyWhatIsRefused(by *node, generation uint32) uint32 {
	l.t.Helper()
	for what, c := range map[string]struct {
		file, complaint string
		more            []string
		kind            problem.Kind
	}{
		"an address that the machine lacks":  {l.change("lacks.yaml", "10.78.0.12", "10.78.0.99"), "is on no card of it", nil, problem.Conflict},
		"the profile":                        {l.change("profile.yaml", "profile: default", "profile: fast"), "cannot change while the cluster serves", nil, problem.Conflict},
		"an old generation":                  {l.change("old.yaml", "10.77.0.200", otherVIP), "generation " + fmt.Sprint(generation) + " is in force by now", []string{"--base", "1"}, problem.Conflict},
		"agents that start anew for ever":    {l.change("ever.yaml", "10.77.0.200", otherVIP), "without a way back", []string{"--deadline", "0"}, problem.Invalid},
		"a deadline that no agent can reach": {l.change("soon.yaml", "10.77.0.200", otherVIP), "no deadline", []string{"--deadline", "1s"}, problem.Invalid},
	} {
		out, status := by.apply(c.file, c.more...)()
		if status != c.kind.ExitStatus() || !strings.Contains(out, c.complaint) {
			l.t.Errorf("%s: status %d\n%s", what, status, out)
		}
	}
	if now := l.goesBy(true, "cluster", by); now != generation {
		l.t.Errorf("what was refused made generation %d of %d", now, generation)
	}
	return generation
}

// applyAnAddress: a node's address changes; its agent starts anew by itself.
func (l *lab) applyAnAddress(c *node, all []*node) {
	l.t.Helper()
	c.addAddress(fastMoved+"/24", c.card(fastOfC))
	m := l.settled()
	served := func(do func()) { do() }
	if m != c {
		served = func(do func()) { l.keepsServing(m, "a standby's address changes", do) }
	}
	served(func() {
		out, status := all[0].apply(l.change("moved.yaml", fastOfC, fastMoved))()
		if status != 0 || !strings.Contains(out, "nodes.c.links") {
			l.t.Errorf("config apply: status %d\n%s", status, out)
		}
	})
	l.goesBy(true, fastMoved, all...)
	l.settled()
	l.eventually("the new address to be heard", askEvery, func() error {
		s, err := m.status()
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			for _, link := range n.Links {
				if string(n.Name) == c.name && link.Name == fast && link.Up != control.Yes {
					return fmt.Errorf("%s is not heard over %s", c.name, fast)
				}
			}
		}
		return nil
	})
}

// applyFloating: the floating address changes, and every agent starts anew, the master's last.
func (l *lab) applyFloating(m *node, all []*node) {
	l.t.Helper()
	out, status := m.apply(l.change("vip.yaml", fastOfC, fastMoved, "10.77.0.200", otherVIP))()
	if status != 0 || !strings.Contains(out, "~ vips") {
		l.t.Errorf("config apply: status %d\n%s", status, out)
	}
	l.goesBy(true, otherVIP, all...)
	l.eventually("the new floating address on one node, the old one on none", lookEvery, func() error {
		now, old := 0, 0
		for _, n := range all {
			if n.holds(netip.MustParseAddr(otherVIP)) {
				now++
			}
			if n.holds(vip4.Addr()) {
				old++
			}
		}
		if now != 1 || old != 0 {
			return fmt.Errorf("the new one on %d nodes, the old one on %d", now, old)
		}
		return nil
	})
	// The rest of the story goes by the former address again.
	if out, status := all[2].apply(l.change("back.yaml", fastOfC, fastMoved))(); status != 0 {
		l.t.Errorf("config apply of the former address: status %d\n%s", status, out)
	}
	l.goesBy(false, otherVIP, all...)
}

// applyWhatCutsOff: addresses that are there, and that a firewall forgets. One agent is killed meanwhile.
func (l *lab) applyWhatCutsOff(m *node, all []*node) {
	l.t.Helper()
	pairs := []string{fastOfC, fastMoved}
	for i, n := range all {
		addr := fmt.Sprintf("10.77.0.%d", 61+i)
		n.addAddress(addr+"/24", n.card(fmt.Sprintf("10.77.0.%d", 11+i)))
		firewall := fmt.Sprintf("table inet stories { chain in { type filter hook input priority 0; ip daddr %s drop; }; }", addr) // it does not know the new address
		_, err := n.Run(context.Background(), "nft", firewall)
		must(l.t, err)
		pairs = append(pairs, fmt.Sprintf("lan: 10.77.0.%d", 11+i), "lan: "+addr)
		for _, fast := range []string{fmt.Sprintf("10.78.0.%d", 11+i), fastMoved} {
			pairs = append(pairs, ", fast: "+fast, "")
		}
	}
	text := l.configText()
	for i := 0; i < len(pairs); i += 2 {
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	file := filepath.Join(l.stage.Dir, "nowhere.yaml")
	must(l.t, os.WriteFile(file, []byte(text), 0o644))
	before := l.goesBy(true, "cluster", all...)
	wait := m.apply(file, "--deadline", deadline.String())
	var killed *node
	for _, n := range all {
		if n != m && killed == nil {
			killed = n
		}
	}
	l.tries(killed, before, wait)
	must(l.t, killed.agent.Signal(unix.SIGKILL))
	killed.waitEnd()
	out, status := wait()
	if status != problem.Timeout.ExitStatus() || !strings.Contains(out, "the former configuration is in force again") {
		l.t.Errorf("config apply: status %d\n%s", status, out)
	}
	killed.start() // after the deadline: it knows by itself
	l.goesBy(false, "10.77.0.6", all...)
	l.settled()
}

// TestApplyWithOneOff: who is off does not block, and gets what stays; who is killed in the middle goes back alone and forward with the others.
func TestApplyWithOneOff(t *testing.T) {
	t.Parallel() // it measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: func(n string) string {
			if n == "c" {
				return ", source: file, candidate: false"
			}
			return ""
		}})
		m := l.form()
		a, b, c := m, l.nodes["b"], l.nodes["c"]
		if m == b {
			b = l.nodes["a"]
		}
		l.ownFileDecides(a, c)
		b.off()
		l.settled()
		file := l.change("trash.yaml", "source: file", "source: file, priority: 60")
		must(t, os.Rename(file, l.config()))
		if out, status := a.apply(l.config())(); status != 0 {
			t.Errorf("config apply with a node off: status %d\n%s", status, out)
		}
		want := l.goesBy(true, "priority: 60", a, c)
		holdBack := b.ownProgram()
		b.boot()
		b.reaches(want)
		l.goesBy(true, "priority: 60", b)
		l.settled()

		holdBack()
		l.theOneThatMustConfirmDies(a, b, c, want)
	})
}

// ownProgram has the node run a copy of the program. The function that it returns puts one that says nothing in the copy's place:
// when the agent starts anew, its beat process is that one.
func (n *node) ownProgram() (holdBack func()) {
	n.lab.t.Helper()
	b, err := os.ReadFile(os.Getenv(envBin))
	must(n.lab.t, err)
	n.binary = filepath.Join(n.lab.stage.Dir, "revolve-of-"+n.name)
	must(n.lab.t, os.WriteFile(n.binary, b, 0o755))
	mute := n.binary + ".mute"
	must(n.lab.t, os.WriteFile(mute, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755))
	return func() { must(n.lab.t, os.Rename(mute, n.binary)) }
}

// theOneThatMustConfirmDies: the others go back, it does so when it returns, and who was to be removed is a member still.
// It dies before it can confirm, however late this test comes to it: with a beat process that says nothing it starts anew,
// answers, and follows nobody.
func (l *lab) theOneThatMustConfirmDies(m, dies, removed *node, generation uint32) {
	l.t.Helper()
	line := fmt.Sprintf("  %s: { links: { lan: 10.77.0.13, fast: 10.78.0.13 }, source: file, candidate: false }\n", removed.name)
	file := l.change("vip.yaml", line, "", "10.77.0.200", otherVIP)
	if now := l.settled(); now != m {
		l.t.Fatalf("%s leads", now.name)
	}
	wait := m.apply(file, "--deadline", deadline.String())
	l.tries(dies, generation, wait)
	dies.off()
	if out, status := wait(); status != problem.Timeout.ExitStatus() || !strings.Contains(out, "it waited for: ") {
		l.t.Errorf("config apply: status %d\n%s", status, out)
	}
	must(l.t, dies.PowerOn())
	l.diedInTheTrial(dies, generation+1)
	dies.binary = ""
	dies.start()
	l.goesBy(false, otherVIP, m, dies, removed)
	l.settled()
}

// diedInTheTrial looks at what a node that has no agent yet has on its disk.
func (l *lab) diedInTheTrial(n *node, tried uint32) {
	l.t.Helper()
	var s struct{ Roster roster.Roster }
	b, err := os.ReadFile(filepath.Join(n.state(), "roster.json"))
	must(l.t, err)
	must(l.t, json.Unmarshal(b, &s))
	switch r := s.Roster; {
	case r.Generation == tried && r.Trial != nil:
		if !slices.Contains(r.Trial.Expect, cluster.NodeID(n.name)) {
			l.t.Errorf("%s need not confirm, only %v", n.name, r.Trial.Expect)
		}
	case r.Generation == tried+1 && r.Tried != "":
		l.t.Logf("SKIPPED PART: a node that dies in a trial: %s went back before this test came to it", n.name)
	default:
		l.t.Errorf("%s died with generation %d, tried %v, in place of a trial of generation %d", n.name, r.Generation, r.Trial != nil, tried)
	}
}

// ownFileDecides: c takes what its own file says, and nothing else.
func (l *lab) ownFileDecides(by, c *node) {
	l.t.Helper()
	file := l.change("pushed.yaml", "source: file", "source: file, priority: 80")
	out, status := by.apply(file)()
	if status != problem.Conflict.ExitStatus() || !strings.Contains(out, "source: file") || !strings.Contains(out, "nodes.c.priority") {
		l.t.Errorf("config apply without the file of c: status %d\n%s", status, out)
	}
	must(l.t, os.Rename(file, l.config())) // what Ansible does: here the file is the same for all
	if out, status := by.apply(l.config())(); status != 0 {
		l.t.Errorf("config apply with the file of c: status %d\n%s", status, out)
	}
	l.goesBy(true, "priority: 80", c)
}
