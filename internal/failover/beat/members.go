package beat

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

// While a cluster's list of members changes, some nodes go by the old list and
// some by the new one. Two rules keep them from ever having two masters because of it:
//
//   - An authentic packet is always answered, also that of a node which the own
//     list does not have. So a node that is new here is heard by nobody as a
//     member yet, but hears who reigns; and one that is a member no more hears
//     that, instead of silence, which it would take for the death of all others.
//   - Who hears a node that only a newer list has, and that leads or could lead,
//     does not claim until it has that list or hears no more of it (election.Newer).
//     Who hears somebody that does not have it in his list yet does not claim
//     either (Beacon.Without): he could not follow. So one of two nodes with
//     different lists is always left that may. A node that hears that it is a
//     member no more releases the addresses (election.Expelled).

const (
	// maxStrangers bounds how many unknown senders are answered. Each must have
	// a key of this cluster; more than a few at once never were right.
	maxStrangers = 8
	// strangerLast is how long an unknown sender is remembered after its last packet.
	strangerLast = 10 * time.Second
)

// strangers are senders with a key of ours that are no members here.
type strangers struct {
	known [maxStrangers]struct {
		name     uint32
		at       time.Duration // last packet
		answered [election.MaxLinks]time.Duration
	}
	seq uint64 // of all answers; a node that becomes a member, or was one, goes on behind it
}

// may reports whether a packet of that sender that came in on link k is to be answered
// now: once in a heartbeat on each link, like a member's, since the way back may be cut on one.
func (s *strangers) may(name uint32, k int, now, heartbeat time.Duration) bool {
	slot := -1
	for i := range s.known {
		o := &s.known[i]
		switch {
		case o.name == name && o.at != 0:
			slot = i
		case slot < 0 && (o.at == 0 || now-o.at > strangerLast):
			slot = i
		}
	}
	if slot < 0 {
		return false
	}
	o := &s.known[slot]
	if o.name != name {
		o.name, o.answered = name, [election.MaxLinks]time.Duration{}
	}
	o.at = max(now, 1)
	if o.answered[k] != 0 && now-o.answered[k] < heartbeat*3/4 {
		return false
	}
	o.answered[k] = max(now, 1)
	return true
}

// compareLists looks at the list of a member that has just proved itself.
func (l *loop) compareLists() {
	p := &l.pkt
	if !p.stamp.Newer(l.cfg.Stamp) {
		return
	}
	l.heardNewer(p.stamp)
	switch {
	case p.beacon.Without && !l.tell.expelled:
		l.tell.expelled, l.tell.due = true, 0
		l.step(election.Event{Kind: election.Expelled})
	case p.unknown:
		l.newer = election.Beacon{Role: cluster.Master, Quality: p.beacon.Quality, Reign: election.Reign{Term: p.foreign}}
		l.step(election.Event{Kind: election.Newer, Beacon: &l.newer})
	}
}

// heardNewer tells the agent who has a newer list.
func (l *loop) heardNewer(s Stamp) {
	if l.tell.newer.Stamp == s {
		return
	}
	if from := l.rx.addr(); from.IsValid() && !l.tell.newer.Stamp.Newer(s) {
		l.tell.newer = Newer{s, from}
		l.tell.due = 0
	}
}

// stranger answers an authentic packet of a node that is no member here, or that
// uses a key which is not in use any more.
func (l *loop) stranger(k int) {
	p := &l.pkt
	if p.stamp == l.cfg.Stamp && p.key == 0 {
		return // the same list of a file, and two files that differ
	}
	if p.stamp.Newer(l.cfg.Stamp) {
		l.heardNewer(p.stamp)
		l.newer = p.beacon
		l.newer.Reign.Term = max(p.foreign, p.beacon.Reign.Term)
		l.step(election.Event{Kind: election.Newer, Beacon: &l.newer})
	}
	l.step(election.Event{Kind: election.Parted, Up: p.beacon.Role == cluster.Master || p.beacon.Role == cluster.Limbo})
	if !l.others.may(p.from, k, time.Duration(l.now()), time.Duration(l.cfg.Timers.Heartbeat)) {
		return
	}
	l.others.seq++
	b := l.st.Beacon()
	h := head{link: uint8(k), nonce: l.nonce, echo: p.nonce, seq: l.others.seq}
	out := l.codec.sealFor(l.out[:], p.from, p.key, h, &b, &l.macs)
	// An error is what silence is.
	_ = unix.Sendto(l.lanes[k].fd, out, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, sockaddr(l.rx.addr(), l.cfg.Port))
}

