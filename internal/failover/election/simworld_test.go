package election

import (
	"fmt"
	"math/rand/v2"

	"revolve/internal/cluster"
)

// The simulator: whole clusters of State in one goroutine and on one simulated
// clock, with everything around them that the rules lean on. Where this world
// differs from the real host is written in docs/failover.md, "The simulator".
//
// A simulated host (simhost_test.go) does what beat's loop does: it sleeps until
// its promise or until something arrives, settles a late wake first, reads the
// agent's words, the heartbeats and the ARP answers, then ticks.

type simKind uint8

const (
	evCarrier  simKind = iota // the carrier of b's link l is as seq says; only among what waits for a process
	evPacket                  // a heartbeat of a arrives at b on link l
	evProbe                   // a question of a for the VIPs arrives at b's kernel on link l
	evAnswer                  // the answer of a's kernel arrives at b on link l
	evWord                    // the agent of b speaks
	evDisk                    // a write of b's record is durable
	evExpire                  // the kernel of b looks at its lease
	evThaw                    // b runs again
	evAnnounce                // b's announcement schedule is due
	evVerdict                 // the witness answers b
	evAsk                     // a question of b arrives at the witness
	evList                    // the agent of b has fetched list seq of the members
	evLeave                   // the agent of b ends: it is a member no more
)

// simPacket is a heartbeat on its way to up to 15 nodes on up to 8 links.
type simPacket struct {
	b     Beacon
	nonce uint16
	refs  int32
	list  simList // the sender's
}

// simPath is one direction of one link between two nodes.
type simPath struct {
	cut    bool
	wall   bool // a firewall that drops heartbeats and lets ARP pass
	loss   uint8
	dup    uint8 // percent
	slow   Time
	jitter Time
}

// simProof is the wire's proof of freshness (beat.proof), with lives for nonces.
type simProof struct {
	current, pending uint16
	seq              [MaxLinks]uint32
	newest           uint32
}

// simRecord is what a disk keeps of a node (agent.memory).
type simRecord struct {
	seen, reserved cluster.Term
	others         uint16
}

type simNode struct {
	on   bool // the machine
	up   bool // the process
	life uint16

	proof   [MaxNodes]simProof
	outSeq  [MaxNodes]uint32
	sentAt  Time
	greet   uint16
	greeted [MaxNodes]Time
	// answered is when a node that is no member was answered last, on each link.
	answered [MaxNodes][MaxLinks]Time
	macs     uint16 // whose card is known

	offset, rate   Time // local clock = offset + now + now*rate/1e6
	frozen, paused Time // until then the process, or the whole machine, does not run
	slow           Time // the process gets the processor late by up to this
	st             State
	beats, other   []simEvent // unread heartbeats, and the rest
	reading        []simEvent
	wakeAt         Time // when the process gets the processor; -1 if nothing waits for it
	wakeOrd        uint64
	promise        Time // local: what the last step asked for

	unplugged   uint8
	vip         bool // in the kernel
	vipUntil    Time
	vipSince    Time
	vipLost     bool // to another program
	hushes      bool // its kernel falls silent for the VIPs while its process is late or dead (package silence)
	vipWatched  bool
	announced   Time // start of the announcement schedule
	announceNo  int
	announcing  bool
	lastAnnoun  Time
	agentDead   bool
	agentFrozen Time
	word        Word
	noFlush     bool
	handSince   Time
	handID      uint64

	diskUntil Time // stalled until then
	diskBusy  bool
	mem, disk simRecord
	writing   simRecord

	pos     cluster.Position
	lag     bool
	lagAt   Time
	ill     bool
	follows Time
	behind  bool // caught up since its start?

	role      cluster.Role // after the last step, for the checks
	proofAt   Time         // when it last learned that it is not cut off
	saidAt    Time         // when the process read the last word
	noWitness bool         // its path to the witness is cut
	outside   bool         // something that is no node answers on its VIP link
	asked     Time
	reachAt   Time // since when it is not
	unfit     bool // its disk holds whoever asks
	unfitAt   Time
	list      simList
	newer     int  // the newest list that it has heard of
	expelled  bool // and that is one without it
	fencedAt  Time
}

