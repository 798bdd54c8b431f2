package beat

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"revolve/internal/failover/vip"
)

// thief is a machine on the link of the VIPs that is no node.
func (l *lab) thief() (r *room, card string) {
	r = newRoom(l.t)
	l.must(l.hub.run(func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "stranger"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(r.fd)}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		p, err := netlink.LinkByName("stranger")
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		return errors.Join(err, netlink.LinkSetMaster(p, br), netlink.LinkSetUp(p))
	}))
	l.must(r.run(func() error {
		e, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		card = e.Attrs().HardwareAddr.String()
		return netlink.LinkSetUp(e)
	}))
	return r, card
}

// TestForeignDuplicates: a machine that is no node takes the VIPs and says nothing.
// The master finds out, names its card, and keeps the addresses; when the machine has
// let go, or is gone, that is noticed, too.
func TestForeignDuplicates(t *testing.T) {
	l := newLab(t, 2, "lan")
	l.start(0)
	l.start(1)
	l.within(20*time.Second, "a is master", func() bool { return l.held(0) == 2 })
	time.Sleep(askAll + askEvery) // a question to the whole link goes by unanswered
	if d := l.report(0).Duplicates; len(d) > 0 {
		t.Fatalf("nobody else has an address: %+v", d)
	}
	thief, card := l.thief()
	take := func(change func(netlink.Link, *netlink.Addr) error) {
		l.must(thief.run(func() (err error) {
			e, err := netlink.LinkByName("eth0")
			for _, v := range testVIPs {
				addr, e2 := netlink.ParseAddr(v.Prefix.String())
				if err = errors.Join(err, e2); err != nil {
					return err
				}
				if v.Prefix.Addr().Is6() {
					addr.Flags = unix.IFA_F_NODAD
				}
				err = errors.Join(err, change(e, addr))
			}
			return err
		}))
	}
	take(netlink.AddrAdd)
	var before []Duplicate
	l.within(20*time.Second, "both duplicates are alarmed", func() bool {
		before = l.report(0).Duplicates
		return len(before) == 2
	})
	for i, d := range before {
		if d.MAC != card || d.Addr != testVIPs[i].Prefix.Addr() || d.Link != "lan" || time.Since(d.Since).Abs() > time.Minute {
			t.Errorf("got %+v, want the card %s", d, card)
		}
	}
	time.Sleep(foreignGone + askForeign) // it stays: the alarm does too, with its beginning
	if now := l.report(0).Duplicates; len(now) != 2 || !now[0].Since.Equal(before[0].Since) || !now[1].Since.Equal(before[1].Since) {
		t.Errorf("got %+v, before %+v", now, before)
	}
	if l.held(0) != 2 {
		t.Error("the master has given the addresses up")
	}
	take(func(e netlink.Link, a *netlink.Addr) error { return netlink.AddrDel(e, a) })
	l.within(20*time.Second, "the alarm ends when the addresses have gone", func() bool { return len(l.report(0).Duplicates) == 0 })
	take(netlink.AddrAdd)
	l.within(20*time.Second, "both are back", func() bool { return len(l.report(0).Duplicates) == 2 })
	l.must(thief.run(func() error {
		e, err := netlink.LinkByName("eth0")
		return errors.Join(err, netlink.LinkSetDown(e))
	}))
	l.within(20*time.Second, "the alarm ends when the machine has gone", func() bool { return len(l.report(0).Duplicates) == 0 })
}

// A liar that invents cards fills no memory, and hides none that was seen first.
func TestForeignCardsAreBounded(t *testing.T) {
	l := &loop{start: time.Now()}
	l.tell.init(l)
	a := &address{prefix: testVIPs[0].Prefix}
	for i := range 1000 {
		h := holderOf(byte(i), byte(i>>8))
		l.sighted(a, h)
	}
	l.addrs, l.lanes = []address{*a}, []lane{{id: "lan"}}
	got := l.duplicated()
	if len(got) != maxForeign {
		t.Fatalf("%d cards are remembered", len(got))
	}
	for _, d := range got {
		if d.MAC[:14] != "02:00:00:00:00" {
			t.Errorf("one that came later: %+v", d)
		}
	}
}

func holderOf(low, high byte) vip.Holder {
	return vip.Holder{Addr: testVIPs[0].Prefix.Addr(), MAC: vip.MAC{2, 0, 0, 0, high, low}}
}
