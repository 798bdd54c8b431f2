package election

import "revolve/internal/cluster"

// Step takes one event in and says what to do about it. Times never go back.
func (s *State) Step(e Event) Effects {
	var f Effects
	if s.stopped {
		f.Next = e.Now + Second
		return f
	}
	late, led := e.Now-s.next, s.leads()
	s.now = e.Now
	if late > 2*s.cfg.Timers.Heartbeat {
		s.wake(late, &f)
	}
	if !(f.Drain && e.Kind == Heard) { // what lay unread while we slept is old
		s.absorb(e, &f)
	}
	switch e.Kind {
	case Tick:
		s.decide(&f)
		s.beat(&f)
	case Stop, Orphan:
		s.stop(&f)
	}
	if s.cfg.External { // the addresses are another's, whatever happened
		f.DeleteVIPs, f.AddVIPs, f.Announce, f.Probe = false, false, false, 0
	}
	if f.GiveLease = s.cfg.Witness && led && !s.leads(); f.GiveLease {
		s.verdict, s.verdictAt = false, never // what it said before is given back
	}
	f.Announce = f.Announce || s.announce && f.AddVIPs
	if f.Announce {
		s.announce = false
	}
	if told := s.digest(); told != s.told {
		f.Changed, s.told = true, told
	}
	f.Next = s.nextStep(e.Kind)
	s.next = f.Next
	return f
}

// leads reports whether this node reigns, with the VIPs or without them for a moment.
func (s *State) leads() bool { return s.role == cluster.Master || s.role == cluster.Limbo }

// lapsed: the kernel may have taken the VIPs away since the last refresh, and
// whoever asked for them since then has found nobody.
func (s *State) lapsed() bool { return s.keeps() && s.now-(s.nextFresh-Refresh) >= Lifetime }

// digest is what the agent must learn at once when it changes.
func (s *State) digest() [7]uint64 {
	i, ok := s.lead()
	var r Reign
	if ok {
		r = s.peers[i].stand.reign
	}
	if s.role == cluster.Master {
		r = s.reign
	}
	var seen uint64
	if s.cfg.External {
		fit := s.Fitness()
		seen = uint64(s.sight.vips)<<32 | uint64(fit.Penalty)<<8 | uint64(fit.Why)
	}
	return [7]uint64{uint64(s.role), uint64(r.Term), uint64(r.Owner), s.hand.id, s.resultID, uint64(s.NeedTerms()), seen}
}

// wake is the first thing after a late loop (rules R1 and R2): a master that was
// too late gives the VIPs up before anything else; everybody forgets the
// silences that are only its own, and accuses nobody.
func (s *State) wake(late Time, f *Effects) {
	f.Drain = true
	then := s.now - late // what was true when the loop should have run
	s.others(func(i int, p *peer) {
		if p.ever && then-p.last < s.cfg.Timers.Dead {
			p.last, p.since, p.beats = s.now, s.now, 0
			for l := range p.heard {
				if then-p.heard[l] < s.cfg.Timers.Dead {
					p.heard[l] = s.now
				}
			}
		}
		if p.holder {
			p.proof = s.now
		}
		p.probed = 0
		p.news += late // its silence is counted in the time that this node was awake
	})
	if !s.excused { // once a word: it slept with the agent; a node that is late at every wake must not wait for ever
		s.wordAt, s.excused = s.wordAt+late, true
	}
	if !s.verdict { // a lease ran on while this node slept, so a grant does not outlast it
		s.verdictAt += late
	}
	s.outside += late
	s.company, s.heardMe = max(s.company, s.now), max(s.heardMe, s.now)
	s.claim.on = false
	s.noClaim = max(s.noClaim, s.now+2*s.cfg.Timers.Heartbeat) // somebody may lead by now: hear first
	switch s.role {
	case cluster.Listening:
		s.bootAt += late
	case cluster.Limbo:
		s.since = s.now // two heartbeats of hearing, not of sleep
	case cluster.Master:
		if late > s.cfg.Timers.Fence && s.cfg.External {
			f.note(NotePaused, Nobody, uint64(late/Millisecond))
			s.limbo(f)
			return
		}
		if late > s.cfg.Timers.Fence {
			f.DeleteVIPs = true
			f.note(NoteFence, Nobody, uint64(late/Millisecond))
			s.limbo(f)
			return
		}
		if s.lapsed() {
			s.recheck = s.now + s.cfg.Timers.ClaimGap
		}
		f.AddVIPs, f.Announce = s.holding(), s.holding()
	}
	f.note(NoteLate, Nobody, uint64(late/Millisecond))
}

