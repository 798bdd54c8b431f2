package beat

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/silence"
	"revolve/internal/failover/vip"
	"revolve/internal/syswait"
)

const (
	rebindEvery = 500 * time.Millisecond // an address that comes late is found by its event; this is the backstop
	reportEvery = 200 * time.Millisecond // positions of the peers change all the time; changes of role are told at once
	reportEarly = 40 * time.Millisecond  // a report does not wake the loop for itself if a heartbeat or a word does shortly before
	wakeTime    = 5 * time.Second        // how long a switch port takes at most until it forwards, without spanning tree
	askEvery    = 100 * time.Millisecond // between two questions for a neighbour meanwhile
	maxBurst    = 64                     // packets taken from one socket per round: 4 heartbeats of 16 nodes
)

// lane is one link of this node.
type lane struct {
	id        cluster.LinkID
	addr      netip.Addr // this node's own; invalid if it is not on the link
	fd        int        // heartbeat socket, -1 while the address is not here
	index     int        // interface
	mac       vip.MAC
	carrier   bool
	signal    *vip.Signal // nil where it cannot be read: then the kernel's messages must do
	doubted   bool        // carrier was lost by the signal, and the kernel has not spoken since
	looked    time.Duration
	to        [election.MaxNodes]unix.Sockaddr
	peers     [election.MaxNodes]netip.Addr
	former    [election.MaxNodes]netip.Addr // where members were before the last change; they have to hear that they are none
	waking    time.Duration                 // carrier came back: until then unresolved neighbours are asked for again quickly
	asked     time.Duration                 // last time that was done
	vips      []int                         // indices of the VIPs that it carries
	arp, nd   *vip.Wire                     // nil while not bound, or where no VIP of the family is
	source6   netip.Addr
	guard     *silence.Guard // nil where the kernel has none
	unguarded error          // why not, as told
	since     time.Duration  // last attempt to bind
	err       error          // of the last attempt
	unread    uint32         // packets that the kernel dropped on fd, as told
}

// address is one VIP.
type address struct {
	prefix netip.Prefix
	lane   int
	lease  *vip.Lease // nil while the interface is unknown
	frames [][]byte
	held   bool
	err    error // of the last attempt to hold or drop it

	ask     []byte        // to the whole link
	asked   time.Duration // last time
	foreign [maxForeign]sighting
}

// member is what the wire knows of a peer.
type member struct {
	proof proof
	seq   uint64 // of the last heartbeat to it, the same on every link
	macs  [election.MaxLinks]vip.MAC
	greet bool // it does not know our nonce yet, or we have just learned its new one
	links [election.MaxLinks]quality
}

// loop is the whole process: one thread (and the refresher's), one State, everything preallocated.
type loop struct {
	cfg   *Config
	names *layout
	st    election.State
	next  election.Time
	codec *codec
	nonce uint64

	nl      *vip.Conn
	fresh   *refresher
	watch   *vip.Watch
	lanes   []lane
	addrs   []address
	members [election.MaxNodes]member
	others  strangers
	newer   election.Beacon
	sched   vip.Schedule
	consult *consult
	refs    []reference
	rescan  bool
	sight   sight
	macs    [election.MaxLinks]vip.MAC

	start   time.Time
	polls   []unix.PollFd
	owner   []func() // what to do when the descriptor of the same index is readable
	gated   int      // from this index on they are packets, which the gate may keep waiting
	gate    gate
	rx      receiver
	out     [maxPacket]byte
	pkt     packet
	word    election.Word
	frame   [2048]byte
	changes []vip.Change
	inbox   []byte
	done    bool

	spoke   time.Duration // the agent's last word; 0 before the first
	awaited time.Duration // the last time a master said that it waits for this node to have everything
	loan    loan
	lender  *lender // nil without real-time priority

	quiet    quiet
	realTime bool
	refused  []string
	tell     teller
	turns    turns
}

func newLoop(cfg *Config) (*loop, error) {
	y, err := newLayout(cfg)
	if err != nil {
		return nil, err
	}
	if err := scrub(cfg); err != nil {
		return nil, err
	}
	l := &loop{cfg: cfg, names: y, start: time.Now(), inbox: make([]byte, maxMessage), changes: make([]vip.Change, 0, 64), rescan: true}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	l.nonce = binary.BigEndian.Uint64(seed[:]) | 1 // 0 means: unknown
	if l.nl, err = vip.Dial(); err != nil {
		return nil, err
	}
	again, err := vip.Dial()
	if err != nil {
		return nil, err
	}
	if l.watch, err = vip.NewWatch(); err != nil {
		return nil, err
	}
	l.layLanes()
	l.layReferences()
	if l.consult, err = consultOf(cfg); err != nil {
		return nil, err
	}
	l.fresh = newRefresher(again, len(l.addrs))
	l.codec = y.codec(cfg)
	ec, eb := y.election(cfg)
	l.st = election.New(ec, eb, l.now())
	l.tell.init(l)
	l.turns.init()
	l.quiet.init(l.now)
	return l, nil
}

