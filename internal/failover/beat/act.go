package beat

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

// send is one heartbeat to every peer on every link.
func (l *loop) send() {
	b := l.st.Beacon()
	for i := range l.names.nodes {
		l.sendTo(i, &b)
	}
}

func (l *loop) sendTo(i int, b *election.Beacon) {
	if i == int(l.names.self) {
		return
	}
	m := &l.members[i]
	m.seq++
	for k := range l.lanes {
		n := &l.lanes[k]
		if n.fd < 0 || n.to[i] == nil {
			continue
		}
		p := l.codec.seal(l.out[:], head{uint8(i), uint8(k), l.nonce, m.proof.current, m.proof.pending, m.seq}, b, &l.macs)
		if err := unix.Sendto(n.fd, p, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, n.to[i]); err == nil {
			l.tell.counters.Sent++
		}
		// An error is what silence is: the receiver's rules deal with it.
	}
	m.greet = false
}

// greet answers newcomers at once, so that two nodes prove themselves to each
// other within a round trip and not within heartbeats. It cannot become a storm:
// a node greets once per round, and only while a peer is not proven.
func (l *loop) greet() {
	now := l.now()
	for i := range l.names.nodes {
		if !l.members[i].greet || now-l.tell.greeted[i] < l.cfg.Timers.Heartbeat/4 {
			continue
		}
		l.tell.greeted[i] = now
		b := l.st.Beacon()
		l.sendTo(i, &b)
	}
}

func (l *loop) drain() {
	for k := range l.lanes {
		if l.lanes[k].fd < 0 {
			continue
		}
		for range 16 * maxBurst { // more than a socket buffer of the default size holds
			if _, ok := l.rx.read(l.lanes[k].fd); !ok {
				break
			}
		}
	}
}

// hold adds or refreshes every VIP, and reports whether one is here now. What the kernel refuses is told, and tried again
// at the next refresh. Addresses that are all here are refreshed beside the loop.
func (l *loop) hold() (any bool) {
	missing := false
	for k := range l.addrs {
		missing = missing || l.addrs[k].lease != nil && !l.addrs[k].held
	}
	late := l.fresh.busy && time.Duration(l.now())-l.fresh.since > refreshPatience
	switch {
	case !l.refreshed(missing || late):
		return true // under way
	case !missing:
		return l.refresh()
	}
	for k := range l.addrs {
		a := &l.addrs[k]
		if a.lease == nil {
			continue
		}
		err := l.nl.Hold(a.lease)
		a.held = err == nil
		any = any || a.held
		l.tell.fault(&a.err, err)
	}
	return any
}

// drop deletes every VIP, also those that should not be here, and reports whether the kernel has none any more.
func (l *loop) drop() (gone bool) {
	gone = true
	l.sched.Stop()
	l.refreshed(true)
	for k := range l.addrs {
		a := &l.addrs[k]
		if a.lease == nil {
			continue
		}
		err := l.nl.Drop(a.lease)
		a.held, gone = a.held && err != nil, gone && err == nil
		l.tell.fault(&a.err, err)
	}
	return gone
}

// announce says on every VIP's link where it is now, and reports whether anything left.
func (l *loop) announce() (sent bool) {
	for k := range l.addrs {
		a := &l.addrs[k]
		w := l.lanes[a.lane].wire(a.prefix.Addr().Is6())
		if !a.held || w == nil {
			continue
		}
		for _, f := range a.frames {
			if err := w.Send(f); err != nil {
				l.tell.counters.Unannounced++ // the schedule repeats it
				continue
			}
			sent = true
		}
	}
	return sent
}

func (n *lane) wire(v6 bool) *vip.Wire {
	if v6 {
		return n.nd
	}
	return n.arp
}

// probe asks the cards of the nodes in set whether they still answer for the VIPs.
func (l *loop) probe(set uint16) {
	for i := range l.names.nodes {
		if set&(1<<i) == 0 {
			continue
		}
		sent := false
		for k := range l.addrs {
			sent = l.probeOne(i, &l.addrs[k]) || sent
		}
		if sent {
			l.step(election.Event{Kind: election.Probed, Node: uint8(i)})
		}
	}
}