type sim struct {
	rnd    *rand.Rand
	now    Time
	q      simQueue
	ord    uint64
	cfg    Config
	links  int
	n      []simNode
	first  int // whose process gets the processor first; -1 if that must be found out
	path   [MaxNodes][MaxNodes][MaxLinks]simPath
	pool   []simPacket
	free   []int32
	sticky bool  // agents keep the class that a script has set
	lease  Lease // the witness's
	forgot Time  // when that one started last
	lists  []uint16
	log    func(format string, args ...any)
	judgeState
}

func newSim(seed uint64, nodes, links int, t Timers) *sim {
	s := &sim{rnd: rand.New(rand.NewPCG(seed, 0x5e7)), links: links}
	s.cfg = Config{Count: uint8(nodes), VIPLinks: 1, Timers: t}
	for i := range nodes {
		s.cfg.Members[i] = Member{Candidate: true, Priority: 100}
	}
	s.n = make([]simNode, nodes)
	s.reigns = map[Reign]int{}
	for i := range s.n {
		n := &s.n[i]
		n.offset = Time(1+i) * 1000 * Second
		n.follows, n.fencedAt, n.wakeAt = never, never, -1
		n.list = listOf(0, 1<<nodes-1)
		for j := range s.n {
			for l := range links {
				s.path[i][j][l].slow = 100_000
			}
			s.good[i][j], s.lan[i][j] = never, never
		}
	}
	s.allGood, s.first = never, -1
	s.lease, s.lists = NewLease(0, t), []uint16{1<<nodes - 1}
	return s
}

func (s *sim) push(d Time, e simEvent) {
	s.ord++
	e.at, e.ord = s.now+max(d, 0), s.ord
	if d == laneDelay {
		s.q.follow(&e)
		return
	}
	s.q.push(&e)
}

// local is node i's clock; remote turns a point of it into simulated time.
func (s *sim) local(i int) Time {
	n := &s.n[i]
	return n.offset + s.now + s.now/1_000_000*n.rate
}

func (s *sim) remote(i int, t Time) Time {
	d := t - s.local(i)
	return s.now + d - d/1_000_000*s.n[i].rate
}

func (s *sim) runFor(d Time) {
	end := s.now + d
	for len(s.bad) == 0 {
		e, i := s.q.peek(), s.sleeper()
		if i >= 0 && (e == nil || s.n[i].wakesBefore(e)) {
			if s.n[i].wakeAt > end {
				break
			}
			s.now = s.n[i].wakeAt
			s.awake(i)
		} else {
			if e == nil || e.at > end {
				break
			}
			s.now = e.at
			s.happen(s.q.pop())
		}
		s.check()
	}
	s.now = end
}

func (s *sim) happen(e simEvent) {
	n := &s.n[e.b]
	if e.kind == evPacket {
		s.arrive(e)
		return
	}
	if e.kind != evExpire && e.kind != evThaw && e.kind != evProbe && e.kind != evAsk && e.life != n.life {
		return
	}
	i := int(e.b)
	switch e.kind {
	case evProbe:
		s.asked(e)
	case evAnswer, evVerdict:
		if n.up && s.now >= n.paused && len(n.other) < simBuffer {
			n.other = append(n.other, e)
			s.poke(i)
		}
	case evWord:
		s.agent(i)
	case evDisk:
		s.written(i)
	case evExpire:
		s.expire(i)
	case evThaw:
		if n.up && s.now >= n.asleep() {
			s.recalc()
			s.poke(i)
		}
	case evAsk:
		if e.seq == givesLease {
			s.lease.Give(e.b, s.now)
			return
		}
		granted := s.lease.Ask(e.b, e.seq == asksLeading, s.now, s.cfg.Timers)
		s.push(100_000, simEvent{kind: evVerdict, b: e.b, life: e.life, seq: map[bool]uint32{true: 1}[granted]})
	case evLeave:
		if n.expelled && !s.latest(i) { // whoever was taken in again finds that list before it ends
			n.other = append(n.other, simEvent{kind: evThaw})
			s.poke(i)
		}
	case evList:
		s.fetched(i, int(e.seq))
	case evAnnounce:
		s.announcement(e)
	}
}

// asleep reports until when the process of node i does not run.
func (n *simNode) asleep() Time { return max(n.frozen, n.paused) }

