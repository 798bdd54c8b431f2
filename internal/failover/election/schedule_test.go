package election

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// faults are the things that a schedule may do; each seed uses a random half of
// them (swarm testing), so that rare pairs meet undisturbed.
var faults = []struct {
	name string
	do   func(s *sim)
}{
	{"crash", func(s *sim) { s.crash(s.any()) }},
	{"start", func(s *sim) { s.start(s.any()) }},
	{"freeze", func(s *sim) { s.freeze(s.any(), s.span(20, 3000)) }},
	{"short freeze", func(s *sim) { s.freeze(s.any(), s.span(20, 250)) }},
	{"pause", func(s *sim) { s.pause(s.any(), s.span(50, 4000)) }},
	{"cut one way", func(s *sim) { s.path[s.any()][s.any()][s.link()].cut = true }},
	{"cut both ways", func(s *sim) {
		i, j, l := s.any(), s.any(), s.link()
		s.path[i][j][l].cut, s.path[j][i][l].cut = true, true
	}},
	{"cut pair", func(s *sim) {
		i, j := s.any(), s.any()
		for l := range s.links {
			s.path[i][j][l].cut, s.path[j][i][l].cut = true, true
		}
	}},
	{"split", func(s *sim) {
		side := s.rnd.Uint32()
		for i := range s.n {
			for j := range s.n {
				for l := range s.links {
					s.path[i][j][l].cut = side>>i&1 != side>>j&1
				}
			}
		}
	}},
	{"loss", func(s *sim) { s.path[s.any()][s.any()][s.link()].loss = 0.3 }},
	{"unplug", func(s *sim) { s.plug(s.any(), s.link(), false) }},
	{"plug", func(s *sim) { s.plug(s.any(), s.link(), true) }},
	{"heal", func(s *sim) { s.heal() }},
	{"maintenance", func(s *sim) { n := &s.n[s.any()]; n.word.Maintenance = !n.word.Maintenance }},
	{"agent dies", func(s *sim) { s.n[s.any()].agentDead = true }},
	{"switch", func(s *sim) {
		for _, m := range s.masters() {
			n := &s.n[m]
			n.word.Switch = Switch{ID: n.word.Switch.ID + 1, To: uint8(s.any())}
			if s.rnd.IntN(3) > 0 {
				n.word.Flushed = n.word.Switch.ID
			}
		}
	}},
}

func (s *sim) any() int               { return s.rnd.IntN(len(s.n)) }
func (s *sim) link() int              { return s.rnd.IntN(s.links) }
func (s *sim) span(min, max int) Time { return Time(min+s.rnd.IntN(max-min)) * Millisecond }
func (s *sim) heal() {
	for i := range s.n {
		for j := range s.n {
			for l := range s.links {
				s.path[i][j][l].cut, s.path[i][j][l].loss = false, 0
			}
		}
	}
}

// schedule plays seed and returns what broke.
func schedule(t testing.TB, seed uint64, log func(string, ...any)) *sim {
	pick := seed
	s := newSim(seed, 2+int(pick%4), 1+int(pick/4%2), profile(t, []string{"default", "fast", "patient"}[pick/8%3]))
	if log != nil {
		s.log = func(format string, args ...any) {
			log("%7.1f ms  "+format, append([]any{float64(s.now) / 1e6}, args...)...)
		}
	}
	for i := range s.n {
		d := s.span(0, 400)
		s.after(d, func() { s.start(i) })
		for j := range s.n {
			for l := range s.links {
				s.path[i][j][l].slow = Time(50_000 + s.rnd.IntN(400_000))
			}
		}
	}
	s.runFor(5 * Second)
	chosen := s.rnd.Uint32()
	for range 5 + s.rnd.IntN(25) {
		k := s.rnd.IntN(len(faults))
		if chosen>>k&1 == 0 {
			continue
		}
		s.log("--- %s", faults[k].name)
		faults[k].do(s)
		s.runFor(s.span(1, 1+[]int{60, 400, 3000}[s.rnd.IntN(3)]))
	}
	s.settle()
	return s
}

// settle stops all faults and demands L1 and P1: one master, and it stays.
func (s *sim) settle() {
	s.log("--- settle")
	s.heal()
	for i := range s.n {
		s.plug(i, s.vipLink, true)
		s.n[i].word.Maintenance = false
		if s.n[i].agentDead {
			s.crash(i)
		}
		s.start(i)
	}
	limit := s.now + StaleDelay + 10*Second
	since := never
	for s.now < limit {
		s.runFor(50 * Millisecond)
		m := s.masters()
		asleep := false
		for i := range s.n {
			asleep = asleep || s.now < s.n[i].asleep()
		}
		if asleep || len(m) != 1 || !s.n[m[0]].vip || s.n[m[0]].st.Handover().ID != 0 {
			since = never
			continue
		}
		if since == never {
			since = s.now
		}
		if s.now-since > 3*Second {
			s.agree(m[0])
			return
		}
	}
	s.fail("L1: masters %v at the end", s.masters())
}

// agree: everybody follows the one master, and nobody else has the VIPs.
func (s *sim) agree(m int) {
	for i := range s.n {
		if r, ok := s.n[i].st.Master(); !ok || int(r.Owner) != m {
			s.fail("P1: %s follows %v, not %s", s.name(i), r, s.name(m))
		}
		if i != m && s.n[i].vip {
			s.fail("P2: %s still has the VIPs", s.name(i))
		}
	}
}

// TestSchedules searches fault schedules; REVOLVE_SEEDS sets how many, REVOLVE_SEED
// replays one with its story.
func TestSchedules(t *testing.T) {
	if v := os.Getenv("REVOLVE_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s := schedule(t, seed, func(f string, a ...any) { fmt.Printf(f+"\n", a...) })
		for _, b := range s.bad {
			t.Error(b)
		}
		return
	}
	seeds := 400
	if v := os.Getenv("REVOLVE_SEEDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	if testing.Short() {
		seeds = 100
	}
	claims := 0
	for seed := range uint64(seeds) {
		s := schedule(t, seed, nil)
		claims += s.claims
		for _, b := range s.bad {
			t.Errorf("REVOLVE_SEED=%d: %s", seed, b)
		}
		if t.Failed() && seed > 50 {
			break
		}
	}
	if claims < seeds/2 {
		t.Errorf("only %d claims in %d schedules: the faults no longer bite", claims, seeds)
	}
	t.Logf("%d schedules, %d claims", seeds, claims)
}
