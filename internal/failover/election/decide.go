package election

import (
	"math/bits"

	"revolve/internal/cluster"
)

// decide is the heart: what this role makes of what is known now.
func (s *State) decide(f *Effects) {
	s.measure()
	s.forget()
	if s.cfg.External {
		s.decideObserved(f)
		return
	}
	s.measureReign()
	switch s.role {
	case cluster.Listening:
		s.decideListening(f)
	case cluster.Limbo:
		s.decideLimbo(f)
	case cluster.Master:
		s.decideMaster(f)
	}
	if s.role == cluster.Standby { // listening may have ended in this very step
		s.decideStandby(f)
	}
	s.orders(f)
	if s.hasWord && s.class() == cluster.Barred && s.nextTerm() > s.word.Reserved && s.noTermsFor != s.nextTerm() {
		s.noTermsFor = s.nextTerm()
		f.note(NoteNoTerms, Nobody, uint64(s.NeedTerms()))
	}
}

// measure updates what follows from the silences: company, and the VIP links on
// which only this node hears nobody (rule R1: the link's carrier may be up while
// the switch port behind it is not).
func (s *State) measure() {
	for i := range int(s.cfg.Count) {
		if s.alive(i) {
			s.company = s.now
			break
		}
	}
	s.deaf = 0
	for links := s.cfg.VIPLinks; links != 0; links &= links - 1 {
		if l := bits.TrailingZeros8(links); s.deafOn(l) {
			s.deaf |= 1 << l
		}
	}
}

// deafOn reports whether nobody has been heard on link l for T_dead, while a peer
// went on saying, on another link, that it hears others there. Its word must be
// younger than half of that silence: the last packets before a firewall falls,
// or a machine stops, do not come in on all links alike, and what came on the
// other link last is no proof that this one is dead. And a peer that has just come
// (back) gets the time to be heard on link l, too.
func (s *State) deafOn(l int) (yes bool) {
	t, last := s.cfg.Timers, max(s.bootAt, s.upAt[l])
	s.others(func(_ int, p *peer) {
		if p.b.Flags&Leaving == 0 {
			last = max(last, p.heard[l])
		}
	})
	if s.now-last < t.Dead {
		return false
	}
	s.others(func(i int, p *peer) {
		quiet := max(last, p.joined)
		others := p.b.Hears[l] &^ (1 << s.cfg.Self)
		yes = yes || s.alive(i) && others != 0 && s.now-quiet >= t.Dead && p.news-quiet >= t.Dead/2
	})
	return yes
}

// forget drops holders that are gone for good: silent beyond the deadline while a
// proven reign stands, ours or another's.
func (s *State) forget() {
	l, ok := s.lead()
	for i := range int(s.cfg.Count) {
		p := &s.peers[i]
		if !p.holder || s.reigning(i) {
			continue
		}
		if s.role == cluster.Master || ok && s.peers[l].stand.reign.Term > p.stand.reign.Term {
			p.holder = false
			s.blocked &^= 1 << i
		}
	}
}

func (s *State) become(r cluster.Role) {
	if s.role == cluster.Master && r != cluster.Master {
		for i := range s.peers {
			s.peers[i].probed = 0 // what a master asked now and then is no search for a dead one
		}
	}
	if s.role != r {
		s.role, s.since = r, s.now
	}
	s.claim.on, s.recheck = false, never
}

// decideListening ends the silence after a start (rules R8 and R9): at once when a
// master is heard; early when everybody who matters is here; else after a wait
// that depends on what the node's own record says of the others.
func (s *State) decideListening(f *Effects) {
	if _, ok := s.lead(); ok {
		s.endListening(f)
		return
	}
	t := s.cfg.Timers
	elapsed := s.now - s.bootAt
	missing, fresher, off, news := uint16(0), uint16(0), uint16(0), false
	s.others(func(i int, p *peer) {
		switch m := s.cfg.Members[i]; {
		case s.alive(i) && p.beats >= 2:
			news = news || p.b.SeenTerm > s.boot.SeenTerm
			return
		case m.Candidate && m.OnDemand:
			off |= 1 << i
		case m.Candidate:
			missing |= 1 << i
		}
		fresher |= s.boot.MaybeFresher & (1 << i)
	})
	if news { // a reign that we slept through may have been that of a node on demand, which may just have frozen
		missing |= off
	}
	s.doubt = fresher != 0 && elapsed < StaleDelay
	limit := max(Listen, 3*t.Dead)
	if s.boot.Virgin {
		limit = VirginListen
	}
	switch {
	case elapsed < max(MinListen, 2*t.Heartbeat) || s.doubt || s.word.Asking:
	case missing == 0, elapsed >= limit:
		s.endListening(f)
	}
}

