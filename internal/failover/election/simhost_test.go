package election

import (
	"revolve/internal/cluster"
)

const (
	simBuffer = 250             // heartbeats that fit into a socket's default buffer of 212,992 bytes
	simLag    = 20_000          // a process gets the processor 20 us after something arrived for it
	simWord   = 100_000_000     // period of the agent's words
	simDisk   = 5 * Millisecond // a healthy disk's sync
)

// poke: something waits for the process of node i.
func (s *sim) poke(i int) { s.wake(i, s.now) }

func (s *sim) wake(i int, at Time) {
	n := &s.n[i]
	at = max(at, s.now, n.asleep()) + simLag
	if n.wakeAt >= 0 && n.wakeAt <= at {
		return
	}
	if n.slow > 0 && n.wakeAt < 0 {
		at += Time(s.rnd.Int64N(int64(n.slow)))
	}
	s.ord++
	n.wakeAt, n.wakeOrd = at, s.ord
	if s.first >= 0 && (i == s.first || at < s.n[s.first].wakeAt) {
		s.first = -1
	}
}

// sleeper is the node whose process gets the processor first, -1 if there is none.
func (s *sim) sleeper() int {
	if s.first >= 0 {
		return s.first
	}
	for i := range s.n {
		n := &s.n[i]
		if n.wakeAt < 0 {
			continue
		}
		if s.first < 0 || n.wakeAt < s.n[s.first].wakeAt || n.wakeAt == s.n[s.first].wakeAt && n.wakeOrd < s.n[s.first].wakeOrd {
			s.first = i
		}
	}
	return s.first
}

func (s *sim) unwake(i int) { s.n[i].wakeAt, s.first = -1, -1 }

func (n *simNode) wakesBefore(e *simEvent) bool {
	return n.wakeAt < e.at || n.wakeAt == e.at && n.wakeOrd < e.ord
}

// awake gives the processor to the process of node i.
func (s *sim) awake(i int) {
	n := &s.n[i]
	s.unwake(i)
	switch {
	case !n.up:
	case s.now < n.asleep():
		s.poke(i)
	default:
		s.round(i)
	}
}

// round is one turn of the host's loop (beat, loop.round).
func (s *sim) round(i int) {
	n := &s.n[i]
	late := s.local(i) - n.promise
	held := n.st.Role() == cluster.Master && n.vip
	if late > 2*s.cfg.Timers.Heartbeat {
		lived := s.living(i, n.promise)
		s.feed(i, Event{Kind: Tick})
		s.checkWake(i, late, held)
		if gone := lived &^ s.living(i, s.local(i)); gone != 0 || n.st.claim.on {
			s.fail("R2: %s was late by %d ms and accuses %b", s.name(i), late/Millisecond, gone)
		}
	}
	for k := 0; k < len(n.other); k++ { // what the agent and the kernel say comes before the links
		if e := n.other[k]; e.kind != evAnswer {
			s.other(i, e)
		}
	}
	n.reading, n.beats = n.beats, n.reading[:0]
	for _, e := range n.reading {
		s.receive(i, e)
	}
	n.reading = n.reading[:0]
	for k := 0; k < len(n.other); k++ {
		if e := n.other[k]; e.kind == evAnswer && n.up {
			if k := n.list.in[e.a]; k != Nobody {
				s.feed(i, Event{Kind: Answer, Node: k})
			}
		}
	}
	n.other = n.other[:0]
	if !n.up {
		return
	}
	if n.outside {
		s.feed(i, Event{Kind: Outside})
	}
	s.feed(i, Event{Kind: Tick})
	if n.up {
		s.askWitness(i)
		s.greetings(i)
		s.wake(i, s.remote(i, n.promise))
	}
}

// askWitness asks at every heartbeat while the election wants to know.
func (s *sim) askWitness(i int) {
	n := &s.n[i]
	if !n.st.AsksWitness() || !n.st.MayLead() || s.now-n.asked < s.cfg.Timers.Heartbeat*9/10 {
		return
	}
	n.asked = s.now
	s.toWitness(i, map[bool]uint32{true: asksLeading}[n.st.Role() == cluster.Master])
}

