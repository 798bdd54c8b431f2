package demo

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"revolve/internal/failover/vip"
	"revolve/internal/failover/whoanswers"
	"revolve/internal/problem"
)

// This file is the judge of P1 who sees what clients meet: a machine of its own on the
// addresses' link asks every card there who has them. A node that is frozen, killed or cut
// off is judged by its answers like every other one: it may have the address, if it is silent.

const (
	// cardsEvery is between two questions for an address.
	cardsEvery = 10 * time.Millisecond
	// cardsRest is how long no two may have answered, for the next time to be another one: an answer may be lost, or come late.
	cardsRest = 100 * time.Millisecond
	// cardsRead is how long the story waits at most for what the onlooker saw, on a busy machine.
	cardsRead = 10 * time.Second
	// Of questions, answers: the address, the card, when it was asked, when it came.
	cardsSize = 16 + 6 + 8 + 8
)

// Cards asks the link of an interface which cards answer for the addresses, and writes that
// to out in the form that the story reads, until ctx ends.
func Cards(ctx context.Context, o whoanswers.Options, out io.Writer) error {
	w := bufio.NewWriter(out)
	o.Every = cardsEvery
	var flushed time.Duration
	var rec []byte
	return whoanswers.Ask(ctx, o, func(x whoanswers.Answer) error {
		rec = appendCards(rec[:0], x)
		_, err := w.Write(rec)
		if err == nil && x.Came-flushed >= flushEvery {
			flushed, err = x.Came, w.Flush()
		}
		if err != nil {
			return &problem.Problem{Op: "write answers", Kind: problem.Unavailable, Err: err}
		}
		return nil
	})
}

func appendCards(b []byte, x whoanswers.Answer) []byte {
	addr := x.Addr.As16()
	b = append(append(b, addr[:]...), x.Card[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(x.Asked))
	return binary.BigEndian.AppendUint64(b, uint64(x.Came))
}

// cards is who answered for the addresses when.
type cards struct {
	mu    sync.Mutex
	last  instant // of the newest question that is known
	lanes map[netip.Addr]*answering
}

// answering is who answers for one address.
type answering struct {
	asked instant   // the newest question
	who   []vip.MAC // that answered it
	heard []instant // questions that somebody answered
	both  []meeting
}

// meeting is a time in which two cards answered the same questions.
type meeting struct {
	addr     netip.Addr
	from, to instant // the first and the last such question
	who      []vip.MAC
}

// length counts the last question, too.
func (m meeting) length() time.Duration {
	if m.from == 0 {
		return 0
	}
	return m.to.sub(m.from) + cardsEvery
}

func newCards() *cards { return &cards{lanes: map[netip.Addr]*answering{}} }

// read takes the onlooker's reports from r until it ends.
func (c *cards) read(r io.Reader) error {
	var b [cardsSize]byte
	for {
		if _, err := io.ReadFull(r, b[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the onlooker has ended
		} else if err != nil {
			return &problem.Problem{Op: "read who answers", Kind: problem.Internal, Err: err}
		}
		c.note(whoanswers.Answer{Addr: netip.AddrFrom16([16]byte(b[:16])).Unmap(), Card: vip.MAC(b[16:22]),
			Asked: time.Duration(binary.BigEndian.Uint64(b[22:])), Came: time.Duration(binary.BigEndian.Uint64(b[30:]))})
	}
}

func (c *cards) note(x whoanswers.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.lanes[x.Addr]
	if a == nil {
		a = &answering{}
		c.lanes[x.Addr] = a
	}
	at := instant(x.Asked)
	if x.IsQuestion() {
		a.asked, a.who, c.last = at, a.who[:0], at
		return
	}
	if at != a.asked || slices.Contains(a.who, x.Card) {
		return
	}
	a.who = append(a.who, x.Card)
	if len(a.who) == 1 {
		a.heard = append(a.heard, at)
		return
	}
	a.meet(x.Addr, at)
}

// meet notes that the question at was answered by two.
func (a *answering) meet(addr netip.Addr, at instant) {
	n := len(a.both)
	if n == 0 || at.sub(a.both[n-1].to) > cardsRest {
		a.both = append(a.both, meeting{addr: addr, from: at})
		n++
	}
	m := &a.both[n-1]
	m.to = at
	for _, w := range a.who {
		if !slices.Contains(m.who, w) {
			m.who = append(m.who, w)
		}
	}
}

// longest is the longest time within this one in which two answered.
func (c *cards) longest(from, to instant) (worst meeting) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.lanes {
		for _, m := range a.both {
			if m.from, m.to = max(m.from, from), min(m.to, to); m.from <= m.to && m.length() > worst.length() {
				worst = m
				worst.who = slices.Clone(m.who)
			}
		}
	}
	return worst
}

// answered counts the questions for the address in a time that somebody answered.
func (c *cards) answered(addr netip.Addr, from, to instant) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.lanes[addr]; a != nil {
		for _, at := range a.heard {
			if at >= from && at < to {
				n++
			}
		}
	}
	return n
}

// upTo waits until everything is known that was asked until then.
func (t *theatre) upTo(ctx context.Context, at instant) error {
	return until(ctx, cardsRead, lookEvery, "what the onlooker on the link saw", func() bool {
		t.cards.mu.Lock()
		defer t.cards.mu.Unlock()
		return t.cards.last > at
	})
}

// startOnlooker has a machine on the addresses' link ask who answers for them.
func (t *theatre) startOnlooker() error {
	_, err := t.follow(t.onlooker, func(r *bufio.Reader) error { return t.cards.read(r) },
		"demo-cards", "--device", linkLAN, "--own", onlookerAddr6, "--address", t.plan.vip4.Addr().String(), "--address", t.plan.vip6.Addr().String())
	return err
}

// oneAnswers judges an event: two cards that answer for the same address are what P1 rules out, whatever keeps the nodes.
func (s *story) oneAnswers(ev *Event) error {
	to := now()
	if err := s.t.upTo(s.ctx, to); err != nil {
		return err
	}
	for _, a := range []netip.Addr{s.t.plan.vip4.Addr(), s.t.plan.vip6.Addr()} {
		if s.t.cards.answered(a, ev.from, to) == 0 {
			ev.breaks("P1", "no card answered for %s", a) // else nothing would be judged
		}
	}
	m := s.t.cards.longest(ev.from, to)
	ev.BothMS = msPtr(m.length())
	if m.length() > boundTwo {
		ev.breaks("P1", "for %.0f ms two answered for %s: %s", ms(m.length()), m.addr, s.t.names(m.who))
	}
	return nil
}

// names are the nodes whose cards these are.
func (t *theatre) names(cards []vip.MAC) string {
	var list []string
	for _, c := range cards {
		name := fmt.Sprintf("the card %x", c)
		for n, m := range t.machines {
			if slices.Equal(m.node.Card(linkLAN), c[:]) {
				name = n
			}
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, " and ")
}
