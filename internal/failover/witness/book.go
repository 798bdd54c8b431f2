package witness

import (
	"revolve/internal/failover/election"
)

// Bounds of what a witness remembers. Every entry was made by somebody with a key.
const (
	// maxClusters is more than one household has; each has a lease of its own.
	maxClusters = 8
	// idleAfter is how long an entry is kept at least for somebody who is silent. It is longer than any
	// T_dead (60 s), so that no lease is forgotten that could still count.
	idleAfter = 2 * 60 * election.Second
	// provesPerSecond bounds the answers to questions that may be recordings, per node: a node needs one or two in its life.
	provesPerSecond = 50
	// maxDead is the longest T_dead that a profile may have; a longer lease would outlast its entry.
	maxDead = 60 * election.Second
)

// Draw gives random numbers: the host's.
type Draw func() uint64

// voter is a node as the witness knows it.
type voter struct {
	name      Name
	life, seq uint64 // of the process that proved itself last; 0 if none did
	challenge uint64 // with which the next life begins
	heard     election.Time
	second    election.Time // the second that proves counts for
	proves    int
	refusedAt election.Time // when its refusal was told last
}

// trial is the lease of one cluster, and who may ask for it.
type trial struct {
	cluster Name
	lease   election.Lease
	dead    election.Time
	voters  [election.MaxNodes]voter
	count   int
	used    election.Time
}

// Book is all that a witness knows: for each cluster one lease, and for each node
// what makes its questions fresh. It is a plain state: time, randomness and packets
// come in as values. It holds nothing that has to survive its process.
type Book struct {
	codec  *Codec
	draw   Draw
	start  election.Time
	trials [maxClusters]trial
	count  int
	in     Packet
}

// NewBook is the book of a witness that starts at now.
func NewBook(now election.Time, keys []Key, draw Draw) *Book {
	return &Book{codec: NewCodec(keys...), draw: draw, start: now}
}

// Outcome is what became of a packet.
type Outcome uint8

// The outcomes.
const (
	Junk     Outcome = iota // not of this protocol
	Stranger                // sealed with none of our keys, or damaged
	Misused                 // authentic, and no question that a node could ask
	Full                    // authentic, and there is no room for another cluster or node
	Unproven                // may be a recording; answered with a challenge, or not at all if there were too many
	Answered                // nothing of note
	Taken                   // the lease has another holder than before
	Given                   // its holder gave it back
	Kept                    // refused, for the first time in a while: another one holds the lease
	Early                   // refused, for the first time in a while: the witness has just started
)

// Reply is what is to be sent back, if anything, and what to tell a person.
type Reply struct {
	Packet        []byte // nil: silence
	What          Outcome
	Cluster, Node Name // of an authentic packet
	Holder        Name // who had the lease before (Taken) or has it (Kept)
}

// Answer takes a packet in, at now, and writes the answer into out[:0].
func (b *Book) Answer(now election.Time, packet, out []byte) Reply {
	if k := form(packet); k == 0 || k >= Granted { // an answer of ours that comes back is no question
		return Reply{What: Junk}
	}
	p := &b.in
	key, ok := b.codec.Open(packet, p)
	if !ok {
		return Reply{What: Stranger}
	}
	r := Reply{Cluster: p.Cluster, Node: p.Node}
	if p.Dead < election.Millisecond || p.Dead > maxDead {
		r.What = Misused
		return r
	}
	t := b.trial(now)
	if t == nil {
		r.What = Full
		return r
	}
	i := t.voter(p.Node, now, b.draw)
	if i == election.Nobody {
		r.What = Full
		return r
	}
	kind := b.judge(t, i, now, &r)
	if kind == 0 {
		return r
	}
	v := &t.voters[i]
	p.Kind, p.Leads, p.Challenge, p.Holder = kind, false, v.challenge, Name{}
	if h := t.lease.Holder(now); h != election.Nobody {
		p.Holder = t.voters[h].name
	}
	r.Packet = b.codec.Seal(out, key, p)
	return r
}

// judge decides about an authentic question of voter i; 0 is silence.
func (b *Book) judge(t *trial, i uint8, now election.Time, r *Reply) Kind {
	p, v := &b.in, &t.voters[i]
	if p.Kind == Peek {
		r.What = Answered
		if t.lease.Free(i, now) {
			return Granted
		}
		return Refused
	}
	if !v.proven(p, b.draw) {
		r.What = Unproven
		return v.prove(now)
	}
	t.used, v.heard = now, now
	before := t.lease.Holder(now)
	if before != election.Nobody {
		r.Holder = t.voters[before].name
	}
	if p.Kind == Give {
		t.lease.Give(i, now)
		if r.What = Answered; before == i {
			r.What = Given
		}
		return 0 // whoever gives does not wait for an answer
	}
	t.dead = p.Dead
	if !t.lease.Ask(i, p.Leads, now, election.Timers{Dead: p.Dead}) {
		r.What = v.refused(now, before)
		return Refused
	}
	if r.What = Answered; before != i {
		r.What = Taken
	}
	v.refusedAt = 0
	return Granted
}

// refused is what to tell of a refusal: it is repeated at every heartbeat, the line is not.
func (v *voter) refused(now election.Time, holder uint8) Outcome {
	if v.refusedAt != 0 && now-v.refusedAt < 10*election.Second {
		return Answered
	}
	v.refusedAt = max(now, 1)
	if holder == election.Nobody {
		return Early
	}
	return Kept
}

// proven reports whether the question is no recording, and remembers it.
func (v *voter) proven(p *Packet, draw Draw) bool {
	switch {
	case p.Life == v.life && p.Seq > v.seq:
	case p.Life != v.life && p.Challenge == v.challenge:
		// The challenge is used up: what this life has said cannot begin another one.
		v.life, v.challenge = p.Life, draw()
	default:
		return false
	}
	v.seq = p.Seq
	return true
}

// prove answers what may be a recording, within the limit.
func (v *voter) prove(now election.Time) Kind {
	if now-v.second >= election.Second {
		v.second, v.proves = now, 0
	}
	if v.proves >= provesPerSecond {
		return 0
	}
	v.proves++
	return Prove
}

// trial is that of the question's cluster; nil if there is no room for it.
func (b *Book) trial(now election.Time) *trial {
	slot := -1
	for i := range b.count {
		t := &b.trials[i]
		if t.cluster == b.in.Cluster {
			return t
		}
		if now-t.used > idleAfter && (slot < 0 || t.used < b.trials[slot].used) {
			slot = i
		}
	}
	if b.count < maxClusters {
		slot = b.count
		b.count++
	}
	if slot < 0 {
		return nil
	}
	t := &b.trials[slot]
	// Whether this cluster was known before the start, nobody knows: the wait counts from there.
	*t = trial{cluster: b.in.Cluster, lease: election.NewLease(b.start, election.Timers{Dead: b.in.Dead}), dead: b.in.Dead, used: now}
	return t
}

// voter is the place of a node, Nobody if there is none. Whoever was silent for
// longest makes room; a node that was forgotten has to prove itself anew.
func (t *trial) voter(name Name, now election.Time, draw Draw) uint8 {
	slot := -1
	for i := range t.count {
		v := &t.voters[i]
		if v.name == name {
			return uint8(i)
		}
		if now-v.heard > idleAfter && (slot < 0 || v.heard < t.voters[slot].heard) {
			slot = i
		}
	}
	if t.count < len(t.voters) {
		slot = t.count
		t.count++
	}
	if slot < 0 {
		return election.Nobody
	}
	t.voters[slot] = voter{name: name, challenge: draw(), heard: now}
	return uint8(slot)
}
