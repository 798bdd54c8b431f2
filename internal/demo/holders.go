package demo

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"revolve/internal/testbed"
)

// span is a time during which something was so; to is 0 while it still is.
type span struct{ from, to instant }

// holders is who had the address when, by what the kernels of the nodes said.
type holders struct {
	vip netip.Addr

	mu    sync.Mutex
	held  map[string][]span
	apart map[string][]span // nodes that were off, held, or cut from the address's link
	bell  chan struct{}     // closed and replaced at every change
}

func newHolders(vip netip.Addr) *holders {
	return &holders{vip: vip, held: map[string][]span{}, apart: map[string][]span{}, bell: make(chan struct{})}
}

func (h *holders) note(node string, c testbed.AddressChange) {
	if c.Addr == h.vip {
		h.set(h.held, node, !c.Gone, instantOf(c.At))
	}
}

// setApart says that the node cannot (or can again) be expected to hear the others.
func (h *holders) setApart(node string, apart bool) { h.set(h.apart, node, apart, now()) }

// off says that the node's power went off: its kernel is gone with its addresses.
func (h *holders) off(node string) { h.set(h.held, node, false, now()) }

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
	default:
		return // a refresh
	}
	close(h.bell)
	h.bell = make(chan struct{})
}

// current lists who has the address now, and a channel that closes at the next change.
func (h *holders) current() ([]string, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for node, spans := range h.held {
		if len(spans) > 0 && spans[len(spans)-1].to == 0 {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out, h.bell
}

// lostAt is when the node lost the address for the first time since then, 0 if it
// has it, or did not have it then.
func (h *holders) lostAt(node string, since instant) instant {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.held[node] {
		if s.from < since && s.to >= since {
			return s.to
		}
	}
	return 0
}

// gain is when a node took the address.
type gain struct {
	node string
	at   instant
}

// gains are the other nodes than this that took the address since then, the first one first.
func (h *holders) gains(other string, since instant) (list []gain) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, spans := range h.held {
		for _, s := range spans {
			if node != other && s.from >= since {
				list = append(list, gain{node, s.from})
			}
		}
	}
	slices.SortFunc(list, func(a, b gain) int { return cmp.Compare(a.at, b.at) })
	return list
}

// gainedAt is the first of them, "" if there is none.
func (h *holders) gainedAt(other string, since instant) (string, instant) {
	if list := h.gains(other, since); len(list) > 0 {
		return list[0].node, list[0].at
	}
	return "", 0
}

// tookOver is gainedAt without the nodes that were apart then: what they hold is another network's.
func (h *holders) tookOver(other string, since instant) (string, instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	who, at := "", instant(0)
	for node, spans := range h.held {
		for _, s := range spans {
			apart := slices.ContainsFunc(h.apart[node], func(a span) bool { return a.from <= s.from && (a.to == 0 || s.from < a.to) })
			if node != other && !apart && s.from >= since && (at == 0 || s.from < at) {
				who, at = node, s.from
			}
		}
	}
	return who, at
}

// moved counts how often the address left the node, or came to any, in a time.
func (h *holders) moved(node string, from, to instant) (left, came int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for who, spans := range h.held {
		for _, s := range spans {
			if who == node && s.to >= from && s.to < to {
				left++
			}
			if s.from >= from && s.from < to {
				came++
			}
		}
	}
	return left, came
}

// overlap is the longest time during which two nodes had the address that could
// hear each other all that time.
func (h *holders) overlap(until instant) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var worst time.Duration
	var nodes []string
	for n := range h.held {
		nodes = append(nodes, n)
	}
	for i, a := range nodes {
		for _, b := range nodes[i+1:] {
			for _, x := range h.held[a] {
				for _, y := range h.held[b] {
					both := span{from: max(x.from, y.from), to: min(x.end(until), y.end(until))}
					for _, rest := range without(without([]span{both}, h.apart[a], until), h.apart[b], until) {
						worst = max(worst, rest.to.sub(rest.from))
					}
				}
			}
		}
	}
	return worst
}

func (s span) end(until instant) instant {
	if s.to == 0 {
		return until
	}
	return s.to
}

// without cuts the spans of out away.
func without(in, out []span, until instant) []span {
	for _, o := range out {
		var next []span
		for _, s := range in {
			if left := (span{s.from, min(s.to, o.from)}); left.from < left.to {
				next = append(next, left)
			}
			if right := (span{max(s.from, o.end(until)), s.to}); right.from < right.to {
				next = append(next, right)
			}
		}
		in = next
	}
	return slices.DeleteFunc(slices.Clone(in), func(s span) bool { return s.from >= s.to })
}