func (l *loop) probeOne(i int, a *address) bool {
	n := &l.lanes[a.lane]
	addr := a.prefix.Addr()
	w, old, source := n.wire(addr.Is6()), l.members[i].macs[a.lane], n.source(addr.Is6())
	if w == nil || old == (vip.MAC{}) {
		return false
	}
	f := vip.Probe(addr, source, n.mac, old)
	return f != nil && w.Send(f) == nil
}

// unbound reports whether it is time to look again for an address that is missing.
func (l *loop) unbound(now time.Duration) bool {
	for k := range l.lanes {
		n := &l.lanes[k]
		if n.addr.IsValid() && n.fd < 0 && now-n.since >= rebindEvery {
			return true
		}
	}
	return false
}

// bind finds the interfaces of this node's addresses and opens what is missing
// on them. It reads the kernel's tables, so it runs only after an event.
func (l *loop) bind() {
	held, err := l.nl.Addrs()
	if err != nil {
		l.tell.line("interfaces cannot be read: " + err.Error())
		return
	}
	for k := range l.lanes {
		n := &l.lanes[k]
		if !n.addr.IsValid() {
			continue
		}
		index := 0
		for _, h := range held {
			if h.Prefix.Addr() == n.addr && h.Usable {
				index = h.Index
			}
		}
		n.since = time.Duration(l.now())
		if n.fd >= 0 && n.index == index {
			l.look(k)
			l.source6(k, held)
			continue
		}
		l.unbind(k)
		if index != 0 {
			l.tell.fault(&n.err, l.open(k, index, held))
		}
	}
}

// hear takes in what a message of the kernel says of a link's carrier. It may be
// older than what the driver says.
func (l *loop) hear(k int, up bool) {
	n := &l.lanes[k]
	n.doubted = false
	switch {
	case up == n.carrier:
	case up && n.signal.Lost():
		l.look(k)
	default:
		l.carry(k, up)
	}
}

// look reads the carrier of a bound link anew.
func (l *loop) look(k int) {
	n := &l.lanes[k]
	n.looked = time.Duration(l.now())
	card, err := l.nl.Card(n.index)
	if err != nil {
		l.rescan = true
		return
	}
	if card.Carrier && n.signal.Lost() && n.signal.Rest(l.nl, n.index) != nil {
		n.signal.Close()
		n.signal = nil
	}
	if card.Carrier != n.carrier {
		l.carry(k, card.Carrier)
	}
}

// signals takes lost carriers in at once. Until the kernel's own message comes, which may
// take a second, the kernel is asked: a carrier that is back has no message of its own then.
func (l *loop) signals() {
	for k := range l.lanes {
		n := &l.lanes[k]
		switch {
		case n.fd < 0:
		case n.carrier && n.signal.Lost():
			n.doubted, n.looked = true, time.Duration(l.now())
			l.carry(k, false)
		case n.doubted && !n.carrier && (!n.signal.Lost() || time.Duration(l.now())-n.looked > askEvery):
			l.look(k)
		}
	}
}

// carry takes a new state of a link's carrier in.
func (l *loop) carry(k int, up bool) {
	n := &l.lanes[k]
	n.carrier = up
	if up {
		n.waking = time.Duration(l.now()) + wakeTime
	}
	l.step(election.Event{Kind: election.Carrier, Link: uint8(k), Up: up})
}

// resolve keeps a lost address resolution from costing a second after a link's return.
func (l *loop) resolve(now time.Duration) {
	for k := range l.lanes {
		n := &l.lanes[k]
		if n.fd < 0 || !n.carrier || now > n.waking || now-n.asked < askEvery {
			continue
		}
		n.asked = now
		hears := l.st.HearsOn(k)
		for i, addr := range n.peers {
			if addr.IsValid() && (hears&(1<<i) == 0 || l.st.Peer(i).Beacon.Hears[k]&(1<<l.names.self) == 0) {
				l.nl.Unresolve(n.index, addr)
			}
		}
	}
}

