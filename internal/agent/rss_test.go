package agent

import "testing"

func TestGiveBack(t *testing.T) {
	h := &hoard{}
	for i, step := range []struct {
		now  held
		want bool
	}{
		{held{giveBackLeast * 10, 50}, false},  // a storm: collected again and again
		{held{giveBackLeast * 10, 100}, false}, // it goes on
		{held{giveBackLeast * 10, 100}, true},  // it is over
		{held{giveBackLeast * 2, 102}, false},  // nothing but what could not be given back
		{held{giveBackLeast*3 - 1, 103}, false},
		{held{giveBackLeast * 3, 104}, true},
	} {
		if got := h.due(step.now); got != step.want {
			t.Fatalf("step %d: %v", i, got)
		} else if got {
			h.gave(held{giveBackLeast * 2, step.now.cycles + 1})
		}
	}
}

// TestHoardReads: the runtime knows the names.
func TestHoardReads(t *testing.T) {
	if now := newHoard().read(); now.spare == 0 {
		t.Errorf("%+v", now)
	}
}