func (s *State) endListening(f *Effects) {
	s.doubt = false
	s.become(cluster.Standby)
	f.Send = max(f.Send, 1)
	f.note(NoteListenEnd, Nobody, uint64((s.now-s.bootAt)/Millisecond))
}

// decideLimbo: the VIPs are gone from here, the reign is not yet. A better reign
// ends it, and so does one of the same term, which began while this node was away;
// two heartbeats of silence about one let this node go on as before.
func (s *State) decideLimbo(f *Effects) {
	t := s.cfg.Timers
	i, ok := s.lead()
	switch {
	case ok && !s.peers[i].limbo && (s.muted || s.peers[i].stand.reign.Term >= s.reign.Term || s.peers[i].stand.compare(standing{s.qual, s.reign}) > 0),
		!s.mayServe(), s.taken(), s.isolated(), s.alone() && s.refused(), s.now-s.since > LimboLimit:
		if ok {
			s.flap(f)
		}
		s.become(cluster.Standby)
		f.Send = 2
		f.note(NoteLimboEnd, Nobody, 0)
	case s.now-s.since < 2*t.Heartbeat, s.mute(), s.muted && s.unheard(), s.claimHeard():
	default:
		s.become(cluster.Master)
		f.AddVIPs, f.Announce, f.Send = true, true, 1
		f.note(NoteRetake, Nobody, uint64(s.reign.Term))
	}
}

// taken: since this node let go, the card of a silent node had the VIPs.
func (s *State) taken() (yes bool) {
	s.others(func(i int, p *peer) { yes = yes || s.carded(i) && p.card > s.since })
	return yes
}

// cards reports whether the card of any silent node had the VIPs lately.
func (s *State) cards() (yes bool) {
	s.others(func(i int, _ *peer) { yes = yes || s.carded(i) })
	return yes
}

// mayServe is what a master needs at any moment.
func (s *State) mayServe() bool {
	return s.leave() && !s.word.Maintenance && s.linked() && !s.expelled
}

func (s *State) claimHeard() (yes bool) {
	s.others(func(i int, p *peer) { yes = yes || s.alive(i) && p.b.Flags&Claiming != 0 })
	return yes
}

// mute: peers are heard and none of them hears this node (rule R1). Alone is not
// mute: only beacons that arrive without our name count, not those that stop.
func (s *State) mute() bool {
	t := s.cfg.Timers
	voices, claimant, last := false, false, never
	s.others(func(i int, p *peer) {
		if !s.alive(i) || p.b.Without {
			return
		}
		voices = voices || s.now-p.since > t.Dead+2*t.Heartbeat
		claimant = claimant || p.b.Flags&Claiming != 0
		last = max(last, p.news)
	})
	if !voices {
		return false
	}
	// The claim of a node that does not hear us says that time is up: what its
	// silence threshold let pass, ours must not.
	return last-s.heardMe > t.Fence || claimant && !s.heardByAny()
}

// unheard: some live peer that could lead does not name this node, nor does any
// other. Then the others are the better choice, and claiming would only disturb.
func (s *State) unheard() bool {
	able := false
	s.others(func(i int, p *peer) {
		able = able || s.alive(i) && !p.b.Without && p.b.Class != cluster.Barred && s.now-p.since > s.cfg.Timers.Dead+2*s.cfg.Timers.Heartbeat
	})
	return able && !s.heardByAny()
}

// heardByAny reports whether the latest beacon of any live peer says that it hears this node.
func (s *State) heardByAny() (yes bool) {
	s.others(func(i int, p *peer) { yes = yes || s.alive(i) && p.hearsMe(s.cfg.Self) })
	return yes
}

