package election

import (
	"math/bits"

	"revolve/internal/cluster"
)

// Members that change. The simulator's nodes have one number for ever; each goes by
// a list of members, a bitmap of them, and its State knows the members by their
// places in that list. What beat's members.go and the agents do about lists is here.

// simList is the list of members that a node goes by.
type simList struct {
	gen     int // a later list has a higher one
	set     uint16
	in, out [MaxNodes]uint8 // place of a node, and node of a place
}

func listOf(gen int, set uint16) (l simList) {
	l.gen, l.set = gen, set
	for i := range l.in {
		l.in[i], l.out[i] = Nobody, Nobody
	}
	for k, rest := 0, set; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros16(rest)
		l.in[i], l.out[k] = uint8(k), uint8(i)
		k++
	}
	return l
}

func (l *simList) has(i int) bool { return l.set&(1<<i) != 0 }

// node is the number of the member at place k, Nobody if there is none.
func (l *simList) node(k uint8) uint8 {
	if int(k) < MaxNodes {
		return l.out[k]
	}
	return Nobody
}

// place is the place of node i, Nobody if it is no member.
func (l *simList) place(i uint8) uint8 {
	if int(i) < MaxNodes {
		return l.in[i]
	}
	return Nobody
}

// numbers turns places into numbers, places the other way round.
func (l *simList) numbers(places uint16) (m uint16) {
	if l.set&(l.set+1) == 0 {
		return places & l.set
	}
	for ; places != 0; places &= places - 1 {
		if i := l.out[bits.TrailingZeros16(places)]; i != Nobody {
			m |= 1 << i
		}
	}
	return m
}

func (l *simList) places(numbers uint16) (m uint16) {
	if l.set&(l.set+1) == 0 {
		return numbers & l.set
	}
	for numbers &= l.set; numbers != 0; numbers &= numbers - 1 {
		m |= 1 << l.in[bits.TrailingZeros16(numbers)]
	}
	return m
}

// configOf is the configuration of node i by its list.
func (s *sim) configOf(i int) Config {
	cfg, l := s.cfg, &s.n[i].list
	cfg.Self, cfg.Count = l.in[i], uint8(bits.OnesCount16(l.set))
	for k := range cfg.Members {
		cfg.Members[k] = Member{}
		if k < int(cfg.Count) {
			cfg.Members[k] = s.cfg.Members[l.out[k]]
		}
	}
	return cfg
}

// peer is what node i knows of node j.
func (s *sim) peer(i, j int) PeerView {
	if k := s.n[i].list.in[j]; k != Nobody {
		return s.n[i].st.Peer(int(k))
	}
	return PeerView{}
}

// lead is the reign that node i takes for the present one; its owner is a number.
func (s *sim) lead(i int) (r Reign, ok bool) {
	r, ok = s.n[i].st.Master()
	r.Owner = s.n[i].list.node(r.Owner)
	return r, ok
}

// translated is a packet's beacon as the codec of node i reads it (beat, codec.readBeacon);
// foreign is the term of a reign whose owner i does not know.
func (s *sim) translated(i int, p *simPacket) (b Beacon, foreign cluster.Term) {
	b, l := p.b, &s.n[i].list
	if p.list.set == l.set {
		return b, 0
	}
	b.From, b.Successor = l.place(p.list.node(b.From)), l.place(p.list.node(b.Successor))
	b.Without = !p.list.has(i)
	b.Reign.Owner = l.place(p.list.node(b.Reign.Owner))
	if b.Reign.Owner == Nobody {
		foreign, b.Reign.Term = b.Reign.Term, 0
	}
	for k := range b.Hears {
		b.Hears[k] = l.places(p.list.numbers(b.Hears[k]))
	}
	return b, foreign
}

// stranger is a packet of a node that i's list does not have (beat, loop.stranger).
func (s *sim) stranger(i int, e *simEvent, p *simPacket) {
	n := &s.n[i]
	b, foreign := s.translated(i, p)
	if p.list.gen > n.list.gen {
		s.heardNewer(i, p.list.gen)
		b.Reign.Term = max(foreign, b.Reign.Term)
		s.feed(i, Event{Kind: Newer, Beacon: &b})
	}
	s.feed(i, Event{Kind: Parted, Up: b.holds()})
	now := s.local(i)
	if !n.up || n.answered[e.a][e.l] != 0 && now-n.answered[e.a][e.l] < s.cfg.Timers.Heartbeat*3/4 {
		return
	}
	n.answered[e.a][e.l] = now
	n.outSeq[e.a]++
	slot := s.packet(i)
	if d, ok := s.travel(i, int(e.a), int(e.l)); ok && !s.path[i][e.a][e.l].wall {
		s.pool[slot].refs++
		s.push(d, simEvent{kind: evPacket, a: uint8(i), b: e.a, l: e.l, life: s.n[e.a].life, seq: n.outSeq[e.a], echo: s.pool[e.slot].nonce, slot: slot})
	}
	s.unref(slot)
}

