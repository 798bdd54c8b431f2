package election

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"revolve/internal/cluster"
)

// order is one line of a scenario: what a script or a seed does to the cluster.
// Scripts, seeded schedules and shrunk failures are the same lines.
type order struct {
	op   string
	a, b string // nodes: letters, or * for the present master
	x, y int
	word string
}

// orders lists every operation with its arguments: N nodes, x and y numbers, w a word.
func orders() map[string]string {
	return map[string]string{
		"start": "a", "crash": "a", "kill": "a", "stop": "a", "orphan": "a", "on-demand": "a", // orphan: only the agent dies
		"freeze": "ax", "pause": "ax", "agent-freeze": "ax", "agent-dies": "a", // milliseconds
		"cut": "abx", "join": "abx", // what A sends to B on a link
		"wall": "abw",                 // a firewall drops the heartbeats from A to B on all links
		"loss": "abxy", "dup": "abxy", // link, percent
		"delay": "abxy", "jitter": "abxy", // link, milliseconds
		"unplug": "ax", "plug": "ax", "slow": "ax", // slow: woken late by up to so many milliseconds
		"disk": "ax", "lag": "aw", "ill": "aw", "maintenance": "aw", "hold": "aw", "noflush": "aw",
		"foreign": "a", "lost": "a", "drift": "ax", // foreign duplicate; VIP removed by others; clock rate in parts per million
		"switch": "abx", "flushed": "ax", "record": "axyw", "word": "awx", "priority": "ax",
		"policy": "w", "witness": "w", "forget": "", "reach": "aw", "outside": "aw", "wish": "aw", // before any start: keep or release, and on; forget: the witness restarts
		"learner": "a", "unfit": "aw", "members": "a", "hushes": "aw", // hushes: its kernel falls silent while it is late; learner: before any start; members: so do they go by a new list
		"quiet": "",
		"heal":  "", "run": "x", "show": "", "settle": "",
	}
}

func (o order) String() string {
	var b strings.Builder
	b.WriteString(o.op)
	for _, c := range orders()[o.op] {
		v := map[rune]string{'a': o.a, 'b': o.b, 'x': strconv.Itoa(o.x), 'y': strconv.Itoa(o.y), 'w': o.word}[c]
		b.WriteString(" " + v)
	}
	return b.String()
}

