// Package keep decides which points of a machine stay on a node. It is PURE:
// points, rules and the time go in, a verdict with its reasons for each comes out.
//
// A point goes only when no rule wants it: there are as many newer ones as the
// rule counts, and it is older than so many of its periods. So a machine that was
// off for a year keeps its last points. Never to go are the newest point, the
// newest that other nodes have too, the newest that was proven, and what was kept
// aside. It deletes nothing itself.
//
//	for _, v := range keep.Decide(points, keep.Rules{Last: 3, Weekly: 4}, now) { ... }
package keep

import (
	"fmt"
	"slices"
	"time"
)

// Rules say how many stay, of the newest and of the newest in each day, week and
// month of the calendar. All zero: everything stays.
type Rules struct {
	Last    int `json:"last,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
}

// None reports whether there are no rules.
func (r Rules) None() bool { return r == Rules{} }

// Point is what matters of one.
type Point struct {
	ID     string
	At     time.Time // when it was taken; its calendar is that of its location
	Base   string    // the next copy for this node, or from it, starts here; "": none does
	Proven bool      // it came up in a rehearsal, or every block of it was compared
	Aside  bool      // what a home had that lost its machine
}

// Verdict is what becomes of one point.
type Verdict struct {
	ID   string   `json:"id"`
	Stay bool     `json:"stay"`
	Why  []string `json:"why"` // it stays
}

// period is one rule of the calendar: the name of the one in which a time is, and
// when so many of them ended before another time.
type period struct {
	name  string
	count int
	of    func(t time.Time) string
	back  func(t time.Time, n int) time.Time
}

func periods(r Rules) []period {
	return []period{
		{"daily", r.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }, func(t time.Time, n int) time.Time { return t.AddDate(0, 0, -n) }},
		{"weekly", r.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "-", w) }, func(t time.Time, n int) time.Time { return t.AddDate(0, 0, -7*n) }},
		{"monthly", r.Monthly, func(t time.Time) string { return t.Format("2006-01") }, func(t time.Time, n int) time.Time { return t.AddDate(0, -n, 0) }},
	}
}

// Decide judges points, which come newest first: by their history, not their
// clocks. Now is a time in the location whose calendar counts.
func Decide(points []Point, r Rules, now time.Time) []Verdict {
	out := make([]Verdict, len(points))
	stay := func(i int, why string) {
		out[i].Stay, out[i].Why = true, append(out[i].Why, why)
	}
	proven := slices.IndexFunc(points, func(p Point) bool { return p.Proven && !p.Aside })
	newest := slices.IndexFunc(points, func(p Point) bool { return !p.Aside })
	counted := 0 // what was kept aside stays anyhow, and is counted for no rule
	for i, p := range points {
		out[i] = Verdict{ID: p.ID, Why: []string{}}
		switch {
		case r.None():
			stay(i, "there are no rules")
		case i == newest:
			stay(i, "the newest")
		}
		if p.Base != "" {
			stay(i, p.Base)
		}
		if i == proven {
			stay(i, "the newest that was proven")
		}
		if p.Aside {
			stay(i, "kept aside when the machine was started elsewhere")
			continue
		}
		if counted++; counted <= r.Last {
			stay(i, "last")
		}
	}
	for _, p := range periods(r) {
		if p.count <= 0 {
			continue
		}
		oldest, seen := p.back(now, p.count), map[string]bool{}
		for i, point := range points {
			if point.Aside {
				continue
			}
			at := point.At.In(now.Location())
			if name := p.of(at); !seen[name] {
				seen[name] = true
				if len(seen) <= p.count || at.After(oldest) {
					stay(i, p.name)
				}
			}
		}
	}
	return out
}
