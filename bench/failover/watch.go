package main

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"revolve/internal/testbed"
)

// answers is what the client got, in the order in which it came.
type answers struct {
	mu  sync.Mutex
	got []answer
}

func (a *answers) read(r io.Reader) {
	var b [answerSize]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return // the client has ended
		}
		x := answer{instant(binary.BigEndian.Uint64(b[0:])), instant(binary.BigEndian.Uint64(b[8:])), b[16]}
		a.mu.Lock()
		a.got = append(a.got, x)
		a.mu.Unlock()
	}
}

// readLimit is how long readTo waits for an answer at most: the harness has
// ordinary priority, and on a loaded machine it reads late what the client got in time.
const readLimit = 3 * time.Second

// readTo waits until everything is read here that the client got up to then.
func (a *answers) readTo(to instant) {
	for late := now().add(readLimit); now() < late; time.Sleep(flushEvery) {
		a.mu.Lock()
		n := len(a.got)
		done := n > 0 && a.got[n-1].came > to
		a.mu.Unlock()
		if done {
			return
		}
	}
}

// between are the answers that came in a time, with the last one before it.
func (a *answers) between(from, to instant) (out []answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.got {
		switch {
		case x.came < from:
			out = append(out[:0], x)
		case x.came <= to:
			out = append(out, x)
		}
	}
	return out
}

// blackout is the longest time without an answer, ms, and how often another node answered than before.
func (a *answers) blackout(from, to instant) (ms float64, changes int) {
	last, node := from, byte(0)
	for _, x := range a.between(from, to) {
		if x.came > from {
			ms = max(ms, x.came.sub(last))
		}
		if node != 0 && x.node != node {
			changes++
		}
		last, node = x.came, x.node
	}
	return max(ms, to.sub(last)), changes
}

// firstFrom is when any node but this one first answered since then, 0 if none did.
func (a *answers) firstFrom(not byte, since instant) instant {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.got {
		if x.came > since && x.node != not {
			return x.came
		}
	}
	return 0
}

// span is a time during which something was so; to is 0 while it still is.
type span struct{ from, to instant }

// holders is who had the address when, by what the kernels of the nodes said, and
// who could be reached on the address's link.
type holders struct {
	vip netip.Addr

	mu    sync.Mutex
	held  map[string][]span
	apart map[string][]span // without power, or cut from the address's link: nobody meets what it holds
}

func newHolders(vip netip.Addr) *holders {
	return &holders{vip: vip, held: map[string][]span{}, apart: map[string][]span{}}
}

func (h *holders) note(node string, c testbed.AddressChange) {
	if c.Addr == h.vip {
		h.set(h.held, node, !c.Gone, now())
	}
}

func (h *holders) setApart(node string, apart bool) { h.set(h.apart, node, apart, now()) }

func (h *holders) set(m map[string][]span, node string, on bool, at instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	spans := m[node]
	open := len(spans) > 0 && spans[len(spans)-1].to == 0
	switch {
	case on && !open:
		m[node] = append(spans, span{from: at})
	case !on && open:
		spans[len(spans)-1].to = at
	}
}

// current lists who has the address now.
func (h *holders) current() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, spans := range h.held {
		if len(spans) > 0 && spans[len(spans)-1].to == 0 {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

// came counts how often any node got the address in a time.
func (h *holders) came(from, to instant) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, spans := range h.held {
		for _, s := range spans {
			if s.from >= from && s.from < to {
				n++
			}
		}
	}
	return n
}

// two is how long two nodes that could be reached had the address within the
// time, and when the last such moment ended; 0 for never. A moment shorter than the
// client's resolution is no such: what a kernel says is read later than it happens,
// and of two nodes not equally late.
func (h *holders) two(from, to instant) (ms float64, last instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	type edge struct {
		at instant
		by int
	}
	var edges []edge
	for node, spans := range h.held {
		for _, s := range without(clip(spans, from, to), clip(h.apart[node], from, to)) {
			edges = append(edges, edge{s.from, 1}, edge{s.to, -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.by - b.by
	})
	n, began := 0, instant(0)
	for _, e := range edges {
		before := n
		n += e.by
		switch {
		case before < 2 && n >= 2:
			began = e.at
		case before >= 2 && n < 2 && e.at >= began.add(askEvery):
			ms += e.at.sub(began)
			last = e.at
		}
	}
	return ms, last
}

func clip(in []span, from, to instant) (out []span) {
	for _, s := range in {
		if s.to == 0 {
			s.to = to
		}
		if s.from, s.to = max(s.from, from), min(s.to, to); s.from < s.to {
			out = append(out, s)
		}
	}
	return out
}

// without cuts the spans of out away.
func without(in, out []span) []span {
	for _, o := range out {
		var next []span
		for _, s := range in {
			if left := (span{s.from, min(s.to, o.from)}); left.from < left.to {
				next = append(next, left)
			}
			if right := (span{max(s.from, o.to), s.to}); right.from < right.to {
				next = append(next, right)
			}
		}
		in = next
	}
	return in
}
