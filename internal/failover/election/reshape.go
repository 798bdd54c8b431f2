package election

// Reshape is the same node in a cluster of other members: a copy of the state
// whose indices mean what they mean in cfg. was names, for every node of cfg, its
// index before, Nobody if it is new; whoever is not named is forgotten.
//
// Both lists are sorted by name, so the order of the nodes that stay is the
// same in both, and with it every comparison that an index decides. Links, VIPs
// and timers must be the same as before, and cfg.Self the same node.
func (s State) Reshape(cfg Config, was [MaxNodes]uint8) State {
	m := &mapping{}
	for i := range m.now {
		m.now[i] = Nobody
	}
	for i := range int(cfg.Count) {
		if int(was[i]) < MaxNodes {
			m.now[was[i]] = uint8(i)
		}
	}
	old := s.peers
	for i := range old {
		if s.reigning(i) && m.now[i] == Nobody {
			s.noClaim = max(s.noClaim, s.now+s.cfg.Timers.Dead) // who reigns and is no member any more has to be told, and to let go
		}
	}
	blank := New(cfg, Boot{}, s.now).peers
	s.cfg, s.peers = cfg, blank
	for i := range int(cfg.Count) {
		if int(was[i]) < MaxNodes {
			s.peers[i] = m.peer(old[was[i]])
		}
	}
	s.boot.MaybeFresher = m.set(s.boot.MaybeFresher)
	s.rivals, s.healed, s.blocked = m.set(s.rivals), m.set(s.healed), m.set(s.blocked)
	s.reign = m.reign(s.reign)
	s.grantTo, s.yielded = m.node(s.grantTo), m.node(s.yielded)
	s.rivalBy, s.lastLead = m.node(s.rivalBy), m.node(s.lastLead)
	s.word.Switch.To = m.node(s.word.Switch.To)
	if s.hand.id != 0 {
		if s.hand.to = m.node(s.hand.to); s.hand.to == Nobody {
			s.endHandover(SuccessorLost)
			s.nextFresh, s.announce = s.now, true // what was given up for it comes back with the next step
		}
	}
	s.newerAt, s.outranked, s.expelled = never, false, false
	s.told = s.digest()
	return s
}

// mapping turns indices of the list before into those of the list now.
type mapping struct{ now [MaxNodes]uint8 }

func (m *mapping) node(i uint8) uint8 {
	if int(i) < MaxNodes {
		return m.now[i]
	}
	return Nobody
}

func (m *mapping) set(old uint16) (out uint16) {
	for i := range MaxNodes {
		if k := m.now[i]; old&(1<<i) != 0 && k != Nobody {
			out |= 1 << k
		}
	}
	return out
}

// reign of a node that is gone is no reign.
func (m *mapping) reign(r Reign) Reign {
	if r.Term == 0 {
		return r
	}
	if r.Owner = m.node(r.Owner); r.Owner == Nobody {
		r.Term = 0
	}
	return r
}

func (m *mapping) peer(p peer) peer {
	p.b.From, p.b.Successor, p.b.Reign = m.node(p.b.From), m.node(p.b.Successor), m.reign(p.b.Reign)
	for l := range p.b.Hears {
		p.b.Hears[l] = m.set(p.b.Hears[l])
	}
	p.stand.reign = m.reign(p.stand.reign)
	return p
}
