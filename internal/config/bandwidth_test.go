package config

import (
	"strings"
	"testing"
	"time"
)

// The first open window decides, in the local time of whoever asks; none is no limit.
func TestBandwidth(t *testing.T) {
	text := strings.Replace(good, "failover:", `bandwidth:
  lan: { rate: 50MiB, windows: [ { when: "Mon-Fri 08:00-18:00", rate: 2MiB }, { when: "daily 12:00-13:00", rate: none } ] }
  fast: { windows: [ { when: "daily 08:00-18:00", rate: 64KiB } ] }
failover:`, 1)
	cfg, err := Parse("bandwidth.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	at := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 30, 0, 0, time.UTC) } // the 1st is a Sunday
	for _, c := range []struct {
		day, hour int
		lan, fast int64
	}{
		{1, 9, 50 << 20, 64 << 10}, {2, 7, 50 << 20, 0}, {2, 8, 2 << 20, 64 << 10}, {2, 12, 2 << 20, 64 << 10}, {1, 12, 0, 64 << 10}, {2, 18, 50 << 20, 0},
	} {
		lan, fast := cfg.Bandwidth["lan"].At(at(c.day, c.hour)), cfg.Bandwidth["fast"].At(at(c.day, c.hour))
		if lan != c.lan || fast != c.fast {
			t.Errorf("on the %d. at %d:30: %d and %d, want %d and %d", c.day, c.hour, lan, fast, c.lan, c.fast)
		}
	}
	if (Bandwidth{}).At(at(1, 1)) != 0 {
		t.Error("a link that nothing is said of has a limit")
	}
}
