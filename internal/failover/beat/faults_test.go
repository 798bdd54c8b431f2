package beat

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

// The failures of a network and of a machine that a kernel can produce, with
// real packets; docs/failover.md says which test shows which. Frames are dropped
// at the bridges, so that no node knows of it.

// faults makes the bridges drop frames, and nothing else than these.
func (l *lab) faults(rules ...string) {
	l.t.Helper()
	text := "table bridge faults\ndelete table bridge faults\n"
	if len(rules) > 0 {
		text += "table bridge faults {\nchain f {\ntype filter hook forward priority 0\n" + strings.Join(rules, " counter drop\n") + " counter drop\n}\n}\n"
	}
	l.must(l.hub.run(func() error {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader(text)
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	}))
}

// dropped counts the frames that the rules took.
func (l *lab) dropped() (n int) {
	l.t.Helper()
	var list struct {
		NFTables []struct {
			Rule struct {
				Expr []struct {
					Counter struct{ Packets int }
				}
			}
		}
	}
	l.must(l.hub.run(func() error {
		out, err := exec.Command("nft", "-j", "list", "table", "bridge", "faults").Output()
		return errors.Join(err, json.Unmarshal(out, &list))
	}))
	for _, o := range list.NFTables {
		for _, e := range o.Rule.Expr {
			n += e.Counter.Packets
		}
	}
	return n
}

// from and to are what node i sends and gets on any link.
func from(i int) string { return fmt.Sprintf(`iifname "p%d-*"`, i) }
func to(i int) string   { return fmt.Sprintf(`oifname "p%d-*"`, i) }

const beats = "udp dport 7373" // the lab's port

// newFaultLab is three nodes with two links that have settled.
func newFaultLab(t *testing.T, profile string) *lab {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIPPED PART: faults of a real network (nft is not installed)")
	}
	l := newLab(t, 3, "lan", "side")
	l.cfg.Timers, _ = election.Profile(profile)
	for i := range 3 {
		l.start(i)
	}
	l.agreed()
	return l
}

// agreed waits until one node has the addresses, all follow it, and all hear all on every link.
func (l *lab) agreed() (m int) {
	l.t.Helper()
	l.within(15*time.Second, "all agree and hear each other", func() bool {
		m = slices.IndexFunc(l.cfg.Nodes, func(n Node) bool { return l.report(0).Master == n.ID })
		if m < 0 || !l.only(m) {
			return false
		}
		for i := range l.rooms {
			r := l.report(i)
			if r.Master != l.cfg.Nodes[m].ID || r.Class != cluster.InSync {
				return false
			}
			for _, p := range r.Peers {
				if p.State != PeerAlive || slices.ContainsFunc(p.Links, func(k LinkReport) bool { return !k.Heard || !k.HearsMe }) {
					return false
				}
			}
		}
		return true
	})
	return m
}

// hears is what node i says of its path from node j.
func (l *lab) hears(i, j, link int) bool {
	for _, p := range l.report(i).Peers {
		if p.Node == l.cfg.Nodes[j].ID {
			return p.Links[link].Heard
		}
	}
	return false
}

func (l *lab) state(i, j int) PeerState {
	for _, p := range l.report(i).Peers {
		if p.Node == l.cfg.Nodes[j].ID {
			return p.State
		}
	}
	return PeerUnknown
}

func (l *lab) notes(i int) int {
	l.mu[i].Lock()
	defer l.mu[i].Unlock()
	return len(l.said[i])
}

// saidSince reports whether node i said a line with the text since its first n lines.
func (l *lab) saidSince(i, n int, text string) bool {
	l.mu[i].Lock()
	defer l.mu[i].Unlock()
	return slices.ContainsFunc(l.said[i][n:], func(s string) bool { return strings.Contains(s, text) })
}

// stalled is longer than a machine that has time for this test leaves it waiting;
// the election's own patience is 200 ms.
const stalled = 100 * time.Millisecond

// attempts bounds how often a fault is tried again because the machine stalled.
const attempts = 5

