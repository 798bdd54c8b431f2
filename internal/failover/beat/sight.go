package beat

import (
	"net/netip"
	"slices"
	"time"

	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

const (
	// sightEvery is the backstop behind the kernel's events: so long an event that never came may go unnoticed.
	sightEvery = time.Second
	// maxSeen is how many VIPs fit into a beacon's bitmap.
	maxSeen = 16
)

// sight watches VIPs that another engine places. Nothing here adds, refreshes or
// deletes an address.
type sight struct {
	due   bool          // something happened to a VIP or to an interface
	lost  bool          // the kernel dropped events
	at    time.Duration // when the kernel's tables were read last
	where []int         // interfaces with a VIP
	err   error         // of the last reading
}

// changed takes note of an event that may concern a VIP.
func (s *sight) changed(c vip.Change, cfg *Config) {
	switch c.Kind {
	case vip.Missed:
		s.lost, s.due = true, true
	case vip.LinkChanged, vip.LinkGone:
		s.due = s.due || slices.Contains(s.where, c.Index)
	case vip.AddrAdded, vip.AddrRemoved:
		s.due = s.due || slices.Contains(cfg.vips(), c.Addr)
	}
}

// observe reads which VIPs are here when something happened, and once a second,
// and tells the election of it.
func (l *loop) observe(now time.Duration) {
	s := &l.sight
	if !l.cfg.External || !s.due && s.at != 0 && now-s.at < sightEvery {
		return
	}
	if s.lost {
		l.rewatch()
	}
	s.due, s.lost, s.at = false, false, max(now, 1)
	seen, where, err := look(l.nl, l.cfg.vips())
	l.tell.fault(&s.err, err)
	if err != nil {
		return // what was seen last counts; the next look is a second away
	}
	s.where = where
	var set uint16
	for k := range l.addrs {
		l.addrs[k].held = seen[k]
		if seen[k] {
			set |= 1 << k
		}
	}
	l.step(election.Event{Kind: election.Observed, VIPs: set})
}

// rewatch subscribes anew, after the kernel had no room for its events.
func (l *loop) rewatch() {
	w, err := vip.NewWatch()
	if err != nil {
		return // the old one goes on, and the tables are read now and every second
	}
	l.watch.Close()
	l.watch, l.polls = w, nil
}

// look says which of addrs count as held here: present, neither tentative nor
// failed in duplicate address detection, on an interface that is up and has
// carrier. The loopback interface does not count: nobody reaches an address there.
func look(nl *vip.Conn, addrs []netip.Addr) (seen [maxSeen]bool, where []int, err error) {
	held, err := nl.Addrs()
	if err != nil {
		return seen, nil, err
	}
	for _, h := range held {
		k := slices.Index(addrs, h.Prefix.Addr())
		if k < 0 {
			continue
		}
		where = append(where, h.Index)
		card, err := nl.Card(h.Index)
		if err != nil {
			continue // the interface went between the two questions; its event follows
		}
		seen[k] = seen[k] || h.Usable && card.Carrier && !card.Loopback
	}
	return seen, where, nil
}
