package beat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

// The real part: beat processes in network namespaces of the test's own, joined
// by a bridge per link. Every namespace belongs to a locked thread of this
// process; nothing has a name, so nothing stays behind.

const (
	childArg  = "REVOLVE_TEST_BEAT_CHILD"
	insideArg = "REVOLVE_TEST_BEAT_INSIDE"
)

func TestMain(m *testing.M) {
	if os.Getenv(witnessArg) != "" {
		os.Exit(witnessMain())
	}
	what, beat := os.Getenv(hogArg), os.Getenv(childArg) != ""
	if what == "" && !beat {
		os.Exit(m.Run())
	}
	err := joinGroups()
	if err == nil && what != "" {
		err = hog(what)
	} else if err == nil {
		err = Main(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// room is a network namespace with a thread inside.
type room struct {
	do   chan func()
	fd   int
	wait sync.WaitGroup
}

func newRoom(t *testing.T) *room {
	r := &room{do: make(chan func())}
	ready := make(chan error)
	r.wait.Add(1)
	go func() {
		defer r.wait.Done()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			r.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		if err != nil {
			return
		}
		for do := range r.do {
			do()
		}
	}()
	if err := <-ready; err != nil {
		t.Skipf("SKIPPED PART: real beat processes in network namespaces: %v (needs root or a user namespace)", err)
	}
	t.Cleanup(func() { close(r.do); r.wait.Wait(); unix.Close(r.fd) })
	return r
}

func (r *room) run(do func() error) error {
	done := make(chan error, 1)
	r.do <- func() { done <- do() }
	return <-done
}

// lab is a cluster: one room for the bridges, one per node.
type lab struct {
	t     *testing.T
	hub   *room
	rooms []*room
	beats []*Beat
	stop  []context.CancelFunc
	ends  []chan error
	mu    []sync.Mutex
	last  []Report
	hush  []bool // the agent says no words
	words []Word
	said  [][]string // notes
	turns [][]Turn
	cfg   Config
}

var testVIPs = []VIP{{netip.MustParsePrefix("10.77.0.200/24"), "lan"}, {netip.MustParsePrefix("fd77::200/64"), "lan"}}

func newLab(t *testing.T, nodes int, links ...cluster.LinkID) *lab {
	l := &lab{t: t, hub: newRoom(t)}
	timers, _ := election.Profile("default")
	l.cfg = Config{Cluster: "test", Port: 7373, Timers: timers, VIPs: testVIPs, Boot: Boot{Virgin: true}}
	l.cfg.Key[0] = 1
	for i := range nodes {
		n := Node{ID: cluster.NodeID(rune('a' + i)), Candidate: true, Priority: 100 - i}
		for k, id := range links {
			n.Links = append(n.Links, Link{id, netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", 77+k, 11+i))})
		}
		l.cfg.Nodes = append(l.cfg.Nodes, n)
		l.rooms = append(l.rooms, newRoom(t))
	}
	l.must(l.hub.run(func() error {
		for k := range links {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("br%d", k)}}
			if err := errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br)); err != nil {
				return err
			}
		}
		return nil
	}))
	for i := range nodes {
		for k := range links {
			l.cable(i, k)
		}
	}
	l.beats, l.stop, l.ends = make([]*Beat, nodes), make([]context.CancelFunc, nodes), make([]chan error, nodes)
	l.mu, l.last, l.hush, l.words = make([]sync.Mutex, nodes), make([]Report, nodes), make([]bool, nodes), make([]Word, nodes)
	l.said, l.turns = make([][]string, nodes), make([][]Turn, nodes)
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) cable(i, k int) { l.indexed(i, k, 0) }

// indexed is a cable whose port at the bridge has this index, 0 for any.
func (l *lab) indexed(i, k, index int) {
	port := fmt.Sprintf("p%d-%d", i, k)
	l.must(l.hub.run(func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, Index: index}, PeerName: fmt.Sprintf("eth%d", k), PeerNamespace: netlink.NsFd(l.rooms[i].fd)}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		p, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName(fmt.Sprintf("br%d", k))
		return errors.Join(err, netlink.LinkSetMaster(p, br), netlink.LinkSetUp(p))
	}))
	l.must(l.rooms[i].run(func() error {
		e, err := netlink.LinkByName(fmt.Sprintf("eth%d", k))
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(l.cfg.Nodes[i].Links[k].Addr.String() + "/24")
		return errors.Join(err, netlink.LinkSetUp(e), netlink.AddrAdd(e, addr))
	}))
}

// port sets one end of a node's cable, at the bridge: down means that the node loses carrier.
func (l *lab) port(i, k int, up bool) {
	l.must(l.hub.run(func() error {
		p, err := netlink.LinkByName(fmt.Sprintf("p%d-%d", i, k))
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(p)
		}
		return netlink.LinkSetDown(p)
	}))
}

