package beat

import (
	"math/bits"
	"time"

	"revolve/internal/failover/election"
)

const (
	// qualityWindow is what a figure is about: the window that runs, and the one before it.
	qualityWindow = time.Minute
	// gapBuckets are quarters of powers of two of a microsecond: 19 % wide, up to 17 s; longer than T_dead is a silence, not a gap.
	gapBuckets = 24 * 4
	// jitterShare smooths the jitter (RFC 3550 section 6.4.1).
	jitterShare = 16
)

// Quality is how heartbeats of a peer come in on a link, in the last one to two minutes.
type Quality struct {
	Heard    uint64        `json:"heard"`
	Lost     uint64        `json:"lost"`     // sent, by their numbers, and not heard between two that were
	Silences uint64        `json:"silences"` // gaps longer than T_dead; what was lost in them is not counted
	Jitter   time.Duration `json:"jitter"`   // smoothed difference to the heartbeat's interval
	Gap      time.Duration `json:"gap"`      // 99.9 % of the gaps between two heartbeats were no longer (upper bound of the bucket)
	GapMax   time.Duration `json:"gap_max"`
}

// window counts what came in for a while.
type window struct {
	heard, lost, silences uint64
	max                   time.Duration
	gaps                  [gapBuckets]uint32
}

// quality measures one peer on one link. It has no pointers and allocates nothing.
type quality struct {
	at     election.Time // of the last heartbeat
	life   uint64        // of the sender
	seq    uint64
	jitter time.Duration
	began  election.Time // of now
	now    window
	before window
}

// bucket is where a gap is counted.
func bucket(gap time.Duration) int {
	us := uint64(max(gap.Microseconds(), 1))
	octave := bits.Len64(us) - 1
	quarter := us << 2 >> octave & 3
	return min(octave*4+int(quarter), gapBuckets-1)
}

// upTo is the upper end of a bucket.
func upTo(b int) time.Duration {
	return time.Duration((5+uint64(b&3))<<(b>>2)>>2) * time.Microsecond
}

// turn begins a new window when it is time.
func (q *quality) turn(now election.Time) {
	switch age := now - q.began; {
	case age >= 2*election.Time(qualityWindow):
		q.now, q.before, q.began = window{}, window{}, now
	case age >= election.Time(qualityWindow):
		q.before, q.now, q.began = q.now, window{}, q.began+election.Time(qualityWindow)
	}
}

// heard takes a heartbeat in: its sender's life and its number there.
func (q *quality) heard(now election.Time, life, seq uint64, t *election.Timers) {
	q.turn(now)
	w := &q.now
	w.heard++
	gap, missed := time.Duration(now-q.at), seq-q.seq-1
	known := q.life == life && seq > q.seq
	q.at, q.life, q.seq = now, life, seq
	switch {
	case !known: // its first one, or one of a new life
		return
	case gap > time.Duration(t.Dead):
		w.silences++
		return
	}
	w.lost += missed
	w.max = max(w.max, gap)
	w.gaps[bucket(gap)]++
	off := gap - time.Duration(missed+1)*time.Duration(t.Heartbeat)
	q.jitter += (max(off, -off) - q.jitter) / jitterShare
}

// report sums both windows up.
func (q *quality) report(now election.Time) (r Quality) {
	q.turn(now)
	a, b := &q.before, &q.now
	r = Quality{Heard: a.heard + b.heard, Lost: a.lost + b.lost, Silences: a.silences + b.silences, GapMax: max(a.max, b.max)}
	all, below := uint64(0), uint64(0)
	for i := range a.gaps {
		all += uint64(a.gaps[i]) + uint64(b.gaps[i])
	}
	if all == 0 {
		return r
	}
	r.Jitter = q.jitter
	for i := range a.gaps {
		if below += uint64(a.gaps[i]) + uint64(b.gaps[i]); below*1000 >= all*999 {
			r.Gap = min(upTo(i), r.GapMax)
			break
		}
	}
	return r
}
