package silence

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// room is a network namespace with a thread inside.
type room struct {
	do chan func()
	fd int
}

func newRoom(t *testing.T) *room {
	t.Helper()
	r := &room{do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			r.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for do := range r.do {
			do()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(r.do); unix.Close(r.fd) })
	return r
}

func (r *room) run(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error)
	r.do <- func() { done <- do() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// up gives the interface addresses that are there at once.
func up(name string, addrs ...string) (index int, err error) {
	e, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	err = netlink.LinkSetUp(e)
	for _, a := range addrs {
		var parsed *netlink.Addr
		if parsed, err = netlink.ParseAddr(a); err == nil {
			parsed.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(e, parsed)
		}
		if err != nil {
			break
		}
	}
	return e.Attrs().Index, err
}

const (
	vip4, vip6 = "10.9.0.200", "fd09::200"
	own4, own6 = "10.9.0.1", "fd09::1"
)

// scene is a guarded card and somebody who asks for its addresses.
type scene struct {
	t         *testing.T
	near, far *room
	index     int
}

func newScene(t *testing.T) *scene {
	if testing.Short() {
		t.Skip("SKIPPED PART: programs in the kernel (-short)")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: programs in the kernel need root")
	}
	if s, err := New(); errors.Is(err, unix.EPERM) {
		t.Skip("SKIPPED PART: programs in the kernel: this root may not load any:", err)
	} else {
		s.Close()
	}
	c := &scene{t: t, near: newRoom(t), far: newRoom(t)}
	c.near.run(t, func() (err error) {
		err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "n1", PeerNamespace: netlink.NsFd(c.far.fd)})
		if err == nil {
			c.index, err = up("n0", own4+"/24", own6+"/64", vip4+"/24", vip6+"/64")
		}
		return err
	})
	c.far.run(t, func() error {
		_, err := up("n1", "10.9.0.2/24", "fd09::2/64")
		return err
	})
	return c
}

// answers tells whether the near kernel answers far at an address, as one does where nobody listens. The far
// kernel forgets first which card has it: the question goes to all.
func (c *scene) answers(addr string, forgotten bool) (yes bool) {
	c.t.Helper()
	c.far.run(c.t, func() error {
		if forgotten {
			if err := forget("n1"); err != nil {
				return err
			}
		}
		d := net.Dialer{Timeout: 400 * time.Millisecond}
		conn, err := d.Dial("tcp", net.JoinHostPort(addr, "9"))
		if err == nil {
			return errors.Join(conn.Close(), errors.New("somebody listens"))
		}
		yes = errors.Is(err, syscall.ECONNREFUSED)
		return nil
	})
	return yes
}

func forget(name string) error {
	e, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	list, err := netlink.NeighList(e.Attrs().Index, netlink.FAMILY_ALL)
	for _, n := range list {
		if n.State&(netlink.NUD_NOARP|netlink.NUD_PERMANENT) == 0 {
			err = errors.Join(err, netlink.NeighDel(&n))
		}
	}
	return err
}

// reaches tells whether what leaves from an address gets to far.
func (c *scene) reaches(from, to string) (yes bool) {
	c.t.Helper()
	var there net.PacketConn
	c.far.run(c.t, func() (err error) {
		there, err = net.ListenPacket("udp", net.JoinHostPort(to, "0"))
		return err
	})
	defer there.Close()
	c.near.run(c.t, func() error {
		if err := forget("n0"); err != nil {
			return err
		}
		here, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, there.LocalAddr().(*net.UDPAddr))
		if err != nil {
			return err
		}
		_, err = here.Write([]byte("x"))
		return errors.Join(err, here.Close())
	})
	if err := there.SetReadDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
		c.t.Fatal(err)
	}
	_, _, err := there.ReadFrom(make([]byte, 8))
	return err == nil
}

// often asks until it is so: one packet may be lost on a card that has just come up, or come late on a busy machine.
func often(ask func() bool) bool {
	for range 10 {
		if ask() {
			return true
		}
	}
	return false
}

// expect wants the addresses served, or silent: then at the first try and beside a node that is heard.
func (c *scene) expect(what string, serves bool) {
	c.t.Helper()
	try := func(ask func() bool) bool {
		if serves {
			return often(ask)
		}
		return ask()
	}
	for _, a := range []string{vip4, vip6} {
		for _, forgotten := range []bool{false, true} {
			if got := try(func() bool { return c.answers(a, forgotten) }); got != serves {
				c.t.Errorf("%s: %s answers: %v, its card forgotten: %v", what, a, got, forgotten)
			}
		}
	}
	for from, to := range map[string]string{vip4: "10.9.0.2", vip6: "fd09::2"} {
		if got := try(func() bool { return c.reaches(from, to) }); got != serves {
			c.t.Errorf("%s: what %s sends arrives: %v", what, from, got)
		}
	}
	for from, to := range map[string]string{own4: "10.9.0.2", own6: "fd09::2"} {
		if !often(func() bool { return c.answers(from, true) }) || !often(func() bool { return c.reaches(from, to) }) {
			c.t.Errorf("%s: the node's own address %s is silent too", what, from)
		}
	}
}

