package watch

import (
	"testing"
	"time"
)

func TestRest(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		why       string
		awaited   bool
		own       bool
		many      int
		ago, want time.Duration
	}{
		{"a lone change on a master", true, false, 1, 5 * ms, 0},
		{"that wrote its journal for the one before", true, true, 1, 5 * ms, 0},
		{"two at once", true, true, 1, 0, ms},
		{"a stream", true, false, 8, 2 * ms, 6 * ms},
		{"a storm", true, false, 500, 0, mostRest},
		{"a storm that is over", true, false, 500, time.Second, 0},
		{"a standby that applies", false, true, 1, time.Second, mostRest},
		{"a standby on which others write", false, false, 500, 0, 0},
	} {
		now := time.Now()
		l := &loop{w: &Watcher{}, own: c.own, many: c.many, told: now.Add(-c.ago)}
		l.w.Await(c.awaited)
		if got := max(0, l.restFor(now)); got != c.want {
			t.Errorf("%s: rests for %v, not %v", c.why, got, c.want)
		}
	}
}
