package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

const (
	lan  cluster.LinkID = "lan" // carries the address
	fast cluster.LinkID = "fast"
	vip                 = "10.77.0.200"

	diskSize  = 1 << 30
	patience  = 90 * time.Second // until a cluster without a fault is whole
	commandIn = 15 * time.Second // one command of the product
	// restartIn is how long after its end the agent is started again, as systemd does (RestartSec).
	restartIn = time.Second
	endIn     = 20 * time.Second // an agent that is asked to
)

// keeper is the node whose agent is never ended: its memory over the whole time is what a leak would show in.
const keeper = "d"

// lab is four nodes and a client.
type lab struct {
	stage  *testbed.Stage
	bed    *testbed.Bed
	nodes  []*node
	client *testbed.Node
	asker  *testbed.Proc
	line   *line
	ends   []end
	dir    string // logs
}

// node is a machine and what runs on it.
type node struct {
	*testbed.Node
	lab    *lab
	name   string
	agent  *testbed.Proc
	ended  time.Time // the agent's end was seen; zero while it runs
	down   bool      // nothing of ours runs on it, by a fault
	struck bool      // a fault is on it now
	watch  *testbed.AddressWatch
	joined chan struct{} // closed when the watch has ended
}

func newLab(stage *testbed.Stage) (*lab, error) {
	bed, err := testbed.NewBed(stage)
	if err != nil {
		return nil, err
	}
	l := &lab{stage: stage, bed: bed, line: &line{holds: map[string]bool{}}, dir: filepath.Join(stage.Dir, "logs")}
	if err := l.build(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) build() error {
	if err := errors.Join(os.MkdirAll(l.dir, 0o755), l.bed.AddLink(lan), l.bed.AddLink(fast)); err != nil {
		return err
	}
	for i, name := range []string{"a", "b", "c", keeper} {
		n, err := l.bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(name), Disk: testbed.Disk{FS: "ext4", Size: diskSize}, Links: []testbed.Attachment{
			{Link: lan, Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", 11+i))}},
			{Link: fast, Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.78.0.%d/24", 11+i))}}}})
		if err != nil {
			return err
		}
		l.nodes = append(l.nodes, &node{Node: n, lab: l, name: name})
	}
	var err error
	if l.client, err = l.bed.AddNode(testbed.NodeSpec{ID: "client", Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
		{Link: lan, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.90/24")}}}}); err != nil {
		return err
	}
	return l.found()
}

// found makes the cluster.
func (l *lab) found() error {
	var b strings.Builder
	b.WriteString("cluster: soak\nnodes:\n")
	for i, n := range l.nodes {
		fmt.Fprintf(&b, "  %s: { links: { lan: 10.77.0.%d, fast: 10.78.0.%d } }\n", n.name, 11+i, 11+i)
	}
	fmt.Fprintf(&b, "vips: [ { address: %s/24, link: lan } ]\nvolumes: { home: { path: %s } }\nalarms: [ { webhook: { url: \"http://127.0.0.1:%d/alarm\" } } ]\n", vip, filepath.Join(l.bed.Self(), "home"), servePort)
	if err := os.WriteFile(l.config(), []byte(b.String()), 0o644); err != nil {
		return err
	}
	first := l.nodes[0]
	_, err := l.revolve("init", "--config", l.config(), "--node", first.name, "--state", first.state())
	for _, n := range l.nodes {
		if n != first && err == nil {
			_, err = l.revolve("identity", "issue", n.name, "--out", n.state(), "--state", first.state())
		}
		err = errors.Join(err, os.MkdirAll(n.home(), 0o755))
	}
	unix.Sync() // what was set up by hand is on the disks before anything fails
	return err
}

func (l *lab) config() string       { return filepath.Join(l.stage.Dir, "revolve.yaml") }
func (l *lab) clientFile() string   { return filepath.Join(l.dir, "client") }
func (n *node) state() string       { return filepath.Join(n.Root(), "state") }
func (n *node) home() string        { return filepath.Join(n.Root(), "home") }
func (n *node) log(s string) string { return filepath.Join(n.lab.dir, n.name+"."+s+".log") }

// revolve runs a command of the product on the stage.
func (l *lab) revolve(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandIn)
	defer cancel()
	cmd := l.stage.Command(ctx, append([]string{os.Getenv(envBin)}, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("revolve %s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	return out.String(), nil
}

// types is a person at the node.
func (n *node) types(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandIn)
	defer cancel()
	_, err := n.Run(ctx, append(append([]string{os.Getenv(envBin)}, args...), "--state", filepath.Join(n.lab.bed.Self(), "state"))...)
	return err
}

// boot starts what runs on a node that has power.
func (n *node) boot() (err error) {
	if n.watch, err = n.WatchAddresses(); err != nil {
		return err
	}
	done := make(chan struct{})
	n.joined = done
	watch := n.watch
	go func() { // joined by unwatch
		defer close(done)
		if err := watch.Run(context.Background(), func(c testbed.AddressChange) { n.lab.line.note(n.name, c) }); err != nil {
			fmt.Fprintln(os.Stderr, "soak: who has the address is not known:", err)
		}
	}()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if _, err = n.Start(testbed.Command{Argv: []string{exe, roleServe, n.name, filepath.Join(n.lab.bed.Self(), "home"), filepath.Join(n.lab.bed.Self(), "state")}, Log: n.log("serve")}); err != nil {
		return err
	}
	n.down = false
	return n.start()
}

func (n *node) start() (err error) {
	n.ended = time.Time{}
	n.agent, err = n.Start(testbed.Command{Argv: []string{os.Getenv(envBin), "agent", "--config", n.lab.config(), "--node", n.name, "--state", filepath.Join(n.lab.bed.Self(), "state")}, Log: n.log("agent")})
	return err
}

// stop ends the agent in order.
func (n *node) stop(ctx context.Context) error {
	if err := n.agent.Signal(unix.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endIn)
	defer cancel()
	if _, err := n.agent.Wait(ctx); err != nil {
		return fmt.Errorf("the agent of %s does not end: %w", n.name, err)
	}
	return nil
}

// off pulls the plug.
func (n *node) off() error {
	n.down = true
	n.unwatch()
	n.lab.line.lost(n.name)
	_, err := n.PowerOff()
	return err
}

func (n *node) unwatch() {
	if n.watch != nil {
		_ = n.watch.Close() // it was open
		<-n.joined
		n.watch = nil
	}
}

// end is one of an agent, that was seen while its node had power.
type end struct {
	node string
	at   time.Time
	how  string
}

// supervise starts an agent again that has ended, as systemd does.
func (l *lab) supervise(ctx context.Context) error {
	for _, n := range l.nodes {
		if n.down {
			continue
		}
		now, cancel := context.WithCancel(ctx)
		cancel()
		how, err := n.agent.Wait(now)
		switch {
		case err != nil: // it runs
		case n.ended.IsZero():
			n.ended = time.Now()
			l.ends = append(l.ends, end{n.name, n.ended, fmt.Sprintf("status %d", how)})
		case time.Since(n.ended) > restartIn:
			if err := n.start(); err != nil {
				return err
			}
		}
	}
	return nil
}

// pid is a process of the node, by a word of its command line; 0 if there is none.
func (n *node) pid(word string) int {
	pids, err := n.Processes()
	if err != nil {
		return 0
	}
	for _, pid := range pids {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(b, []byte("\x00"+word+"\x00")) {
			return pid
		}
	}
	return 0
}

func (n *node) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return control.Dial(n.state()).Status(ctx)
}

func (l *lab) node(name string) *node {
	i := slices.IndexFunc(l.nodes, func(n *node) bool { return n.name == name })
	if i < 0 {
		return nil
	}
	return l.nodes[i]
}

// master is who has the address, nil if nobody or several do.
func (l *lab) master() *node {
	if who := l.line.holders(); len(who) == 1 {
		return l.node(who[0])
	}
	return nil
}

// whole waits until one node leads and all others have everything.
func (l *lab) whole(ctx context.Context) error {
	return until(ctx, patience, func() error {
		if err := l.supervise(ctx); err != nil {
			return err
		}
		m := l.master()
		if m == nil {
			return fmt.Errorf("the address is on %v", l.line.holders())
		}
		s, err := m.status(ctx)
		if err != nil {
			return err
		}
		if s.Master != m.name || len(s.Volumes) != 1 {
			return fmt.Errorf("%s says that %s is master", m.name, s.Master)
		}
		for _, sb := range s.Volumes[0].Standbys {
			if sb.State != "in-sync" || sb.Owed > 0 || sb.Pending > 0 {
				return fmt.Errorf("%s is %s, %d owed, %d pending; %s", sb.Node, sb.State, sb.Owed, sb.Pending, strings.Join(s.Reasons, "; "))
			}
		}
		return nil
	})
}

func until(ctx context.Context, limit time.Duration, cond func() error) error {
	for late := time.Now().Add(limit); ; {
		err := cond()
		if err == nil {
			return nil
		}
		if time.Now().After(late) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (l *lab) close() error {
	for _, n := range l.nodes {
		n.unwatch()
	}
	return l.bed.Close()
}

// keepLogs copies the logs out of the stage.
func (l *lab) keepLogs(dir string) {
	if dir == "" {
		return
	}
	list, _ := filepath.Glob(filepath.Join(l.dir, "*"))
	_ = os.MkdirAll(dir, 0o755)
	for _, from := range list {
		if err := copyFile(from, filepath.Join(dir, filepath.Base(from))); err != nil {
			fmt.Fprintln(os.Stderr, "soak: keep log:", err)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// arrival is the address coming to a node that had not had it.
type arrival struct {
	node string
	at   time.Time
}

// line is who had the address when, by what the kernels said.
type line struct {
	mu       sync.Mutex
	holds    map[string]bool
	arrivals []arrival
}

func (l *line) note(node string, c testbed.AddressChange) {
	if c.Addr.String() != vip {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.Gone && !l.holds[node] {
		l.arrivals = append(l.arrivals, arrival{node, c.At})
	}
	l.holds[node] = !c.Gone
}

// lost is the end of a node without power.
func (l *line) lost(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds[node] = false
}

func (l *line) holders() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, on := range l.holds {
		if on {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func (l *line) all() []arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.arrivals)
}