// frozen says what of now cannot be had without a restart, "" if nothing.
func frozen(was, now *Config, linksWas, linksNow []cluster.LinkID) string {
	self := func(c *Config) []Link {
		i := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.ID == c.Self })
		return c.Nodes[i].Links
	}
	switch {
	case was.Cluster != now.Cluster || was.Self != now.Self || was.Port != now.Port:
		return "the cluster's name, the port and the own name stay as they are while the node runs"
	case was.Timers != now.Timers:
		return "the failover profile stays as it is while the node runs"
	case !slices.Equal(linksWas, linksNow):
		return fmt.Sprintf("the links stay as they are while the node runs: %v before, %v now", linksWas, linksNow)
	case !slices.Equal(was.VIPs, now.VIPs):
		return "the VIPs stay as they are while the node runs"
	case was.Isolation != now.Isolation || !sameWitness(was.Witness, now.Witness) || !slices.Equal(was.References, now.References):
		return "the isolation policy, the witness and the references stay as they are while the node runs"
	case !slices.Equal(self(was), self(now)):
		return "a node's own addresses stay as they are while it runs"
	}
	return ""
}

func sameWitness(was, now *Witness) bool {
	return was == now || was != nil && now != nil && *was == *now
}

// reconfigure takes other members in without losing what is known of those that stay.
func (l *loop) reconfigure(msg []byte) {
	defer clear(msg) // the keys
	cfg := &Config{}
	if err := json.Unmarshal(msg, cfg); err != nil {
		l.tell.line("the new members cannot be read: " + err.Error())
		return
	}
	y, err := newLayout(cfg)
	if err != nil {
		l.tell.line(err.Error())
		return
	}
	if why := frozen(l.cfg, cfg, l.names.links, y.links); why != "" {
		l.tell.line("the new members are not taken: " + why)
		return
	}
	l.adopt(cfg, y)
	l.tell.line(fmt.Sprintf("members of generation %d: %v", cfg.Stamp.Generation, y.nodes))
}

func (l *loop) adopt(cfg *Config, y *layout) {
	var was [election.MaxNodes]uint8
	for i := range was {
		was[i] = election.Nobody
		if i < len(y.nodes) {
			was[i] = l.names.node(y.nodes[i])
		}
	}
	// Whoever goes or comes was or will be answered with others.seq: no receiver may see a sequence twice.
	for i := range l.names.nodes {
		l.others.seq = max(l.others.seq, l.members[i].seq)
	}
	ec, _ := y.election(cfg)
	l.st = l.st.Reshape(ec, was)
	l.members, l.tell = l.reordered(was)
	l.turns.reshaped(func(old uint8) uint8 { return uint8(slices.Index(was[:], old)) }) // -1 is Nobody
	if cfg.Key != l.cfg.Key || len(y.nodes) != len(l.names.nodes) {
		l.tell.due = 0
	}
	l.cfg, l.names = cfg, y
	l.codec = y.codec(cfg)
	l.layPeers()
	l.next = l.now()
}

// reordered is what is kept of every node, in its new place.
func (l *loop) reordered(was [election.MaxNodes]uint8) (members [election.MaxNodes]member, t teller) {
	t = l.tell
	t.newer, t.expelled = Newer{}, false
	wall := time.Now()
	for i, old := range was {
		if int(old) < len(l.members) {
			members[i] = l.members[old]
			t.states[i], t.sinces[i], t.greeted[i] = l.tell.states[old], l.tell.sinces[old], l.tell.greeted[old]
			continue
		}
		members[i].seq = l.others.seq
		members[i].greet = true
		t.states[i], t.sinces[i], t.greeted[i] = PeerUnknown, wall, 0
	}
	if t.reign.Term > 0 && int(t.reign.Owner) < election.MaxNodes {
		owner := slices.Index(was[:], t.reign.Owner)
		t.reign.Owner = election.Nobody
		if owner >= 0 {
			t.reign.Owner = uint8(owner)
		}
	}
	return members, t
}

// layPeers says where everybody is on every link.
func (l *loop) layPeers() {
	for k := range l.lanes {
		n := &l.lanes[k]
		n.to, n.former, n.peers = [election.MaxNodes]unix.Sockaddr{}, n.peers, [election.MaxNodes]netip.Addr{}
		for _, m := range l.cfg.Nodes {
			for _, nl := range m.Links {
				if nl.ID != n.id {
					continue
				}
				if i := l.names.node(m.ID); i == l.names.self {
					n.addr = nl.Addr
				} else {
					n.to[i], n.peers[i] = sockaddr(nl.Addr, l.cfg.Port), nl.Addr
				}
			}
		}
		if n.fd >= 0 {
			l.shield(k, n.fd)
		}
	}
}