// compareLists looks at the list of a member that has proved itself (beat, loop.compareLists).
func (s *sim) compareLists(i int, gen int, b *Beacon, foreign cluster.Term) {
	n := &s.n[i]
	if gen <= n.list.gen {
		return
	}
	s.heardNewer(i, gen)
	switch {
	case b.Without && !n.expelled:
		n.expelled = true
		s.feed(i, Event{Kind: Expelled})
		if !n.agentDead { // whose agent ends then, in order
			s.push(simWord, simEvent{kind: evLeave, b: uint8(i), life: n.life})
		}
	case foreign > 0:
		s.feed(i, Event{Kind: Newer, Beacon: &Beacon{Role: cluster.Master, Quality: b.Quality, Reign: Reign{Term: foreign}}})
	}
}

// heardNewer has the agent fetch a newer list, which takes it up to 100 ms.
func (s *sim) heardNewer(i, gen int) {
	n := &s.n[i]
	if n.newer >= gen || n.agentDead {
		return
	}
	n.newer = gen
	s.push(10*Millisecond+Time(s.rnd.Int64N(int64(90*Millisecond))), simEvent{kind: evList, b: uint8(i), life: n.life, seq: uint32(gen)})
}

// fetched: the agent of node i has list gen.
func (s *sim) fetched(i int, gen int) {
	n := &s.n[i]
	if wait := max(n.agentFrozen, n.asleep()); s.now < wait {
		s.push(wait-s.now+simLag, simEvent{kind: evList, b: uint8(i), life: n.life, seq: uint32(gen)})
		return
	}
	if n.up && !n.agentDead && gen > n.list.gen && s.lists[gen]&(1<<i) != 0 {
		s.adopt(i, gen)
	}
}

// adopt is beat's: the election goes on with other members.
func (s *sim) adopt(i, gen int) {
	n := &s.n[i]
	old := n.list
	n.list = listOf(gen, s.lists[gen])
	n.expelled = false
	s.say("%-3s goes by list %d: %v", s.name(i), gen, s.names(n.list.set))
	if !n.up {
		return
	}
	cfg := s.configOf(i)
	var was [MaxNodes]uint8
	for k := range was {
		was[k] = Nobody
		if k < int(cfg.Count) {
			was[k] = old.in[n.list.out[k]]
			if was[k] == Nobody {
				n.proof[n.list.out[k]], n.greet = simProof{}, n.greet|1<<n.list.out[k]
			}
		}
	}
	n.st = n.st.Reshape(cfg, was)
	s.count.Lists++
	s.wake(i, s.now)
}

// change is an order of a person: from now on these are the members. The master
// carries it out, if it has the latest list and stays a member itself.
func (s *sim) change(set uint16) {
	last := len(s.lists) - 1
	if set == s.lists[last] || set == 0 {
		return
	}
	if !s.begunAny() {
		s.lists[0] = set
		for i := range s.n {
			s.n[i].list = listOf(0, set)
		}
		return
	}
	for _, i := range s.masters() {
		if n := &s.n[i]; !n.agentDead && s.now >= n.agentFrozen && n.list.gen == last && set&(1<<i) != 0 {
			s.lists = append(s.lists, set)
			s.adopt(i, last+1)
			return
		}
	}
}

// begunAny reports whether any node was ever started.
func (s *sim) begunAny() bool {
	for i := range s.n {
		if s.n[i].life > 0 {
			return true
		}
	}
	return false
}

// joins makes a node that is about to start go by the latest list, if it is in that
// one and not in its own; false if it is in neither.
func (s *sim) joins(i int) bool {
	n, last := &s.n[i], len(s.lists)-1
	if !n.list.has(i) && s.lists[last]&(1<<i) != 0 {
		n.list = listOf(last, s.lists[last])
	}
	return n.list.has(i)
}

// strangers reports whether neither of two nodes has the other in its list: they say nothing to each other.
func (s *sim) strangers(i, j int) bool { return !s.n[i].list.has(j) && !s.n[j].list.has(i) }

// latest reports whether node i is a member by the latest list.
func (s *sim) latest(i int) bool { return s.lists[len(s.lists)-1]&(1<<i) != 0 }

func (s *sim) names(set uint16) (out string) {
	for i := range s.n {
		if set&(1<<i) != 0 {
			out += s.name(i)
		}
	}
	return out
}
