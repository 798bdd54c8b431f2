package mirror

import (
	"testing"
	"time"

	"revolve/internal/cluster"
)

func TestLagPercentiles(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	h := &lagHistory{}
	if _, known := h.percentiles(now, 50); known {
		t.Error("known, and nothing was counted")
	}
	for i := range 1000 { // 980 of 2 ms and 20 of 3 s, over half an hour
		lag := 2 * time.Millisecond
		if i%50 == 0 {
			lag = 3 * time.Second
		}
		h.add(now.Add(time.Duration(i)*1800*time.Millisecond), lag)
	}
	now = now.Add(30 * time.Minute)
	within := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want || float64(got) > 1.19*float64(want)+1 {
			t.Errorf("%s is %v, want %v to 19 %% more", what, got, want)
		}
	}
	lags, known := h.percentiles(now, 50, 98, 99)
	if !known {
		t.Fatal("not known")
	}
	within("p50", lags[0], 2*time.Millisecond)
	within("p98", lags[1], 2*time.Millisecond)
	within("p99", lags[2], 3*time.Second)
	if _, known := h.percentiles(now.Add(59*time.Minute), 50); known {
		t.Error("an hour later it still counts")
	}
	for _, d := range []time.Duration{0, lagLeast, time.Millisecond, time.Hour, 1000 * time.Hour} {
		if c := lagClass(d); c < lagClasses-1 && lagBound(c) < d || c >= lagClasses {
			t.Errorf("%v is in class %d up to %v", d, c, lagBound(c))
		}
	}
}

// Every journaled mark counts once, when the acknowledgement passes it.
func TestLagIsCountedOnce(t *testing.T) {
	v := &volume{lags: map[cluster.NodeID]*lagHistory{}}
	now := time.Unix(1_800_000_000, 0)
	pos := func(n uint64) cluster.Position { return cluster.Position{Term: 1, Seq: n} }
	v.ackedLocked("b", pos(10), now)
	for i := range uint64(10) {
		v.marks = append(v.marks, mark{pos(11 + i), now})
	}
	v.ackedLocked("b", pos(15), now.Add(time.Millisecond))
	v.ackedLocked("b", pos(15), now.Add(time.Second))
	v.ackedLocked("b", pos(12), now.Add(time.Second)) // a new stream begins where it stands
	v.ackedLocked("b", pos(20), now.Add(time.Second))
	counted := uint32(0)
	for _, row := range v.lags["b"].rows {
		for _, n := range row {
			counted += n
		}
	}
	if counted != 10 {
		t.Errorf("10 changes are counted as %d", counted)
	}
}
