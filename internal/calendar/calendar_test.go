package calendar

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	_ "time/tzdata" // the zones are the same on every machine
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func rule(t *testing.T, text string, length time.Duration) Rule {
	t.Helper()
	r, ok := Parse(text)
	if !ok {
		t.Fatalf("%q is no rule", text)
	}
	r.Length = length
	return r
}

// What is a rule, and what is none.
func TestParse(t *testing.T) {
	all := [7]bool{true, true, true, true, true, true, true}
	for text, want := range map[string]Rule{
		"Sun 03:00":           {Days: [7]bool{true}, From: 3 * time.Hour},
		"daily 23:59":         {Days: all, From: 24*time.Hour - time.Minute},
		"Mon-Fri 22:00-06:00": {Days: [7]bool{false, true, true, true, true, true}, From: 22 * time.Hour, To: 6 * time.Hour, Window: true},
		"Sat-Mon 00:00":       {Days: [7]bool{true, true, false, false, false, false, true}},
		"every 15m":           {Every: 15 * time.Minute},
		"every 12h":           {Every: 12 * time.Hour},
	} {
		if got, ok := Parse(text); !ok || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "Sun", "Sun 3:00", "Sun 24:00", "sun 03:00", "daily", "every 7m", "every 0m", "every 5h", "every 15m ", "Sun 03:00-", "Sun,Mon 03:00", "Sun 03:00\n"} {
		if r, ok := Parse(text); ok {
			t.Errorf("%q is taken for a rule: %+v", text, r)
		}
	}
}