func (s *State) decideStandby(f *Effects) {
	if g := int(s.grantTo); g == int(s.cfg.Self) && s.grantUntil > s.now {
		s.takeGrant(f)
		return
	}
	after, ok := s.mayClaim()
	switch {
	case !ok && s.claim.on:
		s.claim.on = false
		s.noClaim = s.now + s.cfg.Timers.Heartbeat // let the better one's claim arrive
		f.Send = max(f.Send, 1)                    // the claim is withdrawn
		f.note(NoteYield, s.yielded, uint64(s.nextTerm()))
	case !ok:
	case s.waiting():
		if i, _ := s.absentFresher(); !s.waits {
			s.waits = true
			f.note(NoteWaits, uint8(i), uint64(StaleDelay/Second))
		}
	case !s.claim.on && s.now >= s.noClaim:
		s.claim = claim{on: true, term: s.nextTerm(), at: s.now, fresh: s.word.Fresh}
		f.Send = max(f.Send, 1)
		f.note(NoteClaim, after, uint64(s.claim.term))
		if i, found := s.absentFresher(); found {
			f.note(NoteServesStale, uint8(i), uint64(StaleDelay/Second))
		}
	case s.claim.on && s.now-s.claim.at >= s.cfg.Timers.ClaimGap && s.claim.again:
		s.reignOf(max(s.claim.term, s.nextTerm()), f)
	case s.claim.on && !s.claim.again && s.now-s.claim.at >= s.cfg.Timers.ClaimGap/2:
		s.claim.again = true
		f.Send = max(f.Send, 1)
	}
}

// mayClaim checks the preconditions of rule R3 and names the silent holder, if
// there is one. It is asked again at every tick of the claim gap: whatever an
// objector says is proof of a reign or a better candidate, and ends it.
func (s *State) mayClaim() (after uint8, ok bool) {
	s.yielded = Nobody
	if s.class() == cluster.Barred { // also without a reserved term
		return Nobody, false
	}
	if s.grantUntil > s.now && s.grantTo != s.cfg.Self {
		s.yielded = s.grantTo
		return Nobody, false
	}
	after, ok = Nobody, true
	s.others(func(i int, p *peer) {
		if !s.occupied(i) {
			return
		}
		after = uint8(i)
		if !s.gone(i) {
			s.yielded, ok = uint8(i), false
		}
	})
	if ok {
		if b, found := s.better(); found {
			s.yielded, ok = uint8(b), false
		}
	}
	ok = ok && !s.unheard() && !s.isolated() && !(s.alone() && s.refused()) && (s.claim.on || !s.parting())
	return after, ok
}

// gone: holder i is silent for everybody, and its card does not answer for the
// VIPs (rule R3a, b, f). While it answers, its kernel still leases them. A holder
// whose card was never learned gets the whole lifetime instead.
func (s *State) gone(i int) bool {
	p := &s.peers[i]
	if s.reigning(i) {
		return false
	}
	if s.cfg.VIPLinks == 0 {
		return true
	}
	if p.probed < minProbes {
		return !p.asked && s.now-max(p.proof, p.card) >= Lifetime+AnswerGrace
	}
	return s.now-p.first >= s.cfg.Timers.Probe
}

// minProbes unanswered ones make a silence; the schedule sends five.
const minProbes = 3

// takeGrant is the successor's side of a planned switch: no gap, no probes, the
// old master has said that it holds nothing. But while it held nothing, a node
// behind a firewall may have claimed: its card tells.
func (s *State) takeGrant(f *Effects) {
	if s.class() == cluster.Barred || s.cards() {
		return
	}
	if _, ok := s.lead(); ok {
		return
	}
	s.grantTo, s.grantUntil = Nobody, never
	s.reignOf(s.nextTerm(), f)
}

// reignOf makes this node master of a new reign.
func (s *State) reignOf(term cluster.Term, f *Effects) {
	class := s.class()
	s.become(cluster.Master)
	s.newReign(term, class)
	s.rivals, s.healed, s.fewSince = 0, 0, never
	f.AddVIPs, f.Announce, f.Send = true, true, 1
	f.note(NoteMaster, Nobody, uint64(term))
}

// newReign sets term and quality (rule R6). A claimant that hears nobody starts
// low, so a deaf node cannot depose a healthy master.
func (s *State) newReign(term cluster.Term, class cluster.Class) {
	s.reign, s.seen, s.qual = Reign{term, s.cfg.Self}, max(s.seen, term), 2
	s.others(func(i int, _ *peer) {
		if s.alive(i) {
			s.qual = 3
		}
	})
	if s.granted() {
		s.qual = 3
	}
	if class == cluster.Stale {
		s.qual = 1
	}
}

// fewer reports whether some candidate could serve more VIP links than this master
// for two heartbeats: the delay lets the beacons of a common loss arrive first.
func (s *State) fewer() bool {
	more := false
	s.others(func(i int, p *peer) {
		more = more || s.alive(i) && p.b.Class >= max(s.word.Class, cluster.Lagging) &&
			bits.OnesCount8(p.b.Good) > bits.OnesCount8(s.good())
	})
	if !more || s.word.Hold {
		s.fewSince = never
		return false
	}
	if s.fewSince == never {
		s.fewSince = s.now
	}
	return s.now-s.fewSince >= 2*s.cfg.Timers.Heartbeat
}
