package demo

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"revolve/internal/problem"
)

// answers is what the client got, in the order in which it came.
type answers struct {
	mu   sync.Mutex
	got  []answer // answered, by time of the answer
	lost []answer
}

// read takes the client's reports from r until it ends.
func (a *answers) read(r io.Reader) error {
	var b [answerSize]byte
	for {
		if _, err := io.ReadFull(r, b[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the client has ended
		} else if err != nil {
			return &problem.Problem{Op: "read the client's answers", Kind: problem.Internal, Err: err}
		}
		one := decodeAnswer(&b)
		a.mu.Lock()
		if one.answered == 0 {
			a.lost = append(a.lost, one)
		} else {
			a.got = append(a.got, one)
		}
		a.mu.Unlock()
	}
}

// gap is the longest time without an answer.
type gap struct {
	from, to instant // to is the end of the window when no answer ended it
	open     bool
	node     byte // who answered first after it
}

func (g gap) length() time.Duration { return g.to.sub(g.from) }

// longest is the longest gap between answers of one family that ends within the window.
func (a *answers) longest(six bool, from, to instant) gap {
	a.mu.Lock()
	defer a.mu.Unlock()
	start, _ := slices.BinarySearchFunc(a.got, from, func(x answer, t instant) int { return cmp.Compare(x.answered, t) })
	last := instant(0)
	for i := start - 1; i >= 0 && last == 0; i-- {
		if a.got[i].six == six {
			last = a.got[i].answered
		}
	}
	if last == 0 {
		last = from
	}
	var worst gap
	for _, x := range a.got[start:] {
		if x.answered > to {
			break
		}
		if x.six != six {
			continue
		}
		if g := (gap{from: last, to: x.answered, node: x.node}); g.length() > worst.length() {
			worst = g
		}
		last = x.answered
	}
	if g := (gap{from: last, to: to, open: true}); g.length() > worst.length() {
		worst = g
	}
	return worst
}

// lostBetween counts queries of one family that were sent in the window and never answered.
func (a *answers) lostBetween(six bool, from, to instant) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, x := range a.lost {
		if x.six == six && x.sent >= from && x.sent < to {
			n++
		}
	}
	return n
}

// firstAfter is the first IPv4 answer that came after then, and is from the
// given node (0: from anyone).
func (a *answers) firstAfter(then instant, node byte) (answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(a.got) - 1; i >= 0; i-- {
		if a.got[i].answered <= then {
			for _, x := range a.got[i+1:] {
				if !x.six && (node == 0 || x.node == node) {
					return x, true
				}
			}
			return answer{}, false
		}
	}
	for _, x := range a.got {
		if !x.six && (node == 0 || x.node == node) {
			return x, true
		}
	}
	return answer{}, false
}

// firstOf is the first IPv4 answer of those who took the address, each after it had it. Of two that
// claimed together one gives way at once, and perhaps the one that had it first: the client decides.
func (a *answers) firstOf(list []gain) (first answer, node string, any bool) {
	for _, g := range list {
		x, ok := a.firstAfter(g.at, g.node[0])
		if ok && (!any || x.answered < first.answered) {
			first, node, any = x, g.node, true
		}
	}
	return first, node, any
}

// by is how many IPv4 answers came from whom since then.
func (a *answers) by(then instant) map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := map[string]int{}
	for _, x := range a.got {
		if !x.six && x.answered > then {
			n[string(rune(x.node))]++
		}
	}
	return n
}

// count is how many IPv4 queries were answered in the window.
func (a *answers) count(from, to instant) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, x := range a.got {
		if !x.six && x.answered >= from && x.answered < to {
			n++
		}
	}
	return n
}

// stall is the longest time between two IPv4 queries in the window. It is known
// lostAfter later, when those without an answer have been reported.
func (a *answers) stall(from, to instant) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var sent []instant
	for _, list := range [][]answer{a.got, a.lost} {
		for _, x := range list {
			if !x.six && x.sent >= from && x.sent < to {
				sent = append(sent, x.sent)
			}
		}
	}
	slices.Sort(sent)
	worst, last := time.Duration(0), from
	for _, at := range append(sent, to) {
		worst, last = max(worst, at.sub(last)), at
	}
	return worst
}