// start boots node i with what its disk remembers; what its process left in the kernel is scrubbed.
func (s *sim) start(i int) {
	n := &s.n[i]
	if n.up || !s.joins(i) {
		return
	}
	n.on, n.up, n.life = true, true, n.life+1
	n.proof, n.greet, n.macs = [MaxNodes]simProof{}, 0, 0
	n.greeted, n.answered = [MaxNodes]Time{}, [MaxNodes][MaxLinks]Time{}
	s.drain(i)
	n.other = n.other[:0]
	n.frozen, n.paused, n.agentFrozen, n.agentDead = 0, 0, 0, false
	n.vip, n.announcing = false, false
	s.unwake(i)
	n.diskBusy, n.mem = false, n.disk
	n.saidAt, n.proofAt = s.now, s.now
	n.follows, n.behind, n.handID, n.fencedAt = never, true, 0, never
	n.expelled, n.newer, s.owing[i] = false, n.list.gen, 0
	n.st = New(s.configOf(i), Boot{SeenTerm: n.disk.seen, Reserved: n.disk.reserved, MaybeFresher: n.list.places(n.disk.others), Virgin: n.disk.seen == 0}, s.local(i))
	n.promise = s.local(i)
	if !s.sticky {
		n.word = Word{Class: cluster.Lagging, Fresh: n.pos, Reserved: n.disk.reserved, Maintenance: n.word.Maintenance, Hold: n.word.Hold, Switch: n.word.Switch}
	}
	for l := range s.links {
		s.feed(i, Event{Kind: Carrier, Link: uint8(l), Up: n.unplugged&(1<<l) == 0})
	}
	s.recalc()
	s.push(0, simEvent{kind: evWord, b: uint8(i), life: n.life})
	s.poke(i)
}

// crash is a power cut: the kernel and its addresses go too.
func (s *sim) crash(i int) {
	n := &s.n[i]
	n.on, n.up, n.vip, n.announcing, n.role = false, false, false, false, cluster.Listening
	n.life++
	s.unwake(i)
	s.masterOf &^= 1 << i
	s.recalc()
}

// kill ends all processes; the kernel keeps its lease.
func (s *sim) kill(i int) {
	n := &s.n[i]
	if n.up {
		n.up, n.announcing, n.role = false, false, cluster.Listening
		n.life++
		s.unwake(i)
		s.masterOf &^= 1 << i
		s.recalc()
	}
}

// hushed: the kernel of node i does not speak for the VIPs, whether its process is late or was killed.
func (s *sim) hushed(i int) bool {
	n := &s.n[i]
	return n.hushes && s.local(i) > n.promise+s.cfg.Timers.Fence
}

// freeze stops the process (SIGSTOP); pause stops the whole machine with its clock.
func (s *sim) freeze(i int, d Time) {
	n := &s.n[i]
	if !n.up {
		return
	}
	n.frozen = max(n.frozen, s.now+d)
	n.agentFrozen = max(n.agentFrozen, n.frozen)
	s.recalc()
	s.push(d, simEvent{kind: evThaw, b: uint8(i)})
}

func (s *sim) pause(i int, d Time) {
	n := &s.n[i]
	if !n.on || s.now < n.paused {
		return
	}
	n.paused = s.now + d
	n.offset -= d
	n.vipUntil += d
	n.announced += d
	n.agentFrozen = max(n.agentFrozen, n.paused)
	s.recalc()
	s.push(d, simEvent{kind: evThaw, b: uint8(i)})
}

// expire is the kernel's own timer for the lease.
func (s *sim) expire(i int) {
	n := &s.n[i]
	n.vipWatched = false
	switch {
	case !n.vip:
	case s.now >= n.vipUntil:
		n.vip = false
	default:
		n.vipWatched = true
		s.push(n.vipUntil-s.now, simEvent{kind: evExpire, b: uint8(i)})
	}
}

func (s *sim) plug(i, l int, in bool) {
	n := &s.n[i]
	n.unplugged |= 1 << l
	if in {
		n.unplugged &^= 1 << l
	}
	s.recalc()
	if n.up {
		n.other = append(n.other, simEvent{kind: evCarrier, l: uint8(l), seq: map[bool]uint32{true: 1}[in]})
		s.poke(i)
	}
}

func (s *sim) name(i int) string { return string(rune('a' + i)) }

func (s *sim) say(format string, args ...any) {
	if s.log != nil {
		s.log(format, args...)
	}
}

func (s *sim) fail(format string, args ...any) {
	if len(s.bad) < 5 {
		s.bad = append(s.bad, fmt.Sprintf("at %v ms: ", s.now/Millisecond)+fmt.Sprintf(format, args...))
	}
}
