package election

import (
	"math/bits"

	"revolve/internal/cluster"
)

const never Time = -1 << 62 // before every time of a clock

// peer is what is known of another node.
type peer struct {
	ever   bool
	beats  uint32         // beacons since its last start or our last late wake
	heard  [MaxLinks]Time // last proven beacon per link
	last   Time           // the latest of heard
	news   Time           // ... that was not overtaken by a later one
	since  Time           // when it was first heard after a silence longer than T_dead, its own or ours
	joined Time           // ... its own
	b      Beacon         // its latest
	holder bool           // it may have the VIPs in its hands
	limbo  bool           // ... but says that it has deleted them for the moment
	stand  standing       // of its reign, if holder
	proof  Time           // last proof, first- or second-hand, that it reigns
	asked  bool           // probes could be sent in this silence
	probed uint32         // probes sent since its last answer
	first  Time           // when the first of them left
	card   Time           // its card had the VIPs then, and no heartbeat of it was heard
	wished Time           // since when it wishes to lead; never if it does not
	rose   cluster.Term   // its reign that was already counted as one that outlived its successor's claim
	carded Time           // the first such answer of this silence
}

// handover is a planned switch, seen from the old master.
type handover struct {
	id      uint64
	to      uint8
	since   Time
	granted bool
	term    cluster.Term
}

// claim is a claim under way.
type claim struct {
	on    bool
	term  cluster.Term
	at    Time
	again bool // the second broadcast is out
	fresh cluster.Position
}

// State is one node's election: a plain value, copied by assignment.
type State struct {
	cfg   Config
	boot  Boot
	now   Time
	next  Time // the promise of the host: it steps not much later than this
	role  cluster.Role
	since Time // of role
	reign Reign
	qual  uint8 // of reign; never rises within a reign
	seen  cluster.Term
	floor cluster.Term // no term up to this one may be claimed (used or perhaps used before the restart)

	peers [MaxNodes]peer

	word     Word
	wordAt   Time
	hasWord  bool
	excused  bool // its age was once counted without a late wake
	carrier  uint8
	upAt     [MaxLinks]Time // when each link last got its carrier
	rivalBy  uint8          // a node whose card has the VIPs as this master has, and comes first; else Nobody
	deaf     uint8          // VIP links on which only this node hears nobody
	company  Time           // last time a live peer was heard
	heardMe  Time           // last time a live peer said that it hears this node
	fewSince Time           // since when a candidate has more working VIP links; never if none

	bootAt   Time
	doubt    bool // listening for nodes that may be fresher
	claim    claim
	flaps    [8]Time   // latest first
	patient  Time      // what follows from them: the factor on the silence that counts as death
	told     [7]uint64 // digest after the last step
	headless Time      // since when no reign is known; never if one is
	lastLead uint8     // whose the last one was
	waits    bool      // the wait for an absent fresher node was told

	verdict   bool // of the witness
	verdictAt Time
	outside   Time // last time something that is no node of ours answered

	noClaim Time // no new claim before this
	recheck Time // a master whose lease may have run out asks the cards until then; never if it need not
	askAll  Time // all silent cards are asked until then
	penance Time // having just released the VIPs, this node lets the others go first until then
	yielded uint8

	grantTo    uint8 // somebody else was granted the next term ...
	grantUntil Time  // ... and has until then to take it
	hand       handover
	lastSwitch uint64
	result     Failure
	resultID   uint64

	rivals     uint16
	rivalAt    Time
	metAt      Time   // when the last rival of this contact was met
	healed     uint16 // rivals of this contact for which a heal term was taken
	muted      bool   // in limbo because nobody hears this node
	blocked    uint16 // holders whose card answers beyond the lifetime
	nextBeat   Time
	nextFresh  Time
	nextProbe  Time
	nextLook   Time // a master's next question to the cards of all who are silent
	sendNow    bool
	announce   bool
	foreignAt  Time
	noTermsFor cluster.Term
	newerAt    Time // last time that a node unknown to the own, older list was heard, or heard of, that leads or could lead
	outranked  bool // such a node reigns, and not below this one
	parted     bool // a node that is no member may have the VIPs
	expelled   bool // the members' newer list does not have this node
	stopped    bool

	sight observation
}

