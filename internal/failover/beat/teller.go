package beat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

const (
	maxNotes     = 32          // lines waiting for a report
	notesPer     = 10          // lines per second at most; a flood is counted instead
	refusedEvery = time.Minute // one line about refused packets
	lateBuckets  = 24          // powers of two of a microsecond: up to 8 s
)

// teller collects what the agent has to learn.
type teller struct {
	l        *loop
	due      time.Duration // from then on there is a report as soon as something else wakes the loop; 0: at once
	notes    []string
	dropped  int
	window   time.Duration
	inWindow int
	counters Counters
	refusedN [verdicts]uint64 // since the last line about them
	refusedT time.Duration
	late     [lateBuckets]uint64
	lateMax  time.Duration
	greeted  [election.MaxNodes]election.Time

	role   cluster.Role
	reign  election.Reign
	since  time.Time
	states [election.MaxNodes]PeerState
	sinces [election.MaxNodes]time.Time

	newer    Newer
	expelled bool

	last Report // its lists are used again
	out  bytes.Buffer
	json *json.Encoder // to out
}

func (t *teller) init(l *loop) {
	now := time.Now()
	*t = teller{l: l, since: now, refusedT: -refusedEvery, reign: election.Reign{Owner: election.Nobody}}
	t.json = json.NewEncoder(&t.out)
	for i := range t.states {
		t.states[i], t.sinces[i] = PeerUnknown, now
	}
}

// latest is when there is a report even if nothing else wakes the loop.
func (t *teller) latest() time.Duration {
	if t.due == 0 {
		return 0
	}
	return t.due + reportEarly
}

// line adds a line for a person, within the limits.
func (t *teller) line(s string) {
	now := time.Duration(t.l.now())
	if now-t.window >= time.Second {
		t.window, t.inWindow = now, 0
	}
	t.inWindow++
	if t.inWindow > notesPer || len(t.notes) >= maxNotes {
		t.dropped++
		return
	}
	t.notes = append(t.notes, s)
}

// fault tells a new error, and its end, once.
func (t *teller) fault(last *error, err error) {
	switch {
	case err != nil && (*last == nil || (*last).Error() != err.Error()):
		t.line(err.Error())
	case err == nil && *last != nil:
		t.line("works again: " + (*last).Error())
	}
	*last = err
}

// count counts packets, and says once a minute why some were refused.
func (t *teller) count(v verdict, n uint64, from *receiver) {
	c := &t.counters
	*[...]*uint64{heard: &c.Heard, malformed: &c.Malformed, foreign: &c.Foreign, badMAC: &c.BadMAC, unknown: &c.Unknown,
		unechoed: &c.Unechoed, replayed: &c.Replayed, incredible: &c.Incredible, dropped: &c.Unread}[v] += n
	if v == heard || v == unechoed { // every start begins with some without an echo
		return
	}
	t.refusedN[v] += n
	if now := time.Duration(t.l.now()); now-t.refusedT >= refusedEvery {
		t.refusedT = now
		s := "heartbeats refused:"
		for k, n := range t.refusedN {
			if n > 0 {
				s += fmt.Sprintf(" %d %v,", n, verdict(k))
			}
		}
		if from != nil {
			s += " the last one from " + from.source()
		}
		t.line(strings.TrimSuffix(s, ","))
		t.refusedN = [verdicts]uint64{}
	}
}

// unread takes note of what the kernel dropped on the sockets.
func (l *loop) unread() {
	for k := range l.lanes {
		n := &l.lanes[k]
		if n.fd < 0 {
			continue
		}
		if drops, ok := unread(n.fd); ok && drops != n.unread {
			l.tell.count(dropped, uint64(drops-n.unread), nil)
			n.unread = drops
		}
	}
}

func (t *teller) lateness(d time.Duration) {
	t.lateMax = max(t.lateMax, d)
	b := 0
	for us := d.Microseconds(); us > 0 && b < lateBuckets-1; us >>= 1 {
		b++
	}
	t.late[b]++
}

func (t *teller) lateP99() time.Duration {
	all, below := uint64(0), uint64(0)
	for _, n := range t.late {
		all += n
	}
	for b, n := range t.late {
		if below += n; below*100 >= all*99 {
			return time.Duration(1<<b) * time.Microsecond
		}
	}
	return t.lateMax
}

