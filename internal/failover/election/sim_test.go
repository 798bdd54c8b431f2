package election

import (
	"container/heap"
	"fmt"
	"math/rand/v2"

	"revolve/internal/cluster"
)

// The simulator: whole clusters of State in one goroutine, on one simulated
// clock, with everything around them that the rules lean on: lossy links with
// one-way cuts, carriers, the two-way proof of the wire, kernels that lease the
// VIPs and answer for them while the process is frozen, agents that give words
// and reserve terms, and restarts that only remember what was durable.

type simEvent struct {
	at  Time
	ord uint64
	do  func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].ord < q[j].ord
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	o := *q
	x := o[len(o)-1]
	*q = o[:len(o)-1]
	return x
}

type simPath struct {
	cut  bool
	loss float64
	slow Time
}

type simNode struct {
	up        bool
	life      int    // counts starts and crashes; old callbacks compare it
	nonce     uint64 // of this life
	knows     [MaxNodes]uint64
	offset    Time // local clock = simulated clock + offset
	frozen    Time // until then the process does not run
	paused    Time // until then nothing runs, the kernel included
	st        State
	inbox     []func()
	tickAt    Time
	unplugged uint8

	vipUntil   Time // kernel lease, simulated clock
	vip        bool
	vipWatched bool

	// durable
	seen, reserved cluster.Term
	others         uint16 // who was alive at the last look

	word      Word
	follows   Time // since when a master is known
	agentDead bool
}

type sim struct {
	rnd     *rand.Rand
	now     Time
	q       simQueue
	ord     uint64
	cfg     Config
	links   int
	vipLink int
	n       []simNode
	path    [MaxNodes][MaxNodes][MaxLinks]simPath
	reigns  map[Reign]int            // how many lives began it
	good    [MaxNodes][MaxNodes]Time // since when a clean path between two running nodes is there
	lan     [MaxNodes][MaxNodes]Time // since when their kernels reach each other on the VIP link
	bad     []string                 // broken invariants
	log     func(format string, args ...any)
	sticky  bool // agents keep the class that a script has set
	claims  int
}

func newSim(seed uint64, nodes, links int, t Timers) *sim {
	s := &sim{rnd: rand.New(rand.NewPCG(seed, 0x5e7)), links: links, reigns: map[Reign]int{}, log: func(string, ...any) {}}
	s.cfg = Config{Count: uint8(nodes), VIPLinks: 1, Timers: t}
	for i := range nodes {
		s.cfg.Members[i] = Member{Candidate: true, Priority: 100}
	}
	s.n = make([]simNode, nodes)
	for i := range s.n {
		s.n[i].offset = Time(1+i) * 1000 * Second
		for j := range s.n {
			for l := range links {
				s.path[i][j][l].slow = 100_000
			}
			s.good[i][j], s.lan[i][j] = never, never
		}
	}
	return s
}

func (s *sim) after(d Time, do func()) {
	s.ord++
	heap.Push(&s.q, simEvent{s.now + d, s.ord, do})
}

func (s *sim) runFor(d Time) {
	end := s.now + d
	for len(s.q) > 0 && s.q[0].at <= end {
		e := heap.Pop(&s.q).(simEvent)
		s.now = e.at
		e.do()
		s.check()
	}
	s.now = end
}

// start boots node i with what its disk remembers.
func (s *sim) start(i int) {
	n := &s.n[i]
	if n.up {
		return
	}
	n.up, n.life, n.nonce = true, n.life+1, s.rnd.Uint64()|1
	n.knows, n.inbox, n.frozen, n.paused, n.follows = [MaxNodes]uint64{}, nil, 0, 0, never
	n.vip, n.vipWatched, n.agentDead = false, false, false
	cfg := s.cfg
	cfg.Self = uint8(i)
	n.st = New(cfg, Boot{SeenTerm: n.seen, Reserved: n.reserved, MaybeFresher: n.others, Virgin: n.seen == 0}, s.now+n.offset)
	if !s.sticky {
		n.word = Word{Class: cluster.Stale, Fresh: n.word.Fresh, Reserved: n.reserved}
	}
	for l := range s.links {
		s.feed(i, Event{Kind: Carrier, Link: uint8(l), Up: n.unplugged&(1<<l) == 0})
	}
	s.agent(i, n.life)
	s.tick(i)
}

// crash is a power cut: the kernel and its addresses go too.
func (s *sim) crash(i int) {
	n := &s.n[i]
	if !n.up {
		return
	}
	n.others = 0
	for j := range s.n {
		if j != i && n.st.Peer(j).Alive {
			n.others |= 1 << j
		}
	}
	n.up, n.vip, n.life = false, false, n.life+1
}

// asleep reports until when the process of node i does not run.
func (n *simNode) asleep() Time { return max(n.frozen, n.paused) }

// run calls do when the process of node i runs.
func (s *sim) run(i int, do func()) {
	n := &s.n[i]
	if s.now < n.asleep() {
		if len(n.inbox) < 500 { // a socket buffer
			n.inbox = append(n.inbox, do)
		}
		return
	}
	do()
}