// moves runs do while it watches who has the addresses. It says whether that
// changed, and whether the machine was too busy for the answer to count: a process
// that got no time for long is a reason for a failover, and not the fault's.
func (l *lab) moves(do func(m int)) (moved, busy bool) {
	l.t.Helper()
	m := l.agreed()
	reign := l.report(m).Reign
	lines := make([]int, len(l.rooms))
	for i := range lines {
		lines[i] = l.notes(i)
	}
	type seen struct {
		wrong int
		gap   time.Duration
	}
	stop, done := make(chan struct{}), make(chan seen, 1)
	go func() { // joined below
		var s seen
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-stop:
				done <- s
				return
			case <-time.After(5 * time.Millisecond):
			}
			if !l.only(m) {
				s.wrong++
			}
			s.gap = max(s.gap, time.Since(last))
		}
	}()
	do(m)
	close(stop)
	s := <-done
	l.agreed()
	for i := range lines {
		busy = busy || l.saidSince(i, lines[i], "own loop was late") || l.saidSince(i, lines[i], "no word of the agent")
	}
	moved = s.wrong > 0 || l.report(m).Reign != reign
	return moved, busy || s.gap > stalled
}

// TestFaultsThatMoveNothing: whatever of this happens, the addresses stay where they are.
func TestFaultsThatMoveNothing(t *testing.T) {
	l := newFaultLab(t, "default")
	for _, f := range []struct {
		what string
		do   func(m int)
	}{
		{"the second link brings nothing from the master", func(m int) {
			l.faults(fmt.Sprintf(`iifname "p%d-1"`, m))
			l.within(5*time.Second, "not heard there", func() bool { return !l.hears((m+1)%3, m, 1) && !l.hears((m+2)%3, m, 1) })
		}},
		{"the second link brings nothing to the master", func(m int) {
			l.faults(fmt.Sprintf(`oifname "p%d-1"`, m))
			l.within(5*time.Second, "it hears nobody there", func() bool { return !l.hears(m, (m+1)%3, 1) && !l.hears(m, (m+2)%3, 1) })
		}},
		{"the second link flaps", func(m int) {
			for range 4 {
				l.port(m, 1, false)
				l.within(5*time.Second, "down", func() bool { return !l.hears((m+1)%3, m, 1) })
				l.port(m, 1, true)
				l.within(10*time.Second, "up", func() bool { return l.hears((m+1)%3, m, 1) })
			}
		}},
		{"a third of everything is lost", func(int) {
			l.faults("numgen random mod 100 < 30")
			l.within(20*time.Second, "enough is lost", func() bool { return l.dropped() >= 200 })
		}},
		{"heartbeats are firewalled", func(m int) {
			l.faults(beats)
			l.within(5*time.Second, "blocked", func() bool { return l.report((m+1)%3).Blocked && l.report((m+2)%3).Blocked })
			dead := l.dropped() + 60
			l.within(10*time.Second, "and for a while more", func() bool { return l.dropped() >= dead })
		}},
		{"the master is deaf to heartbeats", func(m int) {
			l.faults(to(m) + " " + beats)
			l.within(5*time.Second, "it hears nobody", func() bool { return l.state(m, (m+1)%3) == PeerDead && l.state(m, (m+2)%3) == PeerDead })
			dead := l.dropped() + 60
			l.within(10*time.Second, "and for a while more", func() bool { return l.dropped() >= dead })
		}},
		{"a standby is starved", func(m int) {
			s := (m + 1) % 3
			said := l.notes(s)
			l.must(syscall.Kill(l.beats[s].Pid(), syscall.SIGSTOP))
			l.within(5*time.Second, "taken for dead", func() bool { return l.state(m, s) == PeerDead })
			l.must(syscall.Kill(l.beats[s].Pid(), syscall.SIGCONT))
			l.within(5*time.Second, "it hears the master again", func() bool { return l.state(m, s) == PeerAlive && l.hears(s, m, 0) })
			if l.saidSince(s, said, "claiming") {
				t.Error("a node that was late claims")
			}
		}},
	} {
		t.Run(f.what, func(t *testing.T) {
			l.t = t
			for n := 1; ; n++ {
				moved, busy := l.moves(func(m int) {
					f.do(m)
					l.faults()
				})
				if !moved {
					return
				}
				if !busy || n == attempts {
					t.Fatalf("the addresses moved (the machine was busy: %v)", busy)
				}
				t.Log("the machine stalled: once more")
			}
		})
	}
	l.t = t
}

