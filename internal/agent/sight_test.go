package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/mirror"
)

// TestALookThatHangsHoldsNobody: who asks while a disk holds the look is told what was seen last, and only the first one waits for it;
// of what hangs there is one; when the disk answers, what is new is told again.
func TestALookThatHangsHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		hangs := make(chan struct{})
		close(hangs)
		l := newLooker(func() sight {
			n := looks.Add(1)
			<-hangs
			return sight{volumes: make([]mirror.Report, n), at: time.Now()}
		})
		if s := l.seen(); !s.at.IsZero() {
			t.Fatalf("before the first look: %+v", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		if s := l.look(); len(s.volumes) != 1 || s.at != time.Now() {
			t.Fatalf("a look that nothing holds: %+v", s)
		}
		hangs = make(chan struct{})
		seen := time.Now()
		for i := range 5 {
			before := time.Now()
			s := l.look()
			if len(s.volumes) != 1 || s.at != seen {
				t.Errorf("while it hangs: %+v", s)
			}
			if took := time.Since(before); i == 0 && took != lookWithin || i > 1 && took != 0 {
				t.Errorf("ask %d waited %v", i, took)
			}
			time.Sleep(time.Second)
		}
		if n := looks.Load(); n != 2 {
			t.Errorf("%d looks hang", n-1)
		}
		close(hangs)
		synctest.Wait()
		if s := l.look(); len(s.volumes) != 3 || s.at != time.Now() {
			t.Errorf("when it answers again: %+v", s)
		}
		hangs = make(chan struct{})
		l.look()
		before := time.Now()
		cancel()
		if err := <-ended; err != nil || time.Since(before) != pulseLeave {
			t.Errorf("the end waits %v for what hangs: %v", time.Since(before), err)
		}
		if s := l.look(); len(s.volumes) != 3 {
			t.Errorf("after the end: %+v", s)
		}
		close(hangs)
	})
}

// A look is as old as its beginning: what was seen first may be otherwise at its end.
func TestALookIsAsOldAsItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooker(func() sight {
			time.Sleep(lookWithin / 2)
			return sight{at: time.Now()}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		before := time.Now()
		if s := l.look(); !s.at.Equal(before) || time.Since(before) != lookWithin/2 {
			t.Errorf("it is %v old after %v", time.Since(s.at), time.Since(before))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
