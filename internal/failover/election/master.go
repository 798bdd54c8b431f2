package election

import "revolve/internal/cluster"

// decideMaster: reasons to stop, then rivals, then the quality of the reign.
func (s *State) decideMaster(f *Effects) {
	switch {
	case !s.leave():
		s.release(NoteNoLeave, f)
	case s.word.Maintenance:
		s.release(NoteMaint, f)
	case s.word.Unfit && s.replaceable(): // also during a handover: this disk flushes nothing
		s.release(NoteUnfit, f)
	case s.expelled:
		s.release(NoteExpelled, f)
	case s.outranked:
		s.outranked = false
		s.release(NoteOutdated, f)
	case !s.linked(), s.fewer():
		s.release(NoteLinkDown, f)
	case s.mute():
		f.DeleteVIPs = true
		f.note(NoteMute, Nobody, 0)
		s.limbo(f)
		s.muted = true
	case s.alone() && s.refused():
		s.release(NoteRefused, f)
	case s.isolated():
		s.release(NoteIsolated, f)
	case s.shares(), !s.holding() && s.keeps() && s.foundCard():
		s.release(NoteShared, f)
	default:
		s.meetRivals(f)
	}
	if s.role != cluster.Master {
		return
	}
	if s.now-s.company > QualityDelay && !s.granted() {
		s.qual = min(s.qual, 2)
	}
	if s.hand.id != 0 {
		s.handOver(f)
	}
}

// replaceable reports whether a well candidate is heard that has its data, however old.
func (s *State) replaceable() (yes bool) {
	s.others(func(i int, p *peer) {
		yes = yes || s.alive(i) && p.b.Role == cluster.Standby && p.b.Class >= cluster.Lagging && p.b.Flags&Ill == 0
	})
	return yes
}

// shares: the card of a node whose heartbeats do not arrive has had the VIPs for
// longer than a kernel leases them, and still has them, so that somebody
// refreshes them there. Of two masters that only see each other's cards the second
// by configuration gives way first; the first does only if the other cannot,
// because it does not see this card.
func (s *State) shares() bool {
	if s.rivalBy == Nobody {
		return false
	}
	i := int(s.rivalBy)
	p, wait := &s.peers[i], Lifetime+AnswerGrace
	if !s.carded(i) || s.now-p.card > 3*s.cfg.Timers.Probe { // asked once in a probe time
		s.rivalBy = Nobody
		return false
	}
	if !s.before(i) {
		wait += Second + 2*s.cfg.Timers.Dead
	}
	return s.now-p.carded > wait
}

// release gives the VIPs up and says so; the others may claim at once.
func (s *State) release(why NoteCode, f *Effects) {
	f.DeleteVIPs, f.AddVIPs = true, false
	f.Send = 2
	f.note(why, s.rivalBy, uint64(s.reign.Term))
	s.endHandover(Interrupted)
	s.become(cluster.Standby)
	s.rivalBy = Nobody
	s.penance = s.now + 2*s.cfg.Timers.Heartbeat
	s.askAll = s.now + s.cfg.Timers.Dead // as master it had forgotten who else might hold them
}

// limbo keeps the reign in mind while the VIPs are gone from here.
func (s *State) limbo(f *Effects) {
	f.AddVIPs = false
	f.Send = max(f.Send, 1)
	s.endHandover(Interrupted)
	s.become(cluster.Limbo)
	s.muted = false
}

// stop is the orderly end: nothing is left behind, and the others need not wait.
func (s *State) stop(f *Effects) {
	f.DeleteVIPs, f.AddVIPs, f.Announce = true, false, false
	f.Send = 2
	s.endHandover(Interrupted)
	s.become(cluster.Standby)
	s.stopped = true
}

// meetRivals settles who of two masters stays (rule R6), and takes a term above
// every other when it is this node.
func (s *State) meetRivals(f *Effects) {
	met, worst := uint16(0), -1
	s.others(func(i int, p *peer) {
		if !s.reigning(i) || p.limbo || p.proof < s.since {
			return // or others heard it last before this reign began: that it goes on is to be seen
		}
		met |= 1 << i
		if s.weigh(i) > 0 && (worst < 0 || p.stand.compare(s.peers[worst].stand) > 0) {
			worst = i
		}
	})
	if worst >= 0 {
		f.DeleteVIPs, f.AddVIPs, f.Send = true, false, 2
		f.note(NoteLostTo, uint8(worst), uint64(s.peers[worst].stand.reign.Term))
		s.endHandover(Interrupted)
		s.become(cluster.Standby)
		s.flap(f)
		return
	}
	if met&^s.rivals != 0 {
		s.metAt = s.now
	}
	if s.heardBy(met) == met || s.now-s.metAt >= 2*s.cfg.Timers.Heartbeat {
		s.heal(met, f)
	}
	if met&^s.rivals != 0 || s.rivals&^met != 0 || met != 0 && s.now-s.rivalAt >= RivalRepeat {
		s.rivalAt = s.now
		s.announce = s.announce || s.holding() // whoever asked the rival last must ask again
		f.Send = max(f.Send, 1)
	}
	s.rivals = met
}