func (l *loop) layLanes() {
	l.lanes = make([]lane, len(l.names.links))
	for k := range l.lanes {
		l.lanes[k] = lane{id: l.names.links[k], fd: -1, since: -rebindEvery}
	}
	l.layPeers()
	for _, v := range l.cfg.VIPs {
		for k := range l.lanes {
			if l.lanes[k].id == v.Link {
				l.lanes[k].vips = append(l.lanes[k].vips, len(l.addrs))
				l.addrs = append(l.addrs, address{prefix: v.Prefix, lane: k})
			}
		}
	}
}

// now is the monotonic clock; time.Since reads CLOCK_MONOTONIC without a system call.
func (l *loop) now() election.Time { return election.Time(time.Since(l.start)) }

// run is the loop. It ends when the agent is gone, asks for it, or ctx ends.
func (l *loop) run(ctx context.Context) error {
	go l.fresh.Run() // ended by close
	if l.lender != nil {
		go l.lender.Run() // ended by close
	}
	l.next = l.now()
	for !l.done {
		if ctx.Err() != nil {
			l.step(election.Event{Kind: election.Stop})
			break
		}
		l.round(l.deadline())
	}
	l.report(time.Duration(l.now()))
	return nil
}

// deadline is when something is due next.
func (l *loop) deadline() election.Time {
	n := min(l.next, election.Time(l.tell.latest()))
	if at, ok := l.sched.Next(); ok {
		n = min(n, election.Time(at))
	}
	if l.cfg.External {
		n = min(n, election.Time(l.sight.at+sightEvery))
	}
	if l.consult.fd >= 0 {
		n = min(n, l.consultDue())
	}
	n = min(n, l.outsideDue())
	if l.rescan {
		n = l.now()
	}
	if at := l.lendAt(); at > l.now() {
		n = min(n, at)
	}
	return n
}

// round waits until due or until something arrives, takes everything in, and
// then lets the election decide.
func (l *loop) round(due election.Time) {
	l.fill()
	polls := l.polls
	if now := time.Duration(l.now()); !l.gate.open(now) {
		polls = polls[:l.gated]
		due = min(due, election.Time(l.gate.until()))
	}
	wait := unix.NsecToTimespec(max(0, int64(due-l.now())))
	n, _ := syswait.Poll(polls, &wait)
	now := l.now()
	if now >= due {
		l.tell.lateness(time.Duration(now - due))
	}
	if now-l.next > 2*l.cfg.Timers.Heartbeat {
		l.step(election.Event{Kind: election.Tick}) // asleep for too long: settle that before reading old packets
	}
	if n > 0 {
		l.take(polls)
	}
	if l.done {
		return
	}
	if l.rescan || l.unbound(time.Duration(now)) {
		l.rescan = false
		l.bind()
	}
	l.signals()
	l.observe(time.Duration(l.now()))
	l.next = l.step(election.Event{Kind: election.Tick})
	l.lend()
	l.question()
	l.seek()
	l.greet()
	l.resolve(time.Duration(l.now()))
	l.duplicates(time.Duration(l.now()))
	if l.sched.Due(time.Duration(l.now())) {
		l.announce()
	}
	if d := time.Duration(l.now()); d >= l.tell.due {
		l.report(d)
	}
}

// take reads what is readable; packets last, and on the gate's account.
func (l *loop) take(polls []unix.PollFd) {
	packets := l.now()
	for k := range polls {
		if k == l.gated {
			packets = l.now()
		}
		if polls[k].Revents != 0 {
			l.owner[k]()
		}
	}
	if len(polls) > l.gated {
		l.gate.spend(time.Duration(l.now() - packets))
	}
}

// step feeds the election and carries out what it answers, in the order of its fields.
func (l *loop) step(e election.Event) election.Time {
	e.Now = l.now()
	f := l.st.Step(e)
	l.turns.begin(&l.st, &f, e.Now)
	gone := f.DeleteVIPs && l.drop()
	l.quieten(f.Next, gone) // before what may wait for the kernel
	if f.Drain {
		l.drain()
	}
	if f.AddVIPs && l.hold() {
		l.turns.held(l.now())
	}
	if f.Announce {
		l.sched.Start(time.Duration(e.Now))
		if l.sched.Due(time.Duration(e.Now)) && l.announce() { // not after the heartbeat: clients wait for this one
			l.turns.announced(l.now())
		}
	}
	for range f.Send {
		l.send()
	}
	if f.GiveLease {
		l.giveLease()
	}
	if f.Probe != 0 {
		l.probe(f.Probe)
	}
	for _, n := range f.Notes[:f.NoteCount] {
		l.tell.election(n)
	}
	if f.Changed {
		l.tell.due = 0
	}
	l.turns.end(l)
	return f.Next
}

