package outsider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	vip4     = "10.99.0.200"
	vip6     = "fd99::200"
	device   = "eth0"
	spare    = "d" // a node on demand that is never on: nobody may mind
	bridge   = "outsider0"
	patience = 30 * time.Second // for what is not measured
)

// lab is one cluster of three nodes.
type lab struct {
	t      *testing.T
	dir    string
	config string
	nodes  []*node
	link   *onlooker // nil: nobody asks who answers
}

// node is one node, as its operator sees it.
type node struct {
	lab   *lab
	name  string
	addr  string
	ns    string // network namespace
	state string
	vol   map[string]string // volume -> path

	log    *os.File
	cmd    *exec.Cmd
	exited chan struct{} // closed when the agent has ended
	eyes   *eyes
}

// newLab makes the namespaces, the configuration and the identities. volume
// prepares a volume's directory if not nil.
func newLab(t *testing.T, volume func(n *node, name, path string)) *lab {
	l := &lab{t: t, dir: t.TempDir()}
	l.config = filepath.Join(l.dir, "cluster.yaml")
	l.ip("link", "add", bridge, "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0")
	t.Cleanup(func() { l.ip("link", "delete", bridge) })
	l.ip("link", "set", bridge, "up")
	t.Cleanup(func() {
		l.t = t
		l.tearDown()
	})
	for i, name := range []string{"a", "b", "c"} {
		n := &node{lab: l, name: name, ns: "outsider-" + name, addr: fmt.Sprintf("10.99.0.1%d", i+1),
			state: filepath.Join(l.dir, "state-"+name), vol: map[string]string{}}
		for _, v := range []string{"home", "zones"} {
			n.vol[v] = filepath.Join(l.dir, "nodes", name, v)
			must(t, os.MkdirAll(n.vol[v], 0o755))
			if volume != nil {
				volume(n, v, n.vol[v])
			}
		}
		l.nodes = append(l.nodes, n)
		n.plug()
	}
	must(t, os.WriteFile(l.config, []byte(l.yaml()), 0o644))
	l.revolve(l.nodes[0], "init", "--config", l.config, "--node", "a").want(t, 0)
	for _, n := range l.nodes[1:] {
		l.revolve(l.nodes[0], "identity", "issue", n.name, "--out", n.state).want(t, 0)
	}
	return l
}

func (l *lab) yaml() string {
	var b strings.Builder
	b.WriteString("cluster: outsider\nport: 7373\nnodes:\n")
	for i, n := range l.nodes {
		fmt.Fprintf(&b, "  %s: { links: { lan: %s }, priority: %d, paths: { home: %q, zones: %q } }\n",
			n.name, n.addr, 100-i, n.vol["home"], n.vol["zones"])
	}
	fmt.Fprintf(&b, "  %s: { links: { lan: 10.99.0.14 }, power: { mode: on-demand } }\n", spare)
	fmt.Fprintf(&b, "vips:\n  - { address: %s/24, link: lan }\n  - { address: \"%s/64\", link: lan }\n", vip4, vip6)
	fmt.Fprintf(&b, "volumes:\n  home: { path: %q }\n  zones: { path: %q, on_change: %q }\n", l.nodes[0].vol["home"], l.nodes[0].vol["zones"],
		`{ echo "$REVOLVE_ROLE"; tr '\000' '\n'; } >> `+l.dir+`/hook-$REVOLVE_NODE; ! grep -q broken "$REVOLVE_PATH/zone"`)
	return b.String()
}

