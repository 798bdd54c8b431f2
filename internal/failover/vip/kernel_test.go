package vip

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel's side, in a namespace of the test's own: as root directly, else as
// mapped root of a user namespace, in a copy of this process.

const inside = "REVOLVE_TEST_VIP_INSIDE"

func TestKernel(t *testing.T) {
	if os.Getenv(inside) != "" {
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		kernel(t)
		return
	}
	if testing.Short() {
		t.Skip("SKIPPED PART: addresses in the kernel (-short)")
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestKernel$", "-test.v")
	c.Env = append(os.Environ(), inside+"=1")
	// Always a user namespace, root or not: what works for mapped root works for root.
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := c.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Skipf("SKIPPED PART: addresses in the kernel: no user namespace: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, l := range strings.Split(string(out), "\n") {
		if strings.Contains(l, "_test.go") {
			t.Log(strings.TrimSpace(l))
		}
	}
}

func kernel(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "n1"}))
	n0, err := netlink.LinkByName("n0")
	must(err)
	n1, err := netlink.LinkByName("n1")
	must(err)
	own, _ := netlink.ParseAddr("10.77.0.11/24")
	must(netlink.AddrAdd(n0, own))
	c, err := Dial()
	must(err)
	defer c.Close()
	w, err := NewWatch()
	must(err)
	defer w.Close()
	must(netlink.LinkSetUp(n0))
	must(netlink.LinkSetUp(n1))
	index := n0.Attrs().Index
	until(t, "carrier", func() bool { card, err := c.Card(index); return err == nil && card.Carrier && card.Name == "n0" })
	must(netlink.LinkSetDown(n1))
	until(t, "event of the lost carrier", func() bool {
		ch, _ := w.Read(nil)
		for _, x := range ch {
			if x.Kind == LinkChanged && x.Index == index && !x.Carrier {
				return true
			}
		}
		return false
	})
	must(netlink.LinkSetUp(n1))
	held, err := c.Addrs()
	must(err)
	vips := []netip.Addr{vip4, vip6}
	l4 := NewLease(netip.PrefixFrom(vip4, 24), index, Covered(held, index, vip4, vips))
	l6 := NewLease(netip.PrefixFrom(vip6, 64), index, Covered(held, index, vip6, vips))
	count := func() (n int) {
		held, err := c.Addrs()
		must(err)
		for _, h := range held {
			if h.Prefix.Addr() == vip4 || h.Prefix.Addr() == vip6 {
				n++
				if !h.Usable {
					t.Errorf("%v is not usable at once", h.Prefix)
				}
			}
		}
		return n
	}
	for range 8 { // refreshed, it stays beyond its lifetime
		must(c.Hold(l4))
		must(c.Hold(l6))
		if n := count(); n != 2 {
			t.Fatalf("%d addresses held, want 2", n)
		}
		time.Sleep(200 * time.Millisecond)
	}
	must(c.Hold(l4))
	must(c.Hold(l6))
	start := time.Now()
	until(t, "lease ended", func() bool { return count() == 0 })
	t.Logf("the kernel removed the addresses %v after the last refresh", time.Since(start).Round(time.Millisecond))

	must(c.Hold(l4))
	must(c.Hold(l6))
	must(c.Drop(l4))
	if count() != 1 {
		t.Error("dropped, but still here")
	}
	must(c.Drop(l4))
	if n, err := Scrub(vips); n != 1 || err != nil || count() != 0 {
		t.Errorf("scrub: %d %v, %d left", n, err, count())
	}
	probe(t, c, index, n1.Attrs().Index)
	if a := testing.AllocsPerRun(50, func() { must(c.Hold(l4)) }); a != 0 {
		t.Errorf("a refresh allocates %v times", a)
	}
}

// probe asks the other end of the cable for an address: the two ends are in one
// namespace, which answers on both.
func probe(t *testing.T, c *Conn, ours, theirs int) {
	near, err := c.Card(ours)
	if err != nil {
		t.Fatal(err)
	}
	far, err := c.Card(theirs)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := OpenWire(ours, false)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	if err := c.Hold(NewLease(netip.PrefixFrom(vip4, 24), theirs, false)); err != nil {
		t.Fatal(err)
	}
	var buf [2048]byte
	ask := func() bool {
		if err := wire.Send(Probe(vip4, netip.Addr{}, near.MAC, far.MAC)); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(100 * time.Millisecond)
		for time.Now().Before(end) {
			if f, ok := wire.Read(buf[:]); ok {
				if h, ok := ParseHolder(f); ok && h.Addr == vip4 && h.MAC == far.MAC {
					return true
				}
			} else {
				time.Sleep(time.Millisecond)
			}
		}
		return false
	}
	if !ask() {
		t.Error("the holder's card does not answer")
	}
	until(t, "silence after the lease", func() bool { return !ask() })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(3 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not within 3 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