func TestShortest(t *testing.T) {
	for text, want := range map[string]time.Duration{"Sun 03:00": 7 * day, "daily 03:00": day, "Mon-Fri 03:00": day, "every 2h": 2 * time.Hour, "Sat-Sun 03:00": day} {
		if got := rule(t, text, 0).Shortest(); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// The days on which a clock is changed, written out: what a person would expect.
func TestChangedClocks(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		zone, text string
		length     time.Duration
		at         string // UTC
		begin, end string // UTC; "": it has no end
	}{
		// 29 March 2026: from 02:00 to 03:00 in Berlin, at 01:00 UTC.
		{"Europe/Berlin", "Sun 02:30", 0, "2026-03-29 12:00", "2026-03-29 01:00", ""},
		{"Europe/Berlin", "Sun 03:00", 3 * hour, "2026-03-29 12:00", "2026-03-29 01:00", "2026-03-29 04:00"},
		{"Europe/Berlin", "Sun 01:00-05:00", 0, "2026-03-29 12:00", "2026-03-29 00:00", "2026-03-29 03:00"},
		{"Europe/Berlin", "Sun 02:10-02:50", 0, "2026-03-29 12:00", "2026-03-29 01:00", "2026-03-29 01:40"},
		{"Europe/Berlin", "Sat 22:00-06:00", 0, "2026-03-29 12:00", "2026-03-28 21:00", "2026-03-29 04:00"},
		// 25 October 2026: from 03:00 to 02:00 in Berlin, at 01:00 UTC. 02:30 comes twice, the first one counts.
		{"Europe/Berlin", "Sun 02:30", 0, "2026-10-25 00:29", "2026-10-18 00:30", ""},
		{"Europe/Berlin", "Sun 02:30", 0, "2026-10-25 00:30", "2026-10-25 00:30", ""},
		{"Europe/Berlin", "Sun 02:30", 0, "2026-10-25 12:00", "2026-10-25 00:30", ""},
		{"Europe/Berlin", "Sun 01:00-05:00", 0, "2026-10-25 12:00", "2026-10-24 23:00", "2026-10-25 04:00"},
		{"Europe/Berlin", "daily 02:30", 2 * hour, "2026-10-26 12:00", "2026-10-26 01:30", "2026-10-26 03:30"},
		// Half an hour in Lord Howe: 4 October 2026 from 02:00 to 02:30, at 15:30 UTC of the day before.
		{"Australia/Lord_Howe", "Sun 02:15", 0, "2026-10-04 12:00", "2026-10-03 15:30", ""},
		// Midnight left out in Sao Paulo: 4 November 2018 from 00:00 to 01:00, at 03:00 UTC.
		{"America/Sao_Paulo", "Sun 00:15", 0, "2018-11-04 12:00", "2018-11-04 03:00", ""},
		// A whole day left out in Apia: there was no 30 December 2011, a Friday; it is made up for when the 31st begins, at 10:00 UTC.
		{"Pacific/Apia", "Fri 03:00", 0, "2011-12-30 12:00", "2011-12-30 10:00", ""},
		{"Pacific/Apia", "daily 00:00-02:00", 0, "2011-12-30 12:00", "2011-12-30 10:00", "2011-12-30 12:00"},
		// Just after midnight in St. John's: 7 November 2010 back at 00:01. Midnight of Sunday comes twice; the first one counts.
		{"America/St_Johns", "Sun 00:00", 0, "2010-11-07 03:00", "2010-11-07 02:30", ""},
		// No day is longer for what counts hours; February has its 29th.
		{"Europe/Berlin", "every 6h", 2 * hour, "2026-03-29 05:00", "2026-03-29 00:00", "2026-03-29 02:00"},
		{"UTC", "daily 03:00", 0, "2028-02-29 04:00", "2028-02-29 03:00", ""},
		// What would go on until the next one is cut there.
		{"UTC", "daily 03:00", 48 * hour, "2026-06-02 04:00", "2026-06-02 03:00", "2026-06-03 03:00"},
	} {
		utc := func(text string) time.Time {
			if text == "" {
				return time.Time{}
			}
			at, err := time.Parse("2006-01-02 15:04", text)
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		got, ok := rule(t, c.text, c.length).Last(utc(c.at).In(zone(t, c.zone)))
		if !ok || !got.Begin.Equal(utc(c.begin)) || !got.End.Equal(utc(c.end)) || got.End.IsZero() != (c.end == "") {
			t.Errorf("%s, %s at %s: begins %v, ends %v, want %s, %s", c.zone, c.text, c.at, got.Begin.UTC(), got.End.UTC(), c.begin, c.end)
		}
	}
}

// wall is what a wall shows, as seconds that could be compared.
func wall(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}

// naive walks minute by minute, and notes when the wall first shows the time of each date.
func naive(r Rule, from, to time.Time) (begins []time.Time) {
	shown := wall(from)
	for t := from; t.Before(to); t = t.Add(time.Minute) {
		now := wall(t)
		for d := dateOf(time.Unix(shown, 0).UTC()).AddDate(0, 0, -1); now > shown && d.Unix() <= now; d = d.AddDate(0, 0, 1) {
			if at := d.Unix() + int64(r.From/time.Second); r.Days[d.Weekday()] && at > shown && at <= now && (len(begins) == 0 || !begins[len(begins)-1].Equal(t)) {
				begins = append(begins, t)
			}
		}
		shown = max(shown, now)
	}
	return begins
}

// Next and Last are what somebody sees who watches the wall for weeks, in zones with every kind of change.
func TestAgainstAWatchedWall(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for _, c := range []struct {
		zone  string
		dates []string // around which clocks were changed
	}{
		{"Europe/Berlin", []string{"2026-03-29", "2026-10-25"}}, {"America/New_York", []string{"2026-03-08", "2026-11-01"}}, {"Australia/Lord_Howe", []string{"2026-04-05", "2026-10-04"}},
		{"America/St_Johns", []string{"2010-03-14", "2010-11-07"}}, {"America/Sao_Paulo", []string{"2018-02-18", "2018-11-04"}}, {"Pacific/Apia", []string{"2011-12-30"}},
		{"Antarctica/Troll", []string{"2026-03-29", "2026-10-25"}}, {"Africa/Casablanca", []string{"2026-02-15", "2026-03-22"}}, {"Asia/Kathmandu", []string{"1986-01-01"}}, {"UTC", []string{"2028-02-29"}},
	} {
		loc := zone(t, c.zone)
		for _, date := range c.dates {
			around, err := time.ParseInLocation(time.DateOnly, date, loc)
			if err != nil {
				t.Fatal(err)
			}
			from, to := around.AddDate(0, 0, -9).Truncate(time.Minute), around.AddDate(0, 0, 9)
			for range 12 {
				// Many close to the night, where clocks are changed.
				at := time.Duration(r.IntN(24*60)) * time.Minute
				if r.IntN(2) == 0 {
					at = time.Duration(r.IntN(3*60+30)) * time.Minute
				}
				rule := Rule{From: at}
				for d := range rule.Days {
					rule.Days[d] = r.IntN(3) > 0
				}
				rule.Days[r.IntN(7)] = true
				what := fmt.Sprintf("seed %d: %s around %s, %v at %v", seed, c.zone, date, rule.Days, rule.From)
				compare(t, what, rule, from, naive(rule, from, to))
			}
		}
	}
}

func compare(t *testing.T, what string, rule Rule, from time.Time, want []time.Time) {
	t.Helper()
	now := from
	for i, begin := range want {
		got := rule.Next(now)
		if !got.Begin.Equal(begin) {
			t.Fatalf("%s: after %v comes %v, watched was %v", what, now, got.Begin, begin)
		}
		last, ok := rule.Last(begin)
		if !ok || last != got {
			t.Fatalf("%s: at %v the last is %v, and it was to be %v", what, begin, last, got)
		}
		if before, ok := rule.Last(begin.Add(-time.Second)); i > 0 && (!ok || !before.Begin.Equal(want[i-1]) && begin.After(want[i-1])) {
			t.Fatalf("%s: before %v the last is %v, watched was %v", what, begin, before.Begin, want[i-1])
		}
		if !got.Latest.After(got.Begin) {
			t.Fatalf("%s: what begins at %v is missed at once", what, got.Begin)
		}
		now = begin
	}
	if len(want) == 0 {
		t.Fatalf("%s: nothing was watched", what)
	}
}

// However a rule is written, what it says is in order, and a run is not over before it begins.
func FuzzRule(f *testing.F) {
	f.Add("Sun 02:30", int64(1774746000), int64(3600))
	f.Add("Mon-Fri 22:00-06:00", int64(1792890000), int64(0))
	f.Add("every 15m", int64(0), int64(100000))
	f.Add("daily 00:00-00:00", int64(1541300400), int64(0))
	loc, err := time.LoadLocation("America/Sao_Paulo")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, at, length int64) {
		r, ok := Parse(text)
		if !ok || at < 0 || at > 4e9 || length < 0 || length > 1e7 {
			return
		}
		if r.Length = time.Duration(length) * time.Second; r.Window {
			r.Length = 0
		}
		now := time.Unix(at, 0).In(loc)
		last, ok := r.Last(now)
		next := r.Next(now)
		switch {
		case !ok || last.Begin.After(now) || !next.Begin.After(now):
			t.Fatalf("%s at %v: %v, then %v", text, now, last, next)
		case !last.End.IsZero() && (!last.End.After(last.Begin) || last.End.After(next.Begin)):
			t.Fatalf("%s at %v: ends %v, the next begins %v", text, now, last, next)
		case !last.Latest.After(last.Begin) || last.Latest.After(next.Begin):
			t.Fatalf("%s at %v: %v, and the next begins %v", text, now, last, next)
		}
	})
}