// New is a node that has just started and listens; none of its VIPs may be up.
func New(cfg Config, boot Boot, now Time) State {
	s := State{cfg: cfg, boot: boot, now: now, next: now, role: cluster.Listening, since: now, seen: boot.SeenTerm,
		floor: max(boot.SeenTerm, boot.Reserved), wordAt: never, company: never, heardMe: never, fewSince: never, penance: never,
		bootAt: now, doubt: boot.MaybeFresher&^(1<<cfg.Self) != 0, noClaim: never, recheck: never, askAll: never, grantTo: Nobody, grantUntil: never,
		rivalAt: never, nextBeat: now, nextFresh: never, nextProbe: never, nextLook: never, foreignAt: never, yielded: Nobody, rivalBy: Nobody,
		headless: never, lastLead: Nobody, verdictAt: never, outside: never, patient: 1, newerAt: never}
	for i := range s.flaps {
		s.flaps[i] = never
	}
	for i := range s.peers {
		p := &s.peers[i]
		p.last, p.news, p.since, p.joined, p.proof, p.first, p.card, p.wished = never, never, never, never, never, never, never, never
		for l := range p.heard {
			p.heard[l] = never
		}
	}
	return s
}

// alive reports whether peer i was heard within T_dead and did not leave.
func (s *State) alive(i int) bool {
	p := &s.peers[i]
	return p.ever && s.now-p.last < s.cfg.Timers.Dead && p.b.Flags&Leaving == 0
}

// others calls f for every node but this one, in the order of their indices.
func (s *State) others(f func(i int, p *peer)) {
	for i := range int(s.cfg.Count) {
		if i != int(s.cfg.Self) {
			f(i, &s.peers[i])
		}
	}
}

// hearsMe reports whether the peer's latest beacon names node self on any link.
func (p *peer) hearsMe(self uint8) bool {
	h := &p.b.Hears
	return (h[0]|h[1]|h[2]|h[3]|h[4]|h[5]|h[6]|h[7])&(1<<self) != 0
}

// hears is the bitmap of nodes heard on link l within T_dead.
func (s *State) hears(l int) (m uint16) {
	for i := range int(s.cfg.Count) {
		if p := &s.peers[i]; s.now-p.heard[l] < s.cfg.Timers.Dead && p.b.Flags&Leaving == 0 {
			m |= 1 << i
		}
	}
	return m
}

// good is the bitmap of VIP links that work here.
func (s *State) good() uint8 { return s.cfg.VIPLinks & s.carrier &^ s.deaf }

// linked reports whether this node could serve any VIP at all.
func (s *State) linked() bool { return s.cfg.VIPLinks == 0 || s.good() != 0 }

// leave reports whether the agent lets this node lead.
func (s *State) leave() bool { return s.hasWord && s.now-s.wordAt <= WordTimeout }

// nextTerm is the term of the next reign of this node.
func (s *State) nextTerm() cluster.Term { return max(s.seen, s.floor) + 1 }

// outsider: this node must not claim, because the lists of members differ. Somebody
// that it does not know may lead; or somebody alive does not know it yet, and
// could not follow it; or it is no member any more.
func (s *State) outsider() bool {
	if s.expelled || s.now-s.newerAt < s.cfg.Timers.Dead {
		return true
	}
	if s.role == cluster.Master {
		return false
	}
	for i := range int(s.cfg.Count) {
		if s.peers[i].b.Without && s.alive(i) {
			return true
		}
	}
	return false
}

// class is this node's class as it counts: a node that could not claim is barred,
// so that nobody waits for it.
func (s *State) class() cluster.Class {
	m := s.cfg.Members[s.cfg.Self]
	if !m.Candidate || s.stopped || !s.leave() || s.word.Maintenance || !s.linked() || s.now < s.penance || s.outsider() {
		return cluster.Barred
	}
	if s.role != cluster.Master && s.nextTerm() > s.word.Reserved {
		return cluster.Barred
	}
	// An ill node leads only where no well one is heard: somebody serves. A master
	// keeps its class: its agent hands over when there is somebody to hand over to.
	if s.role == cluster.Listening && s.doubt || s.word.Ill && s.role != cluster.Master || s.sight.frozen {
		return min(s.word.Class, cluster.Stale)
	}
	return s.word.Class
}

