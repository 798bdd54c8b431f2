package beat

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/election"
	"revolve/internal/failover/witness"
	"revolve/internal/problem"
)

const (
	// idleEvery is between two looks at a witness that does not count at the moment, so that it is known before it does.
	idleEvery = time.Second
	// witnessLost is how long a witness must have been silent to be told of: more than two looks.
	witnessLost = 3 * time.Second
	// askTimes is how many questions' times are remembered, so that an answer that comes too late to count can be told of.
	askTimes = 16
	// lateTold is how many late answers in a row are worth a line: the first ones wait for the neighbour's card to be found.
	lateTold = 10
	// farewells is how many copies of a lease's return are sent: nobody confirms it.
	farewells = 2
)

// consult is this node's side of the witness. It allocates nothing after its start.
type consult struct {
	fd    int // -1: there is no witness
	to    unix.Sockaddr
	addr  netip.AddrPort
	codec *witness.Codec
	q     witness.Packet // the last question
	a     witness.Packet // the last answer
	out   [witness.Size]byte
	asked [askTimes]election.Time // by number
	asks  bool                    // the last question was for the election, not a look
	again election.Time           // a question was repeated with a new challenge then

	first  election.Time // of the first question without an answer since
	heard  election.Time // of the last answer, in time or not
	ever   bool
	took   time.Duration // of the last answer
	late   uint64        // answers that came too late to count
	row    int           // ... one after the other
	holder witness.Name
	silent bool // told
}

// consultOf prepares the questions of this node; without a witness it asks nobody.
func consultOf(c *Config) (*consult, error) {
	w := &consult{fd: -1}
	if c.Witness == nil {
		return w, nil
	}
	w.addr = c.Witness.Addr
	w.to = sockaddr(w.addr.Addr(), w.addr.Port())
	w.codec = witness.NewCodec(c.Witness.Key)
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	w.q = witness.Packet{Dead: c.Timers.Dead, Cluster: witness.NameOf(c.Cluster), Node: witness.NameOf(string(c.Self)),
		Life: binary.BigEndian.Uint64(seed[:]) | 1}
	family := unix.AF_INET
	if w.addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	// Not connected: the way there may not exist yet, and may change.
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &problem.Problem{Op: "open a socket for the witness", Kind: problem.Unavailable, Subject: w.addr.String(), Err: err,
			Hint: "name an address of a family that this machine has in failover.witness.address"}
	}
	w.fd = fd
	return w, nil
}

func (w *consult) close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
	}
}

// ask sends the next question. An error is what silence is.
func (w *consult) ask(kind witness.Kind, leads bool, now election.Time) {
	w.q.Kind, w.q.Leads, w.q.Seq = kind, leads, w.q.Seq+1
	w.asked[w.q.Seq%askTimes] = now
	if w.first <= w.heard {
		w.first = now
	}
	_ = unix.Sendto(w.fd, w.codec.Seal(w.out[:], 0, &w.q), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, w.to)
}

// due is when the next question is to be asked.
func (w *consult) due(asks bool, heartbeat election.Time) election.Time {
	last := w.asked[w.q.Seq%askTimes]
	switch {
	case w.q.Seq == 0, asks && !w.asks:
		return 0 // the last one was a look
	case asks:
		return last + heartbeat
	}
	return last + max(election.Time(idleEvery), heartbeat)
}

// consultDue is when the witness is to be asked next.
func (l *loop) consultDue() election.Time {
	return l.consult.due(l.st.AsksWitness(), l.cfg.Timers.Heartbeat)
}

// question asks the witness: once per heartbeat while the election wants to know,
// else now and then whether it is there. Whoever could not lead only looks, so
// that it keeps nobody out.
func (l *loop) question() {
	w, now := l.consult, l.now()
	if w.fd < 0 || now < l.consultDue() || l.st.Stopped() {
		return
	}
	w.asks = l.st.AsksWitness()
	w.ask(l.questionKind(), l.st.Leads(), now)
	if !w.silent && now-w.first > election.Time(witnessLost) && w.first > w.heard {
		w.silent = true
		l.tell.line("the witness " + w.addr.String() + " does not answer; it is only needed while no other node is heard. Does it run, is its port open, has it the same key file?")
	}
}

func (l *loop) questionKind() witness.Kind {
	if l.consult.asks && l.st.MayLead() {
		return witness.Ask
	}
	return witness.Peek
}

// giveLease tells the witness that nobody need wait for this node.
func (l *loop) giveLease() {
	if l.consult.fd < 0 {
		return
	}
	for range farewells {
		l.consult.ask(witness.Give, false, l.now())
	}
}

// readWitness takes answers. Only one to the last question counts, and only within
// a heartbeat of it: so a grant never outlasts the lease (election.Timers.Wrong: fence + heartbeat <= T_dead).
func (l *loop) readWitness() {
	w := l.consult
	for range maxBurst {
		b, ok := l.rx.read(w.fd)
		if !ok {
			return
		}
		if _, ok := w.codec.Open(b, &w.a); !ok || !w.mine() {
			l.tell.counters.BadAnswers++
			continue
		}
		l.heardWitness(l.now())
	}
}

// mine reports whether the answer is to one of the last questions.
func (w *consult) mine() bool {
	q := w.q
	if q.Seq = w.a.Seq; q.Seq > w.q.Seq || w.q.Seq-q.Seq >= askTimes {
		return false
	}
	return w.a.Answers(&q)
}

func (l *loop) heardWitness(now election.Time) {
	w := l.consult
	w.took = time.Duration(now - w.asked[w.a.Seq%askTimes])
	w.heard, w.ever, w.holder = now, true, w.a.Holder
	if w.silent {
		w.silent = false
		l.tell.line("the witness " + w.addr.String() + " answers again")
	}
	if w.took > time.Duration(l.cfg.Timers.Heartbeat) {
		w.late++
		if w.row++; w.row == lateTold {
			l.tell.line("the witness " + w.addr.String() + " takes longer than a heartbeat to answer (" + w.took.String() + "), which does not count: put it nearer, or choose a slower failover.profile")
		}
		return
	}
	w.row = 0
	if w.a.Seq != w.q.Seq || w.q.Kind == witness.Give {
		return
	}
	switch {
	case w.a.Kind == witness.Prove:
		if now-w.again >= l.cfg.Timers.Heartbeat/2 { // not for as long as somebody keeps saying so
			w.again, w.q.Challenge = now, w.a.Challenge
			w.ask(w.q.Kind, w.q.Leads, now)
		}
	case w.a.Kind == witness.Granted && w.q.Kind == witness.Ask:
		l.step(election.Event{Kind: election.Witnessed, Up: true})
	case w.a.Kind == witness.Refused && w.asks:
		l.step(election.Event{Kind: election.Witnessed})
	}
}

// report is what the agent learns of the witness.
func (w *consult) report() *WitnessReport {
	if w.fd < 0 {
		return nil
	}
	r := &WitnessReport{Addr: w.addr, State: WitnessUnknown, Took: w.took, Late: w.late, Slow: w.row >= lateTold}
	switch { // silent is judged once, in question: who reads this has been told of it as well
	case w.silent:
		r.State = WitnessSilent
	case w.ever && w.asks && w.a.Kind == witness.Refused:
		r.State = WitnessRefusing
	case w.ever:
		r.State = WitnessReachable
	}
	if r.State == WitnessReachable || r.State == WitnessRefusing {
		r.Leads = w.holder.String()
	}
	return r
}