func (c *scene) guard(s *Silence, addrs ...string) (g *Guard) {
	c.t.Helper()
	list := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		list[i] = netip.MustParseAddr(a)
	}
	c.near.run(c.t, func() (err error) {
		g, err = s.Guard("test/lan", c.index, list)
		return err
	})
	return g
}

// places tells whether there is a place for programs on the card.
func (c *scene) places() (there bool) {
	c.t.Helper()
	c.near.run(c.t, func() error {
		list, err := netlink.QdiscList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: c.index}})
		for _, q := range list {
			there = there || q.Type() == "clsact"
		}
		return err
	})
	return there
}

func begun(t *testing.T) *Silence {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The kernel answers for the addresses, and lets out what comes from them, until the
// moment is over, and goes on when there is none any more.
func TestSilence(t *testing.T) {
	c := newScene(t)
	s := begun(t)
	defer s.Close()
	c.expect("before", true)
	g := c.guard(s, "10.9.0.199", vip4, "fd09::199", vip6)
	c.expect("open", true)
	s.Until(Now() + time.Hour)
	c.expect("in time", true)
	s.Until(Now() - 1)
	c.expect("late", false)
	s.Open()
	c.expect("open again", true)
	s.Until(Now() - 1)
	c.near.run(t, func() error { g.Close(); return nil })
	c.expect("without the programs", true)
	if c.places() {
		t.Error("the place for programs was left behind")
	}
}

// A killed process leaves its programs, which keep its silence until it is spent; the next one takes their place.
func TestSilenceOfTheKilled(t *testing.T) {
	c := newScene(t)
	s := begun(t)
	c.guard(s, vip4, vip6)
	s.Until(Now() - 1)
	s.Close() // and so does the kernel
	c.expect("after a kill", false)
	next := begun(t)
	defer next.Close()
	g := c.guard(next, vip4, vip6)
	c.expect("with a new process", true)
	next.Until(Now() - 1)
	c.expect("when that one is late", false)
	next.Until(Now() - spent)
	c.expect("when its silence is spent", true)
	c.near.run(t, func() error { g.Close(); return nil })
	if !c.places() {
		t.Error("a place that was there before was taken away")
	}
}

// Two names on one card do not take each other's programs.
func TestSilenceOfTwo(t *testing.T) {
	c := newScene(t)
	s := begun(t)
	defer s.Close()
	other := begun(t)
	defer other.Close()
	var g *Guard
	c.guard(s, vip4)
	c.near.run(t, func() (err error) {
		g, err = other.Guard("test/side", c.index, []netip.Addr{netip.MustParseAddr(vip6)})
		return err
	})
	s.Until(Now() - 1)
	if c.answers(vip4, true) || !often(func() bool { return c.answers(vip6, true) }) {
		t.Error("the silence of one is not its own")
	}
	c.near.run(t, func() error { g.Close(); return nil })
	s.Until(Now() - 1)
	if c.answers(vip4, true) {
		t.Error("the end of the other one took the programs along")
	}
	c.near.run(t, func() error { Clear("test/lan", c.index); return nil })
	if !often(func() bool { return c.answers(vip4, true) }) {
		t.Error("what a killed process has left cannot be cleared")
	}
}

// One family alone makes a program too.
func TestFamilies(t *testing.T) {
	c := newScene(t)
	s := begun(t)
	defer s.Close()
	for _, one := range []string{vip4, vip6} {
		c.guard(s, one)
		s.Open()
		if !often(func() bool { return c.answers(one, true) }) {
			t.Errorf("%s does not answer", one)
		}
		s.Until(Now() - 1)
		if c.answers(one, true) {
			t.Errorf("%s answers", one)
		}
	}
}

// Without a place in the kernel nothing is done, and nothing breaks.
func TestNone(t *testing.T) {
	var s *Silence
	s.Until(1)
	s.Open()
	s.Close()
	if _, err := s.Guard("test/lan", 1, nil); err == nil {
		t.Error("a guard without a moment")
	}
	var g *Guard
	g.Close()
}