// election puts a note of the election into words.
func (t *teller) election(n election.Note) {
	who := string(t.l.names.name(n.Node))
	if who == "" {
		who = "nobody"
	}
	text := map[election.NoteCode]string{
		election.NoteClaim:       "claiming term %N; the master before was %W",
		election.NoteMaster:      "master of term %N",
		election.NoteYield:       "claim dropped: %W reigns or comes first",
		election.NoteLate:        "own loop was late by %N ms",
		election.NoteFence:       "addresses deleted: own loop was late by %N ms",
		election.NoteMute:        "addresses deleted: peers are heard, but none hears this node",
		election.NoteRetake:      "addresses taken back, term %N",
		election.NoteLostTo:      "gave way to %W, term %N",
		election.NoteWonOver:     "stay master with the new term %N; the rival was %W",
		election.NoteLinkDown:    "addresses released: their link does not work here",
		election.NoteNoLeave:     "addresses released: no word of the agent for 800 ms",
		election.NoteMaint:       "addresses released for maintenance",
		election.NoteUnfit:       "addresses released: a disk of this node does not answer, and a well node is heard",
		election.NoteBlocked:     "heartbeats blocked: the card of %W still answers for the addresses, so this node does not claim; look for a firewall or a hanging beat process on %W",
		election.NoteHandover:    "handing over to %W, order %N",
		election.NoteGranted:     "granted term %N to %W",
		election.NoteAborted:     "handover to %W given up, addresses are back here",
		election.NoteNoTerms:     "cannot claim before the agent has reserved terms up to %N",
		election.NoteWaits:       "could lead, and waits %N s for %W, which is absent and has newer data",
		election.NoteServesStale: "leads although %W has newer data: it stayed away for %N s",
		election.NoteDamped:      "masters that were taken for dead lived, several times in a minute: silence is now borne %N times as long",
		election.NoteIsolated:    "addresses released: no other node is heard, and nothing proves that this node is not the one cut off",
		election.NoteRefused:     "addresses released: no other node is heard, and the witness has let the other one lead",
		election.NoteShared:      "addresses released: the card of %W has them too, its heartbeats do not arrive; look for a firewall",
		election.NoteLimboEnd:    "gave the reign up",
		election.NoteListenEnd:   "listened for %N ms",
		election.NoteOutdated:    "addresses released: a node reigns that this one's older list of members does not have",
		election.NoteExpelled:    "addresses released: this node is not a member of the cluster any more",
		election.NoteGained:      "the addresses came here; master of term %N",
		election.NoteVIPsLost:    "the addresses left this node; its reign of term %N is over",
		election.NoteFrozen:      "frozen: the addresses are here, but %W reigns with the higher term %N; nothing goes out until the engine has decided",
		election.NoteThawed:      "the reign of term %N goes on",
		election.NotePaused:      "nothing goes out for a moment: own loop was late by %N ms",
	}[n.Code]
	if text != "" { // the wire has told of a foreign duplicate with its card
		t.line(strings.NewReplacer("%N", fmt.Sprint(n.N), "%W", who).Replace(text))
	}
}

// report sends the state to the agent. The process allocates little else: what reports leave behind stays until
// the collector wakes up at memoryLimit.
func (l *loop) report(now time.Duration) {
	l.tell.due = now + reportEvery - reportEarly
	l.unread()
	l.lendRefused()
	b, err := l.tell.message()
	if err != nil {
		return // a report that does not fit tells nothing; the next one is shorter
	}
	if err := unix.Send(agentFD, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err == nil {
		l.tell.notes, l.turns.done = l.tell.notes[:0], l.turns.done[:0]
	}
	// A full socket means that the agent does not read: it gets the next report.
}

// message is the next report as the agent reads it, until the one after.
func (t *teller) message() ([]byte, error) {
	t.out.Reset()
	t.out.WriteByte(msgReport)
	if err := t.json.Encode(t.build()); err != nil {
		return nil, err
	}
	if t.out.Len() > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", t.out.Len())
	}
	return t.out.Bytes(), nil
}

