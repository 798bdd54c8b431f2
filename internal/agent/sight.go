package agent

import (
	"context"
	"sync/atomic"
	"time"

	"revolve/internal/mirror"
)

// This file looks at what may wait for a disk, apart from everybody who asks: a disk that hangs must not hang the
// status, and with it the alarms that are to tell of it.

const (
	// lookWithin is how long who asks waits for a look: a busy disk is often quicker, and what waits for the status longer.
	lookWithin = time.Second
	// lookOld is the age from which on what was seen says nothing about now.
	lookOld = 5 * time.Second
)

// sight is what was seen, and when.
type sight struct {
	volumes []mirror.Report
	kept    []string  // changes of the members that lost
	at      time.Time // when the look began
}

// looker looks, one look at a time: of all that a hanging disk holds there is one goroutine.
type looker struct {
	take  func() sight
	asks  chan chan<- sight
	last  atomic.Pointer[sight]
	began atomic.Pointer[time.Time] // of the look that goes on; nil: none does
	ended chan struct{}
}

func newLooker(take func() sight) *looker {
	return &looker{take: take, asks: make(chan chan<- sight), ended: make(chan struct{})}
}

// run serves those who ask until ctx ends.
func (l *looker) run(ctx context.Context) error {
	defer close(l.ended)
	done := make(chan sight, 1)
	for {
		var answer chan<- sight
		select {
		case <-ctx.Done():
			return nil
		case answer = <-l.asks:
		}
		now := time.Now()
		l.began.Store(&now)
		go func() {
			s := l.take()
			s.at = now // what it saw is no younger
			done <- s
		}()
		select {
		case s := <-done:
			l.last.Store(&s)
			l.began.Store(nil)
			answer <- s
		case <-ctx.Done(): // what the kernel holds cannot be taken back: the process ends without it
			select {
			case <-done:
			case <-time.After(pulseLeave):
			}
			return nil
		}
	}
}

// look is what is seen now; what was seen last, if the look is held up.
func (l *looker) look() sight {
	if began := l.began.Load(); began != nil && time.Since(*began) > lookWithin {
		return l.seen()
	}
	late := time.NewTimer(lookWithin)
	defer late.Stop()
	answer := make(chan sight, 1)
	select {
	case l.asks <- answer:
	case <-late.C:
		return l.seen()
	case <-l.ended:
		return l.seen()
	}
	select {
	case s := <-answer:
		return s
	case <-late.C:
	case <-l.ended:
	}
	return l.seen()
}

// seen is the last look; before the first there is nothing.
func (l *looker) seen() sight {
	if s := l.last.Load(); s != nil {
		return *s
	}
	return sight{}
}

// seeing is what this node looks at.
func (a *Agent) seeing() sight {
	s := sight{volumes: a.engine.Reports()}
	s.kept, _ = a.o.Roster.Kept() // an error is one of the pattern, which is constant
	return s
}

// volumeReports are how the volumes are; while a disk holds whoever asks it, how they were.
func (a *Agent) volumeReports() []mirror.Report { return a.looks.look().volumes }