// bridged takes a node's ports out of the bridges: its carrier stays, nobody hears it.
func (l *lab) bridged(i int, in bool) {
	l.must(l.hub.run(func() error {
		for k := range l.cfg.Nodes[i].Links {
			p, err := netlink.LinkByName(fmt.Sprintf("p%d-%d", i, k))
			if err != nil {
				return err
			}
			br, err := netlink.LinkByName(fmt.Sprintf("br%d", k))
			if err != nil {
				return err
			}
			if in {
				err = netlink.LinkSetMaster(p, br)
			} else {
				err = netlink.LinkSetNoMaster(p)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// start runs node i with an agent that says a word every 50 ms.
func (l *lab) start(i int) { l.startAs(i, l.cfg) }

// startAs starts node i with a configuration of its own.
func (l *lab) startAs(i int, cfg Config) {
	cfg.Self = l.cfg.Nodes[i].ID
	ctx, cancel := context.WithCancel(context.Background())
	l.must(l.rooms[i].run(func() (err error) {
		os.Setenv(childArg, "1")
		defer os.Unsetenv(childArg)
		l.beats[i], err = Start(ctx, []string{"/proc/self/exe"}, cfg, slog.New(slog.DiscardHandler))
		return err
	}))
	l.mu[i].Lock()
	l.hush[i], l.last[i], l.words[i] = false, Report{}, Word{Class: cluster.InSync, Reserved: 16}
	l.mu[i].Unlock()
	l.ends[i] = make(chan error, 1)
	l.stop[i] = cancel
	b, end := l.beats[i], l.ends[i]
	go func() { l.rooms[i].do <- func() { end <- b.Run(ctx) } }() // Run scrubs in the thread's namespace
	go l.agent(ctx, i, b)
	l.t.Cleanup(func() { cancel(); l.gone(i) })
}

func (l *lab) agent(ctx context.Context, i int, b *Beat) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case r, ok := <-b.Reports():
			if !ok {
				return
			}
			for _, n := range r.Notes {
				l.t.Logf("%s %s: %s", time.Now().Format("05.000"), l.cfg.Nodes[i].ID, n)
			}
			l.mu[i].Lock()
			l.last[i] = r
			l.said[i] = append(l.said[i], r.Notes...)
			l.turns[i] = append(l.turns[i], r.Turns...)
			l.words[i].Reserved = max(l.words[i].Reserved, r.NeedTerms)
			if r.Handover.ID != 0 {
				l.words[i].Flushed = r.Handover.ID
			}
			l.mu[i].Unlock()
		case <-tick.C:
		}
		l.mu[i].Lock()
		w, hush := l.words[i], l.hush[i]
		l.mu[i].Unlock()
		if !hush {
			b.Tell(w)
		}
	}
}

func (l *lab) gone(i int) {
	if l.ends[i] == nil {
		return
	}
	_ = syscall.Kill(l.beats[i].Pid(), syscall.SIGCONT)
	select {
	case err := <-l.ends[i]:
		l.t.Logf("%s ended: %v", l.cfg.Nodes[i].ID, err)
	case <-time.After(5 * time.Second):
		l.t.Errorf("beat of %s does not end", l.cfg.Nodes[i].ID)
	}
	l.ends[i] = nil
}

func (l *lab) report(i int) Report {
	l.mu[i].Lock()
	defer l.mu[i].Unlock()
	return l.last[i]
}

// held lists the VIPs that the kernel of node i has. It asks from a socket in the
// node's namespace, because the node's thread is busy with Run.
func (l *lab) held(i int) (n int) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends here; it must not come back with a foreign namespace
		if err := unix.Setns(l.rooms[i].fd, unix.CLONE_NEWNET); err != nil {
			l.t.Error(err)
			return
		}
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			l.t.Error(err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			for _, v := range testVIPs {
				if err == nil && p.Addr() == v.Prefix.Addr() {
					n++
				}
			}
		}
	}()
	<-done
	return n
}

// within polls until ok, and returns how long that took.
func (l *lab) within(limit time.Duration, what string, ok func() bool) time.Duration {
	l.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			for i := range l.last {
				r := l.report(i)
				l.t.Logf("%s: %v %v holds %d, %+v", l.cfg.Nodes[i].ID, r.Role, r.Reign, l.held(i), r)
			}
			l.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	d := time.Since(start)
	l.t.Logf("%s: after %v", what, d.Round(time.Millisecond))
	return d
}

// only reports whether node i holds every VIP and no other one holds any.
func (l *lab) only(i int) bool {
	for j := range l.rooms {
		if want := map[bool]int{true: len(testVIPs)}[i == j]; l.held(j) != want {
			return false
		}
	}
	return l.report(i).Role == cluster.Master
}

// TestRealCluster is the life of three nodes with two links, as root where the
// test is, and as mapped root of a user namespace.
func TestRealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	if os.Getenv(insideArg) != "" {
		realCluster(t)
		return
	}
	t.Run("root", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("SKIPPED PART: real beat processes with real-time priority (needs root)")
		}
		realCluster(t)
	})
	t.Run("user namespace", func(t *testing.T) {
		c := exec.Command("/proc/self/exe", "-test.run=^TestRealCluster$", "-test.v")
		c.Env = append(os.Environ(), insideArg+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		out, err := c.CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Skipf("SKIPPED PART: real beat processes as mapped root: no user namespace: %v", err)
		}
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
	})
}

