package stories

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

// The network of every story: private addresses in namespaces of their own.
const (
	lan  cluster.LinkID = "lan" // carries the VIPs
	fast cluster.LinkID = "fast"
)

// How long things may take before a story gives up. They are no promises: the
// machine may be busy with other work, and only a hang is to be told from it.
const (
	patience   = 25 * time.Second // an election, a catch-up of a small tree
	commandFor = 20 * time.Second // one command of the product
	lookEvery  = 20 * time.Millisecond
	askEvery   = 100 * time.Millisecond // for what costs a process
)

var (
	vip4 = netip.MustParsePrefix("10.77.0.200/24")
	vip6 = netip.MustParsePrefix("fd77::200/64")
)

// plan says what a story needs other than three equal nodes with two links and one volume.
type plan struct {
	names   []string                 // of the nodes; default: a, b, c
	volumes []string                 // default: home
	window  string                   // of failback; "": never
	drill   string                   // window of rehearsals; "": never
	extra   string                   // lines appended to the configuration; SELF stands for a node's own root
	volume  string                   // more fields of every volume; SELF as above
	node    func(name string) string // more fields of a node in the configuration
	disk    func(name string) testbed.Disk
	under   []string // a program and its arguments that start the agent
	engine  string   // default: builtin
	apart   string   // more of failover: what a node does that hears no other one
}

// lab is a cluster under test.
type lab struct {
	t     *testing.T
	stage *testbed.Stage
	bed   *testbed.Bed
	plan  plan
	names []string
	nodes map[string]*node
	line  *timeline
}

// node is one machine and its agent.
type node struct {
	*testbed.Node
	name   string
	lab    *lab
	binary string   // the program that it runs; "": the one under test
	under  []string // what its agent is started by
	agent  *testbed.Proc
	runs   bool // its agent was started and is neither held nor without power
	logs   int
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newLab makes nodes, configuration, identities and volumes; no agent runs yet.
func newLab(t *testing.T, stage *testbed.Stage, p plan) *lab {
	t.Helper()
	if len(p.volumes) == 0 {
		p.volumes = []string{"home"}
	}
	if len(p.names) == 0 {
		p.names = []string{"a", "b", "c"}
	}
	if p.disk == nil {
		p.disk = func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: 512 << 20} }
	}
	bed, err := testbed.NewBed(stage)
	must(t, err)
	l := &lab{t: t, stage: stage, bed: bed, plan: p, names: p.names, nodes: map[string]*node{}}
	t.Cleanup(func() {
		if t.Failed() {
			l.keepStacks()
			l.tellLogs()
		}
		if err := bed.Close(); err != nil {
			t.Log("close bed:", err)
		}
	})
	l.line = newTimeline(t) // its watches end before the bed does
	must(t, bed.AddLink(lan))
	must(t, bed.AddLink(fast))
	must(t, os.MkdirAll(filepath.Join(stage.Dir, "logs"), 0o755))
	for i, name := range l.names {
		n, err := bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(name), Disk: p.disk(name), Links: []testbed.Attachment{
			{Link: lan, Addrs: []netip.Prefix{prefix("10.77.0.%d/24", 11+i), prefix("fd77::%d/64", 11+i)}},
			{Link: fast, Addrs: []netip.Prefix{prefix("10.78.0.%d/24", 11+i)}},
		}})
		must(t, err)
		l.nodes[name] = &node{Node: n, name: name, lab: l}
	}
	l.found()
	return l
}

func prefix(format string, args ...any) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf(format, args...))
}

// found makes the cluster: configuration, identities, empty volumes.
func (l *lab) found() {
	l.t.Helper()
	must(l.t, os.WriteFile(l.config(), []byte(l.configText()), 0o644))
	first := l.nodes["a"]
	l.mustRevolve("init", "--config", l.config(), "--node", "a", "--state", first.state())
	for _, n := range l.nodes {
		if n != first {
			l.mustRevolve("identity", "issue", n.name, "--out", n.state(), "--state", first.state())
		}
		for _, v := range l.plan.volumes {
			must(l.t, os.MkdirAll(n.volume(v), 0o755))
		}
	}
	unix.Sync() // what was set up by hand is on the disks before anything fails
}