// What a question to the witness says besides.
const (
	asksLeading = 1
	givesLease  = 2
)

func (s *sim) toWitness(i int, what uint32) {
	if n := &s.n[i]; !n.noWitness {
		s.push(100_000, simEvent{kind: evAsk, b: uint8(i), life: n.life, seq: what})
	}
}

func (s *sim) other(i int, e simEvent) {
	n := &s.n[i]
	switch {
	case !n.up:
	case e.kind == evWord:
		n.saidAt = s.now
		w := n.word
		w.Switch.To = n.list.place(w.Switch.To)
		s.feed(i, Event{Kind: Said, Word: &w})
	case e.kind == evCarrier:
		s.feed(i, Event{Kind: Carrier, Link: e.l, Up: e.seq == 1})
	case e.kind == evProbe:
		s.feed(i, Event{Kind: Foreign})
	case e.kind == evExpire:
		s.feed(i, Event{Kind: Lost})
	case e.kind == evVerdict:
		s.feed(i, Event{Kind: Witnessed, Up: e.seq == 1})
	case e.kind == evThaw:
		k := Stop
		if e.seq == 1 {
			k = Orphan
		}
		s.feed(i, Event{Kind: k})
		n.up, n.announcing, n.role = false, false, cluster.Listening
		n.life++
		s.unwake(i)
		s.masterOf &^= 1 << i
		s.recalc()
	}
}

// feed is beat's loop.step: one event in, the effects in the order of their fields.
func (s *sim) feed(i int, e Event) {
	n := &s.n[i]
	e.Now = s.local(i)
	if e.Kind == Heard || e.Kind == Outside && !s.cfg.Witness || e.Kind == Witnessed && e.Up {
		n.proofAt = s.now
	}
	before := n.st.seen
	f := n.st.Step(e)
	n.promise = f.Next
	s.hist[e.Kind]++
	if n.st.SeenTerm() < before {
		s.fail("S2: %s forgets term %d", s.name(i), before)
	}
	if f.DeleteVIPs {
		n.vip, n.announcing = false, false
	}
	if f.Drain {
		s.drain(i)
	}
	if f.AddVIPs {
		s.hold(i)
	}
	if f.Announce {
		n.announced, n.announceNo, n.announcing = s.now, 0, true
		s.push(0, simEvent{kind: evAnnounce, b: uint8(i), life: n.life, seq: 0})
		s.say("%-3s announces", s.name(i))
	}
	if f.GiveLease {
		s.toWitness(i, givesLease)
	}
	for range f.Send {
		s.send(i)
	}
	if f.Probe != 0 {
		s.probe(i, f.Probe)
	}
	for _, note := range f.Notes[:f.NoteCount] {
		s.noted(i, note)
	}
	if f.Changed {
		s.report(i)
	}
	s.checkStep(i)
}

func (s *sim) hold(i int) {
	n := &s.n[i]
	if t := s.cfg.Timers; s.cfg.Isolation == Release && s.now-max(n.proofAt, n.asleep()) > t.Fence+4*t.Heartbeat+2*n.slow {
		s.fail("I1: %s serves, cut off for %d ms, against its policy", s.name(i), (s.now-n.proofAt)/Millisecond)
	}
	if s.now-n.saidAt > WordTimeout+200*Millisecond && s.now-max(n.frozen, n.paused) > WordTimeout+200*Millisecond {
		s.fail("P2: %s refreshes the VIPs %d ms after the last word of its agent", s.name(i), (s.now-n.saidAt)/Millisecond)
	}
	if !n.vip {
		if !n.vipLost {
			s.checkOverlap(i)
		}
		n.vipLost = false
		n.vip, n.vipSince = true, s.now
	}
	n.vipUntil = s.now + Lifetime + Time(s.rnd.Uint32N(uint32(300*Millisecond)))
	if !n.vipWatched {
		n.vipWatched = true
		s.push(n.vipUntil-s.now, simEvent{kind: evExpire, b: uint8(i)})
	}
}

