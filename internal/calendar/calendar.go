// Package calendar is times that come again by a clock on a wall: PURE.
//
// A Rule says on which days of the week something begins, and at what time of day;
// a Run is one of its beginnings. On days on which the clock is changed a run
// begins when the clock first shows its time or a later one: a time that is left
// out is made up for at once, one that comes twice counts once. The package looks
// at no clock: times come in, and their location is the one whose wall counts.
//
//	r, ok := calendar.Parse("Sun 03:00")
//	last, ok := r.Last(now)                  // what has begun
//	next := r.Next(now)                      // what comes
package calendar

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Rule is a time that comes again.
type Rule struct {
	Days     [7]bool       // by time.Weekday
	From, To time.Duration // time of day; To only with Window
	Window   bool          // it ends at To, on the next day if that is not after From
	Every    time.Duration // not by days but so often, counted from midnight in UTC
	Length   time.Duration // it ends so long after it began; 0: it does not say
}

// Run is one time that it comes.
type Run struct {
	Begin  time.Time
	Latest time.Time // what has not begun by then has been missed
	End    time.Time // when it is to be over; zero: whenever it is done
}

// Form is how a rule is written: "Sun 03:00", "Mon-Fri 22:00-06:00", "daily 01:00", "every 15m".
const Form = `^((daily|(Sun|Mon|Tue|Wed|Thu|Fri|Sat)(-(Sun|Mon|Tue|Wed|Thu|Fri|Sat))?) ([01][0-9]|2[0-3]):([0-5][0-9])(-([01][0-9]|2[0-3]):([0-5][0-9]))?|every (1|2|5|10|15|20|30)m|every (1|2|3|4|6|8|12)h)$`

const (
	day = 24 * time.Hour
	// beginWithin is how late something may begin that has no end of its own.
	beginWithin = time.Hour
	// farthest is how many days a run can be from now: a week, and those on either side that a changed clock can move it over.
	farthest = 9
	// behindUTC is more than any wall is ahead of UTC.
	behindUTC = 26 * time.Hour
)

// Parse reads a rule.
func Parse(text string) (r Rule, ok bool) {
	m := regexp.MustCompile(Form).FindStringSubmatch(text)
	if m == nil {
		return r, false
	}
	number := func(s string) time.Duration {
		n, _ := strconv.Atoi(s) // digits, says the form; none are 0
		return time.Duration(n)
	}
	if r.Every = number(m[11])*time.Minute + number(m[12])*time.Hour; r.Every > 0 {
		return r, true
	}
	first, last := 0, 6
	if m[2] != "daily" {
		first = weekday(m[3])
		if last = first; m[5] != "" {
			last = weekday(m[5])
		}
	}
	for d := first; ; d = (d + 1) % 7 {
		r.Days[d] = true
		if d == last {
			break
		}
	}
	r.From = number(m[6])*time.Hour + number(m[7])*time.Minute
	r.Window = m[8] != ""
	r.To = number(m[9])*time.Hour + number(m[10])*time.Minute
	return r, true
}

// weekday is the number of a name that the form lets through.
func weekday(name string) int { return strings.Index("SunMonTueWedThuFriSat", name) / 3 }

// Shortest is the shortest time between two beginnings, but for a clock that is changed.
func (r Rule) Shortest() time.Duration {
	if r.Every > 0 {
		return r.Every
	}
	shortest, before := 7, -1
	for d := range 14 {
		if r.Days[d%7] {
			if before >= 0 {
				shortest = min(shortest, d-before)
			}
			before = d
		}
	}
	return time.Duration(shortest) * day
}

// Last is the newest run that has begun at t; false if there is none.
func (r Rule) Last(t time.Time) (Run, bool) {
	if r.Every > 0 {
		return r.every(t.Truncate(r.Every)), true
	}
	for back := -1; back <= farthest; back++ {
		if d := dateOf(t).AddDate(0, 0, -back); r.Days[d.Weekday()] && !r.begins(d, t.Location()).After(t) {
			return r.on(d, t.Location()), true
		}
	}
	return Run{}, false
}

// Next is the first run that begins after t; the zero value if none does.
func (r Rule) Next(t time.Time) Run {
	if r.Every > 0 {
		return r.every(t.Truncate(r.Every).Add(r.Every))
	}
	for ahead := -2; ahead <= farthest; ahead++ {
		if d := dateOf(t).AddDate(0, 0, ahead); r.Days[d.Weekday()] && r.begins(d, t.Location()).After(t) {
			return r.on(d, t.Location())
		}
	}
	return Run{}
}

// dateOf is the date that a wall shows, as one of UTC, where every day has its 24 hours.
func dateOf(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

func (r Rule) every(begin time.Time) Run {
	run := Run{Begin: begin, Latest: begin.Add(min(r.Every, beginWithin))}
	if r.Length > 0 {
		run.End = begin.Add(min(r.Length, r.Every))
		run.Latest = run.End
	}
	return run
}

func (r Rule) begins(date time.Time, loc *time.Location) time.Time {
	return shows(date.Add(r.From), loc)
}

// on is the run of a date.
func (r Rule) on(date time.Time, loc *time.Location) Run {
	run := Run{Begin: r.begins(date, loc)}
	next := run.Begin.Add(8 * day)
	for ahead := 1; ahead <= 7; ahead++ {
		d := date.AddDate(0, 0, ahead)
		if at := r.begins(d, loc); r.Days[d.Weekday()] && at.After(run.Begin) { // a day that is left out begins with the one after it
			next = at
			break
		}
	}
	switch {
	case r.Window:
		long := r.To - r.From
		if long <= 0 {
			long += day
		}
		run.End = shows(date.Add(r.From+long), loc)
		if !run.End.After(run.Begin) { // the changed clock left all of it out
			run.End = run.Begin.Add(long)
		}
	case r.Length > 0:
		run.End = run.Begin.Add(r.Length)
	}
	if run.End.After(next) {
		run.End = next
	}
	if run.Latest = run.End; run.End.IsZero() {
		run.Latest = run.Begin.Add(beginWithin)
		if run.Latest.After(next) {
			run.Latest = next
		}
	}
	return run
}

// shows is the first moment at which the wall of a place shows a date and time (given as
// if it were one of UTC), or a later one. It goes from one offset of that place to the next.
func shows(wall time.Time, loc *time.Location) time.Time {
	for t := wall.Add(-behindUTC).In(loc); ; {
		_, offset := t.Zone()
		at := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		if at.Before(t) { // the clock was put forward over it
			at = t
		}
		_, end := t.ZoneBounds()
		if end.IsZero() || at.Before(end) {
			return at
		}
		t = end
	}
}