func (s *State) absorb(e Event, f *Effects) {
	switch e.Kind {
	case Heard:
		s.hear(e, f)
	case Witnessed:
		s.verdict, s.verdictAt = e.Up, e.Now
	case Outside:
		s.outside = e.Now
	case Said:
		s.word, s.wordAt, s.hasWord, s.excused = *e.Word, e.Now, true, false
	case Carrier:
		bit := uint8(1) << e.Link
		if e.Up && s.carrier&bit == 0 {
			s.announce = true // a switch port that was down has forgotten us
			s.upAt[e.Link] = e.Now
			s.plugged()
		}
		s.carrier &^= bit
		if e.Up {
			s.carrier |= bit
		}
	case Probed:
		p := &s.peers[e.Node]
		if p.probed == 0 {
			p.first = e.Now
		}
		p.asked = true
		p.probed++
	case Answer:
		s.answer(e, f)
	case Foreign:
		if e.Now-s.foreignAt >= Second {
			s.foreignAt = e.Now
			s.announce = true // defend, at a limited rate (rule R13)
			f.note(NoteForeign, Nobody, 0)
		}
	case Newer:
		s.newer(e)
	case Expelled:
		s.expelled = true
	case Observed:
		s.observe(e)
	case Parted:
		s.announce = s.announce || s.parted && !e.Up && s.holding() // whoever asked it last must ask again
		s.parted = e.Up
	case Lost:
		if s.holding() {
			s.nextFresh, s.announce = e.Now, true
		}
	}
}

// plugged: a link works again. If nobody was heard meanwhile, that was this node's
// own silence: it hears first, and asks every card, before it claims anything.
func (s *State) plugged() {
	if s.role == cluster.Listening {
		return // it is hearing first
	}
	for i := range int(s.cfg.Count) {
		if s.alive(i) {
			return
		}
	}
	s.askAll = s.now + s.cfg.Timers.Dead
	s.noClaim = max(s.noClaim, s.askAll)
}

// newer takes in what a node says that only a newer list of members has.
func (s *State) newer(e Event) {
	b := e.Beacon
	if b.holds() || b.Class != cluster.Barred {
		s.newerAt = e.Now
	}
	// It understands us and yields if it is the lesser; we do not understand all it says, and yield if in doubt.
	s.outranked = b.Role == cluster.Master && (standing{b.Quality, Reign{Term: b.Reign.Term}}).compare(standing{s.qual, Reign{Term: s.reign.Term}}) >= 0
}

// holding reports whether the VIPs are up here by our will.
func (s *State) holding() bool { return s.keeps() && s.now >= s.recheck }

// keeps: holding, or about to again as soon as the cards have been asked.
func (s *State) keeps() bool {
	return s.role == cluster.Master && s.hand.id == 0 && !s.cfg.External
}

// answer: the card of a node has the VIPs. If that is newer than its last
// heartbeat, it is all that is known of it, and enough to keep this node from
// taking them too.
func (s *State) answer(e Event, f *Effects) {
	i := int(e.Node)
	p := &s.peers[i]
	p.probed = 0
	if p.card <= p.last {
		p.carded = e.Now
	}
	p.card = e.Now
	if !s.carded(i) {
		return // it says itself what it holds
	}
	if s.holding() && s.rivalBy == Nobody {
		s.rivalBy, s.announce = e.Node, true // it must see this card too
	}
	if p.ever && e.Now-max(p.proof, p.last) > Lifetime+AnswerGrace && e.Now-p.carded >= s.cfg.Timers.Dead && s.blocked&(1<<i) == 0 {
		s.blocked |= 1 << i
		f.note(NoteBlocked, e.Node, 0)
		f.Changed = true
	}
}

// carded reports whether node i is suspiciously silent and its card had the VIPs since its
// last heartbeat, and within their lifetime.
func (s *State) carded(i int) bool {
	p := &s.peers[i]
	return p.card > p.last && s.now-p.card < Lifetime+AnswerGrace && (p.beats == 0 || s.now-p.last >= s.cfg.Timers.Suspect || s.unheardOf(p))
}

// unheardOf: this node claims, and has not heard the peer since. However short that
// silence is, the card knows better: a machine that was paused does not know how long ago it heard anybody.
func (s *State) unheardOf(p *peer) bool { return s.claim.on && p.last < s.claim.at }

// before reports whether node i comes before this one by configuration alone:
// what two masters that cannot hear each other agree on.
func (s *State) before(i int) bool {
	a, b := s.cfg.Members[i].Priority, s.cfg.Members[s.cfg.Self].Priority
	return a > b || a == b && i < int(s.cfg.Self)
}

