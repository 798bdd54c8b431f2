package beat

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

// A card that is no node's and has a VIP takes clients away. Most cards never say
// so unasked: a Linux machine that is given an address of IPv4 tells nobody. So
// the master asks the whole link now and then, and whoever has seen such a card
// goes on asking that one, to know when it has let go.

const (
	// askAll is between two questions to a whole link: one small packet for every VIP.
	askAll = 5 * time.Second
	// askForeign is between two questions to a card that has a VIP.
	askForeign = time.Second
	// foreignGone is the silence after which it has let go: four questions.
	foreignGone = 4*askForeign + askForeign/2
	// maxForeign is how many of them are remembered for one VIP; further ones, which may be somebody's inventions, are not.
	maxForeign = 4
)

// sighting is a foreign card that has a VIP.
type sighting struct {
	mac         vip.MAC
	since       time.Time     // its zero value: this place is free
	seen, asked time.Duration // of the loop's clock
}

// Duplicate is a VIP on a card that is no node's.
type Duplicate struct {
	Addr  netip.Addr     `json:"addr"`
	Link  cluster.LinkID `json:"link"`
	MAC   string         `json:"mac"`
	Since time.Time      `json:"since"`
}

// sighted notes that the foreign card h.MAC has the address.
func (l *loop) sighted(a *address, h vip.Holder) {
	now := time.Duration(l.now())
	free := -1
	for i := range a.foreign {
		f := &a.foreign[i]
		switch {
		case f.since.IsZero():
			free = i
		case f.mac == h.MAC:
			f.seen = now
			return
		}
	}
	if free < 0 {
		return
	}
	a.foreign[free] = sighting{h.MAC, time.Now(), now, now}
	l.tell.line(fmt.Sprintf("foreign duplicate of %v: the card %v has it, too", h.Addr, net.HardwareAddr(h.MAC[:])))
	l.tell.due = 0
}

// duplicates asks what is due, and forgets who answers no more.
func (l *loop) duplicates(now time.Duration) {
	for k := range l.addrs {
		a := &l.addrs[k]
		n := &l.lanes[a.lane]
		w := n.wire(a.prefix.Addr().Is6())
		if w == nil || a.lease == nil {
			continue
		}
		// Only the holder asks everybody: a standby's question would be answered by the master, which proves nothing that it should act upon.
		if a.held && a.ask != nil && now-a.asked >= askAll && l.st.Holding() {
			a.asked = now
			_ = w.Send(a.ask) // the next one repeats it
		}
		for i := range a.foreign {
			if f := &a.foreign[i]; !f.since.IsZero() {
				l.pursue(a, n, w, f, now)
			}
		}
	}
}

// pursue asks a foreign card whether it still has the address.
func (l *loop) pursue(a *address, n *lane, w *vip.Wire, f *sighting, now time.Duration) {
	if now-f.seen >= foreignGone {
		l.tell.line(fmt.Sprintf("the foreign card %v has %v no more", net.HardwareAddr(f.mac[:]), a.prefix.Addr()))
		*f = sighting{}
		l.tell.due = 0
		return
	}
	if now-f.asked < askForeign {
		return
	}
	f.asked = now
	if q := vip.Probe(a.prefix.Addr(), n.source(a.prefix.Addr().Is6()), n.mac, f.mac); q != nil {
		_ = w.Send(q) // the next one repeats it
	}
}

// source is an address of this link's interface, of the family.
func (n *lane) source(v6 bool) netip.Addr {
	if v6 && !n.addr.Is6() {
		return n.source6
	}
	return n.addr
}

// duplicated is what the agent is told.
func (l *loop) duplicated() (out []Duplicate) {
	for k := range l.addrs {
		a := &l.addrs[k]
		for _, f := range a.foreign {
			if !f.since.IsZero() {
				out = append(out, Duplicate{a.prefix.Addr(), l.lanes[a.lane].id, net.HardwareAddr(f.mac[:]).String(), f.since})
			}
		}
	}
	return out
}

// answered: the card h.MAC has the VIP a of link k. Whose card is it?
func (l *loop) answered(k int, a *address, h vip.Holder) {
	for i := range l.members {
		if l.members[i].macs[k] == h.MAC {
			l.step(election.Event{Kind: election.Answer, Node: uint8(i)})
			return
		}
	}
	l.sighted(a, h)
	l.step(election.Event{Kind: election.Foreign})
}
