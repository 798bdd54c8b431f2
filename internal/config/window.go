package config

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Window is a time that comes again: on some days of the week, from one time of day
// to another, in the local time of the machine. It may go over midnight; the day
// is that of its beginning.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To time.Duration
}

// windowForm is how one is written: "Sun 03:00-05:00", "Mon-Fri 22:00-06:00", "daily 03:00-04:00".
const windowForm = `^(daily|(Sun|Mon|Tue|Wed|Thu|Fri|Sat)(-(Sun|Mon|Tue|Wed|Thu|Fri|Sat))?) ([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])$`

// parseWindow reads one. From and To the same is a whole day.
func parseWindow(text string) (w Window, ok bool) {
	m := regexp.MustCompile(windowForm).FindStringSubmatch(text)
	if m == nil {
		return w, false
	}
	first, last := 0, 6
	if m[1] != "daily" {
		first = weekday(m[2])
		if last = first; m[4] != "" {
			last = weekday(m[4])
		}
	}
	for d := first; ; d = (d + 1) % 7 {
		w.Days[d] = true
		if d == last {
			break
		}
	}
	number := func(s string) time.Duration {
		n, _ := strconv.Atoi(s) // two digits, says the form
		return time.Duration(n)
	}
	w.From = number(m[5])*time.Hour + number(m[6])*time.Minute
	w.To = number(m[7])*time.Hour + number(m[8])*time.Minute
	return w, true
}

// weekday is the number of a name that the form lets through.
func weekday(name string) int { return strings.Index("SunMonTueWedThuFriSat", name) / 3 }

// Open reports whether the window is open at t. The zero value never is.
func (w Window) Open(t time.Time) bool {
	at := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
	today, yesterday := w.Days[t.Weekday()], w.Days[(t.Weekday()+6)%7]
	if w.From < w.To {
		return today && at >= w.From && at < w.To
	}
	return today && at >= w.From || yesterday && at < w.To
}

// Opened is when the window opened that is open at t, or opens last before it, at most a week before; zero if none.
func (w Window) Opened(t time.Time) time.Time {
	for back := range 8 {
		day := t.AddDate(0, 0, -back)
		if !w.Days[day.Weekday()] {
			continue
		}
		at := time.Date(day.Year(), day.Month(), day.Day(), int(w.From/time.Hour), int(w.From%time.Hour/time.Minute), 0, 0, t.Location())
		if !at.After(t) {
			return at
		}
	}
	return time.Time{}
}