func parseOrder(line string) (o order, err error) {
	w := strings.Fields(line)
	shape, ok := orders()[w[0]]
	o.op = w[0]
	if o.op == "record" && len(w) == 4 {
		w = append(w, "-")
	}
	if !ok || len(w) < 1+len(shape) || len(w) > 1+len(shape) && o.op != "record" {
		return o, fmt.Errorf("no such order: %q", line)
	}
	for k, c := range shape {
		v := w[1+k]
		switch c {
		case 'a':
			o.a = v
		case 'b':
			o.b = v
		case 'x':
			o.x, err = strconv.Atoi(v)
		case 'y':
			o.y, err = strconv.Atoi(v)
		case 'w':
			if o.word = v; k == len(shape)-1 {
				o.word = strings.Join(w[1+k:], "") // record a 5 16 b c
			}
		}
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// each calls do for every node that names stands for.
func (s *sim) each(names string, do func(i int)) {
	if names == "*" {
		if m := s.masters(); len(m) > 0 {
			do(m[0])
		}
		return
	}
	for _, c := range names {
		if i := int(c - 'a'); i >= 0 && i < len(s.n) {
			do(i)
		}
	}
}

func (s *sim) pathsOf(o order, do func(p *simPath)) {
	s.each(o.a, func(i int) {
		s.each(o.b, func(j int) {
			for l := range s.links {
				if i != j && (l == o.x || o.op == "wall") {
					do(&s.path[i][j][l])
				}
			}
		})
	})
	s.recalc()
}

// do carries an order out; show and settle are the caller's.
func (s *sim) do(o order) {
	ms, on := Time(o.x)*Millisecond, o.word == "on"
	node := func(do func(i int, n *simNode)) { s.each(o.a, func(i int) { do(i, &s.n[i]) }) }
	switch o.op {
	case "start":
		s.each(o.a, s.start)
	case "crash":
		s.each(o.a, s.crash)
	case "kill":
		s.each(o.a, s.kill)
	case "stop", "orphan":
		node(func(i int, n *simNode) {
			if n.up {
				n.other = append(n.other, simEvent{kind: evThaw, seq: map[string]uint32{"orphan": 1}[o.op]})
				s.poke(i)
			}
		})
	case "freeze":
		s.each(o.a, func(i int) { s.freeze(i, ms) })
	case "pause":
		s.each(o.a, func(i int) { s.pause(i, ms) })
	case "agent-freeze":
		node(func(_ int, n *simNode) { n.agentFrozen = max(n.agentFrozen, s.now+ms) })
	case "agent-dies":
		node(func(_ int, n *simNode) { n.agentDead = true })
	case "cut", "join":
		s.pathsOf(o, func(p *simPath) { p.cut = o.op == "cut" })
	case "wall":
		s.pathsOf(o, func(p *simPath) { p.wall = on })
	case "loss":
		s.pathsOf(o, func(p *simPath) { p.loss = uint8(o.y) })
	case "dup":
		s.pathsOf(o, func(p *simPath) { p.dup = uint8(o.y) })
	case "delay":
		s.pathsOf(o, func(p *simPath) { p.slow = max(Time(o.y)*Millisecond, 100_000) })
	case "jitter":
		s.pathsOf(o, func(p *simPath) { p.jitter = Time(o.y) * Millisecond })
	case "quiet":
		s.quiet = len(s.masters()) == 1
	case "heal":
		s.heal("abcdefghijklmnop")
	default:
		s.doNode(o, ms, on, node)
	}
}

func (s *sim) doNode(o order, ms Time, on bool, node func(do func(i int, n *simNode))) {
	switch o.op {
	case "unplug", "plug":
		if o.x < s.links {
			s.each(o.a, func(i int) { s.plug(i, o.x, o.op == "plug") })
		}
	case "slow":
		node(func(_ int, n *simNode) { n.slow = ms })
		s.recalc()
	case "disk":
		node(func(_ int, n *simNode) { n.diskUntil = max(n.diskUntil, s.now+ms) })
	case "lag":
		node(func(_ int, n *simNode) { n.lag, n.lagAt = on, s.now })
	case "ill":
		node(func(_ int, n *simNode) { n.ill, n.word.Ill = on, on })
	case "hushes":
		node(func(_ int, n *simNode) { n.hushes = on })
	case "on-demand":
		s.each(o.a, func(i int) { s.cfg.Members[i].OnDemand = true })
	case "maintenance":
		node(func(_ int, n *simNode) { n.word.Maintenance = on })
	case "hold":
		node(func(_ int, n *simNode) { n.word.Hold = on })
	case "noflush":
		node(func(_ int, n *simNode) { n.noFlush = on })
	case "foreign":
		node(func(i int, n *simNode) { n.other = append(n.other, simEvent{kind: evProbe}); s.poke(i) })
	case "lost":
		node(func(i int, n *simNode) {
			if n.vip {
				n.vip, n.vipLost = false, true
				n.other = append(n.other, simEvent{kind: evExpire})
				s.poke(i)
			}
		})
	case "drift":
		node(func(i int, n *simNode) {
			at := s.local(i)
			n.rate = Time(o.x)
			n.offset += at - s.local(i)
		})
	case "switch":
		node(func(_ int, n *simNode) {
			s.each(o.b, func(j int) { n.word.Switch = Switch{ID: uint64(o.x), To: uint8(j)} })
		})
	case "flushed":
		node(func(_ int, n *simNode) { n.word.Flushed = uint64(o.x) })
	case "record":
		node(func(_ int, n *simNode) {
			n.disk = simRecord{seen: cluster.Term(o.x), reserved: cluster.Term(o.y)}
			for _, c := range strings.TrimPrefix(o.word, "-") {
				n.disk.others |= 1 << (c - 'a')
			}
		})
	case "word":
		class := map[string]cluster.Class{"barred": 0, "stale": 1, "lagging": 2, "in-sync": 3}[o.word]
		node(func(_ int, n *simNode) {
			n.word.Class, n.word.Fresh = class, cluster.Position{Term: 1, Seq: uint64(o.x)}
		})
	case "policy":
		s.cfg.Isolation = map[string]Isolation{"release": Release}[o.word]
	case "witness":
		s.cfg.Witness = on
	case "forget":
		s.lease, s.forgot = NewLease(s.now, s.cfg.Timers), s.now
	case "reach":
		node(func(_ int, n *simNode) {
			if on && n.noWitness {
				n.reachAt = s.now
			}
			n.noWitness = !on
		})
	case "learner":
		s.each(o.a, func(i int) { s.cfg.Members[i].Candidate = false })
	case "unfit":
		node(func(_ int, n *simNode) {
			n.unfit, n.unfitAt = on, s.now
			n.word.Unfit, n.word.Ill = on, on
		})
	case "members":
		set := uint16(0)
		s.each(o.a, func(i int) { set |= 1 << i })
		s.change(set)
	case "outside":
		node(func(_ int, n *simNode) { n.outside = on })
	case "wish":
		node(func(_ int, n *simNode) { n.word.Wish = on })
	case "priority":
		s.each(o.a, func(i int) { s.cfg.Members[i].Priority = uint16(o.x) })
	}
}

// heal repairs every path among the nodes.
func (s *sim) heal(among string) {
	s.each(among, func(i int) {
		s.each(among, func(j int) {
			for l := range s.links {
				p := &s.path[i][j][l]
				*p = simPath{slow: min(p.slow, 500_000)}
			}
		})
	})
	s.recalc()
}

func (s *sim) show() string {
	var out strings.Builder
	for i := range s.n {
		n := &s.n[i]
		if !n.up {
			fmt.Fprintf(&out, "          %s off\n", s.name(i))
			continue
		}
		master, heard := "-", uint16(0)
		if r, ok := s.lead(i); ok {
			master = fmt.Sprintf("%d@%s", r.Term, s.name(int(r.Owner)))
		}
		for l := range s.links {
			heard |= n.st.HearsOn(l)
		}
		vip := map[bool]string{true: " holds the VIPs"}[n.vip]
		if id, why := n.st.SwitchResult(); id != 0 {
			vip += fmt.Sprintf(" (switch %d: %q)", id, why)
		}
		fmt.Fprintf(&out, "          %s %v %v master %s hears %d%s\n", s.name(i), n.st.Role(), n.st.Class(), master, bits.OnesCount16(heard), vip)
	}
	return out.String()
}

// tell is a note as the scenarios print it.
func (s *sim) tell(n Note) string {
	who := "nobody"
	if n.Node != Nobody {
		who = s.name(int(n.Node))
	}
	names := map[NoteCode]string{NoteClaim: "claims term %N after %W", NoteMaster: "is master of term %N", NoteYield: "yields to %W",
		NoteLate: "was late by %N ms", NoteFence: "fences itself, late by %N ms", NoteMute: "fences itself, mute", NoteRetake: "takes back term %N",
		NoteLostTo: "gives way to %W, term %N", NoteWonOver: "stays after meeting %W, heal term %N", NoteLinkDown: "releases: VIP link",
		NoteNoLeave: "releases: no word of the agent", NoteMaint: "releases: maintenance", NoteUnfit: "releases: unfit", NoteBlocked: "heartbeats of %W are blocked",
		NoteExpelled: "releases: no member", NoteOutdated: "releases: old list", NoteWaits: "waits %N s for %W",
		NoteServesStale: "serves, though %W was fresher", NoteDamped: "is %N times as patient", NoteIsolated: "releases: isolated",
		NoteRefused: "releases: the witness refuses", NoteShared: "releases: %W has the VIPs too",
		NoteForeign: "sees a foreign duplicate", NoteHandover: "hands over to %W", NoteGranted: "grants term %N to %W", NoteAborted: "gives the handover to %W up",
		NoteNoTerms: "needs terms up to %N", NoteLimboEnd: "leaves limbo", NoteListenEnd: "listened for %N ms"}
	return strings.NewReplacer("%N", fmt.Sprint(n.N), "%W", who).Replace(names[n.Code])
}
