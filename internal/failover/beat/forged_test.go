package beat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

const (
	floodPackets = 30_000 // of each kind, to each of two nodes
	floodLines   = 4      // at most that a node may say about all of it
)

// flooder sends forged heartbeats as fast as it can from a node's own address.
type flooder struct {
	fd int
	to []unix.Sockaddr
}

// forger opens a socket on the address of node i, whose beat does not run. The
// goroutine's thread stays in the node's namespace and ends with it.
func (l *lab) forger(i int, addr netip.Addr, do func(f *flooder) error) {
	l.t.Helper()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			runtime.LockOSThread()
			if err := unix.Setns(l.rooms[i].fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			fd, err := bindUDP(addr, l.cfg.Port)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			f := &flooder{fd: fd}
			for _, n := range []int{0, 1} {
				f.to = append(f.to, sockaddr(l.cfg.Nodes[n].Links[0].Addr, l.cfg.Port))
			}
			return do(f)
		}()
	}()
	l.must(<-done)
}

// send sends what forge makes for each of the two nodes.
func (f *flooder) send(packets int, forge func(to, n int) []byte) error {
	for n := range packets {
		for k, to := range f.to {
			if err := unix.Sendto(f.fd, forge(k, n), 0, to); err != nil && err != unix.ENOBUFS && err != unix.EAGAIN && err != unix.ECONNREFUSED {
				return err
			}
		}
	}
	return nil
}

// record takes what the running node i sends to nodes 0 and 1 on link 0, until there is enough.
func (l *lab) record(i, packets int) (list [2][][]byte) {
	l.t.Helper()
	l.must(l.off(i, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL in network order: outgoing packets, too (packet(7))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}); err != nil {
			return err
		}
		buf := make([]byte, 2048)
		for len(list[0]) < packets || len(list[1]) < packets {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return err
			}
			b := buf[:n]
			if n < 28 || b[9] != unix.IPPROTO_UDP || netip.AddrFrom4([4]byte(b[12:16])) != l.cfg.Nodes[i].Links[0].Addr {
				continue
			}
			for k := range list {
				if netip.AddrFrom4([4]byte(b[16:20])) == l.cfg.Nodes[k].Links[0].Addr {
					list[k] = append(list[k], append([]byte(nil), b[28:]...))
				}
			}
		}
		return nil
	}))
	return list
}

// off runs do on a thread of its own in the namespace of node i.
func (l *lab) off(i int, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(l.rooms[i].fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- do()
	}()
	return <-done
}

// cpu is the processor time of a process in ticks of 10 ms (proc(5), stat).
func cpu(t *testing.T, pid int) (ticks int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var user, system int
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}

// forgeries are packets as they come from a member's address without being its.
func (l *lab) forgeries(recorded [2][][]byte) map[string]func(to, n int) []byte {
	ids, links := []cluster.NodeID{"a", "b", "c"}, []cluster.LinkID{"lan", "side"}
	beacon := election.Beacon{From: 2, Role: cluster.Master, Class: cluster.InSync, Quality: 3, Reign: election.Reign{Term: 99, Owner: 2}, SeenTerm: 99}
	macs, buf := [election.MaxLinks]vip.MAC{}, make([]byte, maxPacket)
	sealer := func(c *codec) func(to, n int) []byte {
		return func(to, n int) []byte {
			return c.seal(buf, head{to: uint8(to), nonce: 5, echo: 6, echo2: 7, seq: uint64(n)}, &beacon, &macs)
		}
	}
	c := newCodec(newNames(l.cfg.Cluster, 2, ids, links), l.cfg.Key)
	wrong := l.cfg.Key
	wrong[31] ^= 1
	rnd, junk := rand.New(rand.NewPCG(1, 2)), make([]byte, maxPacket+100)
	return map[string]func(to, n int) []byte{
		"wrong key":       sealer(newCodec(newNames(l.cfg.Cluster, 2, ids, links), wrong)),
		"another cluster": sealer(newCodec(newNames("other", 2, ids, links), l.cfg.Key)),
		"unknown node":    sealer(newCodec(newNames(l.cfg.Cluster, 2, []cluster.NodeID{"a", "b", "x"}, links), l.cfg.Key)),
		"own, unproven":   sealer(c),
		"replayed":        func(to, n int) []byte { return recorded[to][n%len(recorded[to])] },
		"another receiver": func(to, n int) []byte {
			return c.seal(buf, head{to: uint8(1 - to), nonce: 5, seq: uint64(n)}, &beacon, &macs)
		},
		"garbage": func(to, n int) []byte {
			for i := range 8 {
				junk[rnd.IntN(len(junk))] = byte(n >> i)
			}
			return junk[:rnd.IntN(len(junk))]
		},
		"garbage behind a true beginning": func(to, n int) []byte {
			b := sealer(c)(to, n)
			b[4+rnd.IntN(4)]++
			return b
		},
	}
}

