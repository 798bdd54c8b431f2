package keep

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// every makes points that are a step apart, newest first, down to a time.
func every(from, until time.Time, step func(t time.Time) time.Time) (list []Point) {
	for at := from; !at.Before(until); at = step(at) {
		list = append(list, Point{ID: at.Format("2006-01-02T15:04"), At: at})
	}
	return list
}

func stays(list []Verdict) (ids []string) {
	for _, v := range list {
		if v.Stay {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

func TestDecide(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, berlin)
	daily := func(t time.Time) time.Time { return t.AddDate(0, 0, -1) }
	days := every(now.Add(-9*time.Hour), now.AddDate(0, 0, -10), daily) // 26 Nov 03:00 ... 17 Nov
	mark := func(i int, do func(p *Point)) []Point {
		list := slices.Clone(days)
		do(&list[i])
		return list
	}
	proven := mark(2, func(p *Point) { p.Aside, p.Proven = true, true })
	proven[8].Proven = true
	for name, c := range map[string]struct {
		points []Point
		rules  Rules
		want   string // days of the month that stay
	}{
		"no rules":                 {days, Rules{}, "26 25 24 23 22 21 20 19 18 17"},
		"last":                     {days, Rules{Last: 3}, "26 25 24"},
		"daily":                    {days, Rules{Daily: 4}, "26 25 24 23"},
		"weekly, newest of each":   {days, Rules{Weekly: 1}, "26 22"}, // 22 Nov was a Sunday, less than a week ago
		"monthly":                  {days, Rules{Monthly: 2}, "26"},
		"together":                 {days, Rules{Last: 2, Weekly: 2}, "26 25 22"},
		"a base":                   {mark(7, func(p *Point) { p.Base = "b has it" }), Rules{Last: 1}, "26 19"},
		"the newest proven":        {mark(8, func(p *Point) { p.Proven = true }), Rules{Last: 1}, "26 18"},
		"aside is not counted":     {mark(1, func(p *Point) { p.Aside = true }), Rules{Last: 2}, "26 25 24"},
		"aside is no day's":        {mark(1, func(p *Point) { p.Aside = true }), Rules{Daily: 2}, "26 25 24"},
		"proven, the first aside":  {proven, Rules{Last: 1}, "26 24 18"},
		"kept aside, and a newest": {mark(0, func(p *Point) { p.Aside = true }), Rules{Weekly: 1}, "26 25 22"},
		"none":                     {nil, Rules{Last: 3}, ""},
	} {
		var got []string
		for _, id := range stays(Decide(c.points, c.rules, now)) {
			got = append(got, id[8:10])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v stay, want %s", name, got, c.want)
		}
	}
}

// A machine that was off keeps its last points, however old: their count is not exceeded.
func TestOffForAYear(t *testing.T) {
	last := time.Date(2025, 6, 1, 3, 0, 0, 0, time.UTC)
	list := every(last, last.AddDate(0, -3, 0), func(t time.Time) time.Time { return t.AddDate(0, 0, -1) })
	got := stays(Decide(list, Rules{Daily: 5, Weekly: 3, Monthly: 2}, last.AddDate(1, 0, 0)))
	want := []string{"2025-06-01T03:00", "2025-05-31T03:00", "2025-05-30T03:00", "2025-05-29T03:00", "2025-05-28T03:00", "2025-05-25T03:00", "2025-05-18T03:00"}
	if !slices.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

// A simulated year, one point an hour, decided after each: never fewer stay than
// the rules count, never many more, and the days on which clocks change are days.
func TestYear(t *testing.T) {
	for _, place := range []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} {
		loc := zone(t, place)
		rules := Rules{Last: 4, Daily: 7, Weekly: 4, Monthly: 6}
		var list []Point
		begin := time.Date(2026, 1, 1, 0, 30, 0, 0, loc)
		for at := begin; at.Before(begin.AddDate(1, 0, 0)); at = at.Add(time.Hour) {
			list = append([]Point{{ID: fmt.Sprint(at.Unix()), At: at}}, list...)
			verdicts := Decide(list, rules, at)
			list = slices.DeleteFunc(list, func(p Point) bool {
				i := slices.IndexFunc(verdicts, func(v Verdict) bool { return v.ID == p.ID })
				return !verdicts[i].Stay
			})
		}
		days, weeks, months := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, p := range list {
			days[p.At.Format(time.DateOnly)], months[p.At.Format("2006-01")] = true, true
			y, w := p.At.ISOWeek()
			weeks[fmt.Sprint(y, w)] = true
		}
		if most := 4 + 8 + 5 + 7; len(list) > most || len(days) < 7 || len(weeks) < 4 || len(months) < 6 {
			t.Errorf("%s: %d points (at most %d), %d days, %d weeks, %d months", place, len(list), most, len(days), len(weeks), len(months))
		}
	}
}

// Clocks that step back do not make the newest old: history orders points, not time.
func TestClockBack(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	list := []Point{{ID: "new", At: now.AddDate(-1, 0, 0)}, {ID: "old", At: now}}
	if got := stays(Decide(list, Rules{Last: 1}, now)); !slices.Equal(got, []string{"new"}) {
		t.Errorf("%v stay", got)
	}
}