// TestShortStall: a master that was away for longer than two heartbeats, and not
// for T_fence, stays, keeps its addresses and announces them anew: the switch may
// have learned something else meanwhile.
func TestShortStall(t *testing.T) {
	l := newFaultLab(t, "patient") // T_fence 1.2 s, suspect 0.6 s: a test can stop in between
	for n := 1; ; n++ {
		var again, fenced bool
		moved, busy := l.moves(func(m int) {
			said, pid := l.notes(m), l.beats[m].Pid()
			l.must(syscall.Kill(pid, syscall.SIGSTOP))
			l.within(10*time.Second, "suspected", func() bool { return l.state((m+1)%3, m) == PeerSuspect })
			l.must(syscall.Kill(pid, syscall.SIGCONT))
			l.within(5*time.Second, "it says so", func() bool { return l.saidSince(m, said, "own loop was late") })
			fenced = l.saidSince(m, said, "addresses deleted")
			again = !fenced
		})
		if again && !moved {
			return
		}
		if n == attempts {
			t.Fatalf("moved %v, fenced %v, busy %v", moved, fenced, busy)
		}
		t.Log("the machine stalled: once more")
	}
}

// TestMuteMaster: who is not heard by those whom it hears gives the addresses up
// by itself, and another one takes them. That it does so before it hears of the
// other one's claim takes a machine that is not late; some attempt shows it.
func TestMuteMaster(t *testing.T) {
	l := newFaultLab(t, "default")
	for n := 1; ; n++ {
		m := l.agreed()
		said := l.notes(m)
		l.faults(from(m))
		l.within(5*time.Second, "it gives way", func() bool { return l.held(m) == 0 && (l.only((m+1)%3) || l.only((m+2)%3)) })
		l.faults()
		if now := l.agreed(); now == m {
			t.Error("it leads again, although nobody preempts")
		}
		if l.saidSince(m, said, "none hears this node") {
			return
		}
		if n == attempts {
			t.Fatal("it never gave way by itself")
		}
	}
}

// TestTwoClaimsTogether: the master dies, and the two that are left hear nothing
// of each other but their cards. One of them gives way to the other's card; when
// they hear each other there is one.
func TestTwoClaimsTogether(t *testing.T) {
	l := newFaultLab(t, "default")
	m := l.agreed()
	x, y := (m+1)%3, (m+2)%3
	l.faults(from(x)+" "+to(y)+" "+beats, from(y)+" "+to(x)+" "+beats)
	l.within(5*time.Second, "they do not hear each other", func() bool { return l.state(x, y) == PeerDead && l.state(y, x) == PeerDead })
	l.port(m, 0, false)
	l.port(m, 1, false)
	l.within(10*time.Second, "one of them serves", func() bool { return l.only(x) || l.only(y) })
	l.faults()
	l.port(m, 0, true)
	l.port(m, 1, true)
	l.agreed()
}

// TestPausedMachine: a master that stands still as a whole, and that nobody can
// ask meanwhile, as a paused virtual machine. It comes back with the addresses
// still in its kernel, beside the one who has them now, and gives way.
func TestPausedMachine(t *testing.T) {
	l := newFaultLab(t, "default")
	m := l.agreed()
	term := l.report(m).Reign.Term
	pid := l.beats[m].Pid()
	l.bridged(m, false)
	l.must(syscall.Kill(pid, syscall.SIGSTOP))
	l.within(10*time.Second, "another one leads", func() bool {
		return l.held((m+1)%3) == len(testVIPs) || l.held((m+2)%3) == len(testVIPs)
	})
	t.Logf("the paused one comes back with %d addresses", l.held(m))
	l.bridged(m, true)
	l.must(syscall.Kill(pid, syscall.SIGCONT))
	if now := l.agreed(); now == m || l.report(m).Reign.Term <= term {
		t.Errorf("%s leads with %v after a pause in term %d", l.cfg.Nodes[now].ID, l.report(now).Reign, term)
	}
}

