package vip

import "time"

// repeats are the times of the announcements after a takeover: Linux ignores a
// change of a neighbour within 1 s of the last (its locktime), so some must come
// later than that, and the last ones are for switches that were relearning.
func repeats() [7]time.Duration {
	const ms = time.Millisecond
	return [7]time.Duration{0, 50 * ms, 150 * ms, 400 * ms, 1100 * ms, 2200 * ms, 5000 * ms}
}

// RepeatEvery is the announcement's period after the first ones: below the five
// minutes after which switches forget a silent station.
const RepeatEvery = 30 * time.Second

// Schedule says when to announce. Times are spans of one monotonic clock.
type Schedule struct {
	on    bool
	start time.Duration
	sent  int
}

// Start begins anew at now.
func (s *Schedule) Start(now time.Duration) { *s = Schedule{on: true, start: now} }

// Stop ends it.
func (s *Schedule) Stop() { s.on = false }

// Next is when the next announcement is due; ok is false if none is.
func (s *Schedule) Next() (at time.Duration, ok bool) {
	r := repeats()
	if s.sent < len(r) {
		return s.start + r[s.sent], s.on
	}
	return s.start + r[len(r)-1] + time.Duration(s.sent-len(r)+1)*RepeatEvery, s.on
}

// Due reports whether to announce at now, and counts it. After a pause it is due
// once, not once for every time that was missed.
func (s *Schedule) Due(now time.Duration) bool {
	due := false
	for {
		at, ok := s.Next()
		if !ok || now < at {
			return due
		}
		due = true
		s.sent++
	}
}