// fill lists the descriptors to poll; it is rebuilt only when they changed.
func (l *loop) fill() {
	if l.polls != nil {
		for k := range l.polls {
			l.polls[k].Revents = 0
		}
		return
	}
	l.owner = l.owner[:0]
	add := func(fd int, do func()) {
		l.polls = append(l.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		l.owner = append(l.owner, do)
	}
	add(agentFD, l.readAgent)
	add(l.watch.FD(), l.readChanges)
	l.gated = len(l.polls)
	if l.consult.fd >= 0 {
		add(l.consult.fd, l.readWitness)
	}
	for k := range l.lanes {
		n := &l.lanes[k]
		if n.fd >= 0 {
			add(n.fd, func() { l.readLane(k) })
		}
		for _, w := range []*vip.Wire{n.arp, n.nd} {
			if w != nil {
				add(w.FD(), func() { l.readWire(k, w) })
			}
		}
	}
}

// readAgent takes words; the end of the agent is the end of its leave.
func (l *loop) readAgent() {
	for range maxBurst {
		n, err := unix.Read(agentFD, l.inbox)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil || n == 0:
			l.step(election.Event{Kind: election.Orphan})
			l.done = true
			return
		}
		switch l.inbox[0] {
		case msgWord:
			if w, ok := readWord(l.inbox[:n]); ok {
				l.word, l.spoke = w, max(time.Duration(l.now()), 1)
				l.step(election.Event{Kind: election.Said, Word: &l.word})
			}
		case msgConfig:
			l.reconfigure(l.inbox[1:n])
		case msgStop:
			l.step(election.Event{Kind: election.Stop})
			l.done = true
			return
		}
	}
}

func (l *loop) readChanges() {
	for range maxBurst {
		var more bool
		if l.changes, more = l.watch.Read(l.changes[:0]); !more {
			return
		}
		for _, c := range l.changes {
			l.changed(c)
		}
	}
}

// changed sorts the events of our own refreshes out; everything else that
// concerns a link is read anew.
func (l *loop) changed(c vip.Change) {
	l.sight.changed(c, l.cfg)
	switch c.Kind {
	case vip.Missed, vip.LinkGone:
		l.rescan = true
	case vip.LinkChanged:
		for k := range l.lanes {
			if n := &l.lanes[k]; n.fd >= 0 && n.index == c.Index {
				l.hear(k, c.Carrier)
			}
		}
	case vip.AddrAdded, vip.AddrRemoved:
		for k := range l.addrs {
			if l.addrs[k].prefix.Addr() == c.Addr {
				if c.Kind == vip.AddrRemoved && l.st.Holding() && l.addrs[k].held {
					l.refreshed(true) // it may have come before the removal
					l.addrs[k].held = false
					l.step(election.Event{Kind: election.Lost})
				}
				return
			}
		}
		for k := range l.lanes {
			n := &l.lanes[k]
			late6 := c.Kind == vip.AddrAdded && c.Addr.Is6() && n.fd >= 0 && n.index == c.Index && !n.source6.IsValid()
			l.rescan = l.rescan || n.addr == c.Addr || late6
		}
	}
}

func (l *loop) readLane(k int) {
	for range maxBurst {
		b, ok := l.rx.read(l.lanes[k].fd)
		if !ok {
			return
		}
		v := l.codec.open(b, uint8(k), &l.pkt)
		if v == heard {
			m := &l.members[l.pkt.beacon.From]
			was := m.proof
			v = m.proof.prove(&l.pkt, uint8(k), l.nonce)
			known := m.proof.current == was.current
			m.greet = m.greet || was.pending != m.proof.pending || v == unechoed
			if v == heard {
				if !l.st.Credible(&l.pkt.beacon) {
					l.tell.count(incredible, 1, &l.rx)
					continue
				}
				m.macs = l.pkt.macs
				m.links[k].heard(l.now(), l.pkt.nonce, l.pkt.seq, &l.cfg.Timers)
				l.compareLists()
				l.turns.heard(&l.pkt.beacon, l.now())
				if b := &l.pkt.beacon; b.Flags&election.HandingOver != 0 && b.Successor == l.names.self {
					l.awaited = time.Duration(l.now())
				}
				l.step(election.Event{Kind: election.Heard, Link: uint8(k), Old: known && l.pkt.seq < was.newest, Again: known && l.pkt.seq == was.newest, Beacon: &l.pkt.beacon})
			}
		}
		if v == unknown {
			l.stranger(k)
		}
		l.tell.count(v, 1, &l.rx)
	}
}

func (l *loop) readWire(k int, w *vip.Wire) {
	for range maxBurst {
		f, ok := w.Read(l.frame[:])
		if !ok {
			return
		}
		h, ok := vip.ParseHolder(f)
		if !ok || h.MAC == l.lanes[k].mac {
			continue
		}
		for _, a := range l.lanes[k].vips {
			if l.addrs[a].prefix.Addr() == h.Addr {
				l.answered(k, &l.addrs[a], h)
			}
		}
		l.outsider(k, h, f)
	}
}
