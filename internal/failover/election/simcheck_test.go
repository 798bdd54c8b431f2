package election

import (
	"math/bits"

	"revolve/internal/cluster"
)

// judgeState is what the checks remember. Every check names the invariant that
// it judges; docs/failover.md lists them.
type judgeState struct {
	bad    []string
	quiet  bool          // no role may change from now on (S7)
	reigns map[Reign]int // how many lives began it
	good   [MaxNodes][MaxNodes]Time
	lan    [MaxNodes][MaxNodes]Time
	// allGood is since when every node has been up, awake and reachable on every link.
	allGood  Time
	contact  [MaxNodes][MaxNodes]Time // i, a master, took in a beacon of the master j
	owing    [MaxNodes]Time           // since when a winner owes an announcement: a rival released after a contact
	masterOf uint16                   // running masters
	well     [MaxNodes]Time           // since when a node could take over from an unfit master
	wellAt   Time                     // when that was last looked at
	begun    int                      // reigns begun
	hist     [16]int
	count    simCounts
}

// simCounts are numbers for the report of a search.
type simCounts struct {
	Claims, Reigns, Fences, Retakes, Rivals, Switches, Blocked, Damped, Waits, Isolated, Lists int
	Overlap                                                                                    Time
	Settle                                                                                     [3]Time // longest, with the profiles default, fast and patient
}

func (c *simCounts) add(o simCounts) {
	c.Claims += o.Claims
	c.Reigns += o.Reigns
	c.Fences += o.Fences
	c.Retakes += o.Retakes
	c.Rivals += o.Rivals
	c.Switches += o.Switches
	c.Blocked += o.Blocked
	c.Damped += o.Damped
	c.Waits += o.Waits
	c.Isolated += o.Isolated
	c.Lists += o.Lists
	c.Overlap += o.Overlap
	for k := range c.Settle {
		c.Settle[k] = max(c.Settle[k], o.Settle[k])
	}
}

func (c *simCounts) settles(t Timers, d Time) {
	k := 0
	switch t.Heartbeat {
	case 10 * Millisecond:
		k = 1
	case 200 * Millisecond:
		k = 2
	}
	c.Settle[k] = max(c.Settle[k], d)
}

// recalc finds the clean paths anew after anything that changes them.
func (s *sim) recalc() {
	hb := s.cfg.Timers.Heartbeat
	mark := func(t *Time, ok bool) {
		if !ok {
			*t = never
		} else if *t == never {
			*t = s.now
		}
	}
	for i := range s.n {
		a := &s.n[i]
		for j := range i {
			b := &s.n[j]
			awake := a.up && b.up && s.now >= a.asleep() && s.now >= b.asleep() && a.slow <= hb/2 && b.slow <= hb/2
			beats, arp := false, false
			for l := range s.links {
				p, q := &s.path[i][j][l], &s.path[j][i][l]
				clean := s.open(i, j, l) && s.open(j, i, l) && p.loss+q.loss == 0 && p.slow+p.jitter <= hb/2 && q.slow+q.jitter <= hb/2
				beats = beats || clean && !p.wall && !q.wall
				arp = arp || clean && s.cfg.VIPLinks&(1<<l) != 0
			}
			mark(&s.good[i][j], awake && beats)
			mark(&s.lan[i][j], a.on && b.on && s.now >= a.paused && s.now >= b.paused && arp)
		}
	}
}

func (s *sim) since(t *[MaxNodes][MaxNodes]Time, i, j int) Time { return t[max(i, j)][min(i, j)] }

// checkStep runs after every step of node i.
func (s *sim) checkStep(i int) {
	n := &s.n[i]
	role := n.st.Role()
	if role == n.role {
		return
	}
	if role == cluster.Master && n.fencedAt != never && n.role == cluster.Limbo && s.local(i)-n.fencedAt < 2*s.cfg.Timers.Heartbeat {
		s.fail("S4: %s leads again %d ms after it fenced itself", s.name(i), (s.local(i)-n.fencedAt)/Millisecond)
	}
	if n.role == cluster.Master && n.vip && !n.st.Holding() {
		s.fail("S4: %s is no master any more and keeps the VIPs", s.name(i))
	}
	if n.role == cluster.Master {
		for j := range s.n {
			if (s.contact[i][j] > 0 || s.contact[j][i] > 0) && s.masterOf&(1<<j) != 0 && s.since(&s.good, i, j) != never {
				s.owing[j] = s.now // the winner must announce after this release
			}
			s.contact[i][j], s.contact[j][i] = 0, 0
		}
		s.owing[i] = 0
	}
	n.role = role
	s.masterOf &^= 1 << i
	if role == cluster.Master && n.up {
		s.masterOf |= 1 << i
	}
}

