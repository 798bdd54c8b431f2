package mirror

import (
	"cmp"
	"math"
	"slices"
	"time"

	"revolve/internal/cluster"
)

// How far a standby was behind in the last hour: for every change, the time from
// its place in the journal to its acknowledgement. Kept as counts, a row for each
// of the last sixty minutes, so that the memory is the same at every rate.

const (
	// lagMinutes is how far back it reaches.
	lagMinutes = 60
	// lagSteps are the classes of a doubling: a percentile is told 19 % too high at most, never too low.
	lagSteps = 4
	// lagClasses: from 0.1 ms, doubled 28 times: seven hours.
	lagClasses = 28 * lagSteps
	lagLeast   = 100 * time.Microsecond
)

// lagHistory is one standby's. The volume's lock guards it.
type lagHistory struct {
	rows  [lagMinutes][lagClasses]uint32
	at    [lagMinutes]int64 // the minute that a row is of
	acked cluster.Position  // everything up to here is counted
}

// lagClass is the first class whose bound is not below d.
func lagClass(d time.Duration) int {
	if d <= lagLeast {
		return 0
	}
	return min(lagClasses-1, int(math.Ceil(lagSteps*math.Log2(float64(d)/float64(lagLeast)))))
}

// lagBound is the longest lag of a class.
func lagBound(class int) time.Duration {
	return time.Duration(float64(lagLeast) * math.Pow(2, float64(class)/lagSteps))
}

func (h *lagHistory) add(now time.Time, lag time.Duration) {
	minute := now.Unix() / 60
	i := minute % lagMinutes
	if h.at[i] != minute {
		h.at[i], h.rows[i] = minute, [lagClasses]uint32{}
	}
	h.rows[i][lagClass(lag)]++
}

// percentiles are the lags that so many of a hundred changes of the last hour did not exceed; known is false if there were none.
func (h *lagHistory) percentiles(now time.Time, of ...int) (lags []time.Duration, known bool) {
	var sum [lagClasses]uint64
	all, minute := uint64(0), now.Unix()/60
	for i, row := range h.rows {
		if minute-h.at[i] >= lagMinutes {
			continue
		}
		for class, n := range row {
			sum[class] += uint64(n)
			all += uint64(n)
		}
	}
	for _, percent := range of {
		need, have, class := (all*uint64(percent)+99)/100, uint64(0), 0
		for class = range lagClasses {
			if have += sum[class]; have >= need {
				break
			}
		}
		lags = append(lags, lagBound(class))
	}
	return lags, all > 0
}

func (v *volume) acked(node cluster.NodeID, p cluster.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ackedLocked(node, p, time.Now())
}

// ackedLocked counts the lag of what a standby has acknowledged; the lock is held.
func (v *volume) ackedLocked(node cluster.NodeID, acked cluster.Position, now time.Time) {
	h := v.lags[node]
	if h == nil {
		h = &lagHistory{acked: acked} // what lies before its first word was not waited for here
		v.lags[node] = h
		return
	}
	// The marks are in order, so that an acknowledgement costs what it covers and not what is under way.
	first, _ := slices.BinarySearchFunc(v.marks, h.acked, func(m mark, p cluster.Position) int {
		return cmp.Or(m.pos.Compare(p), -1) // behind what is counted
	})
	for _, m := range v.marks[first:] {
		if m.pos.Compare(acked) > 0 {
			break
		}
		h.add(now, now.Sub(m.at))
	}
	if acked.Compare(h.acked) > 0 {
		h.acked = acked
	}
}