func realCluster(t *testing.T) {
	l := newLab(t, 3, "lan", "side")
	for i := range 3 {
		l.start(i)
	}
	l.within(5*time.Second, "first master", func() bool { return l.only(0) })
	r := l.report(0)
	t.Logf("real time %v, refused %v", r.RealTime, r.Refused)
	l.within(2*time.Second, "everybody knows it", func() bool {
		return l.report(1).Master == "a" && l.report(2).Master == "a" && l.report(1).Peers[0].State == PeerAlive
	})

	t.Log("--- planned switch a -> b")
	l.mu[0].Lock()
	l.words[0].Switch = SwitchOrder{1, "b"}
	l.mu[0].Unlock()
	l.within(2*time.Second, "switched", func() bool { return l.only(1) })
	l.within(time.Second, "result", func() bool { return l.report(0).SwitchResult == SwitchResult{1, ""} })

	t.Log("--- carrier of b's VIP link lost")
	l.port(1, 0, false)
	l.within(time.Second, "moved", func() bool { return l.only(0) || l.only(2) })
	l.port(1, 0, true)
	l.within(2*time.Second, "b is back", func() bool {
		r := l.report(1)
		return r.Class == cluster.InSync && r.Master == "a"
	})

	t.Log("--- frozen beat of a")
	a := l.beats[0]
	l.must(syscall.Kill(a.Pid(), syscall.SIGSTOP))
	l.within(1300*time.Millisecond+pollSlack, "VIPs of the frozen node gone by lifetime", func() bool { return l.held(0) == 0 })
	l.within(time.Second, "taken over", func() bool { return l.only(1) || l.only(2) })
	l.must(syscall.Kill(a.Pid(), syscall.SIGCONT))
	l.within(2*time.Second, "a follows", func() bool { r := l.report(0); return r.Role == cluster.Standby && r.Master != "" && r.Master != "a" })

	m := 1
	if l.only(2) {
		m = 2
	}
	t.Log("--- power cut of the master's links")
	l.port(m, 0, false)
	l.port(m, 1, false)
	l.within(time.Second, "taken over", func() bool { return l.only(0) || l.only(3-m) })
	l.port(m, 0, true)
	l.port(m, 1, true)

	n := 0
	if !l.only(0) {
		n = 3 - m
	}
	t.Log("--- silent agent")
	l.mu[n].Lock()
	l.hush[n] = true
	l.mu[n].Unlock()
	l.within(2*time.Second, "VIPs released", func() bool { return l.held(n) == 0 })
	l.mu[n].Lock()
	l.hush[n] = false
	l.mu[n].Unlock()
	var now int
	l.within(2*time.Second, "one master", func() bool {
		for i := range 3 {
			if l.only(i) {
				now = i
				return i != n
			}
		}
		return false
	})
	t.Log("--- the master is cut off, with carrier: both serve, and at the heal one stays")
	l.bridged(now, false)
	l.within(time.Second, "taken over by the others", func() bool {
		for i := range 3 {
			if i != now && l.held(i) == len(testVIPs) && l.report(i).Role == cluster.Master {
				return true
			}
		}
		return false
	})
	l.bridged(now, true)
	l.within(2*time.Second, "one master after the heal", func() bool { return l.only(0) || l.only(1) || l.only(2) })
	for i := range 3 {
		if l.only(i) {
			now = i
		}
	}
	t.Log("--- agent's end closed")
	l.beats[now].conn.Close()
	l.within(time.Second, "VIPs gone", func() bool { return l.held(now) == 0 })
	if err := <-l.ends[now]; err == nil {
		t.Error("Run says nothing about the end of its process")
	}
	l.ends[now] = nil
	l.within(2*time.Second, "one master of two", func() bool { return l.only((now+1)%3) || l.only((now+2)%3) })
	t.Log("--- beat process killed: the agent's side removes its VIPs")
	for i := range 3 {
		if l.only(i) {
			l.must(l.beats[i].cmd.Process.Kill())
			err := <-l.ends[i]
			l.ends[i] = nil
			if err == nil || l.held(i) != 0 {
				t.Errorf("after the kill: %v, %d VIPs", err, l.held(i))
			}
			break
		}
	}
	for i := range 3 {
		r := l.report(i)
		t.Logf("%s: lateness max %v p99 %v, %+v", l.cfg.Nodes[i].ID, r.LateMax, r.LateP99, r.Counters)
	}
}

const pollSlack = 100 * time.Millisecond // the test itself may be late on a busy machine