// hear takes a beacon in: what its sender says of itself, and of the reign it follows.
func (s *State) hear(e Event, f *Effects) {
	b := e.Beacon
	if int(b.From) >= int(s.cfg.Count) || b.From == s.cfg.Self || e.Link >= MaxLinks || !s.Credible(b) {
		return
	}
	i := int(b.From)
	p := &s.peers[i]
	if !s.alive(i) {
		s.announce = s.announce || s.holding() // it may have answered for the VIPs until a moment ago
		p.wished = never
		p.since, p.joined, p.beats = s.now, s.now, 0
		if s.heardMe < s.now-s.cfg.Timers.Dead {
			s.heardMe = s.now // a new voice gets the time to hear us before we call ourselves mute
		}
	}
	p.heard[e.Link] = s.now
	p.ever, p.last = true, s.now
	if e.Old || e.Again {
		return // a slow link works; what it says is no news
	}
	p.news, p.b, p.asked, p.probed = s.now, *b, false, 0
	p.beats = min(p.beats+1, 1<<20)
	s.company = s.now
	if p.hearsMe(s.cfg.Self) {
		s.heardMe = s.now
	}
	s.seen = max(s.seen, b.SeenTerm)
	s.blocked &^= 1 << i
	if b.Flags&Wishing == 0 {
		p.wished = never
	} else if p.wished == never {
		p.wished = s.now
	}
	if b.holds() && b.Reign.Term > 0 {
		s.seen = max(s.seen, b.Reign.Term)
		s.risen(p, b, f)
		p.holder, p.limbo, p.stand, p.proof = true, b.Role == cluster.Limbo, standing{b.Quality, b.Reign}, s.now
		if b.From == s.grantTo && b.Role == cluster.Master && b.Flags&HandingOver == 0 {
			s.grantTo, s.grantUntil = Nobody, never // it took what it was granted
		}
	} else {
		p.holder = false
		s.relayed(b)
	}
	if b.Flags&Granted != 0 && b.GrantTerm > s.seen && s.grantUntil < s.now {
		s.grantTo, s.grantUntil = b.Successor, s.now+s.cfg.Timers.Dead
	}
	if b.Flags&Claiming != 0 {
		s.sendNow = s.sendNow || s.objection(i)
	}
}

// risen counts a reign that goes on although another has begun after it.
func (s *State) risen(p *peer, b *Beacon, f *Effects) {
	r, ok := s.Master()
	if ok && r.Owner != b.From && b.Reign.Term < r.Term && p.rose != b.Reign.Term {
		p.rose = b.Reign.Term
		s.flap(f)
	}
}

// relayed is second-hand proof: the sender hears somebody reign. Its age adds up
// from hop to hop, so two standbys cannot keep a dead master alive between them.
func (s *State) relayed(b *Beacon) {
	r := b.Reign
	if r.Term == 0 || int(r.Owner) >= int(s.cfg.Count) || r.Owner == s.cfg.Self {
		return
	}
	s.seen = max(s.seen, r.Term)
	p := &s.peers[r.Owner]
	if p.ever && !p.b.holds() && p.b.SeenTerm >= r.Term {
		return // its owner has told us itself that this reign is over
	}
	at := s.now - Time(b.ReignAge)*Millisecond
	if p.holder && at <= p.proof || p.holder && p.stand.reign.Term > r.Term {
		return
	}
	if !p.holder {
		p.limbo = false
	}
	p.holder, p.stand, p.proof = true, standing{b.Quality, r}, at
}

// objection reports whether claimant i must hear from this node before its gap ends.
func (s *State) objection(i int) bool {
	if s.role == cluster.Master {
		return true
	}
	if l, ok := s.lead(); ok && l != i && s.now-s.peers[l].proof < 2*s.cfg.Timers.Heartbeat {
		return true
	}
	return s.role == cluster.Standby && s.class() != cluster.Barred && s.ownRank().compare(s.rankOf(i)) > 0
}

// beat sends the heartbeat, refreshes the VIPs and probes a silent holder.
func (s *State) beat(f *Effects) {
	hb := s.cfg.Timers.Heartbeat
	if s.sendNow {
		f.Send = max(f.Send, 1)
		s.sendNow = false
	}
	if s.now >= s.nextBeat {
		f.Send = max(f.Send, 1)
	}
	if f.Send > 0 {
		s.nextBeat = s.now + hb
	}
	if s.recheck != never && s.holding() {
		s.recheck, s.announce = never, true
	}
	if s.holding() && (s.now >= s.nextFresh || f.AddVIPs) {
		f.AddVIPs, s.nextFresh = true, s.now+Refresh
	}
	f.Announce = f.Announce || s.announce && s.holding()
	if !s.holding() {
		s.announce = false
	}
	if m := s.suspects(); m != 0 && s.now >= s.nextProbe {
		f.Probe, s.nextProbe = m, s.now+s.probeEvery(m)
	}
	s.look(f)
}

