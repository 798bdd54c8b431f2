package send

import (
	"testing"
	"time"
)

// TestPingsMeet: whenever streams begin, their pings come at the same moments.
func TestPingsMeet(t *testing.T) {
	now := time.Unix(1_700_000_000, 123_456_789)
	for range 1000 {
		later := now.Add(7_654_321)
		a, b := now.Add(untilPing(now)), later.Add(untilPing(later))
		if !a.After(now) || a.Sub(now) > pingEvery || b.Sub(a)%pingEvery != 0 {
			t.Fatalf("from %v at %v, from %v at %v", now, a, later, b)
		}
		now = later
	}
}
