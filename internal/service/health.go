package service

import "time"

// State is how a service is on this node.
type State string

// The states.
const (
	Starting State = "starting" // not yet known to be well, and not for long
	Healthy  State = "healthy"
	Ill      State = "ill"
	Unknown  State = "unknown" // it cannot be asked now; nothing is decided by it
)

// health makes a state of single findings. It is pure: time comes in as a value.
type health struct {
	rise, fall int // findings in a row that make it healthy, and ill
	state      State
	since      time.Time
	good, bad  int
}

func newHealth(rise, fall int, now time.Time) health {
	return health{rise: rise, fall: fall, state: Starting, since: now}
}

func (h *health) become(s State, now time.Time) {
	if h.state != s {
		h.state, h.since = s, now
	}
}

// well: a check was good.
func (h *health) well(now time.Time) {
	h.bad = 0
	if h.good++; h.good >= h.rise {
		h.become(Healthy, now)
	}
}

// unwell: a check was bad. A service that starts may be for a while.
func (h *health) unwell(now time.Time) {
	h.good = 0
	if h.bad++; h.bad >= h.fall && h.state != Starting {
		h.become(Ill, now)
	}
}

// dead: its process has ended. That needs no counting.
func (h *health) dead(now time.Time) {
	h.good, h.bad = 0, 0
	h.become(Ill, now)
}

// rising reports whether it is ill already and its bad checks do not count yet: it
// has ended and comes up again, and why it ended says more than that it is not up.
func (h *health) rising() bool { return h.state == Ill && h.bad < h.fall }

// late: the time for a start is over.
func (h *health) late(now time.Time) {
	if h.state == Starting {
		h.become(Ill, now)
	}
}

// blind: it cannot be asked.
func (h *health) blind(now time.Time) {
	h.good, h.bad = 0, 0
	h.become(Unknown, now)
}

// sure reports whether the next check may take its time.
func (h *health) sure() bool {
	switch h.state {
	case Healthy:
		return h.bad == 0
	case Ill:
		return h.good == 0 && h.bad >= h.fall
	}
	return false
}

// backoff is the wait before the next start of what does not stay: it doubles
// up to a bound, and begins anew after a life that was long enough. It is pure.
type backoff struct{ wait time.Duration }

const (
	firstRestart = 250 * time.Millisecond // a crash now and then costs its clients no more
	maxRestart   = 10 * time.Second       // what never works is tried for ever; who mended it does not wait long
	steadyAfter  = time.Minute            // a life as long as this was no failed start
)

func (b *backoff) next(lived time.Duration) time.Duration {
	if lived >= steadyAfter {
		b.wait = 0
	}
	b.wait = min(max(firstRestart, 2*b.wait), maxRestart)
	return b.wait
}