// build is the next report, until the one after: they share their lists.
func (t *teller) build() *Report {
	l, st := t.l, &t.l.st
	wall := time.Now()
	if t.dropped > 0 && len(t.notes) < maxNotes {
		t.notes = append(t.notes, fmt.Sprintf("%d more lines left out", t.dropped))
		t.dropped = 0
	}
	reign, ok := st.Master()
	if st.Role() != t.role || reign != t.reign {
		t.role, t.reign, t.since = st.Role(), reign, wall
	}
	id, why := st.SwitchResult()
	h := st.Handover()
	was, r := t.last, &t.last
	*r = Report{Role: st.Role(), Since: t.since, SeenTerm: st.SeenTerm(), NeedTerms: st.NeedTerms(), Class: st.Class(),
		Handover: Handover{h.ID, ""}, SwitchResult: SwitchResult{id, why.String()}, Blocked: st.Blocked(), RealTime: l.realTime,
		Refused: l.refused, LateMax: t.lateMax, LateP99: t.lateP99(), Counters: t.counters, Newer: t.newer, Expelled: t.expelled, Turns: l.turns.done, Notes: t.notes,
		Peers: was.Peers[:0], Links: was.Links[:0], VIPs: was.VIPs[:0]}
	fit := st.Fitness()
	r.Isolated, r.Patience, r.Witness, r.References = st.Isolated(), st.Patience(), l.consult.report(), l.outsideReport()
	r.Frozen, r.Fitness = st.Frozen(), Fitness{fit.Eligible, fit.Penalty, fit.Why.String()}
	if ok {
		r.Master = l.names.name(reign.Owner)
		r.Reign = cluster.Reign{Term: reign.Term, Owner: r.Master}
	}
	if i, ok := st.Wisher(); ok {
		r.Wisher = l.names.name(i)
	}
	if h.ID != 0 {
		r.Handover.To = l.names.name(h.To)
	}
	r.Order = l.names.nodes
	for i := range l.names.nodes {
		if i != int(l.names.self) {
			var before PeerReport
			if n := len(r.Peers); n < cap(r.Peers) {
				before = r.Peers[:n+1][n]
			}
			r.Peers = append(r.Peers, t.peer(i, wall, &before))
		}
	}
	for k := range l.lanes {
		n := &l.lanes[k]
		if n.addr.IsValid() {
			r.Links = append(r.Links, OwnLink{ID: n.id, Bound: n.fd >= 0, Carrier: n.carrier, Rx: st.HearsOn(k) != 0})
		}
	}
	r.Duplicates = l.duplicated()
	for k := range l.addrs {
		r.VIPs = append(r.VIPs, VIPReport{l.addrs[k].prefix.Addr(), l.addrs[k].held})
	}
	return r
}

// peer is what is told of a peer; before gives its lists.
func (t *teller) peer(i int, wall time.Time, before *PeerReport) PeerReport {
	l := t.l
	v := l.st.Peer(i)
	state := PeerUnknown
	switch {
	case v.Suspect:
		state = PeerSuspect
	case v.Alive:
		state = PeerAlive
	case v.Ever:
		state = PeerDead
	}
	if state != t.states[i] {
		t.states[i], t.sinces[i] = state, wall
	}
	b := &v.Beacon
	p := PeerReport{Node: l.names.nodes[i], State: state, Since: t.sinces[i], Role: b.Role, Class: b.Class, Fresh: b.Fresh,
		Maintenance: b.Flags&election.Maintenance != 0, Hold: b.Flags&election.Held != 0, Ill: b.Flags&election.Ill != 0,
		VIPs: before.VIPs[:0], Links: before.Links[:0]}
	if b.Reign.Term > 0 {
		p.Reign = cluster.Reign{Term: b.Reign.Term, Owner: l.names.name(b.Reign.Owner)}
	}
	for k := range l.addrs {
		if v.Alive && b.VIPs&(1<<k) != 0 {
			p.VIPs = append(p.VIPs, l.addrs[k].prefix.Addr())
		}
	}
	for k := range l.lanes {
		if l.lanes[k].to[i] != nil && l.lanes[k].addr.IsValid() {
			p.Links = append(p.Links, LinkReport{ID: l.lanes[k].id, Heard: v.Heard&(1<<k) != 0,
				HearsMe: v.Alive && b.Hears[k]&(1<<l.names.self) != 0, Quality: l.members[i].links[k].report(l.now()), Hears: b.Hears[k]})
		}
	}
	return p
}