// checkWake is S4: a process that was away for longer than the fence time gives
// the VIPs up before anything else.
func (s *sim) checkWake(i int, late Time, held bool) {
	n := &s.n[i]
	if !held || late <= s.cfg.Timers.Fence {
		return
	}
	if n.st.Role() == cluster.Master || n.vip {
		s.fail("S4: %s was late by %d ms and still leads", s.name(i), late/Millisecond)
	}
	n.fencedAt = s.local(i)
}

// living are the nodes that node i takes for alive at a time of its clock.
func (s *sim) living(i int, at Time) (m uint16) {
	for j := range int(s.n[i].st.cfg.Count) {
		if p := &s.n[i].st.peers[j]; p.ever && at-p.last < s.cfg.Timers.Dead && p.b.Flags&Leaving == 0 {
			m |= 1 << j
		}
	}
	return m
}

// checkSend: whoever says that it leads has its loop on time.
func (s *sim) checkSend(i int) {
	n := &s.n[i]
	if n.st.Role() == cluster.Master && s.now < n.asleep() {
		s.fail("S4: %s sends while it sleeps", s.name(i))
	}
}

// met: master i took in a beacon in which j says that it leads (S5).
func (s *sim) met(i, j int) {
	s.count.Rivals++
	if s.contact[i][j] == 0 {
		s.contact[i][j] = s.now
	}
}

// check runs after every event; with fewer than two masters it costs nothing.
func (s *sim) check() {
	m := s.masterOf
	for rest := m; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros16(rest)
		if s.now < s.n[i].asleep() || !s.n[i].up {
			m &^= 1 << i
			continue
		}
		if s.n[i].unfit {
			s.checkUnfit(i)
		}
		if o := s.owing[i]; o > 0 {
			s.checkOwing(i, o)
		}
	}
	if m&(m-1) == 0 {
		return
	}
	t := s.cfg.Timers
	for i := range s.n {
		for j := range i {
			if m&(1<<i) == 0 || m&(1<<j) == 0 {
				continue
			}
			g := s.since(&s.good, i, j)
			if s.strangers(i, j) {
				continue
			}
			if g != never && s.now-g > t.Dead+2*t.Heartbeat {
				s.fail("S1: %s and %s both lead after %d ms of a clean path", s.name(i), s.name(j), (s.now-g)/Millisecond)
			}
			s.checkBoth(i, j)
			s.checkWitness(i, j)
			c := max(s.contact[i][j], s.contact[j][i])
			if g != never && s.contact[i][j] > 0 && s.contact[j][i] > 0 && s.now-max(c, g) > 2*t.Heartbeat {
				s.fail("S5: %s and %s both lead %d ms after both heard the other", s.name(i), s.name(j), (s.now-max(c, g))/Millisecond)
			}
		}
	}
}

// checkUnfit is U1: a master whose disk holds whoever asks gives way to any well
// candidate that has its data within P1's time.
func (s *sim) checkUnfit(i int) {
	n, t := &s.n[i], s.cfg.Timers
	if s.now-s.wellAt > t.Heartbeat { // there was none meanwhile
		s.well = [MaxNodes]Time{}
	}
	s.wellAt = s.now
	for j := range s.n {
		o, g := &s.n[j], s.since(&s.good, i, j)
		if j == i || !o.up || !n.list.has(j) || !o.list.has(i) || g == never || o.word.Ill || o.st.Role() != cluster.Standby || o.st.Class() < cluster.Lagging {
			s.well[j] = 0
			continue
		}
		if s.well[j] == 0 {
			s.well[j] = s.now
		}
		told := max(n.unfitAt, n.asleep(), n.agentFrozen) + simWord + simDisk
		if d := s.now - max(s.well[j], g, told); d > t.Dead+2*t.Heartbeat && n.word.Unfit && n.st.word.Unfit { // an agent that died first has not told
			s.fail("U1: %s is unfit and leads for %d ms beside %s", s.name(i), d/Millisecond, s.name(j))
		}
	}
}

// checkWitness: with a witness and the policy release, no partition makes two masters;
// with the policy keep none does while both can ask it.
func (s *sim) checkWitness(i, j int) {
	a, b, t := &s.n[i], &s.n[j], s.cfg.Timers
	if !s.cfg.Witness || len(s.n) > 2 || !a.vip || !b.vip {
		return
	}
	asked := s.forgot // with the policy keep the word of a witness counts where it can be asked
	if s.cfg.Isolation == Keep {
		if a.noWitness || b.noWitness {
			return
		}
		asked = max(asked, a.reachAt, b.reachAt)
	}
	slow := a.slow + b.slow
	if d := s.now - max(a.vipSince, b.vipSince, a.asleep(), b.asleep(), asked); d > t.Fence+3*t.Heartbeat+2*slow {
		s.fail("W1: %s and %s both lead for %d ms in spite of the witness", s.name(i), s.name(j), d/Millisecond)
	}
}