// freeze stops the process (SIGSTOP); pause stops the whole machine with its clock.
func (s *sim) freeze(i int, d Time) {
	s.n[i].frozen = max(s.n[i].frozen, s.now+d)
	s.thawLater(i, d)
}

func (s *sim) pause(i int, d Time) {
	n := &s.n[i]
	if !n.up || s.now < n.paused {
		return
	}
	n.paused = s.now + d
	n.offset -= d
	n.vipUntil += d
	s.thawLater(i, d)
}

func (s *sim) thawLater(i int, d Time) {
	life := s.n[i].life
	s.after(d, func() {
		n := &s.n[i]
		if n.life != life || !n.up || s.now < n.asleep() {
			return
		}
		box := n.inbox
		n.inbox = nil
		for _, do := range box {
			do()
		}
		s.tick(i)
		s.agentSoon(i, life)
	})
}

func (s *sim) agentSoon(i, life int) { s.after(Millisecond, func() { s.agent(i, life) }) }

// agent says a word every 90 ms or so, and reserves terms when asked.
func (s *sim) agent(i, life int) {
	n := &s.n[i]
	if n.life != life || !n.up || n.agentDead || s.now < n.asleep() {
		return
	}
	if need := n.st.NeedTerms(); need > 0 {
		n.reserved = max(n.reserved, need)
	}
	n.seen = max(n.seen, n.st.SeenTerm())
	n.word.Reserved = n.reserved
	if !s.sticky {
		s.judge(i)
	}
	w := n.word
	s.feed(i, Event{Kind: Said, Word: &w})
	s.tick(i)
	s.after(90*Millisecond, func() { s.agent(i, life) })
}

// judge is an agent's view of its own fitness: in-sync half a second after it follows or leads.
func (s *sim) judge(i int) {
	n := &s.n[i]
	_, ok := n.st.Master()
	if !ok {
		n.follows = never
		return
	}
	if n.follows == never {
		n.follows = s.now
	}
	if s.now-n.follows > 500*Millisecond {
		n.word.Class = cluster.InSync
		n.word.Fresh = cluster.Position{Term: n.seen, Seq: uint64(s.now / Second)}
	}
}

func (s *sim) feed(i int, e Event) {
	n := &s.n[i]
	e.Now = s.now + n.offset
	s.effects(i, n.st.Step(e))
}

// tick steps node i and schedules its next tick.
func (s *sim) tick(i int) {
	n := &s.n[i]
	if !n.up || s.now < n.asleep() {
		return
	}
	e := Event{Kind: Tick, Now: s.now + n.offset}
	f := n.st.Step(e)
	s.effects(i, f)
	at := f.Next - n.offset
	if at <= s.now {
		at = s.now + 10_000 // a host takes time too
	}
	n.tickAt = at
	life := n.life
	s.after(at-s.now, func() {
		if s.n[i].life == life && s.n[i].tickAt == at {
			s.tick(i)
		}
	})
}

func (s *sim) effects(i int, f Effects) {
	n := &s.n[i]
	if f.DeleteVIPs {
		n.vip = false
	}
	if f.Drain {
		n.inbox = nil
	}
	if f.AddVIPs {
		n.vip = true
		n.vipUntil = s.now + Lifetime + Time(s.rnd.Int64N(int64(300*Millisecond)))
		if !n.vipWatched {
			n.vipWatched = true
			s.expire(i, n.life)
		}
	}
	if f.Announce {
		s.log("%-3s announces", s.name(i))
	}
	for range f.Send {
		s.send(i)
	}
	for j := range s.n {
		if f.Probe&(1<<j) != 0 {
			s.probe(i, j)
		}
	}
	for _, note := range f.Notes[:f.NoteCount] {
		s.noted(i, note)
	}
}

// expire is the kernel's own timer for the lease.
func (s *sim) expire(i, life int) {
	n := &s.n[i]
	switch {
	case n.life != life:
	case !n.vip || s.now >= n.vipUntil:
		n.vip, n.vipWatched = false, false
	default:
		s.after(n.vipUntil-s.now, func() { s.expire(i, life) })
	}
}

func (s *sim) noted(i int, note Note) {
	s.log("%-3s %s", s.name(i), s.tell(note))
	n := &s.n[i]
	switch note.Code {
	case NoteMaster, NoteWonOver:
		r := Reign{cluster.Term(note.N), uint8(i)}
		s.reigns[r]++
		if s.reigns[r] > 1 {
			s.fail("S2: reign %v began twice", r)
		}
		if r.Term > n.reserved {
			s.fail("S2: term %d used by %s with only %d reserved", r.Term, s.name(i), n.reserved)
		}
		n.seen = max(n.seen, n.st.SeenTerm())
		if note.Code == NoteMaster {
			s.checkOverlap(i)
		}
	case NoteClaim:
		s.claims++
		s.checkClass(i)
	}
}

// checkOverlap is P2: nobody takes the VIPs while the kernel of a node that it
// could have asked still holds them.
func (s *sim) checkOverlap(i int) {
	for j := range s.n {
		if g := s.lan[max(i, j)][min(i, j)]; j != i && s.n[j].vip && g != never && s.now-g > 2*s.cfg.Timers.Dead+s.cfg.Timers.Probe {
			s.fail("P2: %s takes the VIPs while the kernel of %s holds them", s.name(i), s.name(j))
		}
	}
}

