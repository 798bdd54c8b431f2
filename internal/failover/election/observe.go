package election

import "revolve/internal/cluster"

// With Config.External another engine (keepalived, Pacemaker) places the VIPs,
// and this file takes the place of claims: who holds all VIPs leads. Beacons,
// silences, terms and positions are what they are otherwise; the effects never
// touch an address.
//
// The engine decides who keeps an address, the terms decide whose data counts:
// of two nodes that hold the VIPs the one with the lower reign freezes (Limbo):
// it neither gives nor takes until the engine has decided.

// SilentDelay is how long the agent may be silent before the node is called unfit.
// It is longer than WordTimeout: a busy machine must not cost it the VIPs, and
// what stops at once is only what goes out.
const SilentDelay = 2 * Second

// VacantDelay is how long nobody may hold any VIP before a node that others are
// ahead of offers itself, too: those others' engine may be what is broken.
const VacantDelay = 10 * Second

// observation is what is known of the VIPs that another engine places.
type observation struct {
	looked bool    // somebody has looked at all
	vips   uint16  // bitmap of those that are here
	left   bool    // not all are here, and the tick that says so is still to come
	gained bool    // all came here while this node watched: the engine's will, later than every reign heard of
	frozen bool    // a higher reign is heard while all VIPs are here
	calm   Time    // last time that one was
	vacant Time    // since when no VIP is heard of anywhere; 0 if one is
	fit    Fitness // as it was when the agent last gave leave
}

// whole reports whether all VIPs are here. Some are not enough: two nodes with a
// part each would both write.
func (s *State) whole() bool { return s.cfg.VIPs != 0 && s.sight.vips == s.cfg.VIPs }

func (s *State) observe(e Event) {
	o, before := &s.sight, s.whole()
	o.vips = e.VIPs & s.cfg.VIPs
	o.left = o.left || !s.whole()
	o.gained = s.whole() && (o.gained || !before && o.looked)
	o.looked = true
}

// decideObserved makes the role of what is seen.
func (s *State) decideObserved(f *Effects) {
	o := &s.sight
	if o.left {
		o.left, o.frozen = false, false
		if s.role == cluster.Master || s.role == cluster.Limbo {
			f.Send = 2
			f.note(NoteVIPsLost, Nobody, uint64(s.reign.Term))
			s.become(cluster.Standby)
		}
	}
	s.vacancy()
	if s.leave() {
		o.fit = s.fitness()
	}
	if s.role == cluster.Listening && o.looked {
		if s.whole() {
			s.boot.MaybeFresher = 0 // clients write here already: waiting would not make the missing ones count
		}
		s.decideListening(f)
	}
	if !s.whole() {
		return
	}
	switch s.role {
	case cluster.Standby:
		if o.gained && s.mayLead() {
			s.enthrone(f)
			return
		}
		// Found here at the start, or leading is not possible now: whose it is will show.
		s.reign = Reign{Owner: Nobody}
		s.become(cluster.Limbo)
		s.thaw(f)
	case cluster.Limbo:
		s.thaw(f)
	case cluster.Master:
		s.keepObserved(f)
	}
}

// mayLead is what a node that holds the VIPs needs to lead.
func (s *State) mayLead() bool {
	return s.leave() && !s.expelled && s.now-s.newerAt >= s.cfg.Timers.Dead && s.nextTerm() <= s.word.Reserved
}

// above is a node with a reign above r that may hold the VIPs.
func (s *State) above(r Reign) (who int, found bool) {
	s.others(func(i int, p *peer) {
		if s.reigning(i) && (standing{0, p.stand.reign}).compare(standing{0, r}) > 0 {
			who, found = i, true
		}
	})
	return who, found
}

// enthrone begins a reign above every other heard of.
func (s *State) enthrone(f *Effects) {
	s.become(cluster.Master)
	s.newReign(s.nextTerm(), cluster.InSync)
	s.qual = 3 // the engine chose: reigns are compared by their terms alone
	s.rivals, s.healed, s.sight.gained, s.sight.frozen = 0, 0, false, false
	f.Send = 2
	f.note(NoteGained, Nobody, uint64(s.reign.Term))
}

// keepObserved is a tick of a node that leads.
func (s *State) keepObserved(f *Effects) {
	if !s.leave() || s.expelled || s.outranked {
		s.outranked = false
		s.limbo(f)
		return
	}
	if i, ok := s.above(s.reign); ok {
		s.sight.frozen, s.sight.calm = true, s.now
		f.note(NoteFrozen, uint8(i), uint64(s.peers[i].stand.reign.Term))
		s.limbo(f)
		f.Send = 2
		return
	}
	met := uint16(0)
	s.others(func(i int, p *peer) {
		if s.reigning(i) && !p.limbo {
			met |= 1 << i
		}
	})
	s.heal(met, f)
	s.qual, s.rivals = 3, met
}

