package election

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// clone copies a whole world, so that a search can go on from here twice.
func (s *sim) clone() *sim {
	c := *s
	c.rnd = rand.New(rand.NewPCG(1, 0x5e7)) // the extra lifetime in the kernel; nothing else is left to chance here
	c.q, c.pool, c.free = s.q.clone(), slices.Clone(s.pool), slices.Clone(s.free)
	c.n = slices.Clone(s.n)
	for i := range c.n {
		n := &c.n[i]
		n.beats, n.other, n.reading = slices.Clone(n.beats), slices.Clone(n.other), nil
	}
	c.reigns = maps.Clone(s.reigns)
	c.bad, c.lists = slices.Clone(s.bad), slices.Clone(s.lists)
	return &c
}

// coarse is a hash of what matters for the future, times rounded to half a
// heartbeat: two worlds with the same one are taken for the same.
func (s *sim) coarse() uint64 {
	h := fnv.New64a()
	grain := s.cfg.Timers.Heartbeat / 2
	past := func(at, now, most Time) Time { return min(max(now-at, -most), most) / grain }
	for i := range s.n {
		n := &s.n[i]
		now := s.local(i)
		lease := Time(0)
		if n.vip {
			lease = (n.vipUntil - s.now) / (100 * Millisecond)
		}
		fmt.Fprint(h, n.on, n.up, n.vip, lease, past(n.frozen, s.now, 2*Second), past(n.paused, s.now, 2*Second), n.unplugged, n.word.Maintenance, "|")
		if !n.up {
			continue
		}
		st := &n.st
		fmt.Fprint(h, st.role, past(st.since, now, Second), st.qual, st.claim.on, st.hand.id != 0, past(st.penance, now, Second), st.nextTerm()-st.reign.Term > 1, "|")
		for j := range s.n {
			p := &st.peers[j]
			fmt.Fprint(h, p.ever, past(p.last, now, 2*s.cfg.Timers.Dead), p.holder, p.limbo, p.b.Role, past(p.proof, now, Listen), past(p.card, now, Listen), p.probed > 0, st.weigh(j), n.proof[j].pending, "|")
		}
		for j := range s.n {
			for l := range s.links {
				fmt.Fprint(h, s.path[i][j][l].cut)
			}
		}
	}
	return h.Sum64()
}

// choices are what may happen between two moments of the exhaustive search.
func choices(nodes int) (out []string) {
	out = append(out, "run 0")
	for i := range nodes {
		a := string(rune('a' + i))
		rest := strings.ReplaceAll("abcdefgh"[:nodes], a, "")
		out = append(out, "crash "+a, "start "+a, "freeze "+a+" 170", "freeze "+a+" 1700", "pause "+a+" 600",
			"cut "+a+" "+rest+" 0", "cut "+rest+" "+a+" 0", "join "+a+" "+rest+" 0", "unplug "+a+" 0", "plug "+a+" 0", "maintenance "+a+" on")
		if i == nodes-1 {
			out = append(out, "switch * "+a+" 1")
		}
	}
	return out
}

// TestExhaustive tries every sequence of choices, up to a depth, at every tenth
// of a second of a small cluster that works, and lets each end in a settlement.
// REVOLVE_DEPTH goes deeper.
func TestExhaustive(t *testing.T) {
	deeper := int(fromEnv("REVOLVE_DEPTH", 0))
	for _, c := range []struct{ nodes, links, depth int }{{2, 1, 3}, {3, 1, 2}} {
		if testing.Short() {
			c.depth--
		}
		s := cast{nodes: c.nodes, links: c.links, profile: "default", seed: 1, vips: 1}.world()
		for i := range c.nodes {
			s.start(i)
		}
		s.runFor(Second)
		x := &explorer{seen: map[uint64]bool{}}
		for _, text := range choices(c.nodes) {
			o, err := parseOrder(text)
			if err != nil {
				t.Fatal(err)
			}
			x.orders = append(x.orders, o)
		}
		x.explore(s, c.depth+deeper, nil)
		for _, b := range x.bad {
			t.Errorf("%d nodes: %s", c.nodes, b)
		}
		t.Logf("%d nodes, depth %d: %d states, %d were known, %d settled", c.nodes, c.depth+deeper, x.states, x.known, x.settled)
	}
}

type explorer struct {
	orders                 []order
	seen                   map[uint64]bool
	states, known, settled int
	bad                    []string
}

func (x *explorer) explore(s *sim, depth int, path []string) {
	if len(x.bad) > 2 {
		return
	}
	if h := s.coarse() + uint64(depth); x.seen[h] {
		x.known++
		return
	} else {
		x.seen[h] = true
	}
	x.states++
	if depth == 0 {
		s.settle()
		x.settled++
		if len(s.bad) > 0 {
			x.bad = append(x.bad, strings.Join(path, ", ")+": "+s.bad[0])
		}
		return
	}
	for _, o := range x.orders {
		c := s.clone()
		c.do(o)
		c.runFor(100 * Millisecond)
		if len(c.bad) > 0 {
			x.bad = append(x.bad, strings.Join(append(path, o.String()), ", ")+": "+c.bad[0])
			continue
		}
		x.explore(c, depth-1, append(path[:len(path):len(path)], o.String()))
	}
}
