package demo

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"revolve/internal/failover/vip"
	"revolve/internal/failover/whoanswers"
)

// Two cards meet where both answer the same questions, in each family by itself; a lost answer ends no meeting, a late
// one begins none.
func TestTwoCards(t *testing.T) {
	four, six := netip.MustParseAddr("10.77.0.200"), netip.MustParseAddr("fd77::200")
	a, b := vip.MAC{2, 0, 0, 0, 0, 1}, vip.MAC{2, 0, 0, 0, 0, 2}
	c := newCards()
	at := func(n int) instant { return instant(1).add(time.Duration(n) * cardsEvery) }
	ask := func(n int, addr netip.Addr, who ...vip.MAC) {
		asked := time.Duration(at(n))
		c.note(whoanswers.Answer{Addr: addr, Asked: asked, Came: asked})
		for _, w := range who {
			c.note(whoanswers.Answer{Addr: addr, Card: w, Asked: asked, Came: asked + time.Millisecond})
		}
	}
	longest := func(from, to int) time.Duration { return c.longest(at(from), at(to)).length() }
	ask(0, four, a)
	ask(1, four, a, a) // twice the same one
	ask(1, six, b)     // another address
	ask(2, four)
	c.note(whoanswers.Answer{Addr: four, Card: b, Asked: time.Duration(at(1)), Came: time.Duration(at(2))}) // to a question before
	ask(3, four, b)
	if d := longest(0, 3); d != 0 {
		t.Errorf("two answered for %v, one after the other", d)
	}
	ask(4, four, b, a)
	ask(5, four, a)
	ask(6, four, a, b)
	ask(20, four, b)
	ask(21, four, b, a)
	ask(22, six, a, b)
	if m := c.longest(0, at(30)); m.length() != 3*cardsEvery || m.addr != four || len(m.who) != 2 || m.from != at(4) {
		t.Errorf("%v from %v, by %v", m.length(), m.from, m.who)
	}
	if d := longest(6, 30); d != cardsEvery {
		t.Errorf("the end of a meeting counts %v", d)
	}
	if d := longest(7, 20); d != 0 {
		t.Errorf("two answered for %v in a time without", d)
	}
	if m := c.longest(at(22), at(30)); m.addr != six || m.length() != cardsEvery {
		t.Errorf("IPv6: %v for %v", m.length(), m.addr)
	}
	if n := c.answered(four, at(1), at(7)); n != 5 {
		t.Errorf("%d questions of 6 were answered, one was not", n)
	}
}

// What the onlooker writes is what the story reads; half a record is none.
func TestCardsTravel(t *testing.T) {
	six := netip.MustParseAddr("fd77::200")
	var b bytes.Buffer
	for _, x := range []whoanswers.Answer{{Addr: six, Asked: 5, Came: 5}, {Addr: six, Card: vip.MAC{2, 1}, Asked: 5, Came: 9}, {Addr: six, Card: vip.MAC{2, 2}, Asked: 5, Came: 9}} {
		b.Write(appendCards(nil, x))
	}
	b.Truncate(b.Len() - 1)
	c := newCards()
	if err := c.read(&b); err != nil {
		t.Fatal(err)
	}
	if n := c.answered(six, 0, 10); n != 1 || c.last != 5 || c.longest(0, 10).length() != 0 {
		t.Errorf("%d answered, the last asked at %d, %v", n, c.last, c.longest(0, 10))
	}
}

// Where nobody asks nothing is judged, and the story does not go on as if it were.
func TestNobodyAsks(t *testing.T) {
	th := &theatre{cards: newCards()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := th.upTo(ctx, now()); err == nil {
		t.Error("nothing was read, and it is said to be")
	}
}
