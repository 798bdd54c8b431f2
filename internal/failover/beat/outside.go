package beat

import (
	"net/netip"
	"time"

	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

// reference is an address on a link that carries VIPs, of a machine that is no
// node: while no node is heard, its card's answer proves that this node is not the
// one that is cut off. Only named ones count: a virtual machine on this node's own
// bridge would answer behind a cut cable too.
type reference struct {
	addr     netip.Addr
	lane     int
	frame    []byte // the question, nil while the link is not bound
	every    vip.MAC
	mac      vip.MAC // that answered last
	asked    election.Time
	answered election.Time
	ever     bool
}

// layReferences puts every reference on every link that carries VIPs: where it is
// not, nobody answers.
func (l *loop) layReferences() {
	for k := range l.lanes {
		if len(l.lanes[k].vips) == 0 || l.cfg.External {
			continue
		}
		for _, a := range l.cfg.References {
			l.refs = append(l.refs, reference{addr: a, lane: k})
		}
	}
}

// aim prepares the questions on link k, whose card has just been found.
func (l *loop) aim(k int) (err error) {
	n := &l.lanes[k]
	for i := range l.refs {
		r := &l.refs[i]
		if r.lane != k {
			continue
		}
		if err := l.openWire(k, r.addr.Is6()); err != nil {
			return err
		}
		if r.frame = vip.Question(r.addr, n.source(r.addr.Is6()), n.mac); r.frame != nil {
			r.every = vip.MAC(r.frame[:6])
		}
	}
	return nil
}

// openWire opens link k for ARP or neighbour advertisements, once.
func (l *loop) openWire(k int, v6 bool) (err error) {
	n := &l.lanes[k]
	switch {
	case v6 && n.nd == nil:
		n.nd, err = vip.OpenWire(n.index, true)
	case !v6 && n.arp == nil:
		n.arp, err = vip.OpenWire(n.index, false)
	default:
		return nil
	}
	l.polls = nil
	return err
}

// outsideEvery is between two questions for a reference: twice a heartbeat while
// its answer is needed and missing, else often enough to know it before it is needed.
func (l *loop) outsideEvery(r *reference) election.Time {
	hb := l.cfg.Timers.Heartbeat
	switch {
	case !l.st.SeeksOutside():
		return max(election.Time(idleEvery), hb)
	case l.now()-r.answered < hb:
		return hb
	}
	return hb / 2
}

func (l *loop) outsideDue() (n election.Time) {
	n = 1 << 62
	for i := range l.refs {
		if r := &l.refs[i]; r.frame != nil {
			n = min(n, r.asked+l.outsideEvery(r))
		}
	}
	return n
}

// seek asks the references whose turn it is: the card that answered last, else all of them.
func (l *loop) seek() {
	for i := range l.refs {
		r := &l.refs[i]
		now := l.now()
		if r.frame == nil || now < r.asked+l.outsideEvery(r) {
			continue
		}
		r.asked = now
		to := r.every
		if r.ever && now-r.answered < l.cfg.Timers.Suspect {
			to = r.mac
		}
		copy(r.frame, to[:])
		if w := l.lanes[r.lane].wire(r.addr.Is6()); w != nil {
			_ = w.Send(r.frame) // an error is what silence is
		}
	}
}

// outsider takes an answer of a card in that may be a reference's.
func (l *loop) outsider(k int, h vip.Holder, frame []byte) {
	for i := range l.refs {
		r := &l.refs[i]
		if r.lane != k || r.addr != h.Addr || !vip.AnswersTo(frame, l.lanes[k].mac) || l.nodes(k, h.MAC) {
			continue
		}
		r.mac, r.answered, r.ever = h.MAC, l.now(), true
		l.step(election.Event{Kind: election.Outside})
	}
}

// nodes reports whether a card on link k is a node's.
func (l *loop) nodes(k int, mac vip.MAC) bool {
	for i := range l.members {
		if l.members[i].macs[k] == mac {
			return true
		}
	}
	return false
}

// outsideReport is what the agent learns of the references.
func (l *loop) outsideReport() (out []ReferenceReport) {
	now := l.now()
	for _, addr := range l.cfg.References {
		r := ReferenceReport{Addr: addr}
		for i := range l.refs {
			if f := &l.refs[i]; f.addr == addr {
				r.Up = r.Up || f.ever && now-f.answered <= election.Time(witnessLost)
				r.Known = r.Known || f.frame != nil && f.asked != 0 && (r.Up || time.Duration(now) > witnessLost)
			}
		}
		out = append(out, r)
	}
	return out
}
