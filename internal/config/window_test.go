package config

import (
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	at := func(day int, clock string) time.Time { // 2026-11-01 is a Sunday
		c, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 11, day, c.Hour(), c.Minute(), c.Second(), 0, time.UTC)
	}
	for _, c := range []struct {
		text  string
		day   int
		clock string
		open  bool
	}{
		{"Sun 03:00-05:00", 1, "03:00:00", true}, {"Sun 03:00-05:00", 1, "04:59:59", true}, {"Sun 03:00-05:00", 1, "05:00:00", false},
		{"Sun 03:00-05:00", 2, "04:00:00", false}, {"Sun 03:00-05:00", 1, "02:59:59", false},
		{"Mon-Fri 22:00-06:00", 2, "22:00:00", true}, {"Mon-Fri 22:00-06:00", 7, "05:59:59", true}, {"Mon-Fri 22:00-06:00", 7, "22:00:00", false},
		{"Mon-Fri 22:00-06:00", 1, "23:00:00", false}, {"Mon-Fri 22:00-06:00", 2, "01:00:00", false},
		{"Sat-Sun 00:00-00:00", 7, "12:00:00", true}, {"Sat-Sun 00:00-00:00", 1, "12:00:00", true}, {"Sat-Sun 00:00-00:00", 2, "12:00:00", false},
		{"daily 23:30-00:30", 4, "00:29:59", true}, {"daily 23:30-00:30", 4, "00:30:00", false}, {"daily 00:00-00:00", 4, "00:00:00", true},
	} {
		w, ok := parseWindow(c.text)
		if !ok || w.Open(at(c.day, c.clock)) != c.open {
			t.Errorf("%s on the %d. at %s: open %v, %v", c.text, c.day, c.clock, !c.open, ok)
		}
	}
	for _, text := range []string{"", "Sun", "sun 03:00-05:00", "Sun 3:00-5:00", "Sun 03:00-24:00", "Sun,Mon 03:00-05:00", "daily 03:00-05:00 "} {
		if _, ok := parseWindow(text); ok {
			t.Errorf("%q is taken for a window", text)
		}
	}
	if (Window{}).Open(at(1, "00:00:00")) {
		t.Error("no window is open")
	}
}

// When a window that is open has opened: a thing that is done once in it is not done twice.
func TestWindowOpened(t *testing.T) {
	day := func(d, h, m int) time.Time { return time.Date(2026, 11, d, h, m, 0, 0, time.UTC) } // the 1st is a Sunday
	for _, c := range []struct {
		text     string
		at, want time.Time
	}{
		{"Sun 03:00-05:00", day(1, 4, 59), day(1, 3, 0)}, {"Sun 03:00-05:00", day(1, 3, 0), day(1, 3, 0)}, {"Sun 03:00-05:00", day(8, 2, 59), day(1, 3, 0)},
		{"Mon-Fri 22:00-06:00", day(7, 5, 0), day(6, 22, 0)}, {"Mon-Fri 22:00-06:00", day(4, 23, 0), day(4, 22, 0)}, {"daily 00:00-00:00", day(4, 12, 0), day(4, 0, 0)},
	} {
		w, ok := parseWindow(c.text)
		if got := w.Opened(c.at); !ok || !got.Equal(c.want) {
			t.Errorf("%s at %v opened %v, want %v", c.text, c.at, got, c.want)
		}
	}
	if at := (Window{}).Opened(day(1, 0, 0)); !at.IsZero() {
		t.Errorf("no window opened %v", at)
	}
}