// stranger forges from an address of the link that no member has.
func (l *lab) stranger(do func(f *flooder) error) {
	l.t.Helper()
	l.must(l.off(2, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("10.77.0.66/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, addr)
	}))
	before := l.report(0).Counters
	l.forger(2, netip.MustParseAddr("10.77.0.66"), do)
	l.within(5*time.Second, "the stranger's packets are counted", func() bool {
		now := l.report(0).Counters
		return now.Unread-before.Unread+now.Unechoed-before.Unechoed >= floodPackets
	})
	if now := l.report(0).Counters; now.Unechoed-before.Unechoed > 2*floodPackets/(strangerMask+1) {
		l.t.Errorf("%d of a stranger's %d packets were read", now.Unechoed-before.Unechoed, floodPackets)
	}
}

// TestLyingMember: a member with the true key that claims terms which cannot be
// true is as good as silent: nobody follows, nobody runs out of terms.
func TestLyingMember(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	for _, lie := range []cluster.Term{1 << 63, 1<<64 - 2, election.MaxJump + 1000} {
		t.Run(fmt.Sprint(lie), func(t *testing.T) {
			l := newLab(t, 3, "lan", "side")
			l.start(0)
			l.start(1)
			l.within(5*time.Second, "first master", func() bool { return l.only(0) && l.report(1).Master == "a" })
			l.cfg.Boot = Boot{SeenTerm: lie}
			l.start(2)
			l.within(5*time.Second, "the liar is counted", func() bool {
				return l.report(0).Counters.Incredible > 20 && l.report(1).Counters.Incredible > 20
			})
			if !l.only(0) || l.report(1).Master != "a" {
				t.Errorf("the VIPs are %d and %d on a and b, whose master is %q", l.held(0), l.held(1), l.report(1).Master)
			}
			l.stop[0]()
			l.gone(0)
			l.within(5*time.Second, "the honest one takes over", func() bool { return l.held(1) == len(testVIPs) })
			if r := l.report(1); r.Reign.Term > 100 || r.SeenTerm > 100 {
				t.Errorf("b reigns with %v and has seen %d", r.Reign, r.SeenTerm)
			}
		})
	}
}

// TestForgedHeartbeats: heartbeats that are forged, repeated or nonsense, as fast
// as this machine can send them, cost nobody its role, and are told in a few lines.
func TestForgedHeartbeats(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	l := newLab(t, 3, "lan", "side")
	for i := range 3 {
		l.start(i)
	}
	l.within(5*time.Second, "first master", func() bool { return l.only(0) })
	l.within(2*time.Second, "all hear each other", func() bool { return l.report(1).Master == "a" && l.report(2).Master == "a" })
	recorded := l.record(2, 20)
	l.stop[2]()
	l.gone(2)
	reign := l.report(0).Reign
	said := [2]int{len(l.said[0]), len(l.said[1])}
	for what, forge := range l.forgeries(recorded) {
		began, spent := time.Now(), [2]int{cpu(t, l.beats[0].Pid()), cpu(t, l.beats[1].Pid())}
		l.forger(2, l.cfg.Nodes[2].Links[0].Addr, func(f *flooder) error { return f.send(floodPackets, forge) })
		t.Logf("%s: %d packets in %v, processor time %d0 ms and %d0 ms", what, 2*floodPackets, time.Since(began).Round(time.Millisecond),
			cpu(t, l.beats[0].Pid())-spent[0], cpu(t, l.beats[1].Pid())-spent[1])
	}
	l.stranger(func(f *flooder) error { return f.send(floodPackets, l.forgeries(recorded)["own, unproven"]) })
	for i := range 2 {
		r := l.report(i)
		t.Logf("%s: %+v", l.cfg.Nodes[i].ID, r.Counters)
		c := r.Counters
		for what, n := range map[string]uint64{"malformed": c.Malformed, "wrong key": c.BadMAC, "foreign": c.Foreign, "unknown": c.Unknown, "replayed": c.Replayed, "unproven": c.Unechoed, "dropped": c.Unread} {
			if n == 0 {
				t.Errorf("%s counted no %s", l.cfg.Nodes[i].ID, what)
			}
		}
		if n := len(l.said[i]) - said[i]; n > floodLines {
			t.Errorf("%s said %d lines: %q", l.cfg.Nodes[i].ID, n, l.said[i][said[i]:])
		}
		if r.Reign != reign {
			t.Errorf("%s follows %v after %v", l.cfg.Nodes[i].ID, r.Reign, reign)
		}
	}
	if !l.only(0) {
		t.Errorf("the VIPs are %d and %d on a and b", l.held(0), l.held(1))
	}
}
