package election

import "revolve/internal/cluster"

// decideMaster: reasons to stop, then rivals, then the quality of the reign.
func (s *State) decideMaster(f *Effects) {
	switch {
	case !s.leave():
		s.release(NoteNoLeave, f)
	case s.word.Maintenance:
		s.release(NoteMaint, f)
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
	default:
		s.meetRivals(f)
	}
	if s.role != cluster.Master {
		return
	}
	if s.now-s.company > QualityDelay {
		s.qual = min(s.qual, 2)
	}
	if s.hand.id != 0 {
		s.handOver(f)
	}
}

// release gives the VIPs up and says so; the others may claim at once.
func (s *State) release(why NoteCode, f *Effects) {
	f.DeleteVIPs, f.AddVIPs = true, false
	f.Send = 2
	f.note(why, Nobody, uint64(s.reign.Term))
	s.endHandover(Interrupted)
	s.become(cluster.Standby)
	s.penance = s.now + 2*s.cfg.Timers.Heartbeat
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
	own := standing{s.qual, s.reign}
	met, worst := uint16(0), -1
	s.others(func(i int, p *peer) {
		if !s.reigning(i) || p.limbo {
			return
		}
		met |= 1 << i
		if p.stand.compare(own) > 0 && (worst < 0 || p.stand.compare(s.peers[worst].stand) > 0) {
			worst = i
		}
	})
	if worst >= 0 {
		f.DeleteVIPs, f.AddVIPs, f.Send = true, false, 2
		f.note(NoteLostTo, uint8(worst), uint64(s.peers[worst].stand.reign.Term))
		s.endHandover(Interrupted)
		s.become(cluster.Standby)
		return
	}
	s.heal(met, f)
	if met&^s.rivals != 0 || s.rivals&^met != 0 || met != 0 && s.now-s.rivalAt >= RivalRepeat {
		s.rivalAt = s.now
		s.announce = s.announce || s.holding() // whoever asked the rival last must ask again
		f.Send = max(f.Send, 1)
	}
	s.rivals = met
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
	s.endHandover(why)
	f.AddVIPs, f.Announce, f.Send = true, true, 1
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
