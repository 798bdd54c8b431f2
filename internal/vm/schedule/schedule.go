// Package schedule decides when a machine is copied by itself: PURE.
//
// What became of earlier runs, the rule and the time go in; what to do now, and what
// to remember, comes out. Every machine of a schedule has a Past of its own, which
// its host keeps durably. A run that does not finish by its end is paused, and goes
// on in the next one; one that was missed altogether, because nobody was there, is
// made up for as soon as somebody is. The package copies nothing, and never looks at a clock.
//
//	past, act := schedule.Step(past, plan, schedule.Input{Now: now, Up: up, Running: running})
//	if act == schedule.Begin { ... copy; then }
//	past = schedule.Ended(past, plan, now, schedule.Outcome{Done: true})
package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"revolve/internal/calendar"
)

// Plan is what is to be done of one machine.
type Plan struct {
	When calendar.Rule
	Text string // When, as it is written
	// Waits says that a run that was missed waits for the next window.
	Waits bool
}

// Result is what became of a run.
type Result string

// The results.
const (
	Done       Result = "done"       // the point is on every node that was to have it
	Unfinished Result = "unfinished" // it was paused at its end
	Failed     Result = "failed"     // it was tried until its end
	Missed     Result = "missed"     // it was never tried
	Overtaken  Result = "overtaken"  // it is under way, and later ones have begun
)

// Past is what became of the runs of a schedule for one machine.
type Past struct {
	Rule    string    `json:"rule,omitempty"`   // what this is the past of, as it is written
	Since   time.Time `json:"since"`            // runs that began before it are not this node's
	Young   bool      `json:"young,omitempty"`  // Since was set just after a start, and the clock may have been wrong then
	Settled time.Time `json:"settled,omitzero"` // when the newest run began that is over, one way or another
	Result  Result    `json:"result,omitempty"` // of it
	Why     string    `json:"why,omitempty"`
	Over    time.Time `json:"over,omitzero"`     // when that was known
	Done    time.Time `json:"done,omitzero"`     // when a point was on every node last
	Behind  int       `json:"behind,omitempty"`  // runs in a row since then that brought no copy; maxCounted at most
	MadeUp  int       `json:"made_up,omitempty"` // of those, how many the newest run that was done has made up for
	Turn    *Turn     `json:"turn,omitempty"`    // the run that is under way
	Paused  *Paused   `json:"paused,omitempty"`  // a point that is not everywhere yet
}

// Turn is a run under way. Between two tries it waits.
type Turn struct {
	Begin  time.Time `json:"begin"`        // of the run
	End    time.Time `json:"end,omitzero"` // zero: when it is done
	MadeUp bool      `json:"made_up,omitempty"`
	Tries  int       `json:"tries,omitempty"`
	Again  time.Time `json:"again,omitzero"`  // not before
	Why    string    `json:"why,omitempty"`   // the last try failed
	Later  int       `json:"later,omitempty"` // runs that began while it copied; of them the newest is carried out after it
	Newest time.Time `json:"newest,omitzero"` // of those that were looked at
}

// Paused is a point that was taken and has not come to all nodes.
type Paused struct {
	Point string    `json:"point"`
	Nodes []string  `json:"nodes"`          // that do not have it
	Begin time.Time `json:"begin,omitzero"` // of the run that took it
}

// Act is what to do now.
type Act int

// What may be to be done.
const (
	Nothing Act = iota
	Begin       // copy the machine
	End         // stop the copy that runs: its time is over
)

// Input is what is known now.
type Input struct {
	Now     time.Time
	Up      time.Duration // how long the program has run, whatever the clock says
	Running bool          // a copy of this machine by this schedule runs
}

// maxWhy is how many bytes of a reason are kept: several nodes' errors, and the pasts of a thousand machines are a few MiB.
const maxWhy = 500

// cut shortens a reason to what is kept, never inside a letter.
func cut(why string) string {
	if len(why) <= maxWhy {
		return why
	}
	const more = " ..."
	return strings.ToValidUTF8(why[:maxWhy-len(more)], "") + more
}

// Bounds of what is counted and waited.
const (
	maxCounted = 999
	firstAgain = time.Minute
	lastAgain  = 30 * time.Minute
	// clockSettles is how long a clock may be wrong after a start, before what it says counts against what was written down.
	clockSettles = 10 * time.Minute
)

