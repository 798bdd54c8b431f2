package beat

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
)

// place is what an external engine does on node i: every VIP on the interface, without or with duplicate address detection.
func (l *lab) place(i int, on bool, device string, flags int) {
	l.t.Helper()
	l.must(l.off(i, func() error {
		e, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		for _, v := range testVIPs {
			ones := v.Prefix.Bits()
			a := &netlink.Addr{IPNet: &net.IPNet{IP: v.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(ones, v.Prefix.Addr().BitLen())}}
			if v.Prefix.Addr().Is6() {
				a.Flags = flags
			}
			if on {
				err = errors.Join(err, netlink.AddrAdd(e, a))
			} else {
				err = errors.Join(err, netlink.AddrDel(e, a))
			}
		}
		return err
	}))
}

// flood makes more address events than the sleeping process has room for.
func (l *lab) flood(i int) {
	l.t.Helper()
	l.must(l.off(i, func() error {
		e, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("10.99.0.1/32")
		for range 4000 {
			if err != nil {
				return err
			}
			err = errors.Join(netlink.AddrAdd(e, a), netlink.AddrDel(e, a))
		}
		return err
	}))
}

func TestSight(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	l := newLab(t, 2, "lan", "side")
	l.cfg.External = true
	l.start(0)
	l.start(1)
	role := func(i int, r cluster.Role) func() bool { return func() bool { return l.report(i).Role == r } }
	l.within(10*time.Second, "both listen no more", func() bool { return role(0, cluster.Standby)() && role(1, cluster.Standby)() })
	l.place(0, true, "lo", unix.IFA_F_NODAD)
	l.place(1, true, "eth0", unix.IFA_F_NODAD)
	l.within(10*time.Second, "b leads, and a with its addresses on lo does not", func() bool { return role(1, cluster.Master)() && l.report(0).Master == "b" })
	if r := l.report(0); r.Role != cluster.Standby || r.VIPs[0].HeldHere {
		t.Errorf("a is %v and holds %v", r.Role, r.VIPs)
	}
	l.place(0, false, "lo", 0)
	term := l.report(1).Reign.Term
	l.port(1, 0, false)
	l.within(10*time.Second, "without carrier b does not lead", role(1, cluster.Standby))
	l.port(1, 0, true)
	l.within(10*time.Second, "with carrier it does, with a new term", func() bool { return role(1, cluster.Master)() && l.report(1).Reign.Term > term })

	// The kernel drops events while the process sleeps; what it finds then is the truth.
	l.must(syscall.Kill(l.beats[1].Pid(), syscall.SIGSTOP))
	l.flood(1)
	l.place(1, false, "eth0", 0)
	l.flood(1)
	l.must(syscall.Kill(l.beats[1].Pid(), syscall.SIGCONT))
	l.within(10*time.Second, "b has seen that they are gone", role(1, cluster.Standby))

	l.place(0, true, "eth0", unix.IFA_F_NODAD)
	l.within(10*time.Second, "a leads", func() bool { return role(0, cluster.Master)() && l.report(1).Master == "a" })
	if p := l.report(1).Peers[0]; len(p.VIPs) != len(testVIPs) {
		t.Errorf("b hears that a has %v", p.VIPs)
	}
	l.stop[0]()
	l.gone(0)
	if n := l.held(0); n != len(testVIPs) {
		t.Errorf("the end of beat left %d of %d addresses of another engine", n, len(testVIPs))
	}
}

// An address that duplicate address detection has not settled yet, or has found
// elsewhere, is not held (RFC 4862 section 5.4).
func TestSightOfDuplicates(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	l := newLab(t, 2, "lan")
	l.cfg.External = true
	l.start(0)
	l.start(1)
	l.within(10*time.Second, "both listen no more", func() bool {
		return l.report(0).Role == cluster.Standby && l.report(1).Role == cluster.Standby
	})
	l.place(0, true, "eth0", unix.IFA_F_NODAD)
	l.within(10*time.Second, "a leads", func() bool { return l.report(0).Role == cluster.Master })
	reign := l.report(0).Reign
	l.place(1, true, "eth0", 0)
	l.within(10*time.Second, "the duplicate is found", func() bool {
		failed := false
		l.must(l.off(1, func() error {
			e, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			list, err := netlink.AddrList(e, netlink.FAMILY_V6)
			for _, a := range list {
				failed = failed || a.Flags&unix.IFA_F_DADFAILED != 0
			}
			return err
		}))
		return failed
	})
	l.within(10*time.Second, "b tells of the IPv4 one alone", func() bool { return len(l.report(0).Peers[0].VIPs) == 1 })
	if r := l.report(1); r.Role != cluster.Standby || l.report(0).Reign != reign {
		t.Errorf("b is %v, a reigns with %v after %v", r.Role, l.report(0).Reign, reign)
	}
}
