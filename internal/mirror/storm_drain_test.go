package mirror

import (
	"context"
	"sync"
	"testing/synctest"
	"time"
)

// drainMode says what becomes of a stream's question whether everything is journaled that happened so far. What is answered is
// true, as with a real watcher (watch.Drain): a storm whose events lag behind answers late.
type drainMode uint8

const (
	drainReads drainMode = iota // has everything read at once, as the real one does
	drainWaits                  // waits until the storm has had everything read
	drainNever                  // cannot be asked
	drainModes
)

// drainStep is how often a storm looks whether somebody drains while nothing else happens.
const drainStep = 100 * time.Millisecond

// drains are the questions of the source's streams. What is queued when the storm looks counts as what was when they were asked.
type drains struct {
	mode  drainMode
	mu    sync.Mutex
	asked []chan struct{}
	begun []drain
	told  int // events that were read
}

type drain struct {
	most int // it is over when so many events were read
	over chan struct{}
}

// drain is what a stream asks, nil if it cannot.
func (w *world) drain() func(ctx context.Context) error {
	if w.drains.mode == drainNever {
		return nil
	}
	return func(ctx context.Context) error {
		over := make(chan struct{})
		w.drains.mu.Lock()
		w.drains.asked = append(w.drains.asked, over)
		w.drains.mu.Unlock()
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// beginDrains takes on what was asked; what settles is told at once then.
func (w *world) beginDrains() (any bool) {
	w.drains.mu.Lock()
	asked := w.drains.asked
	w.drains.asked = nil
	w.drains.mu.Unlock()
	if len(asked) == 0 {
		return false
	}
	w.src.settle()
	for _, over := range asked {
		w.drains.begun = append(w.drains.begun, drain{w.drains.told + len(w.src.events), over})
	}
	w.endDrains()
	return true
}

// endDrains answers those that have waited long enough.
func (w *world) endDrains() {
	for len(w.drains.begun) > 0 && w.drains.begun[0].most <= w.drains.told {
		close(w.drains.begun[0].over)
		w.drains.begun = w.drains.begun[1:]
	}
}

// pass lets d pass, and everything happen that happens without us.
func (w *world) pass(d time.Duration) error {
	for {
		synctest.Wait()
		if w.beginDrains() {
			if w.drains.mode == drainReads {
				if err := w.emit(len(w.src.events)); err != nil {
					return err
				}
			}
			continue
		}
		if d <= 0 {
			return nil
		}
		next := min(d, drainStep)
		time.Sleep(next)
		d -= next
	}
}