// look asks the cards of all silent nodes now and then while this one holds the VIPs: a
// path that works again behind a firewall tells nobody, and the other side's next
// announcement may be far.
func (s *State) look(f *Effects) {
	if !s.holding() || s.now < s.nextLook {
		return
	}
	s.nextLook = s.now + min(2*s.cfg.Timers.Suspect, LookLimit)
	s.others(func(i int, p *peer) {
		if p.ever && s.now-p.last >= s.cfg.Timers.Suspect {
			f.Probe |= 1 << i
		}
	})
}

// probeEvery is a fifth of the wait, so that the loss of a few probes proves
// nothing; a holder that answers beyond the lifetime is asked in less of a hurry.
func (s *State) probeEvery(m uint16) Time {
	if m&^s.blocked == 0 {
		return s.cfg.Timers.Probe
	}
	return s.cfg.Timers.Probe / 5
}

// suspects is the bitmap of the cards to be asked: those of silent holders and of
// whoever has just gone silent, and with them those of everybody else who is
// silent: behind a firewall, or while
// this node slept, the VIPs may have moved on.
func (s *State) suspects() (m uint16) {
	if s.cfg.External {
		return 0
	}
	if s.role == cluster.Master && s.rivalBy != Nobody {
		return 1 << s.rivalBy
	}
	handing := s.role == cluster.Master && !s.holding() // it may have to take them back
	if s.role == cluster.Master && !handing {
		return s.justSilent()
	}
	if s.role != cluster.Standby && s.role != cluster.Limbo && !handing || s.class() == cluster.Barred && s.now >= s.penance {
		return 0
	}
	t := s.cfg.Timers
	silent, any := uint16(0), s.role == cluster.Limbo || handing || s.claim.on || s.now < s.askAll
	s.others(func(i int, p *peer) {
		quiet := s.now - p.last
		any = any || s.occupied(i) && s.now-p.proof >= t.Suspect || p.ever && quiet >= t.Suspect && quiet < 2*t.Dead && p.b.Flags&Leaving == 0
		if p.ever && (!s.alive(i) || p.beats == 0 || quiet >= t.Suspect || p.holder && s.now-p.proof >= t.Suspect || s.unheardOf(p)) {
			silent |= 1 << i
		}
	})
	if !any {
		return 0
	}
	return silent
}

// justSilent are the nodes that have just gone silent, as a master sees it: behind a
// firewall, or while this machine was paused, one of them may have taken the VIPs.
func (s *State) justSilent() (m uint16) {
	t := s.cfg.Timers
	for i := range int(s.cfg.Count) {
		p := &s.peers[i]
		if quiet := s.now - p.last; p.ever && quiet >= t.Suspect && quiet < 2*t.Dead && p.b.Flags&Leaving == 0 {
			m |= 1 << i
		}
	}
	return m
}

// occupied reports whether node i may have the VIPs: by its own or another's
// word, or because its card answered for them within their lifetime.
func (s *State) occupied(i int) bool {
	p := &s.peers[i]
	return p.holder || s.carded(i)
}

// nextStep is the time of the next step: heartbeat and refresh at their time, and
// a fine grain while a holder is silent or a claim is open.
func (s *State) nextStep(k Kind) Time {
	if k != Tick {
		return max(s.next, s.now) // the tick that decides about this event is still to come
	}
	t := s.cfg.Timers
	n := s.nextBeat
	if s.holding() {
		n = min(n, s.nextFresh)
	} else if s.keeps() {
		n = min(n, s.recheck)
	}
	if s.claim.on {
		n = min(n, s.claim.at+t.ClaimGap/2, s.claim.at+t.ClaimGap)
		if s.claim.again {
			n = min(s.nextBeat, s.claim.at+t.ClaimGap)
		}
	}
	if s.suspects() != 0 {
		n = min(n, s.now+min(t.Probe/20, t.ClaimGap))
	} else if i, ok := s.lead(); ok && s.role == cluster.Standby {
		n = min(n, max(s.peers[i].proof+t.Suspect, s.now+Millisecond))
	}
	return max(n, s.now)
}