func (s *sim) drain(i int) {
	n := &s.n[i]
	for _, e := range n.beats {
		s.unref(e.slot)
	}
	n.beats = n.beats[:0]
}

// open reports whether an Ethernet frame may travel now.
func (s *sim) open(i, j, l int) bool {
	return !s.path[i][j][l].cut && s.n[i].unplugged&(1<<l) == 0 && s.n[j].unplugged&(1<<l) == 0
}

// travel is a frame's time on its way, or lost.
func (s *sim) travel(i, j, l int) (d Time, ok bool) {
	p := &s.path[i][j][l]
	if !s.open(i, j, l) || p.loss > 0 && s.rnd.Uint32N(100) < uint32(p.loss) {
		return 0, false
	}
	d = p.slow
	if p.jitter > 0 {
		d += Time(s.rnd.Int64N(int64(p.jitter)))
	}
	return d, true
}

func (s *sim) send(i int) {
	s.checkSend(i)
	slot := s.packet(i)
	for j := range s.n {
		if s.n[i].list.has(j) {
			s.sendTo(i, j, slot)
		}
	}
	s.n[i].greet, s.n[i].sentAt = 0, s.now
	s.unref(slot)
}

func (s *sim) packet(i int) int32 {
	n := &s.n[i]
	var slot int32
	if k := len(s.free); k > 0 {
		slot = s.free[k-1]
		s.free = s.free[:k-1]
	} else {
		s.pool = append(s.pool, simPacket{})
		slot = int32(len(s.pool) - 1)
	}
	p := &s.pool[slot]
	p.b, p.nonce, p.refs, p.list = n.st.Beacon(), n.life, 1, n.list
	return slot
}

func (s *sim) unref(slot int32) {
	p := &s.pool[slot]
	if p.refs--; p.refs == 0 {
		s.free = append(s.free, slot)
	}
}

// sendTo puts one heartbeat on every link to j (beat, loop.sendTo).
func (s *sim) sendTo(i, j int, slot int32) {
	if i == j {
		return
	}
	n := &s.n[i]
	n.outSeq[j]++
	for l := range s.links {
		p := &s.path[i][j][l]
		copies := 1
		if p.dup > 0 && s.rnd.Uint32N(100) < uint32(p.dup) {
			copies = 2
		}
		for range copies {
			d, ok := s.travel(i, j, l)
			if !ok || p.wall {
				continue
			}
			s.pool[slot].refs++
			s.push(d, simEvent{kind: evPacket, a: uint8(i), b: uint8(j), l: uint8(l), life: s.n[j].life, seq: n.outSeq[j],
				echo: n.proof[j].current, echo2: n.proof[j].pending, slot: slot})
		}
	}
}

// greetings answers newcomers at once (beat, loop.greet).
func (s *sim) greetings(i int) {
	n := &s.n[i]
	if n.greet == 0 {
		return
	}
	now := s.local(i)
	slot := int32(-1)
	for j := range s.n {
		if n.greet&(1<<j) == 0 || !n.list.has(j) || now-n.greeted[j] < s.cfg.Timers.Heartbeat/4 {
			continue
		}
		n.greeted[j] = now
		if slot < 0 {
			slot = s.packet(i)
		}
		s.sendTo(i, j, slot)
		n.greet &^= 1 << j
	}
	if slot >= 0 {
		s.unref(slot)
	}
}

// arrive puts a heartbeat into the socket's buffer, where there is a socket.
func (s *sim) arrive(e simEvent) {
	n := &s.n[e.b]
	if !n.up || e.life != n.life || s.now < n.paused || len(n.beats) >= simBuffer {
		s.unref(e.slot)
		return
	}
	// Only what the wire needs stays with the event, the packet with its slot until it is read.
	n.beats = append(n.beats, e)
	s.poke(int(e.b))
}

