package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"revolve/internal/failover/history"
)

func everyNode() []string { return []string{"a", "b", "c", "d"} }

func at(seconds int) time.Time { return time.Unix(1_800_000_000+int64(seconds), 0) }

// What became of a record is judged by what its client was told, and by what happened then.
func TestJudge(t *testing.T) {
	cut := &struck{Kind: "power cut", Node: "a", Stops: true, From: at(10), To: at(20)}
	parts := &struck{Kind: "both links cut", Node: "b", Parts: true, From: at(10), To: at(12)}
	switched := &struck{Kind: "planned switch", Node: "a", From: at(9), To: at(12)}
	churned := &struck{Kind: "many changes at once", Node: "b", From: at(10), To: at(12)}
	freeze := &struck{Kind: "node frozen", Node: "a", Stops: true, From: at(9), To: at(12)}
	frozenB := &struck{Kind: "node frozen", Node: "b", Stops: true, From: at(10), To: at(12)}
	none := []*struck{}
	for name, c := range map[string]struct {
		claim  claim
		found  found
		faults []*struck
		lost   bool
	}{
		"everywhere":                       {claim{synced: true}, found{nodes: everyNode()}, none, false},
		"not everywhere":                   {claim{}, found{nodes: everyNode()[:3]}, none, true},
		"other bytes":                      {claim{}, found{nodes: everyNode()[:3], wrong: "d"}, none, true},
		"synced, nowhere":                  {claim{synced: true}, found{}, []*struck{cut, parts}, true},
		"synced, aside":                    {claim{synced: true}, found{aside: true}, []*struck{cut}, true},
		"synced, aside, parted":            {claim{synced: true}, found{aside: true}, []*struck{parts}, false},
		"synced, aside, two at once":       {claim{synced: true}, found{aside: true}, []*struck{freeze, frozenB}, false},
		"synced, aside, two orders":        {claim{synced: true}, found{aside: true}, []*struck{switched, churned}, true},
		"synced, aside, one and an order":  {claim{synced: true}, found{aside: true}, []*struck{switched, frozenB}, true},
		"synced, aside, an order and one":  {claim{synced: true}, found{aside: true}, []*struck{frozenB, switched}, true},
		"synced, aside, same node":         {claim{synced: true}, found{aside: true}, []*struck{freeze, cut}, true},
		"durable, aside":                   {claim{durable: true}, found{aside: true}, none, false},
		"durable, nowhere":                 {claim{durable: true}, found{}, []*struck{cut}, true},
		"plain, nowhere":                   {claim{}, found{}, none, true},
		"plain, nowhere, power of its own": {claim{}, found{}, []*struck{cut}, false},
		"plain, nowhere, power of another": {claim{node: "b"}, found{}, []*struck{cut}, true},
	} {
		c.claim.n, c.claim.at = 7, at(9)
		if c.claim.node == "" {
			c.claim.node = "a"
		}
		l := judge(map[int]*claim{7: &c.claim}, map[int]found{7: c.found}, 4, c.faults)
		if (len(l.Lost) > 0) != c.lost {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// A barrier covers what its streak had when it began, of the node that did it.
func TestReadTold(t *testing.T) {
	got, err := readTold(strings.NewReader("who a 1\nrecord 1 a false 1000\nrecord 2 a true 1100\nsynced a 1 2 1200\nrecord 3 a false 1300\nrecord 4 b false 1400\nsynced b 3 4 1500\naway 1600 1900\n"))
	if err != nil || len(got.claims) != 4 || got.syncs != 2 || len(got.away) != 1 {
		t.Fatalf("%+v %v", got, err)
	}
	for n, synced := range map[int]bool{1: true, 2: true, 3: false, 4: true} {
		if got.claims[n].synced != synced {
			t.Errorf("record %d: %+v", n, got.claims[n])
		}
	}
	if !got.claims[2].durable || got.claims[1].durable {
		t.Error("what was durable is not known")
	}
	if _, err := readTold(strings.NewReader("record one\n")); err == nil {
		t.Error("nonsense is no error")
	}
	s := streak{}
	s.took(1, "a")
	s.took(2, "a")
	before := s.broken
	if s.took(3, ""); s.broken == before || s.node != "" {
		t.Errorf("a failure does not end the streak: %+v", s)
	}
	if s.took(4, "a"); s.first != 4 {
		t.Errorf("it goes on: %+v", s)
	}
}

// A change of master without a record is seen; the same node again is no change.
func TestExplain(t *testing.T) {
	records := []history.Record{{Master: "b", At: at(11), Cause: history.CauseSilence}}
	got := explain([]arrival{{"a", at(0)}, {"a", at(5)}, {"b", at(10)}, {"c", at(100)}}, records, []*struck{{Kind: "power cut", Node: "a", From: at(9), To: at(12)}})
	if len(got) != 2 || got[0].record == nil || got[0].near == "" || got[1].record != nil || got[1].near != "" {
		t.Errorf("got %+v", got)
	}
}

// What grows is not flat, whichever of the two processes it is.
func TestTrend(t *testing.T) {
	r := result{nodes: []string{"d"}, meter: meter{nodes: map[string][]sample{}}}
	for _, growth := range []struct{ agent, beat float64 }{{0, 0}, {2, 0}, {0, 2}, {2, -2}} {
		r.meter.nodes["d"] = nil
		for i := range 100 {
			x := float64(i)
			r.meter.nodes["d"] = append(r.meter.nodes["d"], sample{At: x / 10, Agent: 1 + i/50, MiB: 40 + growth.agent*x, Beat: 205 + growth.beat*x, Files: 60})
		}
		m, p, f := r.trends("d")
		if (len(r.grown()) > 0) != (growth.agent > 0 || growth.beat > 0) || m.Lives != 2 || math.Abs(f.Slope) > 0.01 || math.Abs(m.Slope-growth.agent*600) > 10 || math.Abs(p.Slope-growth.beat*600) > 10 {
			t.Errorf("growth %+v: %v, %+v, %+v", growth, r.grown(), m, p)
		}
	}
}

// Two processes that grow a little each are a node that grows.
func TestGrowthOfBothTogether(t *testing.T) {
	r := result{nodes: []string{"d"}, meter: meter{nodes: map[string][]sample{}}}
	for i := range 100 {
		x := float64(i) / 100
		r.meter.nodes["d"] = append(r.meter.nodes["d"], sample{At: float64(i) / 10, Agent: 1, MiB: 24 + 23*x, Beat: 16 + 23*x, Files: 60})
	}
	if got := r.grown(); len(got) != 1 || !strings.Contains(got[0], "together of d") {
		t.Errorf("%q", got)
	}
}

// An agent that ends is explained by a fault that killed it just then, and a fault explains one end.
func TestAgentsThatEndByThemselves(t *testing.T) {
	kill := &struck{Kind: "agent killed", Node: "a", Kills: true, Stops: true, From: at(10), To: at(10)}
	full := &struck{Kind: "disk full", Node: "b", From: at(10), To: at(20)}
	refused := &struck{Kind: "agent killed", Node: "c", Kills: true, Refused: "it does not run", From: at(10), To: at(10)}
	faults := []*struck{kill, full, refused}
	for name, c := range map[string]struct {
		ends []end
		want int
	}{
		"none":              {nil, 0},
		"killed":            {[]end{{node: "a", at: at(11)}}, 0},
		"before it":         {[]end{{node: "a", at: at(9)}}, 1},
		"long after":        {[]end{{node: "a", at: at(60)}}, 1},
		"killed once":       {[]end{{node: "a", at: at(11)}, {node: "a", at: at(13)}}, 1},
		"another node":      {[]end{{node: "d", at: at(11)}}, 1},
		"of a full disk":    {[]end{{node: "b", at: at(11)}}, 1},
		"of what was not":   {[]end{{node: "c", at: at(11)}}, 1},
		"two of all, alone": {[]end{{node: "a", at: at(11)}, {node: "b", at: at(12)}, {node: "d", at: at(13)}}, 2},
	} {
		if got := byThemselves(c.ends, faults); len(got) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A soak in which nothing was written, nothing was covered, a kind never struck or an agent ended alone has not passed.
func TestASoakNeedsGrounds(t *testing.T) {
	well := func() *result {
		r := &result{o: options{long: whole}, began: at(0), losses: losses{Claims: 10, Synced: 5}, told: told{syncs: 2}, waited: true}
		for _, f := range faults() {
			r.faults = append(r.faults, &struck{Kind: f.name, Node: "a", From: at(10), To: at(11)})
		}
		return r
	}
	if r := well(); !r.passed() {
		t.Fatalf("got %+v", r.checks())
	}
	for name, change := range map[string]func(r *result){
		"no records":          func(r *result) { r.losses = losses{} },
		"no barrier":          func(r *result) { r.told.syncs = 0 },
		"nothing covered":     func(r *result) { r.losses.Synced = 0 },
		"a kind was refused":  func(r *result) { r.faults[3].Refused = "no" },
		"a kind did not come": func(r *result) { r.faults = r.faults[1:] },
		"an agent ended":      func(r *result) { r.ends = []end{{node: "d", at: at(20)}} },
		"a part without any": func(r *result) {
			r.o.long = shortest
			r.faults = nil
		},
	} {
		r := well()
		if change(r); r.passed() {
			t.Errorf("%s: it has passed", name)
		}
	}
	part := well()
	if part.o.long, part.faults = shortest, part.faults[:2]; !part.passed() {
		t.Errorf("a part: %+v", part.checks())
	}
}