func (l *lab) config() string { return filepath.Join(l.stage.Dir, "revolve.yaml") }

func (l *lab) configText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster: stories\nnodes:\n")
	for i, n := range l.names {
		more := ""
		if l.plan.node != nil {
			more = l.plan.node(n)
		}
		fmt.Fprintf(&b, "  %s: { links: { lan: 10.77.0.%d, fast: 10.78.0.%d }%s }\n", n, 11+i, 11+i, more)
	}
	fmt.Fprintf(&b, "vips:\n  - { address: %s, link: lan }\n  - { address: %q, link: lan }\n", vip4, vip6)
	failback := l.plan.apart
	if l.plan.window != "" {
		failback += fmt.Sprintf(", failback: { window: %q }", l.plan.window)
	}
	if l.plan.drill != "" {
		failback += fmt.Sprintf(", rehearsal: { window: %q }", l.plan.drill)
	}
	fmt.Fprintf(&b, "failover: { engine: %s, profile: default%s }\nvolumes:\n", cmp.Or(l.plan.engine, "builtin"), failback)
	for _, v := range l.plan.volumes {
		fmt.Fprintf(&b, "  %s: { path: %s%s }\n", v, filepath.Join(l.bed.Self(), v), l.plan.volume)
	}
	return strings.ReplaceAll(b.String()+l.plan.extra, "SELF", l.bed.Self())
}

// form starts every agent and waits for a cluster in which all are in-sync.
func (l *lab) form() (master *node) {
	l.t.Helper()
	for _, name := range l.names {
		l.nodes[name].start()
	}
	return l.settled()
}

// state and volume are the node's directories as the stage sees them.
func (n *node) state() string          { return filepath.Join(n.Root(), "state") }
func (n *node) volume(v string) string { return filepath.Join(n.Root(), v) }
func (n *node) home(rel ...string) string {
	return filepath.Join(append([]string{n.volume("home")}, rel...)...)
}

func (n *node) log() string {
	return filepath.Join(n.lab.stage.Dir, "logs", fmt.Sprintf("%s.%d.log", n.name, n.logs))
}

// start starts the node's agent, with a log of its own, and watches its addresses.
func (n *node) start() {
	n.lab.t.Helper()
	n.logs++
	var err error
	n.agent, err = n.Start(testbed.Command{
		Argv: append(slices.Concat(n.lab.plan.under, n.under), cmp.Or(n.binary, os.Getenv(envBin)), "agent", "--config", n.lab.config(), "--node", n.name, "--state", filepath.Join(n.lab.bed.Self(), "state")),
		Log:  n.log(),
	})
	must(n.lab.t, err)
	n.runs = true
	n.lab.line.watch(n.lab.t, n)
}

// boot gives power and starts the agent.
func (n *node) boot() {
	n.lab.t.Helper()
	must(n.lab.t, n.PowerOn())
	n.start()
}

// off pulls the plug; true: unsynced data was lost as on a real machine.
func (n *node) off() bool {
	n.lab.t.Helper()
	n.runs = false
	lossy, err := n.PowerOff()
	must(n.lab.t, err)
	return lossy
}

// stop ends the agent in order.
func (n *node) stop() {
	n.lab.t.Helper()
	n.runs = false
	must(n.lab.t, n.agent.Signal(unix.SIGTERM))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := n.agent.Wait(ctx); err != nil {
		n.lab.t.Fatalf("the agent of %s does not stop: %v", n.name, err)
	}
}

func (n *node) hold() {
	n.lab.t.Helper()
	n.runs = false
	must(n.lab.t, n.Hold())
}

