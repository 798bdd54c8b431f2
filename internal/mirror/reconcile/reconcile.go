// Package reconcile decides, PURELY, how a follower and a master agree on one
// history: whether the follower only continues, must first set changes aside
// that the master never received, or must compare whole trees; and it keeps
// account of the paths that are still owed below an acknowledged position.
//
// It never does I/O, has no clock, no locks and no goroutines.
//
//	plan := reconcile.Decide(master, follower, oldestReadable)
package reconcile

import (
	"slices"

	"revolve/internal/cluster"
)

// Span is one reign of a volume's history: every change of that reign up to
// and including Last.
type Span struct {
	cluster.Reign
	Last uint64 `json:"last"`
}

// MaxSpans bounds a history. Reigns end by failures and planned switches: 256
// are years of a home; older ones only cost a comparison of trees.
const MaxSpans = 256

// History is the sequence of reigns that a volume went through, oldest first.
type History []Span

// End is the position at which the history ends.
func (h History) End() cluster.Position {
	if len(h) == 0 {
		return cluster.Position{}
	}
	s := h[len(h)-1]
	return cluster.Position{Term: s.Term, Seq: s.Last}
}

// Reign is the last reign, zero if there is none.
func (h History) Reign() cluster.Reign {
	if len(h) == 0 {
		return cluster.Reign{}
	}
	return h[len(h)-1].Reign
}

// Until is the history cut at p, which must lie within it.
func (h History) Until(p cluster.Position) History {
	for i, s := range h {
		if s.Term < p.Term {
			continue
		}
		if s.Term > p.Term {
			return slices.Clone(h[:i])
		}
		cut := slices.Clone(h[:i+1])
		cut[i].Last = min(s.Last, p.Seq)
		return cut
	}
	return slices.Clone(h)
}

// Extend is the history with reign r begun, or moved on to seq if r is the last reign.
func (h History) Extend(r cluster.Reign, seq uint64) History {
	if n := len(h); n > 0 && h[n-1].Reign == r {
		h[n-1].Last = max(h[n-1].Last, seq)
		return h
	}
	h = append(h, Span{r, seq})
	if len(h) > MaxSpans {
		h = slices.Delete(h, 0, len(h)-MaxSpans)
	}
	return h
}

// Action is what a follower has to do before it can follow.
type Action uint8

// The actions.
const (
	Continue Action = iota // the follower's history is a beginning of the master's
	SetAside               // the follower has changes above From that the master never received
	Compare                // the journals do not reach: compare whole trees
)

// String names the action in logs.
func (a Action) String() string {
	switch a {
	case Continue:
		return "continue"
	case SetAside:
		return "set aside"
	case Compare:
		return "compare"
	}
	return "unknown"
}

// Plan is what Decide found.
type Plan struct {
	Action Action           `json:"action"`
	From   cluster.Position `json:"from"`  // the last position that both have; Continue and SetAside go on behind it
	Known  bool             `json:"known"` // Compare: the two have a common history, so what only the follower has is merely old
	Tail   bool             `json:"tail"`  // the follower has changes above From: they are divergent
}

// Decide compares a follower's history with the master's. oldest is the oldest
// position behind which the master's journal can still be read.
func Decide(master, follower History, oldest cluster.Position) Plan {
	from, known := Common(master, follower)
	plan := Plan{From: from, Known: known, Tail: from.Compare(follower.End()) < 0}
	switch {
	case !known || from.Compare(oldest) < 0:
		plan.Action = Compare
	case plan.Tail:
		plan.Action = SetAside
	}
	return plan
}

// Common is the last position that two histories share; known is false if they
// share no reign at all.
func Common(a, b History) (at cluster.Position, known bool) {
	// The newest shared reign decides: below it both went through the same changes,
	// because a reign starts only behind what its owner had.
	for i := len(a) - 1; i >= 0; i-- {
		j := slices.IndexFunc(b, func(s Span) bool { return s.Reign == a[i].Reign })
		if j >= 0 {
			return cluster.Position{Term: a[i].Term, Seq: min(a[i].Last, b[j].Last)}, true
		}
	}
	return cluster.Position{}, false
}
