package election

import "revolve/internal/cluster"

// Isolation is what a node does that hears no peer and has no proof that anything
// else is reachable: it cannot know whether it is the last one left or cut off.
type Isolation uint8

// The policies.
const (
	Keep    Isolation = iota // serve: the last survivor must, and routers reboot
	Release                  // give the VIPs up, and claim nothing meanwhile
)

// Bounds of the policies.
const (
	flapWindow     = 60 * Second // masters taken for dead that lived, within ...
	flapLimit      = 3           // ... more of them than this double the deadline
	maxDeadline    = 3 * Second  // whatever flaps, a dead master is replaced after this
	FailbackStable = 60 * Second // how long a wish must stand before it may move the VIPs back
)

// Lease is the whole state of a witness: who may lead while the two halves of a
// cluster cannot hear each other. It lives outside the cluster and only in
// memory; a witness that restarts grants nothing before Timers.Dead has passed.
type Lease struct {
	holder uint8
	until  Time
}

// NewLease is the state of a witness that starts at now.
func NewLease(now Time, t Timers) Lease { return Lease{Nobody, now + t.Dead} }

// Ask answers node's question whether it may lead, at now, and if so keeps
// everybody else out for T_dead. A master asks at every heartbeat, and says that
// it leads: just after its own start a witness that has forgotten whom it let
// lead believes that, so that its restart costs a lone master nothing.
func (l *Lease) Ask(node uint8, leads bool, now Time, t Timers) bool {
	if !l.Free(node, now) && (!leads || l.holder != Nobody) {
		return false
	}
	l.holder, l.until = node, now+t.Dead
	return true
}

// Free reports whether node would get the lease at now.
func (l *Lease) Free(node uint8, now Time) bool { return node == l.holder || now >= l.until }

// Give takes the lease back from node, which has let its VIPs go: the next one need not wait.
func (l *Lease) Give(node uint8, now Time) {
	if node == l.holder {
		l.until = min(l.until, now)
		l.holder = Nobody
	}
}

// Holder is who may lead at now, Nobody if nobody was asked for or the lease ran out.
func (l *Lease) Holder(now Time) uint8 {
	if now >= l.until {
		return Nobody
	}
	return l.holder
}

// AsksWitness reports whether the host has to ask the witness at every heartbeat
// now, if there is one.
func (s *State) AsksWitness() bool {
	if !s.cfg.Witness || s.stopped {
		return false
	}
	_, led := s.lead()
	return s.leads() || !led || s.suspects() != 0
}

// MayLead reports whether this node leads or could: whoever could not must not
// keep the lease from others.
func (s *State) MayLead() bool { return s.leads() || s.class() != cluster.Barred }

// Leads reports whether this node says that it is master.
func (s *State) Leads() bool { return s.role == cluster.Master }

// alone: no peer was heard for the fence time, which is shorter than the silence
// after which another one may claim.
func (s *State) alone() bool { return s.silence() > s.cfg.Timers.Fence }

// silence is how long no peer was heard.
func (s *State) silence() Time {
	last := s.bootAt
	s.others(func(_ int, p *peer) { last = max(last, p.news) })
	return s.now - last
}

// parting: the next heartbeat tells whether this node is alone. Until then the word
// of the witness, or the policy, could end at once what it claims now.
func (s *State) parting() bool {
	if !s.cfg.Witness && s.cfg.Isolation != Release || s.granted() {
		return false
	}
	return !s.alone() && s.silence() > s.cfg.Timers.Fence-s.cfg.Timers.Heartbeat
}

// granted and refused are the witness's answers as far as they are fresh; an
// unreachable witness is neither.
func (s *State) granted() bool {
	return s.cfg.Witness && s.verdict && s.now-s.verdictAt <= s.cfg.Timers.Fence
}

func (s *State) refused() bool {
	return s.cfg.Witness && !s.verdict && s.now-s.verdictAt <= s.cfg.Timers.Fence
}

