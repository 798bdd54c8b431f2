package election

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"revolve/internal/cluster"
)

// watched is a cluster of nodes under an engine that places two VIPs as the test
// says. Every beacon arrives at once unless its sender is deaf or silent.
type watched struct {
	t     *testing.T
	now   Time
	nodes []State
	words []Word
	vips  []uint16
	hush  []bool // says and hears nothing
	left  []int  // steps that touched an address
	best  []Reign
}

const bothVIPs = 0b11

func newWatched(t *testing.T, n int) *watched {
	w := &watched{t: t, now: Second}
	for i := range n {
		cfg := Config{Self: uint8(i), Count: uint8(n), VIPLinks: 1, Timers: profile(t, "default"), External: true, VIPs: bothVIPs}
		for k := range n {
			cfg.Members[k] = Member{Candidate: true, Priority: 100}
		}
		w.nodes = append(w.nodes, New(cfg, Boot{Virgin: true}, w.now))
		w.words = append(w.words, Word{Class: cluster.InSync, Reserved: 1000})
		w.vips, w.hush, w.left, w.best = append(w.vips, 0), append(w.hush, false), append(w.left, 0), append(w.best, Reign{})
		w.event(i, Event{Kind: Carrier, Up: true})
		w.event(i, Event{Kind: Observed})
	}
	return w
}

// event steps node i and checks what must hold at every step.
func (w *watched) event(i int, e Event) {
	w.t.Helper()
	e.Now = w.now
	s := &w.nodes[i]
	f := s.Step(e)
	if f.DeleteVIPs || f.AddVIPs || f.Announce || f.Probe != 0 {
		w.t.Fatalf("node %d touches another engine's addresses: %+v", i, f)
	}
	if e.Kind == Tick && s.Role() == cluster.Master { // the host ticks after every event
		if s.sight.vips != bothVIPs {
			w.t.Fatalf("node %d leads and has VIPs %b", i, s.sight.vips)
		}
		if r := s.reign; r.Term < w.best[i].Term || r.Term == 0 {
			w.t.Fatalf("node %d went back from %v to %v", i, w.best[i], r)
		}
		w.best[i] = s.reign
	}
	for range f.Send {
		b := s.Beacon()
		for k := range w.nodes {
			if k != i && !w.hush[i] && !w.hush[k] {
				w.event(k, Event{Kind: Heard, Beacon: &b})
			}
		}
	}
}

func (w *watched) place(i int, vips uint16) {
	w.t.Helper()
	w.vips[i] = vips
	w.event(i, Event{Kind: Observed, VIPs: vips})
}

func (w *watched) run(d Time) {
	w.t.Helper()
	for end := w.now + d; w.now < end; w.now += 10 * Millisecond {
		for i := range w.nodes {
			w.event(i, Event{Kind: Said, Word: &w.words[i]})
			w.event(i, Event{Kind: Tick})
		}
	}
}

func (w *watched) roles() string {
	out := ""
	for i := range w.nodes {
		s := &w.nodes[i]
		out += fmt.Sprintf("%v:%d ", s.Role(), s.reign.Term*b2t(s.Role() == cluster.Master))
	}
	return out
}

func b2t(b bool) cluster.Term {
	if b {
		return 1
	}
	return 0
}

func (w *watched) want(what, roles string) {
	w.t.Helper()
	if got := w.roles(); got != roles {
		w.t.Errorf("%s: %sinstead of %s", what, got, roles)
	}
}

func TestObservedRoles(t *testing.T) {
	w := newWatched(t, 3)
	w.run(2 * Second)
	w.want("nobody has the addresses", "standby:0 standby:0 standby:0 ")
	w.place(0, 0b01)
	w.run(Second)
	w.want("one of two addresses", "standby:0 standby:0 standby:0 ")
	w.place(0, bothVIPs)
	w.run(10 * Millisecond)
	w.want("gained", "master:1 standby:0 standby:0 ")
	w.place(0, 0b10)
	w.event(0, Event{Kind: Tick})
	w.want("one lost", "standby:0 standby:0 standby:0 ")
	w.place(1, bothVIPs)
	w.run(10 * Millisecond)
	w.want("gained elsewhere", "standby:0 master:2 standby:0 ")
	w.place(0, bothVIPs)
	w.run(Second)
	w.want("the later gain reigns, the older one freezes", "master:3 limbo:0 standby:0 ")
	if f := w.nodes[1].Fitness(); f.Eligible || f.Why != UnfitFrozen || !w.nodes[1].Frozen() {
		t.Errorf("a frozen node is %+v", f)
	}
	w.place(0, 0)
	w.run(50 * Millisecond)
	w.want("not at once: the engine may be about to move them", "standby:0 limbo:0 standby:0 ")
	w.run(Second)
	w.want("alone with the addresses", "standby:0 master:4 standby:0 ")
}

