package pace

import (
	"testing"
	"time"
)

// link plays a link with its own clock: whoever may send does, and every byte is counted.
type link struct {
	b   Bucket
	now time.Time
	sum [2]int64         // bytes by class
	max [2]time.Duration // longest wait by class
}

// sender has something of its class at all times, or every so often.
type sender struct {
	class Class
	size  int // 0: a piece
	every time.Duration
	next  time.Time // when it has something
}

// run lets the senders send until the time is over.
func (l *link) run(d time.Duration, senders ...*sender) {
	for end := l.now.Add(d); l.now.Before(end); {
		step := end.Sub(l.now)
		for _, s := range senders {
			if s.next.After(l.now) {
				step = min(step, s.next.Sub(l.now))
				continue
			}
			waited := l.now.Sub(s.next)
			if s.next.IsZero() {
				s.next, waited = l.now, 0
			}
			if wait := l.b.Wait(l.now, s.class, waited); wait > 0 {
				step = min(step, wait)
				continue
			}
			size := s.size
			if size == 0 {
				size = l.b.Piece()
			}
			l.b.Sent(l.now, size)
			l.sum[s.class] += int64(size)
			l.max[s.class] = max(l.max[s.class], waited)
			s.next, step = s.next.Add(s.every), 0
			if s.every == 0 {
				s.next = l.now
			}
		}
		l.now = l.now.Add(max(step, 0))
	}
}

func begin(rate int64) *link {
	l := &link{now: time.Unix(1_000_000, 0)}
	l.b.Set(l.now, rate)
	return l
}

// within reports a count that is off by more than a burst and the last piece of each of three senders.
func within(t *testing.T, what string, got, rate int64, d time.Duration) {
	t.Helper()
	b := Bucket{rate: rate}
	want, slack := int64(float64(rate)*d.Seconds()), int64(b.size())+3*int64(b.Piece())
	if got < want-slack || got > want+slack {
		t.Errorf("%s: %d bytes in %v at %d bytes a second", what, got, d, rate)
	}
}

// Whatever is sent, and by however many, a link carries its rate and a burst.
func TestRate(t *testing.T) {
	for _, rate := range []int64{64 << 10, 1 << 20, 100 << 20} {
		l := begin(rate)
		l.run(10*time.Second, &sender{class: Bulk}, &sender{class: Bulk}, &sender{class: Small, size: 3000})
		within(t, "three senders", l.sum[Small]+l.sum[Bulk], rate, 10*time.Second)
		l = begin(rate)
		l.run(time.Minute) // nobody sends: what is saved up is a burst, not a minute
		l.run(time.Second, &sender{class: Bulk})
		within(t, "after a pause", l.sum[Bulk], rate, time.Second)
	}
}

// A small change does not wait behind bulk that fills the link.
func TestSmallGoesAhead(t *testing.T) {
	l := begin(10 << 20)
	small := &sender{class: Small, size: 4 << 10, every: 5 * time.Millisecond}
	l.run(10*time.Second, &sender{class: Bulk}, &sender{class: Bulk}, small)
	if want := int64(2000 * 4 << 10); l.sum[Small] < want-8<<10 {
		t.Errorf("%d bytes of small changes, %d wanted to be sent", l.sum[Small], want)
	}
	if l.max[Small] != 0 {
		t.Errorf("a small change waited for %v", l.max[Small])
	}
	within(t, "both", l.sum[Small]+l.sum[Bulk], 10<<20, 10*time.Second)
}

// Small changes that fill the link alone leave bulk a piece a second, and keep the rate.
func TestBulkComesAllTheSame(t *testing.T) {
	l := begin(1 << 20)
	l.run(30*time.Second, &sender{class: Bulk}, &sender{class: Small, size: 20 << 10})
	within(t, "both", l.sum[Small]+l.sum[Bulk], 1<<20, 30*time.Second)
	if got, least := l.sum[Bulk], int64(20*l.b.Piece()); got < least {
		t.Errorf("bulk got %d bytes, want %d at least", got, least)
	}
	if l.sum[Bulk] > l.sum[Small]/4 {
		t.Errorf("bulk got %d bytes while small changes waited that got %d", l.sum[Bulk], l.sum[Small])
	}
}

// A rate that changes is in force at once; none is no limit.
func TestRateChanges(t *testing.T) {
	l := begin(0)
	if l.b.Wait(l.now, Bulk, 0) != 0 || l.b.Piece() != mostPiece {
		t.Error("a limit where there is none")
	}
	l.b.Sent(l.now, 1<<30)
	l.b.Set(l.now, 1<<20)
	l.run(5*time.Second, &sender{class: Bulk})
	within(t, "from none to 1 MiB", l.sum[Bulk], 1<<20, 5*time.Second)
	l.b.Set(l.now, 4<<20)
	l.sum[Bulk] = 0
	l.run(5*time.Second, &sender{class: Bulk})
	within(t, "from 1 to 4 MiB", l.sum[Bulk], 4<<20, 5*time.Second)
	l.b.Set(l.now, 1<<20)
	l.sum[Bulk] = 0
	l.run(5*time.Second, &sender{class: Bulk})
	within(t, "and back", l.sum[Bulk], 1<<20, 5*time.Second)
	l.b.Set(l.now, 0)
	if l.b.Wait(l.now, Bulk, 0) != 0 {
		t.Error("a limit that was lifted")
	}
}

// A clock that goes back neither gives nor takes.
func TestClockBack(t *testing.T) {
	l := begin(1 << 20)
	l.run(time.Second, &sender{class: Bulk})
	l.now = l.now.Add(-time.Hour)
	l.sum[Bulk] = 0
	l.run(5*time.Second, &sender{class: Bulk})
	within(t, "after an hour back", l.sum[Bulk], 1<<20, 5*time.Second)
}