func (l *loop) unbind(k int) {
	n := &l.lanes[k]
	if n.fd < 0 {
		return
	}
	l.refreshed(true)
	unix.Close(n.fd)
	for _, w := range []*vip.Wire{n.arp, n.nd} {
		if w != nil {
			w.Close()
		}
	}
	n.signal.Close()
	n.fd, n.arp, n.nd, n.carrier, n.signal, l.polls = -1, nil, nil, false, nil, nil
	l.step(election.Event{Kind: election.Carrier, Link: uint8(k)}) // deletes the VIPs while their leases are still known
	n.guard.Close()
	n.guard = nil
	for _, a := range n.vips {
		if l.addrs[a].lease != nil {
			l.addrs[a].lease, l.addrs[a].held = nil, false
		}
	}
	for i := range l.refs {
		if l.refs[i].lane == k {
			l.refs[i].frame = nil
		}
	}
}

func (l *loop) open(k, index int, held []vip.Held) error {
	n := &l.lanes[k]
	card, err := l.nl.Card(index)
	if err != nil {
		return err
	}
	fd, err := bindUDP(n.addr, l.cfg.Port)
	if err != nil {
		return err
	}
	l.shield(k, fd)
	n.fd, n.index, n.mac, n.unread, l.polls = fd, index, card.MAC, 0, nil
	n.carrier = card.Carrier
	if n.signal, err = l.nl.Signal(index); err != nil {
		n.signal = nil
	}
	n.source6 = netip.Addr{}
	l.source6(k, held)
	if err := l.lease(k, held); err != nil {
		l.unbind(k)
		return err
	}
	l.guard(k)
	l.carry(k, n.carrier)
	return nil
}

// source6 finds an IPv6 address of link k's interface, from which its cards can be asked. A link-local one is
// not usable before its duplicate address detection has ended (RFC 4862 section 5.4), a second or two after the link came up.
func (l *loop) source6(k int, held []vip.Held) {
	n := &l.lanes[k]
	if n.source6.IsValid() {
		return
	}
	for _, h := range held {
		if h.Index == n.index && h.Usable && h.Prefix.Addr().Is6() && !isVIP(l.cfg, h) {
			n.source6 = h.Prefix.Addr()
		}
	}
	for _, i := range n.vips {
		if a := &l.addrs[i]; a.lease != nil {
			a.ask = vip.Ask(a.prefix.Addr(), n.source(a.prefix.Addr().Is6()), n.mac)
		}
	}
	if n.source6.IsValid() {
		l.tell.fault(&n.err, l.aim(k))
	}
}

func isVIP(c *Config, h vip.Held) bool {
	for _, v := range c.VIPs {
		if v.Prefix.Addr() == h.Prefix.Addr() {
			return true
		}
	}
	return false
}

// lease prepares the VIPs of link k on its interface.
func (l *loop) lease(k int, held []vip.Held) error {
	n := &l.lanes[k]
	if len(n.vips) == 0 || l.cfg.External { // without a lease nothing is ever added, refreshed, deleted, announced or asked for
		return nil
	}
	l.macs[k] = n.mac
	all := l.cfg.vips()
	for _, i := range n.vips {
		a := &l.addrs[i]
		addr := a.prefix.Addr()
		a.lease = vip.NewLease(a.prefix, n.index, vip.Covered(held, n.index, addr, all))
		a.frames = vip.Announcement(addr, n.mac)
		a.ask, a.asked = vip.Ask(addr, n.source(addr.Is6()), n.mac), -askAll
		if err := l.openWire(k, addr.Is6()); err != nil {
			return err
		}
	}
	return l.aim(k)
}

// close releases the descriptors; the VIPs are gone already.
func (l *loop) close() {
	for k := range l.lanes {
		l.unbind(k)
	}
	l.quiet.all.Close()
	l.watch.Close()
	l.nl.Close()
	l.fresh.close()
	if l.lender != nil {
		l.lender.close()
	}
	l.consult.close()
}