// thaw waits, with the VIPs here and nothing going out, until no higher reign is
// heard for two heartbeats. A reign that nobody superseded goes on as it was.
func (s *State) thaw(f *Effects) {
	o := &s.sight
	if o.gained && s.mayLead() {
		s.enthrone(f)
		return
	}
	if i, ok := s.above(s.reign); ok {
		if !o.frozen {
			f.note(NoteFrozen, uint8(i), uint64(s.peers[i].stand.reign.Term))
			f.Changed = true
		}
		o.frozen, o.calm = true, s.now
		return
	}
	if s.now-max(o.calm, s.since) < 2*s.cfg.Timers.Heartbeat || !s.mayLead() {
		return
	}
	if s.reign.Term > 0 && s.reign.Term == s.seen {
		s.become(cluster.Master)
		o.frozen = false
		f.Send = 1
		f.note(NoteThawed, Nobody, uint64(s.reign.Term))
		return
	}
	s.enthrone(f)
}

func (s *State) vacancy() {
	held := s.sight.vips != 0
	s.others(func(i int, p *peer) { held = held || s.alive(i) && p.b.VIPs != 0 })
	switch {
	case held:
		s.sight.vacant = 0
	case s.sight.vacant == 0:
		s.sight.vacant = max(s.now, 1)
	}
}

// Unfit says why the engine should not bring the VIPs here, or not first.
type Unfit uint8

// The reasons.
const (
	Fit         Unfit = iota
	FitLast           // nobody better is there, but this node is not in-sync, or ill
	FitBehind         // in-sync, and without a master others have a little more
	UnfitSilent       // no word of the agent
	UnfitNew          // has just started, and listens
	UnfitBarred       // no candidate, in maintenance, the VIPs' link down, or a disk fault
	UnfitFrozen       // another node reigns with a higher term
	UnfitIll          // a required service is ill, and a well node is heard
	UnfitBehind       // not in-sync, and somebody heard is, or has more
)

// MaxPenalty is that of a node which must not hold the VIPs: what keepalived
// calls FAULT. Other penalties stay below.
const MaxPenalty = 254

// Fitness is what another engine is told of this node.
type Fitness struct {
	Eligible bool
	Penalty  uint8 // 0 for the best; MaxPenalty if it is not eligible
	Why      Unfit
}

const (
	lastPenalty  = 100 // below every in-sync node whose priority is less than 100 lower
	aheadPenalty = 60  // of an in-sync node, if another is ahead when no master is heard: more than priorities usually differ by
	eachPenalty  = 4   // for each node that is ahead
)

// fitting is the class that counts for the engine.
func fitting(c cluster.Class, ill bool) cluster.Class {
	if ill {
		return min(c, cluster.Stale)
	}
	return c
}

// Fitness is how fit this node is to lead.
func (s *State) Fitness() Fitness {
	if s.hasWord && !s.leave() && !s.stopped && s.now-s.wordAt < SilentDelay {
		return s.sight.fit
	}
	return s.fitness()
}

// fitness compares this node with those that are heard.
func (s *State) fitness() Fitness {
	own, top, ahead := fitting(s.class(), s.word.Ill), cluster.Barred, uint8(0)
	s.others(func(i int, p *peer) {
		if !s.alive(i) {
			return
		}
		c := fitting(p.b.Class, p.b.Flags&Ill != 0)
		top = max(top, c)
		if c != cluster.Barred && c >= own && p.b.Fresh.Compare(s.word.Fresh) > 0 {
			ahead++
		}
	})
	unfit := func(why Unfit) Fitness { return Fitness{Penalty: MaxPenalty, Why: why} }
	_, led := s.lead()
	// Once the addresses are here they stay: a new master is in-sync only when it has taken what the survivors have.
	chosen := s.role == cluster.Master || s.sight.vips != 0 && !led
	led = led || s.role == cluster.Master
	vacant := chosen || s.sight.vacant != 0 && s.now-s.sight.vacant >= VacantDelay
	switch {
	case s.stopped || !s.leave():
		return unfit(UnfitSilent)
	case s.sight.frozen:
		return unfit(UnfitFrozen)
	case s.role == cluster.Listening:
		return unfit(UnfitNew)
	case own == cluster.Barred:
		return unfit(UnfitBarred)
	case own < top && (!vacant || chosen) && s.word.Ill:
		return unfit(UnfitIll)
	case own < cluster.InSync && (own < top || ahead > 0) && !vacant:
		return unfit(UnfitBehind)
	case own < cluster.InSync:
		return Fitness{true, lastPenalty + eachPenalty*ahead, FitLast}
	case !led && ahead > 0:
		return Fitness{true, aheadPenalty + eachPenalty*min(ahead, 9), FitBehind}
	}
	return Fitness{Eligible: true}
}

// String is a clause for a person.
func (u Unfit) String() string {
	switch u {
	case Fit:
		return "in-sync and well"
	case FitLast:
		return "not in-sync or not well, and nobody better is heard"
	case FitBehind:
		return "in-sync, but others have a little more and nobody leads"
	case UnfitSilent:
		return "its agent does not answer"
	case UnfitNew:
		return "it has just started, and listens"
	case UnfitBarred:
		return "it is no candidate, in maintenance, its VIPs' link is down or a volume does not work"
	case UnfitFrozen:
		return "another node reigns with a higher term"
	case UnfitIll:
		return "a required service is ill, and a well node is heard"
	case UnfitBehind:
		return "it is behind another node that is heard"
	}
	return "unknown"
}

// Frozen reports whether a higher reign is heard while all VIPs are here.
func (s *State) Frozen() bool { return s.sight.frozen }

// Rivals is the bitmap of the nodes that also call themselves master.
func (s *State) Rivals() uint16 { return s.rivals }