func (n *node) resume() {
	n.lab.t.Helper()
	n.runs = true
	must(n.lab.t, n.Resume())
}

// beat is the process id of the node's beat process.
func (n *node) beat() int {
	n.lab.t.Helper()
	pids, err := n.Processes()
	must(n.lab.t, err)
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.Contains(b, []byte("\x00beat\x00")) {
			return pid
		}
	}
	n.lab.t.Fatalf("node %s has no beat process", n.name)
	return 0
}

// holds reports whether the address is on the node now.
func (n *node) holds(a netip.Addr) bool {
	if !n.On() {
		return false
	}
	list, err := n.Addresses()
	must(n.lab.t, err)
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr() == a })
}

// holders are the nodes on which the IPv4 VIP is.
func (l *lab) holders() (names []string) {
	for _, name := range l.names {
		if l.nodes[name].holds(vip4.Addr()) {
			names = append(names, name)
		}
	}
	return names
}

// newMaster waits until exactly one node, and not old, holds the VIPs.
func (l *lab) newMaster(old *node) (m *node) {
	l.t.Helper()
	l.eventually("a master after "+old.name, lookEvery, func() error {
		who := l.holders()
		if len(who) != 1 || who[0] == old.name {
			return fmt.Errorf("the VIPs are on %v", who)
		}
		m = l.nodes[who[0]]
		return nil
	})
	return m
}

// settled waits until the master calls every volume of every running node in-sync, and nothing is owed.
func (l *lab) settled() *node { l.t.Helper(); return l.together(false) }

// together waits as settled does. owing: files that are written all the time may be owed.
func (l *lab) together(owing bool) (m *node) {
	l.t.Helper()
	l.eventually("all running nodes in-sync", askEvery, func() error {
		who := l.holders()
		if len(who) != 1 {
			return fmt.Errorf("the VIPs are on %v", who)
		}
		m = l.nodes[who[0]]
		s, err := m.status()
		if err != nil {
			return err
		}
		if s.Master != m.name {
			return fmt.Errorf("%s says that %s is master", m.name, s.Master)
		}
		for _, v := range s.Volumes {
			if v.State != "leading" {
				return fmt.Errorf("%s: volume %s is %s %s", m.name, v.Name, v.State, v.Problem)
			}
			for _, sb := range v.Standbys {
				if l.nodes[string(sb.Node)].runs && (sb.State != "in-sync" || sb.Owed > 0 && !owing) {
					return fmt.Errorf("%s: volume %s on %s is %s and owed %d", m.name, v.Name, sb.Node, sb.State, sb.Owed)
				}
			}
		}
		return nil
	})
	return m
}

// bound says what was measured later than promised, and the story goes on: a
// machine shared with others misses bounds of time without any fault of the
// product's. `revolve demo` is what holds the promises to their times.
func (l *lab) bound(what string, took, limit time.Duration) {
	l.t.Helper()
	if took > limit {
		l.t.Logf("LATE: %s for %v, promised are %v", what, took.Round(time.Millisecond), limit)
	}
}

// eventually polls until cond returns nil.
func (l *lab) eventually(what string, every time.Duration, cond func() error) {
	l.t.Helper()
	l.within(patience, what, every, cond)
}

func (l *lab) within(limit time.Duration, what string, every time.Duration, cond func() error) {
	l.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %v for %s: %v", limit, what, err)
		}
		time.Sleep(every)
	}
}