// isolated: alone, and without a proof that this is not this node's own fault.
// The proof is the witness's word where there is one, else anything that is no
// node of ours and answers on a VIP link.
func (s *State) isolated() bool {
	if s.cfg.Isolation != Release || !s.alone() || s.granted() {
		return false
	}
	return s.cfg.Witness || s.now-s.outside > s.cfg.Timers.Fence
}

// flap notes that a master that was taken for dead lives (rule R11). A node that
// restarts does not count: it died. What counts is what a longer patience would
// have avoided.
func (s *State) flap(f *Effects) {
	if s.now-s.flaps[0] < s.cfg.Timers.Dead {
		return // the same one, seen from two sides
	}
	before := s.patient
	copy(s.flaps[1:], s.flaps[:len(s.flaps)-1])
	s.flaps[0] = s.now
	s.patient = s.patience()
	if p := s.patient; p > before {
		f.note(NoteDamped, Nobody, uint64(p))
		f.Changed = true
	}
}

// patience is the factor on the silence that counts as death, from the flaps.
func (s *State) patience() Time {
	n := 0
	for _, at := range s.flaps {
		if s.now-at < flapWindow {
			n++
		}
	}
	return 1 << (max(n-1, 0) / flapLimit)
}

// headless measures since when no reign is known, and whose the last one was.
func (s *State) measureReign() {
	if s.patient > 1 {
		s.patient = s.patience()
	}
	if i, ok := s.lead(); ok {
		s.headless, s.lastLead = never, uint8(i)
	} else if s.role == cluster.Master {
		s.headless, s.lastLead = never, s.cfg.Self
	} else if s.headless == never {
		s.headless, s.waits = s.now, false
	}
}

// absentFresher is a candidate that is silent and was ahead of this node when it
// was last heard. The master whose death made the place free does not count: it
// was ahead of everybody.
func (s *State) absentFresher() (who int, found bool) {
	if s.word.Class == cluster.InSync {
		return 0, false
	}
	s.others(func(i int, p *peer) {
		absent := !s.alive(i) || p.b.Role == cluster.Listening // one that listens has just come back
		if p.ever && absent && s.cfg.Members[i].Candidate && i != int(s.lastLead) && p.b.Fresh.Compare(s.word.Fresh) > 0 {
			who, found = i, true
		}
	})
	return who, found
}

// waiting: this node could lead, and leaves the stale delay to a fresher one that
// is absent (rule R7).
func (s *State) waiting() bool {
	_, found := s.absentFresher()
	return found && s.headless != never && s.now-s.headless < StaleDelay
}

// SeeksOutside reports whether the host has to ask now who else is there on the
// VIP links: no peer was heard for longer than a heartbeat takes, and an answer
// is the proof that the policy wants.
func (s *State) SeeksOutside() bool {
	return s.cfg.Isolation == Release && !s.cfg.Witness && !s.stopped && s.silence() > s.cfg.Timers.Heartbeat*3/2
}

// Patience is the factor by which silence is borne longer; 1 unless Damped.
func (s *State) Patience() int { return int(s.patient) }

// Damped reports whether roles have changed so often that silence is borne longer.
func (s *State) Damped() bool { return s.patient > 1 }

// Isolated reports whether the isolation policy keeps this node from serving.
func (s *State) Isolated() bool { return s.isolated() }

// Wisher is the standby to which the master's agent may hand over without being
// asked by a person: its own agent has wished so for FailbackStable, it comes
// first by priority, it is in-sync, and nothing speaks against a move now.
func (s *State) Wisher() (node uint8, ok bool) {
	if !s.holding() || s.word.Hold || s.Damped() {
		return Nobody, false
	}
	best := s.cfg.Members[s.cfg.Self].Priority
	node = Nobody
	s.others(func(i int, p *peer) {
		if s.alive(i) && p.wished != never && s.now-p.wished >= FailbackStable && p.b.Class == cluster.InSync && p.b.Role == cluster.Standby &&
			p.b.Priority > best {
			node, best, ok = uint8(i), p.b.Priority, true
		}
	})
	return node, ok
}