// An address that is there when the node starts is no gain: whoever reigns goes on.
func TestObservedOrphan(t *testing.T) {
	w := newWatched(t, 2)
	w.run(2 * Second)
	w.place(0, bothVIPs)
	w.run(Second)
	s := New(w.nodes[1].cfg, Boot{SeenTerm: 1, Reserved: 16}, w.now)
	w.nodes[1], w.best[1] = s, Reign{}
	w.event(1, Event{Kind: Carrier, Up: true})
	w.place(1, bothVIPs)
	w.run(5 * Second)
	w.want("found at the start beside a master", "master:1 limbo:0 ")
	w.place(0, 0)
	w.run(Second)
	if w.nodes[1].Role() != cluster.Master || w.nodes[1].reign.Term <= 16 {
		t.Errorf("%s, reign %v", w.roles(), w.nodes[1].reign)
	}
}

// A node that slept gives nothing away before it has heard the others.
func TestObservedSleeper(t *testing.T) {
	w := newWatched(t, 2)
	w.run(2 * Second)
	w.place(0, bothVIPs)
	w.run(Second)
	w.hush[0] = true
	for end := w.now + 2*Second; w.now < end; w.now += 10 * Millisecond { // only node 1 lives
		w.event(1, Event{Kind: Said, Word: &w.words[1]})
		w.event(1, Event{Kind: Tick})
	}
	w.place(1, bothVIPs)
	w.event(1, Event{Kind: Tick})
	w.hush[0] = false
	w.event(0, Event{Kind: Tick})
	w.want("awake, and not yet sure", "limbo:0 master:2 ")
	w.run(Second)
	w.want("the later gain", "limbo:0 master:2 ")
}

func TestFitness(t *testing.T) {
	w := newWatched(t, 3)
	w.run(2 * Second)
	w.place(0, bothVIPs)
	w.words[1].Class = cluster.Lagging
	w.run(Second)
	check := func(what string, i int, eligible bool, why Unfit) {
		t.Helper()
		if f := w.nodes[i].Fitness(); f.Eligible != eligible || f.Why != why || f.Eligible == (f.Penalty == MaxPenalty) {
			t.Errorf("%s: node %d is %+v, %v", what, i, f, f.Why)
		}
	}
	check("master", 0, true, Fit)
	check("lagging beside an in-sync one", 1, false, UnfitBehind)
	check("in-sync", 2, true, Fit)
	w.words[0].Fresh, w.words[2].Fresh = cluster.Position{Term: 1, Seq: 9}, cluster.Position{Term: 1, Seq: 8}
	w.run(100 * Millisecond)
	check("a moment behind the master", 2, true, Fit)
	w.place(0, 0)
	w.run(100 * Millisecond)
	check("behind, and nobody leads", 2, true, FitBehind)
	w.run(VacantDelay)
	check("nobody has the addresses for long", 1, true, FitLast)
	w.place(1, bothVIPs)
	w.run(Second)
	check("it was chosen", 1, true, FitLast)
	w.words[2].Ill = true
	w.run(100 * Millisecond)
	check("ill beside a well one", 2, false, UnfitIll)
	w.words[2].Maintenance = true
	w.run(100 * Millisecond)
	check("in maintenance", 2, false, UnfitBarred)
	for i := range w.nodes { // the agent of node 0 is silent
		if i != 0 {
			w.words[i].Class = cluster.InSync
		}
	}
	for end := w.now + SilentDelay + Second; w.now < end; w.now += 10 * Millisecond {
		w.event(0, Event{Kind: Tick})
	}
	check("its agent is silent", 0, false, UnfitSilent)
}

// Whatever an engine does, two nodes that hear each other lead together only
// until their next beacons, and a node with all addresses leads in the end if
// nobody else has any.
func TestObservedRandomly(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newWatched(t, 2+rnd.IntN(3))
		for range 60 {
			switch i := rnd.IntN(len(w.nodes)); rnd.IntN(6) {
			case 0, 1:
				w.place(i, uint16(rnd.IntN(4)))
			case 2:
				w.place(i, bothVIPs)
			case 3:
				w.place(i, 0)
			case 4:
				w.hush[i] = !w.hush[i]
			case 5:
				w.words[i].Class = cluster.Class(rnd.IntN(4))
			}
			w.run(Time(rnd.IntN(400)) * Millisecond)
			w.run(120 * Millisecond)
			leaders := 0
			for i := range w.nodes {
				if !w.hush[i] && w.nodes[i].Role() == cluster.Master {
					leaders++
				}
			}
			if leaders > 1 {
				t.Fatalf("seed %d: %s", seed, w.roles())
			}
		}
		for i := range w.nodes {
			w.hush[i] = false
			w.place(i, 0)
		}
		last := rnd.IntN(len(w.nodes))
		w.place(last, bothVIPs)
		w.run(2 * Second)
		for i := range w.nodes {
			if r := w.nodes[i].Role(); (r == cluster.Master) != (i == last) || r == cluster.Limbo {
				t.Fatalf("seed %d: only %d has the addresses: %s", seed, last, w.roles())
			}
		}
	}
}
