package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"revolve/internal/config"
)

func conn(vip, client string) Conn {
	return Conn{netip.MustParseAddrPort(vip), netip.MustParseAddrPort(client)}
}

func testVIPs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.77.0.200"), netip.MustParseAddr("fd77::200")}
}

func TestListTravels(t *testing.T) {
	list := []Conn{conn("10.77.0.200:80", "10.77.0.5:4711"), conn("[fd77::200]:445", "[fd77::5]:4712")}
	term, got, err := Parse(Append(nil, 7, list), testVIPs())
	if err != nil || term != 7 || !slices.Equal(got, list) {
		t.Errorf("%d %v %v", term, got, err)
	}
	many := make([]Conn, Max+1)
	for i := range many {
		many[i] = conn("10.77.0.200:80", fmt.Sprintf("10.77.0.5:%d", i+1))
	}
	if _, got, err := Parse(Append(nil, 7, many), testVIPs()); err != nil || len(got) != Max {
		t.Errorf("%d of %d: %v", len(got), len(many), err)
	}
}

// What a lying master tells makes nobody send a packet to an address that is no
// client's, or in the name of one that is no VIP.
func TestParseRefuses(t *testing.T) {
	good := Append(nil, 7, []Conn{conn("10.77.0.200:80", "10.77.0.5:4711")})
	for name, list := range map[string][]Conn{
		"no VIP":           {conn("10.77.0.11:80", "10.77.0.5:4711")},
		"broadcast":        {conn("10.77.0.200:80", "255.255.255.255:4711")},
		"multicast":        {conn("10.77.0.200:80", "224.0.0.1:4711")},
		"loopback":         {conn("10.77.0.200:80", "127.0.0.1:4711")},
		"itself":           {conn("10.77.0.200:80", "10.77.0.200:4711")},
		"unspecified":      {conn("[fd77::200]:80", "[::]:4711")},
		"link-local":       {conn("[fd77::200]:80", "[fe80::1]:4711")},
		"mapped":           {conn("[fd77::200]:80", "[::ffff:10.0.0.1]:4711")},
		"no port":          {conn("10.77.0.200:0", "10.77.0.5:4711")},
		"no client's port": {conn("10.77.0.200:80", "10.77.0.5:0")},
	} {
		if _, got, err := Parse(Append(nil, 7, list), testVIPs()); err == nil {
			t.Errorf("%s: accepted %v", name, got)
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "short": good[:len(good)-1], "long": append(slices.Clone(good), 0), "kind": append(slices.Clone(good[:10]), 5, 0)} {
		if _, got, err := Parse(b, testVIPs()); err == nil {
			t.Errorf("%s: accepted %v", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Append(nil, 7, []Conn{conn("10.77.0.200:80", "10.77.0.5:4711"), conn("[fd77::200]:445", "[fd77::5]:4712")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, list, err := Parse(b, testVIPs())
		if err == nil && len(list) > Max {
			t.Errorf("%d connections", len(list))
		}
		for _, c := range list {
			if !askable(c) || !slices.Contains(testVIPs(), c.VIP.Addr()) {
				t.Errorf("accepted %v", c)
			}
		}
	})
}

// A packet's own checksum makes the sum over it and the pseudo header 0 (RFC 1071).
func TestPacketSums(t *testing.T) {
	for _, c := range []Conn{conn("10.77.0.200:80", "10.77.0.5:4711"), conn("[fd77::200]:445", "[fd77::5]:4712")} {
		for round := range 4 {
			p := Packet(c, round)
			if tcp := p[len(p)-tcpHeader:]; checksum(c.VIP.Addr(), c.Client.Addr(), tcp) != 0 {
				t.Errorf("%v, round %d: the sum is wrong", c, round)
			}
		}
	}
}

// The kernels' side: two network namespaces of the test's own on one cable, in a
// user namespace where the test is not root.

const inside = "REVOLVE_TEST_CLIENTS_INSIDE"

func TestKernels(t *testing.T) {
	if os.Getenv(inside) != "" {
		kernels(t)
		return
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestKernels$", "-test.v")
	c.Env = append(os.Environ(), inside+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := c.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Skipf("SKIPPED PART: clients' connections in the kernel: no user namespace: %v", err)
	}
	if err != nil || strings.Contains(string(out), "SKIPPED") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// room is a network namespace with a thread inside.
type room struct {
	do chan func()
	ns netns.NsHandle
}

func newRoom(t *testing.T) *room {
	r := &room{do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			r.ns, err = netns.Get()
		}
		ready <- err
		for do := range r.do {
			do()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(r.do) })
	return r
}

func (r *room) run(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	r.do <- func() { done <- do() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// up gives the interface of this namespace its addresses.
func up(name string, addrs ...string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	err = errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(link))
	for _, a := range addrs {
		p, _ := netlink.ParseAddr(a)
		if p.IP.To4() == nil {
			p.Flags = unix.IFA_F_NODAD
		}
		err = errors.Join(err, netlink.AddrAdd(link, p))
	}
	return err
}

func kernels(t *testing.T) {
	server, client := newRoom(t), newRoom(t)
	server.run(t, CanEnd)
	server.run(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(client.ns)})
	})
	server.run(t, func() error {
		return up("eth0", "10.77.0.11/24", "10.77.0.200/24", "fd77::11/64", "fd77::200/64")
	})
	client.run(t, func() error { return up("eth0", "10.77.0.5/24", "fd77::5/64") })
	for _, listen := range []string{"10.77.0.200:80", "[fd77::200]:80", "[::]:81"} {
		t.Run(listen, func(t *testing.T) { connection(t, server, client, listen) })
		t.Run("end at "+listen, func(t *testing.T) { ending(t, server, client, listen) })
	}
	t.Run("end in rounds", func(t *testing.T) { inRounds(t, server, client) })
}

// connection: a client waits for a server's answer; the server's connection vanishes
// without a word, as with its machine; the packet makes the client's read end at once.
func connection(t *testing.T, server, client *room, listen string) {
	var l net.Listener
	var c, s net.Conn
	tapIn, tapOut := taps(t, server)
	server.run(t, func() (err error) { l, err = net.Listen("tcp", listen); return err })
	to := strings.Replace(listen, "[::]", "10.77.0.200", 1)
	client.run(t, func() (err error) { c, err = net.Dial("tcp", to); return err })
	defer c.Close()
	server.run(t, func() (err error) { s, err = l.Accept(); return errors.Join(err, l.Close()) })
	for name, tap := range map[string]*Tap{"in": tapIn, "out": tapOut} {
		if at, ok := tap.Wait(t.Context()); !ok || time.Since(at).Abs() > time.Minute {
			t.Errorf("the tap %s saw nothing of a client's connection (%v)", name, at)
		}
	}
	want := Conn{netip.MustParseAddrPort(to), c.LocalAddr().(*net.TCPAddr).AddrPort()}
	var list []Conn
	server.run(t, func() (err error) { list, _, err = List(testVIPs()); return err })
	if !slices.Equal(list, []Conn{want}) {
		t.Fatalf("the kernel lists %v, want %v", list, want)
	}
	vanish(t, s)
	server.run(t, func() (err error) { list, _, err = List(testVIPs()); return err })
	if len(list) > 0 {
		t.Fatalf("still there: %v", list)
	}
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	select {
	case err := <-read:
		t.Fatalf("the client knows before it is told: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	server.run(t, func() error {
		tell, err := NewTeller()
		if err != nil {
			return err
		}
		defer tell.Close()
		return tell.Tell(want, 0)
	})
	select {
	case err := <-read:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the client still waits")
	}
	moment, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, ok := tapOut.Wait(moment); ok {
		t.Error("the packet itself, or the reset, counts as the first answer")
	}
}

func taps(t *testing.T, server *room) (in, out *Tap) {
	server.run(t, func() (err error) {
		in, err = OpenTap(testVIPs(), false)
		if err == nil {
			out, err = OpenTap(testVIPs(), true)
		}
		return err
	})
	t.Cleanup(func() { in.Close(); out.Close() })
	return in, out
}

// vanish ends a connection without a packet: repair mode (TCP_REPAIR) is what checkpoints use.
func vanish(t *testing.T, s net.Conn) {
	raw, err := s.(*net.TCPConn).SyscallConn()
	if err == nil {
		var refused error
		err = raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
		err = errors.Join(err, refused)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// The filter of as many VIPs as a configuration may have is not longer than the kernel allows.
func TestFilterLoads(t *testing.T) {
	many := testVIPs()
	for i := range config.MaxVIPs {
		many = append(many, netip.MustParseAddr(fmt.Sprintf("fd77::%x", 0x300+i)))
	}
	for _, answers := range []bool{true, false} {
		if n := passing(many, answers).Len; n > 4096 { // BPF_MAXINSNS
			t.Errorf("%d instructions", n)
		}
	}
}