// plug makes the node's namespace and its one link.
func (n *node) plug() {
	l := n.lab
	l.ip("netns", "add", n.ns)
	l.ip("link", "add", n.port(), "type", "veth", "peer", "name", device, "netns", n.ns)
	l.ip("link", "set", n.port(), "master", bridge, "up")
	for _, key := range []string{"accept_dad", "accept_ra"} { // addresses work at once
		l.ip("netns", "exec", n.ns, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/"+device+"/"+key)
	}
	l.ip("-n", n.ns, "addr", "add", n.addr+"/24", "dev", device)
	l.ip("-n", n.ns, "link", "set", "lo", "up")
	l.ip("-n", n.ns, "link", "set", device, "up")
	n.eyes = watchAddresses(l.t, n)
}

// port is the bridge's end of the node's link.
func (n *node) port() string { return "outsider-" + n.name }

// cut takes the link's carrier away; mend brings it back.
func (n *node) cut()  { n.eyes.connect(false); n.lab.ip("link", "set", n.port(), "down") }
func (n *node) mend() { n.lab.ip("link", "set", n.port(), "up"); n.eyes.connect(true) }

func (l *lab) tearDown() {
	for _, n := range l.nodes {
		n.signalAll(unix.SIGKILL)
		if n.cmd != nil {
			<-n.exited
		}
		if n.eyes != nil {
			n.eyes.stop()
		}
		if n.log != nil {
			_ = n.log.Close()
		}
		_ = exec.Command("ip", "link", "delete", n.port()).Run() // not there if making it failed
		_ = exec.Command("ip", "netns", "delete", n.ns).Run()
	}
	if l.t.Failed() {
		for _, n := range l.nodes {
			b, _ := os.ReadFile(filepath.Join(l.dir, "log-"+n.name))
			lines := bytes.Split(b, []byte("\n"))
			l.t.Logf("log of %s, last lines of %d:\n%s", n.name, len(lines), bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
		}
	}
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// answer is what a command said.
type answer struct {
	args        []string
	status      int
	out, errors string
}

// revolve runs a command as the node's operator would; the local API is a
// socket in the state directory, so it works from anywhere on the machine.
func (l *lab) revolve(n *node, args ...string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	args = append(args, "--state", n.state)
	cmd := exec.CommandContext(ctx, os.Getenv(binEnv), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		l.t.Fatalf("revolve %v: %v", args, err)
	}
	return answer{args, cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("revolve %s: exit %d, want %d\n%s%s", strings.Join(a.args, " "), a.status, status, a.out, a.errors)
	}
	return a
}

// start starts the node's agent.
func (n *node) start() {
	n.lab.t.Helper()
	if n.log == nil {
		log, err := os.OpenFile(filepath.Join(n.lab.dir, "log-"+n.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(n.lab.t, err)
		n.log = log
	}
	n.cmd = n.agent(n.name)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	must(n.lab.t, n.cmd.Start())
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(n.cmd, n.exited)
}

func (n *node) agent(name string) *exec.Cmd {
	return exec.Command("ip", "netns", "exec", n.ns, os.Getenv(binEnv), "agent", "--config", n.lab.config, "--node", name, "--state", n.state)
}

// stop ends the agent as an operator does and wants it to end well.
func (n *node) stop() {
	n.lab.t.Helper()
	must(n.lab.t, n.cmd.Process.Signal(unix.SIGTERM))
	select {
	case <-n.exited:
	case <-time.After(patience):
		n.lab.t.Fatalf("agent of %s does not end on SIGTERM", n.name)
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.lab.t.Errorf("agent of %s ended with %d after SIGTERM", n.name, code)
	}
	n.lab.eventually("no process of "+n.name+" is left", func() error {
		if p := n.pids(); len(p) > 0 {
			return fmt.Errorf("processes %v", p)
		}
		return nil
	})
}

// pids are all processes in the node's network namespace, zombies aside.
func (n *node) pids() []int {
	out, err := exec.Command("ip", "netns", "pids", n.ns).Output()
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid == os.Getpid() {
			continue // our first thread may be one that looks at the node's addresses
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

// signalAll signals until no new process turns up.
func (n *node) signalAll(sig unix.Signal) {
	done := map[int]bool{}
	for {
		more := false
		for _, pid := range n.pids() {
			if !done[pid] {
				more, done[pid] = true, true
				_ = unix.Kill(pid, sig)
			}
		}
		if !more {
			return
		}
	}
}

// powerOff cuts the link first, so that not even a FIN gets out.
func (n *node) powerOff() {
	n.cut()
	n.signalAll(unix.SIGKILL)
	<-n.exited
}

// powerOn starts the node again. What the kernel of a real machine forgets is taken away.
func (n *node) powerOn() {
	for _, v := range []string{vip4 + "/24", vip6 + "/64"} {
		_ = exec.Command("ip", "-n", n.ns, "addr", "del", v, "dev", device).Run() // mostly gone
	}
	n.mend()
	n.start()
}

// status is what `revolve status --json` promises, as far as we look at it.
type status struct {
	Node    string
	Term    uint64
	Master  string
	Verdict string
	Reasons []string
	Nodes   []struct {
		Name, State, Role string
		Eligible          any
		InSync            any `json:"in_sync"`
		Hold, Maintenance any
	}
	VIPs    []struct{ Address, Holder string }
	Volumes []struct {
		Name     string
		Problem  string
		Position any
		Standbys []struct {
			Node, State string
			LagMS       any `json:"lag_ms"`
			Progress    *progress
		}
	}
}

func (n *node) status() (s status, err error) {
	a := n.lab.revolve(n, "status", "--json")
	if err := json.Unmarshal([]byte(a.out), &s); err != nil {
		return s, fmt.Errorf("status of %s (exit %d): %w: %s%s", n.name, a.status, err, a.out, a.errors)
	}
	want := map[string]int{"ok": 0, "critical": 2}
	if code, ok := want[s.Verdict]; a.status != code && (ok || a.status != 1) {
		return s, fmt.Errorf("verdict %q with exit status %d", s.Verdict, a.status)
	}
	return s, nil
}

// node finds a node by name.
func (l *lab) node(name string) *node {
	for _, n := range l.nodes {
		if n.name == name {
			return n
		}
	}
	l.t.Fatalf("no node %q", name)
	return nil
}

// others are the nodes but n.
func (l *lab) others(not ...*node) []*node {
	return slices.DeleteFunc(slices.Clone(l.nodes), func(o *node) bool { return slices.Contains(not, o) })
}

// eventually polls until the condition holds.
func (l *lab) eventually(what string, cond func() error) {
	l.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = cond(); err == nil {
			return
		}
	}
	l.t.Fatalf("not within %v: %s: %v", patience, what, err)
}

// bound says what was measured later than promised, and the test goes on: a machine
// shared with others misses bounds of time without any fault of the product's.
// `revolve demo` is what holds the promises to their times.
func (l *lab) bound(what string, took, limit time.Duration) {
	l.t.Helper()
	if took > limit {
		l.t.Logf("LATE: %s for %v, promised are %v", what, took.Round(time.Millisecond), limit)
	}
}

// holder is the one node among those given that has both VIPs.
func holder(among []*node) (*node, error) {
	var with []*node
	for _, n := range among {
		switch n.eyes.count() {
		case 2:
			with = append(with, n)
		case 1:
			return nil, fmt.Errorf("%s has one of two VIPs", n.name)
		}
	}
	if len(with) != 1 {
		return nil, fmt.Errorf("%d holders", len(with))
	}
	return with[0], nil
}

// settled waits until the nodes have one master, that all say the same and
// that every node is in-sync, and answers the master.
func (l *lab) settled(among []*node) *node {
	l.t.Helper()
	var master *node
	l.eventually("one master, all in-sync, all of one mind", func() (err error) {
		if master, err = holder(among); err != nil {
			return err
		}
		for _, n := range among {
			s, err := n.status()
			if err != nil {
				return err
			}
			if s.Master != master.name {
				return fmt.Errorf("%s says %q is master, %s holds the VIPs", n.name, s.Master, master.name)
			}
			if err := healthy(s); len(among) == len(l.nodes) && err != nil {
				return err
			}
			for _, o := range s.Nodes {
				if o.Name == spare {
					if o.State != "off" {
						return fmt.Errorf("%s says that %s, which is on demand, is %s", n.name, spare, o.State)
					}
					continue
				}
				if slices.Contains(among, l.node(o.Name)) && o.Name != master.name && fmt.Sprint(o.InSync) != "true" {
					return fmt.Errorf("%s says in_sync of %s is %v", n.name, o.Name, o.InSync)
				}
			}
			for _, v := range s.VIPs {
				if v.Holder != master.name {
					return fmt.Errorf("%s says %q holds %s", n.name, v.Holder, v.Address)
				}
			}
		}
		return inSync(master, among)
	})
	return master
}

// healthy wants the verdict ok, or a warning about nothing but changes that
// were kept aside and the trash that the storm's deletions pinned.
func healthy(s status) error {
	if s.Verdict == "ok" {
		return nil
	}
	for _, r := range s.Reasons {
		if s.Verdict != "warning" || !strings.Contains(r, "divergent") && !strings.Contains(r, "pinned") {
			return fmt.Errorf("%s says %s: %q", s.Node, s.Verdict, s.Reasons)
		}
	}
	return nil
}

// inSync asks the master about its standbys.
func inSync(master *node, among []*node) error {
	s, err := master.status()
	if err != nil {
		return err
	}
	if len(s.Volumes) != 2 {
		return fmt.Errorf("status has %d volumes", len(s.Volumes))
	}
	for _, v := range s.Volumes {
		for _, n := range among {
			if n == master {
				continue
			}
			ok := false
			for _, sb := range v.Standbys {
				ok = ok || sb.Node == n.name && sb.State == "in-sync"
			}
			if !ok {
				return fmt.Errorf("%s is not in-sync on volume %s: %+v", n.name, v.Name, v.Standbys)
			}
		}
	}
	return nil
}

// sync is the barrier. "Not now" is an honest answer while a standby that stood
// still for a moment comes back.
func (l *lab) sync(master *node) {
	l.t.Helper()
	l.eventually("the barrier on "+master.name, func() error {
		a := l.revolve(master, "sync", "--wait")
		if a.status == unavailable || a.status == 16 { // a busy machine may cost a master its role for a moment
			l.t.Logf("the barrier is asked for again: %s", a.errors)
			return errors.New(a.errors)
		}
		a.want(l.t, 0)
		return nil
	})
}

// unavailable is the exit status of a barrier that found no standby, or lost the role while it waited.
const unavailable = 15

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
