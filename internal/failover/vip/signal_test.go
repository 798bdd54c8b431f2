package vip

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The counters tell of a lost carrier before the kernel's message, which is held
// back for up to a second; a stranger's /sys is not believed.
func TestSignal(t *testing.T) {
	if os.Getenv(inside) != "" {
		signals(t)
		return
	}
	if testing.Short() {
		t.Skip("SKIPPED PART: carriers in the kernel (-short)")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: carriers in the kernel: to mount /sys needs root")
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestSignal$", "-test.v")
	c.Env = append(os.Environ(), inside+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func signals(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the namespaces end with the thread
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Unshare(unix.CLONE_NEWNET))
	must(unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	far, farNS := elsewhere(t)
	// The two ends have the same index, as a network card has its own: the kernel hurries only for others.
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "n1", PeerNamespace: netlink.NsFd(farNS)}))
	n0, err := netlink.LinkByName("n0")
	must(err)
	n1, err := far.LinkByName("n1")
	must(err)
	index := n0.Attrs().Index
	if index != n1.Attrs().Index {
		t.Fatalf("the ends have the indices %d and %d: this is no test", index, n1.Attrs().Index)
	}
	c, err := Dial()
	must(err)
	defer c.Close()
	must(netlink.LinkSetUp(n0))
	must(far.LinkSetUp(n1))
	until(t, "carrier", func() bool { card, err := c.Card(index); return err == nil && card.Carrier })
	s, err := c.Signal(index)
	must(err)
	defer s.Close()
	w, err := NewWatch()
	must(err)
	defer w.Close()
	told := func() (lost bool) {
		for {
			changes, more := w.Read(nil)
			for _, ch := range changes {
				lost = lost || ch.Kind == LinkChanged && ch.Index == index && !ch.Carrier
			}
			if !more {
				return lost
			}
		}
	}
	before := 0
	const rounds = 5
	for range rounds {
		until(t, "the carrier's return", func() bool { return !s.Lost() })
		told()
		down := make(chan error, 1)
		go func() { down <- far.LinkSetDown(n1) }() // joined below
		until(t, "the lost carrier", s.Lost)
		if !told() {
			before++
		}
		must(<-down)
		until(t, "the message", func() bool { return !card(t, c, index).Carrier })
		must(far.LinkSetUp(n1))
	}
	t.Logf("%d of %d losses were seen before the kernel's message", before, rounds)
	if before < rounds-2 { // only those that come a second after the last one are told at once
		t.Errorf("only %d of %d losses were seen before the kernel's message", before, rounds)
	}
	if a := testing.AllocsPerRun(50, func() { s.Lost() }); a != 0 {
		t.Errorf("a look allocates %v times", a)
	}
	// One that starts without a carrier, and one that comes and goes.
	must(far.LinkSetDown(n1))
	until(t, "the lost carrier", s.Lost)
	dark, err := c.Signal(index)
	must(err)
	defer dark.Close()
	if !dark.Lost() {
		t.Error("a carrier that was never there is not lost")
	}
	must(far.LinkSetUp(n1))
	until(t, "the carrier's return", func() bool { return !s.Lost() && !dark.Lost() })
	// Another namespace's interface of the same name, index and history is not this one.
	must(unix.Unshare(unix.CLONE_NEWNET))
	must(unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	twin := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "n1"}
	must(netlink.LinkAdd(twin))
	must(unix.Unshare(unix.CLONE_NEWNET))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "n1"}))
	strange, err := Dial()
	must(err)
	defer strange.Close()
	other, err := netlink.LinkByName("n0")
	must(err)
	if s, err := strange.Signal(other.Attrs().Index); err == nil {
		s.Close()
		t.Error("the counters of another namespace were taken for this one's")
	}
}

func card(t *testing.T, c *Conn, index int) Card {
	t.Helper()
	card, err := c.Card(index)
	if err != nil {
		t.Fatal(err)
	}
	return card
}

// elsewhere is another network namespace: a handle to it, and its descriptor.
func elsewhere(t *testing.T) (*netlink.Handle, int) {
	t.Helper()
	type place struct {
		fd  int
		err error
	}
	made := make(chan place)
	go func() { // its thread ends with it, the namespace stays with the descriptor
		runtime.LockOSThread()
		p := place{fd: -1, err: unix.Unshare(unix.CLONE_NEWNET)}
		if p.err == nil {
			p.fd, p.err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- p
	}()
	p := <-made
	if p.err != nil {
		t.Fatal(p.err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(p.fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close(); unix.Close(p.fd) })
	return h, p.fd
}
