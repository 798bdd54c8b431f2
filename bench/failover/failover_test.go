package main

import (
	"net/netip"
	"testing"
	"time"
)

func at(ms int) instant { return instant(1).add(time.Duration(ms) * time.Millisecond) }

// Two holders count where both could be reached, and not for a moment that is
// shorter than the client sees.
func TestTwoHolders(t *testing.T) {
	h := newHolders(netip.MustParseAddr(vip))
	h.held["a"] = []span{{at(0), at(100)}, {at(300), 0}}
	h.held["b"] = []span{{at(80), at(200)}, {at(298), at(302)}}
	h.held["c"] = []span{{at(350), 0}}
	h.apart["c"] = []span{{at(340), at(390)}}
	two, last := h.two(at(0), at(400))
	if two != 20+10 || last != at(400) {
		t.Errorf("%v ms, last at %v", two, last.sub(at(0)))
	}
	if two, last = h.two(at(100), at(349)); two != 0 || last != 0 {
		t.Errorf("%v ms, last at %v, in a time without", two, last.sub(at(0)))
	}
	if n := h.came(at(1), at(400)); n != 4 {
		t.Errorf("the address came %d times", n)
	}
}

// The blackout is the longest time without an answer, also across both ends of the window.
func TestBlackout(t *testing.T) {
	a := &answers{}
	for _, x := range []struct {
		ms   int
		node byte
	}{{0, 'a'}, {5, 'a'}, {10, 'a'}, {60, 'b'}, {65, 'b'}, {70, 'a'}} {
		a.got = append(a.got, answer{at(x.ms), at(x.ms), x.node})
	}
	if ms, changes := a.blackout(at(7), at(72)); ms != 50 || changes != 2 {
		t.Errorf("%v ms, %d changes", ms, changes)
	}
	if ms, _ := a.blackout(at(7), at(200)); ms != 130 {
		t.Errorf("%v ms with an open end", ms)
	}
	if at60 := a.firstFrom('a', at(8)); at60 != at(60) {
		t.Errorf("another one answered first at %v", at60.sub(at(0)))
	}
}

// Two cards count once for each question that both answered.
func TestBoth(t *testing.T) {
	a := &answers{}
	for _, x := range []struct {
		asked, ms int
		card      byte
	}{{0, 1, 1}, {5, 6, 1}, {5, 7, 2}, {10, 11, 2}, {15, 16, 1}, {15, 17, 2}, {15, 18, 3}, {20, 21, 2}, {25, 26, 1}} {
		a.got = append(a.got, answer{at(x.asked), at(x.ms), x.card})
	}
	if ms, last := a.both(at(0), at(30)); ms != 10 || last != at(15) {
		t.Errorf("%v ms, last at %v", ms, last.sub(at(0)))
	}
	if ms, last := a.both(at(16), at(30)); ms != 0 || last != 0 {
		t.Errorf("%v ms, last at %v, in a time without", ms, last.sub(at(0)))
	}
}

func TestQuantiles(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	if median(v) != 3 || p95(v) != 5 || median(v[:2]) != 3 {
		t.Errorf("%v %v %v", median(v), p95(v), median(v[:2]))
	}
}