// Step decides what to do now. It may be asked at any time, and as often as one likes.
func Step(p Past, plan Plan, in Input) (Past, Act) {
	if p.Since.IsZero() {
		p.Since, p.Young = in.Now, true
	}
	if p.Rule != plan.Text { // of runs that a rule would have had before it was written none was missed
		if p.Rule != "" {
			p.Since, p.Settled = in.Now, time.Time{}
		}
		p.Rule = plan.Text
	}
	if !in.Running {
		switch ahead := p.ahead(plan, in.Now); {
		case ahead && in.Up < clockSettles:
			return p, Nothing
		case ahead || p.behind(in):
			p = p.forget(plan, in.Now)
		}
	}
	p.Young = p.Young && in.Up < clockSettles
	last, begun := plan.When.Last(in.Now)
	if t := p.Turn; t != nil {
		over := !t.End.IsZero() && !in.Now.Before(t.End)
		replaced := begun && last.Begin.After(t.Begin) && last.Begin.After(p.from()) && (t.End.IsZero() || t.MadeUp)
		switch {
		case over && in.Running:
			return p, End
		case in.Running:
			return p.overtake(plan, last, in.Now), Nothing
		case !over && !replaced && in.Now.Before(t.Again) && t.Again.Sub(in.Now) <= lastAgain:
			return p, Nothing
		case !over && !replaced:
			return p, Begin
		}
		p = p.close(Failed, t.Why, plan, in.Now)
	}
	if !begun || !last.Begin.After(p.from()) {
		return p, Nothing
	}
	return p.take(plan, last, in.Now)
}

// from is behind which run those come that are to be carried out.
func (p Past) from() time.Time {
	if p.Settled.After(p.Since) {
		return p.Settled
	}
	return p.Since
}

// take begins a run, or takes note that it was missed.
func (p Past) take(plan Plan, last calendar.Run, now time.Time) (Past, Act) {
	missed := 0 // those before it
	for at := plan.When.Next(p.from()); at.Begin.Before(last.Begin) && missed < maxCounted; at = plan.When.Next(at.Begin) {
		missed++
	}
	t := Turn{Begin: last.Begin, End: last.End}
	if !now.Before(last.Latest) {
		missed++
		t.MadeUp = true
		if !last.End.IsZero() {
			t.End = now.Add(last.End.Sub(last.Begin))
		}
	}
	if missed > 0 {
		p.Behind = min(p.Behind+missed, maxCounted)
		why := fmt.Sprintf("for %s this node was off, or did not see the machine run", runs(missed))
		if !p.Over.IsZero() && !last.Latest.After(p.Over) { // it was there, and busy
			why = "the copy before it took until too late"
		}
		p.Result, p.Over, p.Why = Missed, now, why
	}
	if t.MadeUp && plan.Waits {
		p.Settled, p.Why = last.Begin, p.Why+"; it waits for the next window"
		return p, Nothing
	}
	p.Turn = &t
	return p, Begin
}

func runs(n int) string {
	if n == 1 {
		return "1 run"
	}
	return fmt.Sprintf("%d runs", n)
}

// close ends a run that brought no copy.
func (p Past) close(r Result, why string, plan Plan, now time.Time) Past {
	t := p.Turn
	p.Settled, p.Result, p.Why, p.Over, p.Turn = t.Begin, r, cut(why), now, nil
	switch {
	case why == "" && t.Later > 0:
		p.Why = "it was broken off when later runs had begun"
	case why == "":
		p.Why = "its turn did not come in time"
	}
	switch {
	case t.Later > 0: // counted already, and those that overtook it were not missed
		return p.during(plan, now)
	case !t.MadeUp: // what was missed is counted already
		p.Behind = min(p.Behind+1, maxCounted)
	}
	return p
}

// overtake counts the runs that begin while a copy is under way. One that hangs would otherwise never be told of.
func (p Past) overtake(plan Plan, last calendar.Run, now time.Time) Past {
	next := *p.Turn
	known := slices.MaxFunc([]time.Time{next.Begin, next.Newest, p.from()}, time.Time.Compare)
	if !last.Begin.After(known) {
		return p
	}
	n := 0
	for at := plan.When.Next(known); !at.Begin.After(last.Begin) && n < maxCounted; at = plan.When.Next(at.Begin) {
		n++
	}
	if next.MadeUp && next.Newest.IsZero() {
		n-- // what is made up for late may well go on into the next run; that it was missed is told
	}
	next.Newest, next.Later = last.Begin, min(next.Later+n, maxCounted)
	p.Turn = &next
	if n > 0 {
		p.Behind = min(p.Behind+n, maxCounted)
		p.Result, p.Over, p.Why = Overtaken, now, fmt.Sprintf("it is still under way, and %s began meanwhile", runs(next.Later))
	}
	return p
}

