package beat

import (
	"testing"
	"time"

	"revolve/internal/failover/election"
)

const ms = election.Millisecond

// TestQuality: loss, jitter and gaps are those of what came in; a silence is no gap, and what is old is forgotten.
func TestQuality(t *testing.T) {
	timers, _ := election.Profile("default")
	var q quality
	now, seq := election.Time(0), uint64(0)
	beat := func(after election.Time, skip uint64) {
		now += after
		seq += 1 + skip
		q.heard(now, 7, seq, &timers)
	}
	for range 1000 {
		beat(50*ms, 0)
	}
	if r := q.report(now); r.Heard != 1000 || r.Lost != 0 || r.Jitter != 0 || r.GapMax != 50*time.Millisecond || r.Gap != r.GapMax {
		t.Errorf("a perfect link: %+v", r)
	}
	beat(150*ms, 2) // two lost
	beat(80*ms, 0)  // one late
	r := q.report(now)
	if r.Lost != 2 || r.Jitter == 0 || r.GapMax != 150*time.Millisecond || r.Gap < 80*time.Millisecond || r.Gap > 96*time.Millisecond {
		t.Errorf("two lost, one late: %+v", r)
	}
	beat(10*election.Second, 199)
	if r := q.report(now); r.Silences != 1 || r.Lost != 2 || r.GapMax != 150*time.Millisecond {
		t.Errorf("after a silence: %+v", r)
	}
	now += 50 * ms
	q.heard(now, 8, 1, &timers) // another life
	if r := q.report(now); r.Lost != 2 || r.Silences != 1 {
		t.Errorf("after its restart: %+v", r)
	}
	if r := q.report(now + 3*election.Time(qualityWindow)); r != (Quality{}) {
		t.Errorf("what is old is not forgotten: %+v", r)
	}
}

func TestBuckets(t *testing.T) {
	for us := time.Duration(1); us < 1<<23; us += 1 + us/7 {
		b := bucket(us * time.Microsecond)
		if upTo(b) < us*time.Microsecond || us > 8 && upTo(b) > us*time.Microsecond*5/4 || b > 0 && us > 8 && upTo(b-1) > us*time.Microsecond {
			t.Errorf("%d us is in bucket %d, up to %v", us, b, upTo(b))
		}
	}
}

func TestQualityAllocatesNothing(t *testing.T) {
	timers, _ := election.Profile("default")
	q, now, seq := &quality{}, election.Time(0), uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		now, seq = now+50*ms, seq+1
		q.heard(now, 7, seq, &timers)
		_ = q.report(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