func (s *State) fresh() cluster.Position {
	if s.claim.on {
		return s.claim.fresh // two claimants must compare what both have seen
	}
	return s.word.Fresh
}

func (s *State) ownRank() rank {
	return rank{s.class(), bits.OnesCount8(s.good()), s.fresh(), s.cfg.Members[s.cfg.Self].Priority, s.cfg.Self}
}

func (s *State) rankOf(i int) rank {
	b := &s.peers[i].b
	return rank{b.Class, bits.OnesCount8(b.Good), b.Fresh, b.Priority, uint8(i)}
}

// better is the best live peer that comes before this node as a candidate.
func (s *State) better() (int, bool) {
	best, own, found := -1, s.ownRank(), false
	s.others(func(i int, p *peer) {
		r := s.rankOf(i)
		if !s.alive(i) || p.b.holds() || r.class == cluster.Barred || r.compare(own) < 0 {
			return
		}
		if !found || r.compare(s.rankOf(best)) > 0 {
			best, found = i, true
		}
	})
	return best, found
}

// deadline is the silence after which holder i counts as gone (rule R3a): never
// before the holder itself must have noticed that it is late.
func (s *State) deadline(i int) Time {
	t := s.cfg.Timers
	d := max(t.Dead, Time(s.peers[i].b.FenceMs)*Millisecond+t.Heartbeat)
	return max(d, min(d*s.patient, maxDeadline))
}

// reigning reports whether there is fresh proof that holder i reigns.
func (s *State) reigning(i int) bool {
	p := &s.peers[i]
	return p.holder && s.now-p.proof < s.deadline(i)
}

// lead is the peer whose reign is the best that is proven to last; those in limbo come last.
func (s *State) lead() (int, bool) {
	best := -1
	for i := range int(s.cfg.Count) {
		p := &s.peers[i]
		if !p.holder || !s.reigning(i) { // nor is this node itself ever a holder
			continue
		}
		if best < 0 || s.peers[best].limbo && !p.limbo ||
			s.peers[best].limbo == p.limbo && p.stand.compare(s.peers[best].stand) > 0 {
			best = i
		}
	}
	return best, best >= 0
}

// Beacon is what this node has to say now.
func (s *State) Beacon() Beacon {
	b := Beacon{From: s.cfg.Self, Role: s.role, Class: s.class(), Good: s.good(), Successor: Nobody,
		Priority: s.cfg.Members[s.cfg.Self].Priority, FenceMs: uint16(s.cfg.Timers.Fence / Millisecond),
		SeenTerm: s.seen, Fresh: s.fresh(), Reign: Reign{Owner: Nobody}}
	for l := range MaxLinks {
		b.Hears[l] = s.hears(l)
	}
	if b.holds() {
		b.Reign, b.Quality = s.reign, s.qual
	} else if i, ok := s.lead(); ok {
		p := &s.peers[i]
		b.Reign, b.Quality = p.stand.reign, p.stand.quality
		b.ReignAge = uint16(min((s.now-p.proof)/Millisecond, maxAge/Millisecond))
	}
	b.Flags, b.Successor, b.VIPs = s.flags(), Nobody, s.sight.vips
	if s.claim.on {
		b.ClaimTerm = s.claim.term
	}
	if s.hand.id != 0 {
		b.Successor = s.hand.to
		b.GrantTerm = s.hand.term
	}
	return b
}

func (s *State) flags() (f Flags) {
	set := func(on bool, flag Flags) {
		if on {
			f |= flag
		}
	}
	set(s.claim.on, Claiming)
	set(s.stopped, Leaving)
	set(s.hand.id != 0 && !s.hand.granted, HandingOver)
	set(s.hand.id != 0 && s.hand.granted, Granted)
	set(s.word.Maintenance, Maintenance)
	set(s.word.Hold, Held)
	set(s.word.Ill, Ill)
	set(s.role == cluster.Listening && s.doubt || s.waits, Doubting)
	set(s.word.Wish, Wishing)
	return f
}