func (s *sim) checkClass(i int) {
	for j := range s.n {
		v := s.n[i].st.Peer(j)
		if j != i && v.Alive && v.Beacon.Class > s.n[i].st.Class() && !v.Beacon.holds() {
			s.fail("S3: %s claims as %v while it hears %s, %v", s.name(i), s.n[i].st.Class(), s.name(j), v.Beacon.Class)
		}
	}
}

// open reports whether a packet may travel now.
func (s *sim) open(i, j, l int) bool {
	return !s.path[i][j][l].cut && s.n[i].unplugged&(1<<l) == 0 && s.n[j].unplugged&(1<<l) == 0
}

func (s *sim) send(i int) {
	n := &s.n[i]
	b := n.st.Beacon()
	for j := range s.n {
		for l := range s.links {
			p := s.path[i][j][l]
			if j == i || !s.open(i, j, l) || s.rnd.Float64() < p.loss {
				continue
			}
			nonce, echo, life := n.nonce, n.knows[j], s.n[j].life
			s.after(p.slow, func() {
				if s.n[j].up && s.n[j].life == life && s.now >= s.n[j].paused {
					s.run(j, func() { s.receive(j, l, nonce, echo, b) })
				}
			})
		}
	}
}

func (s *sim) receive(j, l int, nonce, echo uint64, b Beacon) {
	n := &s.n[j]
	if !n.up {
		return
	}
	if echo == n.nonce {
		n.knows[b.From] = nonce
		s.feed(j, Event{Kind: Heard, Link: uint8(l), Beacon: &b})
		s.tick(j)
	} else if n.knows[b.From] == 0 || echo == 0 {
		n.knows[b.From] = nonce
	}
}

// probe asks the kernel of node j, which answers even if its process is frozen.
func (s *sim) probe(i, j int) {
	s.feed(i, Event{Kind: Probed, Node: uint8(j)})
	l, life := s.vipLink, s.n[i].life
	back := func() {
		if s.n[i].up && s.n[i].life == life {
			s.run(i, func() { s.feed(i, Event{Kind: Answer, Node: uint8(j)}); s.tick(i) })
		}
	}
	s.after(s.path[i][j][l].slow, func() {
		n := &s.n[j]
		if s.open(i, j, l) && s.open(j, i, l) && n.up && n.vip && s.now >= n.paused && s.rnd.Float64() >= s.path[i][j][l].loss {
			s.after(s.path[j][i][l].slow, back)
		}
	})
}

func (s *sim) plug(i, l int, in bool) {
	n := &s.n[i]
	n.unplugged |= 1 << l
	if in {
		n.unplugged &^= 1 << l
	}
	if n.up {
		s.run(i, func() {
			s.feed(i, Event{Kind: Carrier, Link: uint8(l), Up: n.unplugged&(1<<l) == 0})
			s.tick(i)
		})
	}
}

func (s *sim) fail(format string, args ...any) {
	if len(s.bad) < 5 {
		s.bad = append(s.bad, fmt.Sprintf("at %v ms: ", s.now/Millisecond)+fmt.Sprintf(format, args...))
	}
}

func (s *sim) name(i int) string { return string(rune('a' + i)) }

// masters are the nodes whose process says that it is the master, and runs.
func (s *sim) masters() (m []int) {
	for i := range s.n {
		if n := &s.n[i]; n.up && n.st.Role() == cluster.Master && s.now >= n.asleep() {
			m = append(m, i)
		}
	}
	return m
}

// check is S1: two masters that have had a clean path both ways for long enough.
func (s *sim) check() {
	m := s.masters()
	for i := range s.n {
		for j := range i {
			clean := s.n[i].up && s.n[j].up && s.now >= s.n[i].asleep() && s.now >= s.n[j].asleep()
			any := false
			for l := range s.links {
				any = any || s.open(i, j, l) && s.open(j, i, l) && s.path[i][j][l].loss+s.path[j][i][l].loss == 0
			}
			l := s.vipLink
			if !s.n[i].up || !s.n[j].up || s.now < s.n[i].paused || s.now < s.n[j].paused || !s.open(i, j, l) || !s.open(j, i, l) ||
				s.path[i][j][l].loss+s.path[j][i][l].loss > 0 {
				s.lan[i][j] = never
			} else if s.lan[i][j] == never {
				s.lan[i][j] = s.now
			}
			if !clean || !any {
				s.good[i][j] = never
			} else if s.good[i][j] == never {
				s.good[i][j] = s.now
			}
		}
	}
	limit := s.cfg.Timers.Dead + 2*s.cfg.Timers.Heartbeat
	for x, i := range m {
		for _, j := range m[:x] {
			if g := s.good[i][j]; g != never && s.now-g > limit {
				s.fail("S1: %s and %s both reign after %d ms of a clean path", s.name(i), s.name(j), (s.now-g)/Millisecond)
			}
		}
	}
}