// TestRemovedAddresses: another program takes away what it does not know, again
// and again, as network managers do at a reload. It comes back, in the same reign.
func TestRemovedAddresses(t *testing.T) {
	l := newFaultLab(t, "default")
	for n := 1; ; n++ {
		m := l.agreed()
		reign, said := l.report(m).Reign, l.notes(m)
		for range 5 {
			l.must(l.off(m, func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				for _, v := range testVIPs {
					a, perr := netlink.ParseAddr(v.Prefix.String())
					err = errors.Join(err, perr, netlink.AddrDel(link, a))
				}
				return err
			}))
			l.within(5*time.Second, "both are back", func() bool { return l.held(m) == len(testVIPs) })
		}
		if l.agreed() == m && l.report(m).Reign == reign {
			return
		}
		if !l.saidSince(m, said, "own loop was late") && !l.saidSince(m, said, "no word of the agent") || n == attempts {
			t.Fatalf("the reign %v became %v", reign, l.report(m).Reign)
		}
	}
}

// client is a room on a bridge of the VIPs' link, and what it is told there.
func (l *lab) client(name, bridge, addr string) (served func() bool) {
	r := newRoom(l.t)
	l.must(l.hub.run(func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(r.fd)}
		err := netlink.LinkAdd(v)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName(bridge)
		return errors.Join(err, netlink.LinkSetMaster(v, br), netlink.LinkSetUp(v))
	}))
	l.must(r.run(func() error {
		e, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		return errors.Join(err, netlink.LinkSetUp(e), netlink.AddrAdd(e, a))
	}))
	return func() (ok bool) {
		l.must(r.run(func() error {
			c, err := net.Dial("udp4", testVIPs[0].Prefix.Addr().String()+":9")
			if err != nil {
				return err
			}
			defer c.Close()
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = c.Read(make([]byte, 1))
			ok = errors.Is(err, syscall.ECONNREFUSED) // nobody listens there, says the kernel that has the address
			return nil
		}))
		return ok
	}
}

// TestSplitServesBothSides: without an arbiter both halves of a network serve
// their clients (availability is chosen over exclusivity), and the heal ends one reign.
func TestSplitServesBothSides(t *testing.T) {
	l := newFaultLab(t, "default")
	l.must(l.hub.run(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "far"}}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
	}))
	m := l.agreed()
	near, far := l.client("near", "br0", "10.77.0.91/24"), l.client("away", "far", "10.77.0.92/24")
	l.within(5*time.Second, "the near client is served, the other one cannot be", func() bool { return near() && !far() })
	l.bridged(m, false)
	l.must(l.hub.run(func() error {
		p, err := netlink.LinkByName(fmt.Sprintf("p%d-0", m))
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("far")
		return errors.Join(err, netlink.LinkSetMaster(p, br))
	}))
	l.within(10*time.Second, "both are served", func() bool { return near() && far() })
	if l.held(m) == 0 || l.held((m+1)%3)+l.held((m+2)%3) != len(testVIPs) {
		t.Errorf("the addresses are %d, %d and %d", l.held(0), l.held(1), l.held(2))
	}
	l.bridged(m, true)
	l.agreed()
	l.within(5*time.Second, "the near client is served after the heal", near)
}

// TestDeadSwitch: the switches lose everybody, carriers stay. Whoever has the
// addresses keeps them; when they forward again, one of all remains.
func TestDeadSwitch(t *testing.T) {
	l := newFaultLab(t, "default")
	m := l.agreed()
	for i := range 3 {
		l.bridged(i, false)
	}
	l.within(10*time.Second, "nobody hears anybody", func() bool {
		for i := range 3 {
			if l.state(i, (i+1)%3) != PeerDead || l.state(i, (i+2)%3) != PeerDead {
				return false
			}
		}
		return true
	})
	if l.held(m) != len(testVIPs) {
		t.Errorf("%s let the addresses go", l.cfg.Nodes[m].ID)
	}
	for i := range 3 {
		l.bridged(i, true)
	}
	l.agreed()
}
