package schedule

import (
	"testing"
	"time"
)

// A point that a node did not get is brought there by a retry of its run. That is this run's copy: no second one is
// taken, which would stop the machine once more.
func TestARetryTakesNoSecondPoint(t *testing.T) {
	s := &story{t: t, plan: plan(t, "Sun 03:00", 3*time.Hour)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(7, 3, 0), Begin)
	s.p = s.p.Keep(&Paused{Point: "p1", Nodes: []string{"b", "c"}})
	s.ended(at(7, 3, 10), Outcome{Why: "c: broken", Paused: &Paused{Point: "p1", Nodes: []string{"c"}}})
	s.step(at(7, 3, 12), Begin)
	s.ended(at(7, 3, 13), Outcome{Done: true, Rest: true})
	s.is(Done, 0, "")
	s.step(at(7, 3, 14), Nothing)

	// The next run is another one: what is left of the one before is not its copy, however often it is tried.
	s.step(at(14, 3, 0), Begin)
	s.ended(at(14, 3, 1), Outcome{Stopped: true, Paused: &Paused{Point: "p2", Nodes: []string{"c"}}})
	s.step(at(21, 3, 0), Begin)
	s.ended(at(21, 3, 1), Outcome{Rest: true, Why: "c: broken", Paused: &Paused{Point: "p2", Nodes: []string{"c"}}})
	s.step(at(21, 3, 2), Begin)
	s.ended(at(21, 3, 3), Outcome{Done: true, Rest: true})
	s.step(at(21, 3, 4), Begin)
}
