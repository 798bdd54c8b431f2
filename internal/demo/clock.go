package demo

import (
	"time"

	"golang.org/x/sys/unix"
)

// instant is nanoseconds of CLOCK_MONOTONIC, which all processes of a machine
// share whatever namespace they are in (no time namespaces here).
type instant int64

// now is the present instant.
func now() instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock (clock_gettime(2))
	return instant(ts.Nano())
}

// instantOf converts a time that carries Go's monotonic reading, which is the same clock.
func instantOf(t time.Time) instant { return convert(t, now) }

// convert errs to the later side if the machine takes its processor away in between: what
// follows from a fault never seems to come before it.
func convert(t time.Time, clock func() instant) instant {
	ago := time.Since(t)
	return clock() - instant(ago)
}

func (i instant) sub(o instant) time.Duration { return time.Duration(i - o) }

func (i instant) add(d time.Duration) instant { return i + instant(d) }

// ms rounds a duration to tenths of milliseconds for people and for JSON.
func ms(d time.Duration) float64 { return float64(d.Round(100*time.Microsecond)) / 1e6 }