// weigh compares the reign of rival i with this node's own; it is positive if the
// rival stays. As long as only one of the two hears the other, the qualities
// count as they are, so that a deaf claimant deposes nobody. Once both do, to hear
// each other is no merit: only others count. Else a master that returns from a
// pause of its whole machine, its clock stopped and its quality with it, would
// depose the one who has served meanwhile.
func (s *State) weigh(i int) int {
	p := &s.peers[i]
	own, rival := standing{s.qual, s.reign}, p.stand
	if s.heardBy(1<<i) != 0 && p.b.holds() {
		company, heard := false, uint16(0)
		s.others(func(k int, _ *peer) { company = company || k != i && s.alive(k) })
		for l := range MaxLinks {
			heard |= p.b.Hears[l]
		}
		if !company {
			own.quality = min(own.quality, 2)
		}
		if heard&^(1<<i|1<<s.cfg.Self) == 0 {
			rival.quality = min(rival.quality, 2)
		}
	}
	return rival.compare(own)
}

// heardBy is the subset of set that says that it hears this node.
func (s *State) heardBy(set uint16) (m uint16) {
	s.others(func(i int, p *peer) {
		if set&(1<<i) != 0 && p.hearsMe(s.cfg.Self) {
			m |= 1 << i
		}
	})
	return m
}

// heal takes a term above all after a meeting with another master, so that no
// receiver that had followed the loser refuses the winner.
func (s *State) heal(met uint16, f *Effects) {
	s.healed &= met
	fresh := met &^ s.healed
	if (fresh == 0 && s.seen <= s.reign.Term) || s.nextTerm() > s.word.Reserved {
		return
	}
	s.healed |= met
	who := uint8(Nobody)
	s.others(func(i int, _ *peer) {
		if fresh&(1<<i) != 0 {
			who = uint8(i)
		}
	})
	s.newReign(s.nextTerm(), s.word.Class)
	f.AddVIPs, f.Announce, f.Send = s.holding(), s.holding(), 1
	f.note(NoteWonOver, who, uint64(s.reign.Term))
}

// orders takes a new switch order of the agent in and watches a granted one.
func (s *State) orders(f *Effects) {
	if s.hand.id != 0 && s.hand.granted {
		s.awaitSuccessor()
	}
	o := s.word.Switch
	if !s.hasWord || o.ID == 0 || o.ID == s.lastSwitch {
		return
	}
	s.lastSwitch = o.ID
	if why := s.refusal(o); why != NoFailure {
		s.resultID, s.result = o.ID, why
		return
	}
	s.hand = handover{id: o.ID, to: o.To, since: s.now}
	f.DeleteVIPs, f.AddVIPs, f.Announce = true, false, false
	f.Send = max(f.Send, 1)
	f.note(NoteHandover, o.To, o.ID)
}

// refusal says why a switch order cannot be carried out now.
func (s *State) refusal(o Switch) Failure {
	switch {
	case s.hand.id != 0:
		return Busy
	case s.role != cluster.Master:
		return NotMaster
	case o.To >= s.cfg.Count || o.To == s.cfg.Self:
		return BadSuccessor
	case !s.alive(int(o.To)):
		return NotHeard
	case s.foundCard(): // the successor, who need not have seen it, would take the addresses beside it
		return Shared
	}
	switch b := &s.peers[o.To].b; {
	case b.Class == cluster.Barred || b.Flags&Ill != 0 || b.Role != cluster.Standby:
		return NotEligible
	case b.Class != cluster.InSync:
		return NotInSync
	}
	return NoFailure
}

// handOver waits, without the VIPs, until the successor has every change, then
// grants it the next term by name (rule R10).
func (s *State) handOver(f *Effects) {
	h := &s.hand
	switch {
	case s.foundCard():
		s.takeBack(Shared, f)
	case s.word.Flushed == h.id && s.alive(int(h.to)):
		h.granted, h.term, h.since = true, s.seen+1, s.now
		s.grantTo, s.grantUntil = h.to, s.now+s.cfg.Timers.Dead
		s.become(cluster.Standby)
		f.Send = 2
		f.note(NoteGranted, h.to, uint64(h.term))
	case !s.alive(int(h.to)):
		s.takeBack(SuccessorLost, f)
	case s.now-h.since > FlushLimit:
		s.takeBack(FlushTimeout, f)
	}
}

// takeBack ends a handover that failed before the grant: same reign, same node.
func (s *State) takeBack(why Failure, f *Effects) {
	f.note(NoteAborted, s.hand.to, s.hand.id)
	if s.foundCard() { // meanwhile somebody behind a firewall, or who is frozen by now, took them
		s.release(NoteShared, f)
		return
	}
	s.endHandover(why)
	f.AddVIPs, f.Announce, f.Send = true, true, 1
}

// foundCard reports whether the card of a silent node has the VIPs, and keeps whose.
func (s *State) foundCard() (yes bool) {
	s.others(func(i int, _ *peer) {
		if s.carded(i) {
			s.rivalBy, yes = uint8(i), true
		}
	})
	return yes
}

// awaitSuccessor ends a granted handover when the successor reigns, or when its time is over.
func (s *State) awaitSuccessor() {
	p := &s.peers[s.hand.to]
	switch {
	case p.holder && p.stand.reign.Term >= s.hand.term:
		s.endHandover(NoFailure)
	case s.now-s.hand.since > s.cfg.Timers.Dead:
		s.endHandover(Unclaimed)
	}
}

func (s *State) endHandover(why Failure) {
	if s.hand.id == 0 {
		return
	}
	s.resultID, s.result = s.hand.id, why
	s.hand = handover{}
}
