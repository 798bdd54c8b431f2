package mirror

import (
	"log/slog"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/send"
	"revolve/internal/problem"
)

// A barrier whose last standby went away must not say that the standby has everything.
func TestBarrierOfStandbysThatGoAway(t *testing.T) {
	v, err := newVolume(&Engine{o: Options{Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home"})
	if err != nil {
		t.Fatal(err)
	}
	wait := map[cluster.NodeID]*follower{"b": {}, "c": {}}
	if err := v.reached(t.Context(), wait, 2, cluster.Position{Term: 1, Seq: 9}); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("no standby has it: %v", err)
	}
}

// A standby that comes back while a barrier waits is waited for.
func TestBarrierLooksAtTheStreamOfNow(t *testing.T) {
	wait := map[cluster.NodeID]*follower{"b": nil, "c": nil}
	target := cluster.Position{Term: 1, Seq: 9}
	before := cluster.Position{Term: 1, Seq: 8}
	behind, there := send.State{Acked: before, Settled: before}, send.State{Acked: target, Settled: target}
	for _, c := range []struct {
		now           map[cluster.NodeID]send.State
		waiting, gone int
	}{
		{map[cluster.NodeID]send.State{"b": there, "c": there}, 0, 0},
		{map[cluster.NodeID]send.State{"b": there, "c": behind}, 1, 0},
		{map[cluster.NodeID]send.State{"b": there}, 0, 1},
		{map[cluster.NodeID]send.State{"d": there}, 0, 2},
		{map[cluster.NodeID]send.State{"b": there, "c": {Acked: target, Settled: target, Owed: 1}}, 1, 0},
		{map[cluster.NodeID]send.State{"b": there, "c": {Acked: target, Settled: before}}, 1, 0}, // an answer or a comparison is still to come
	} {
		if waiting, gone := waitingOf(wait, c.now, target); len(waiting) != c.waiting || len(gone) != c.gone {
			t.Errorf("%v: waiting for %v, gone %v", c.now, waiting, gone)
		}
	}
}