// receive is the wire's judgement (beat, proof.prove) and the election's event.
func (s *sim) receive(i int, e simEvent) {
	n := &s.n[i]
	defer s.unref(e.slot)
	p := &s.pool[e.slot]
	if !n.list.has(int(e.a)) {
		if n.up {
			q := *p // the answer may need a larger pool
			s.stranger(i, &e, &q)
		}
		return
	}
	f := &n.proof[e.a]
	was := f.pending
	if p.nonce < f.current || !n.up {
		return // a recording of a former life
	}
	if e.echo != n.life && e.echo2 != n.life {
		if p.nonce != f.current {
			f.pending = p.nonce
		}
		n.greet |= 1 << e.a
		return
	}
	if p.nonce != f.current {
		*f = simProof{current: p.nonce, pending: f.pending}
		if f.pending == p.nonce {
			f.pending = 0
		}
	}
	if was != f.pending {
		n.greet |= 1 << e.a
	}
	if e.seq <= f.seq[e.l] {
		return
	}
	f.seq[e.l] = e.seq
	n.macs |= 1 << e.a
	rival := n.st.Role() == cluster.Master && p.b.Role == cluster.Master
	b := &p.b
	if p.list.gen != n.list.gen {
		read, foreign := s.translated(i, p)
		b = &read
		s.compareLists(i, p.list.gen, b, foreign)
	}
	s.feed(i, Event{Kind: Heard, Link: e.l, Old: e.seq < f.newest, Again: e.seq == f.newest, Beacon: b})
	f.newest = max(f.newest, e.seq)
	if rival && n.up {
		s.met(i, int(e.a))
	}
}

// probe asks the kernels of the nodes in set, which answer even if their processes are frozen, where nothing hushes them.
func (s *sim) probe(i int, set uint16) {
	n := &s.n[i]
	set = n.list.numbers(set)
	for j := range s.n {
		if set&(1<<j) == 0 || n.macs&(1<<j) == 0 {
			continue
		}
		for l := range s.links {
			if s.cfg.VIPLinks&(1<<l) == 0 {
				continue
			}
			if d, ok := s.travel(i, j, l); ok {
				s.push(d, simEvent{kind: evProbe, a: uint8(i), b: uint8(j), l: uint8(l)})
			}
		}
		s.feed(i, Event{Kind: Probed, Node: n.list.in[j]})
	}
}

func (s *sim) asked(e simEvent) {
	n := &s.n[e.b]
	if !n.on || !n.vip || s.now < n.paused || s.hushed(int(e.b)) {
		return
	}
	if d, ok := s.travel(int(e.b), int(e.a), int(e.l)); ok {
		s.push(d, simEvent{kind: evAnswer, a: e.b, b: e.a, l: e.l, life: s.n[e.a].life})
	}
}

// simRepeats are the times of the announcements, in ms.
func simRepeats() [7]Time { return [...]Time{0, 50, 150, 400, 1100, 2200, 5000} }

// announcement is one gratuitous ARP; a node that knows the card takes it for an answer (beat, loop.readWire).
func (s *sim) announcement(e simEvent) {
	n := &s.n[e.b]
	if !n.announcing || int(e.seq) != n.announceNo {
		return
	}
	if s.now < n.asleep() {
		s.push(n.asleep()-s.now+simLag, e)
		return
	}
	repeats := simRepeats()
	n.lastAnnoun = s.now
	for j := range s.n {
		for l := range s.links {
			if j == int(e.b) || s.cfg.VIPLinks&(1<<l) == 0 || !n.vip || s.n[j].macs&(1<<e.b) == 0 {
				continue
			}
			if d, ok := s.travel(int(e.b), j, l); ok {
				s.push(d, simEvent{kind: evAnswer, a: e.b, b: uint8(j), l: uint8(l), life: s.n[j].life})
			}
		}
	}
	if n.announceNo++; n.announceNo < len(repeats) {
		s.push(n.announced+repeats[n.announceNo]*Millisecond-s.now, simEvent{kind: evAnnounce, b: e.b, life: n.life, seq: uint32(n.announceNo)})
	}
}