// ahead reports whether what was written down is of a time that has yet to come, by more than a clock
// that is put right a little: then the clock was, or is, wrong.
func (p Past) ahead(plan Plan, now time.Time) bool {
	known := p.from()
	if p.Turn != nil && p.Turn.Begin.After(known) {
		known = p.Turn.Begin
	}
	return known.After(plan.When.Next(now).Begin)
}

// firstYear is where a clock begins that knows no time; nothing that is known is of then.
const firstYear = 1970

// behind reports whether what was written down is of a clock that has been put right since: of the first year
// of all, or of a machine that was first seen just now, longer ago than that can be.
func (p Past) behind(in Input) bool {
	if p.from().UTC().Year() <= firstYear && in.Now.UTC().Year() > firstYear {
		return true
	}
	return p.Young && p.Settled.IsZero() && in.Up < clockSettles && in.Now.Sub(p.Since) > clockSettles
}

// forget goes on from now: what was written down was of a clock that was wrong.
func (p Past) forget(plan Plan, now time.Time) Past {
	p.Settled = time.Time{}
	for _, t := range []*time.Time{&p.Since, &p.Done, &p.Over} { // a copy that is done was, at the latest, just now
		if t.After(now) {
			*t = now
		}
	}
	if last, ok := plan.When.Last(now); ok {
		p.Settled = last.Begin
	}
	p.Turn = nil
	return p
}

// Keep takes note of a point that is not everywhere yet; nil: there is none. The run under way took it, if it is a new one.
func (p Past) Keep(q *Paused) Past {
	before := p.Paused
	if p.Paused = q; q == nil {
		return p
	}
	kept := *q
	switch {
	case before != nil && before.Point == q.Point:
		kept.Begin = before.Begin
	case p.Turn != nil:
		kept.Begin = p.Turn.Begin
	}
	p.Paused = &kept
	return p
}

// Outcome is what a copy came to.
type Outcome struct {
	Done    bool   // the point is on every node
	Rest    bool   // it was the rest of a point that was paused: if an earlier run took that, another one is still to be taken
	Stopped bool   // it was stopped at its end
	Why     string // it is not done
	Paused  *Paused
}

// Ended takes in what became of a copy that Step had begun.
func Ended(p Past, plan Plan, now time.Time, o Outcome) Past {
	t, rest := p.Turn, p.Paused
	p = p.Keep(o.Paused)
	switch {
	case t == nil:
	case o.Done && o.Rest && !(rest != nil && rest.Begin.Equal(t.Begin)) && (t.End.IsZero() || now.Before(t.End)):
		next := *t
		next.Again, next.Why = time.Time{}, ""
		p.Turn = &next
	case o.Done:
		p.Settled, p.Result, p.Why, p.Over, p.Done = t.Begin, Done, "", now, now
		p.MadeUp, p.Behind, p.Turn = max(p.Behind-t.Later, 0), 0, nil
		p = p.during(plan, now)
	case o.Stopped:
		p = p.close(Unfinished, o.Why, plan, now)
	default:
		next := *t
		next.Tries, next.Why = t.Tries+1, cut(o.Why)
		next.Again = now.Add(min(firstAgain<<min(t.Tries, 10), lastAgain))
		p.Turn = &next
	}
	return p
}

// during settles runs that began while one was under way: of them only the newest is carried out, and none was missed.
func (p Past) during(plan Plan, now time.Time) Past {
	last, ok := plan.When.Last(now)
	if !ok {
		return p
	}
	if before, ok := plan.When.Last(last.Begin.Add(-time.Nanosecond)); ok && before.Begin.After(p.Settled) {
		p.Settled = before.Begin
	}
	return p
}

// Next is when the next run begins, or a run under way is tried again.
func (p Past) Next(plan Plan, now time.Time) time.Time {
	if p.Turn != nil && p.Turn.Again.After(now) {
		return p.Turn.Again
	}
	return plan.When.Next(now).Begin
}

// Sane cuts what was read from a disk down to what it may be.
func (p Past) Sane() Past {
	p.Behind = min(max(p.Behind, 0), maxCounted)
	p.MadeUp = min(max(p.MadeUp, 0), maxCounted)
	p.Why = cut(p.Why)
	if t := p.Turn; t != nil {
		next := *t
		next.Tries, next.Later = min(max(t.Tries, 0), maxCounted), min(max(t.Later, 0), maxCounted)
		next.Why = cut(t.Why)
		p.Turn = &next
	}
	return p
}