// revolve runs a command of the product on the stage.
func (l *lab) revolve(args ...string) (stdout, stderr string, status int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	cmd := l.stage.Command(ctx, append([]string{os.Getenv(envBin)}, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Exited()) {
		l.t.Fatalf("revolve %s: %v\n%s", strings.Join(args, " "), err, complaint.String())
	}
	return out.String(), complaint.String(), cmd.ProcessState.ExitCode()
}

func (l *lab) mustRevolve(args ...string) string {
	l.t.Helper()
	out, complaint, status := l.revolve(args...)
	if status != 0 {
		l.t.Fatalf("revolve %s: exit status %d\n%s", strings.Join(args, " "), status, complaint)
	}
	return out
}

// status asks the node's agent.
func (n *node) status() (control.Status, error) {
	n.lab.t.Helper()
	var s control.Status
	out, complaint, _ := n.lab.revolve("status", "--json", "--state", n.state())
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("status of %s: %w\n%s%s", n.name, err, out, complaint)
	}
	if s.Node == "" {
		return s, fmt.Errorf("no agent answers on %s: %s", n.name, strings.Join(s.Reasons, "; "))
	}
	return s, nil
}

// volumeStatus is what the node says of one volume.
func (n *node) volumeStatus(v string) (control.Volume, error) {
	s, err := n.status()
	if err != nil {
		return control.Volume{}, err
	}
	i := slices.IndexFunc(s.Volumes, func(x control.Volume) bool { return string(x.Name) == v })
	if i < 0 {
		return control.Volume{}, fmt.Errorf("%s knows no volume %s", n.name, v)
	}
	return s.Volumes[i], nil
}

// unavailable is the exit status of a barrier that found no standby, or lost the role while it waited.
const unavailable = 15

// sync is the barrier, asked for on the node. A busy machine may cost a master its
// role for a moment: the barrier says so, and is asked for again.
func (n *node) sync() {
	n.lab.t.Helper()
	n.lab.eventually("the barrier on "+n.name, askEvery, func() error {
		_, complaint, status := n.lab.revolve("sync", "--wait", "--timeout", "15s", "--state", n.state())
		switch status {
		case 0:
			return nil
		case unavailable:
			n.lab.t.Logf("LATE: the barrier is asked for again: %s", complaint)
			return errors.New(complaint)
		}
		n.lab.t.Fatalf("revolve sync: exit status %d\n%s", status, complaint)
		return nil
	})
}

// divergent lists what the node keeps aside.
func (n *node) divergent() (list []control.Divergent) {
	n.lab.t.Helper()
	out := n.lab.mustRevolve("divergent", "list", "--here", "--json", "--state", n.state())
	must(n.lab.t, json.Unmarshal([]byte(out), &list))
	return list
}

// logText is all that the node's agents ever logged; lastLog only the running one.
func (n *node) lastLog() string {
	b, err := os.ReadFile(n.log())
	must(n.lab.t, err)
	return string(b)
}

// tellLogs shows the ends of all logs of a story that failed.
func (l *lab) tellLogs() {
	files, _ := filepath.Glob(filepath.Join(l.stage.Dir, "logs", "*.log"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if len(lines) > 40 {
			lines = lines[len(lines)-40:]
		}
		l.t.Logf("-- %s\n%s", filepath.Base(f), strings.Join(lines, "\n"))
	}
}

var errStill = errors.New("it is still there")

// waitEnd waits until the agent has ended by itself.
func (n *node) waitEnd() int {
	n.lab.t.Helper()
	n.runs = false
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := n.agent.Wait(ctx)
	if err != nil {
		n.lab.t.Fatalf("the agent of %s does not end: %v", n.name, err)
	}
	return status
}

// envStacks names a directory that gets the logs of a story that failed, with
// all stacks of the agents.
const envStacks = "REVOLVE_STORIES_STACKS"

func (l *lab) keepStacks() {
	dir := os.Getenv(envStacks)
	if dir == "" {
		return
	}
	var asked []*node
	for _, n := range l.nodes { // all at once: what one does when another has gone is of no interest
		if n.agent != nil && n.runs && n.On() {
			_ = n.agent.Signal(unix.SIGQUIT)
			asked = append(asked, n)
		}
	}
	for _, n := range asked {
		n.waitEnd()
	}
	for _, n := range l.nodes {
		if b, err := os.ReadFile(n.log()); err == nil {
			_ = os.WriteFile(filepath.Join(dir, n.name+".log"), b, 0o644)
		}
	}
}
