package beat

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownSys gives node i its own /sys, as a machine has: without it beat does not believe the counters there.
func (l *lab) ownSys(i int) {
	l.must(l.rooms[i].run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		return errors.Join(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	}))
}

// asCard replaces the cable of node i and link k by one whose ends have the same index. To the
// kernel it depends on no other interface then, as a real card, and its messages may wait for a second.
func (l *lab) asCard(i, k int) {
	const same = 40 // above all that a lab has
	port := fmt.Sprintf("p%d-%d", i, k)
	l.must(l.hub.run(func() error {
		p, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return netlink.LinkDel(p)
	}))
	l.must(l.rooms[i].run(func() error {
		for index := 0; index < same-1; {
			b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "used"}}
			if err := netlink.LinkAdd(b); err != nil {
				return err
			}
			index = b.Attrs().Index
			if err := netlink.LinkDel(b); err != nil {
				return err
			}
		}
		return nil
	}))
	l.indexed(i, k, same)
	var here, there int
	l.must(l.rooms[i].run(func() error {
		e, err := netlink.LinkByName(fmt.Sprintf("eth%d", k))
		if err == nil {
			here, there = e.Attrs().Index, e.Attrs().ParentIndex
		}
		return err
	}))
	if here != same || there != same {
		l.t.Fatalf("the ends of the cable have the indices %d and %d: this is no test", here, there)
	}
}

// A cable that is touched again and again: beat sees each loss in the counters, in which
// the kernel may be a second ahead of its own message, and each return, which may share
// one message with the loss. No touch keeps the node out.
// That the kernel is asked before its message comes is not seen here: without that the return comes later, and the test passes.
func TestTouchedCable(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: carriers in the kernel: to mount /sys needs root")
	}
	l := newLab(t, 2, "lan", "side")
	l.ownSys(0)
	l.asCard(0, 0)
	l.start(0)
	l.start(1)
	carrier := func() bool { return l.report(0).Links[0].Carrier }
	l.within(10*time.Second, "one leads", func() bool { return l.only(0) || l.only(1) })
	for range 3 {
		l.within(10*time.Second, "a has carrier and hears b", func() bool { r := l.report(0); return r.Links[0].Carrier && r.Links[0].Rx })
		l.port(0, 0, false)
		l.within(10*time.Second, "a sees that it is lost", func() bool { return !carrier() })
		l.port(0, 0, true)
	}
	l.within(10*time.Second, "a has carrier", carrier)
	l.within(10*time.Second, "one leads, and both know who", func() bool {
		a, b := l.report(0), l.report(1)
		return (l.only(0) || l.only(1)) && a.Master != "" && a.Master == b.Master
	})
}