func (s *sim) checkOwing(i int, since Time) {
	n := &s.n[i]
	switch {
	case n.lastAnnoun > since || !n.vip:
		s.owing[i] = 0
	case s.now-since > RivalRepeat+3*s.cfg.Timers.Heartbeat:
		s.fail("S5: %s did not announce after its rival released", s.name(i))
	}
}

// checkOverlap is P2: nobody takes the VIPs while the kernel of a node that it
// could have asked for as long as probes take holds them.
func (s *sim) checkOverlap(i int) {
	t := s.cfg.Timers
	for j := range s.n {
		g := s.since(&s.lan, i, j)
		if j == i || !s.n[j].vip || s.hushed(j) || g == never || s.n[i].macs&(1<<j) == 0 || !s.n[i].list.has(j) {
			continue
		}
		if s.now-g > t.Probe && s.now-s.n[j].vipSince > t.Probe {
			s.fail("P2: %s takes the VIPs while the kernel of %s holds them", s.name(i), s.name(j))
		}
	}
}

// checkBoth is P2 for those whom no heartbeat reaches: two kernels on one healthy
// LAN hold the VIPs only for as long as a lease and its grace take.
func (s *sim) checkBoth(i, j int) {
	a, b := &s.n[i], &s.n[j]
	g := s.since(&s.lan, i, j)
	if g == never || !a.vip || !b.vip || a.macs&(1<<j) == 0 || b.macs&(1<<i) == 0 || !a.list.has(j) || !b.list.has(i) {
		return
	}
	// Each sees the other's card by the first announcement that comes after the silence
	// has become suspicious, and the second by name gives way a lease later.
	t, seen := s.cfg.Timers, 50*Millisecond
	for _, at := range simRepeats() {
		if seen = at * Millisecond; seen >= t.Suspect+2*t.Heartbeat {
			break
		}
	}
	if d := s.now - max(a.vipSince, b.vipSince, g); d > Lifetime+AnswerGrace+seen+2*t.Heartbeat+a.slow+b.slow {
		s.fail("P2: %s and %s both hold the VIPs for %d ms on one LAN", s.name(i), s.name(j), d/Millisecond)
	}
}

// checkClaim is S3: nobody claims while a better class is heard.
func (s *sim) checkClaim(i int) {
	for j := range s.n {
		v := s.peer(i, j)
		if j != i && v.Alive && v.Beacon.Class > s.n[i].st.Class() && !v.Beacon.holds() {
			s.fail("S3: %s claims as %v while it hears %s, %v", s.name(i), s.n[i].st.Class(), s.name(j), v.Beacon.Class)
		}
	}
}

// noted takes what a step says, and judges new reigns (S2).
func (s *sim) noted(i int, note Note) {
	if s.log != nil {
		s.log("%-3s %s", s.name(i), s.tell(note))
	}
	n := &s.n[i]
	switch note.Code {
	case NoteMaster, NoteWonOver:
		r := Reign{cluster.Term(note.N), uint8(i)}
		s.reigns[r]++
		s.count.Reigns++
		if note.Code == NoteMaster && s.latest(i) {
			s.begun++ // a heal term moves nothing
		}
		if s.reigns[r] > 1 {
			s.fail("S2: reign %v began twice", r)
		}
		if r.Term > n.disk.reserved {
			s.fail("S2: term %d used by %s with only %d reserved", r.Term, s.name(i), n.disk.reserved)
		}
		for j := range s.n {
			if v := s.peer(i, j); j != i && v.Alive && v.Beacon.SeenTerm >= r.Term && note.Code == NoteMaster {
				s.fail("S2: %s takes term %d, and %s has said that it saw %d", s.name(i), r.Term, s.name(j), v.Beacon.SeenTerm)
			}
		}
		if s.quiet && note.Code == NoteMaster {
			s.fail("S7: %s takes the role, and nothing was done that could justify it", s.name(i))
		}
		if (n.word.Class == cluster.Barred || !s.cfg.Members[i].Candidate || !n.list.has(i)) && note.Code == NoteMaster {
			s.fail("S3: %s leads and is barred", s.name(i))
		}
	case NoteClaim:
		s.count.Claims++
		s.checkClaim(i)
	case NoteFence:
		s.count.Fences++
	case NoteRetake:
		s.count.Retakes++
	case NoteGranted:
		s.count.Switches++
	case NoteDamped:
		s.count.Damped++
	case NoteWaits:
		s.count.Waits++
	case NoteIsolated, NoteRefused:
		s.count.Isolated++
	case NoteBlocked:
		s.count.Blocked++
	}
}

// masters are the nodes whose process says that it is the master, and runs.
func (s *sim) masters() (m []int) {
	for i := range s.n {
		if n := &s.n[i]; n.up && n.st.Role() == cluster.Master && s.now >= n.asleep() {
			m = append(m, i)
		}
	}
	return m
}
