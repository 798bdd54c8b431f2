package election

import "revolve/internal/cluster"

// settle stops all faults and demands L1, L2 and P1: within the bound one
// master, whom everybody follows, and it stays.
func (s *sim) settle() {
	s.say("--- settle")
	all := "abcdefghijklmnop"[:len(s.n)]
	s.heal(all)
	wake := s.now
	for i := range s.n {
		n := &s.n[i]
		n.noWitness, n.outside, n.reachAt = false, true, s.now
		n.word.Maintenance, n.word.Hold, n.ill, n.unfit, n.lag, n.noFlush, n.slow, n.diskUntil = false, false, false, false, false, false, 0, s.now
		for l := range s.links {
			s.plug(i, l, true)
		}
		wake = max(wake, n.asleep(), n.agentFrozen)
		if n.agentDead {
			s.crash(i)
		}
		s.start(i)
	}
	s.recalc()
	s.runFor(wake - s.now + 2*simLag)
	for i := range s.n { // whoever was to stop when it woke up has stopped
		s.start(i)
	}
	for i := range s.n { // what the agents say of faults that are over
		if n := &s.n[i]; n.up {
			n.word.Ill, n.word.Unfit = false, false
			s.speak(i)
		}
	}
	s.spread()
	begin, reigns, ordered, claims := s.now, s.begun, s.ordered(), s.claiming()
	s.rest(begin, max(4*s.cfg.Timers.Dead, Second))
	if n := s.begun - reigns; n > max(claims, 1)+ordered+s.removed() {
		s.fail("L2: %d reigns after the last fault, with %d claims under way and %d orders to switch", n, claims, ordered)
	}
}

// spread waits until every member that runs has the latest list: what a newer list
// costs is counted apart from what a fault costs.
func (s *sim) spread() {
	limit := s.now + 2*s.cfg.Timers.Dead + Second
	for len(s.bad) == 0 {
		s.runFor(0)
		have := true
		for i := range s.n {
			have = have && (!s.latest(i) || !s.n[i].up || s.n[i].list.gen == len(s.lists)-1)
		}
		if have {
			return
		}
		if s.now > limit {
			s.fail("L3: the latest list has not reached every member\n%s", s.show())
		}
		s.runFor(s.cfg.Timers.Heartbeat / 2)
	}
}

// rest demands that from L1's bound on, for as long as hold, one and the same
// node leads, whom everybody follows.
func (s *sim) rest(begin, hold Time) {
	moved, m, begun := begin, s.settled(), s.begun // moved: when anything last was not at rest
	for s.now < begin+s.bound()+hold && len(s.bad) == 0 {
		s.runFor(s.cfg.Timers.Heartbeat / 2)
		if now := s.settled(); now < 0 || now != m || s.begun != begun {
			moved, m, begun = s.now, now, s.begun
		}
		if moved-begin > s.bound() {
			s.fail("L1: no stable master %d ms after the last fault; masters %v\n%s", (moved-begin)/Millisecond, s.masters(), s.show())
		}
	}
	s.count.settles(s.cfg.Timers, moved-begin)
}

// removed is how many nodes run that the latest list does not have: they have to be told, and end.
func (s *sim) removed() (n int) {
	for i := range s.n {
		if s.n[i].life > 0 && !s.latest(i) {
			n++
		}
	}
	return n
}

// claiming is how many claims are under way.
func (s *sim) claiming() (n int) {
	for i := range s.n {
		if s.n[i].up && s.n[i].st.claim.on {
			n++
		}
	}
	return n
}

// ordered is how many orders to switch are still to be carried out.
func (s *sim) ordered() (n int) {
	for i := range s.n {
		if s.n[i].word.Switch.ID != s.n[i].st.lastSwitch || s.n[i].st.hand.id != 0 {
			n++
		}
	}
	return n
}

// bound is L1's, derived in docs/failover.md.
func (s *sim) bound() Time {
	t := s.cfg.Timers
	return max(MinListen, 2*t.Heartbeat) + t.Dead + 2*t.Heartbeat
}

// settled is the one master whom all follow and who alone has the VIPs, or -1.
func (s *sim) settled() int {
	m := s.masters()
	if len(m) != 1 || !s.n[m[0]].vip || s.n[m[0]].st.Handover().ID != 0 {
		return -1
	}
	for i := range s.n {
		n := &s.n[i]
		if !s.latest(i) {
			if n.vip || n.up && n.st.Role() == cluster.Master {
				return -1
			}
			continue
		}
		if n.word.Switch.ID != n.st.lastSwitch || n.list.gen != len(s.lists)-1 {
			return -1 // an order is still to come, or a list
		}
		r, ok := s.lead(i)
		if !ok || int(r.Owner) != m[0] || i != m[0] && (n.vip || n.st.Role() != cluster.Standby) {
			return -1
		}
	}
	return m[0]
}
