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

// A copy that hangs is told as soon as the next run has begun, and every run after it is counted.
func TestOvertaken(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 0)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(1, 3, 0), Begin)
	s.step(at(2, 2, 59), Nothing)
	s.is("", 0, "")
	s.step(at(2, 3, 0), Nothing)
	s.is(Overtaken, 1, "1 run began meanwhile")
	s.step(at(2, 3, 1), Nothing)
	s.step(at(6, 3, 40), Nothing)
	s.is(Overtaken, 5, "5 runs began meanwhile")

	// It fails at last: the newest of them is carried out, and nobody was away.
	s.ended(at(6, 3, 41), Outcome{Why: "c: broken"})
	s.step(at(6, 3, 42), Begin)
	s.is(Failed, 5, "c: broken")
	if !s.p.Turn.Begin.Equal(at(6, 3, 0)) || s.p.Turn.MadeUp {
		t.Errorf("its turn is %+v", s.p.Turn)
	}
	s.step(at(7, 3, 0), Nothing)
	s.is(Overtaken, 6, "1 run")
	s.ended(at(7, 3, 1), Outcome{Done: true})
	s.is(Done, 0, "")
	if s.p.MadeUp != 5 {
		t.Errorf("made up for %d", s.p.MadeUp)
	}
	s.step(at(7, 3, 2), Begin)

	// A run whose time to begin is over as well is made up for; not because the node was away.
	s.step(at(8, 5, 0), Nothing)
	s.ended(at(8, 5, 1), Outcome{Done: true})
	s.step(at(8, 5, 2), Begin)
	s.is(Missed, 1, "the copy before it took until too late")
	s.ended(at(8, 5, 3), Outcome{Done: true})
	s.is(Done, 0, "")
}

// One that is made up for late goes on into the next run; only when one more has begun has it been overtaken.
func TestMadeUpIntoTheNext(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 0)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(2, 2, 50), Begin)
	s.step(at(2, 3, 10), Nothing)
	s.is(Missed, 1, "1 run")
	s.step(at(3, 3, 10), Nothing)
	s.is(Overtaken, 2, "1 run began meanwhile")
	s.ended(at(3, 3, 11), Outcome{Done: true})
	s.is(Done, 0, "")
}

// Whoever writes another time has missed nothing of it, and gets no copy at once: it begins with its next run.
func TestAnotherRule(t *testing.T) {
	for _, c := range []struct {
		text string
		next time.Time
	}{{"every 15m", at(10, 12, 15)}, {"Wed 03:00", at(17, 3, 0)}, {"daily 03:00", at(11, 3, 0)}} {
		s := &story{t: t, plan: plan(t, "Sun 03:00", 0)}
		s.step(at(1, 0, 0), Nothing)
		s.step(at(7, 3, 0), Begin)
		s.ended(at(7, 3, 1), Outcome{Done: true})
		s.step(at(10, 12, 0), Nothing)
		s.plan = plan(t, c.text, 0)
		s.step(at(10, 12, 7), Nothing)
		s.step(at(10, 12, 8), Nothing)
		s.is(Done, 0, "")
		s.step(c.next, Begin)
		s.is(Done, 0, "")
	}
}

// A copy under way, or one that is tried again, is of the rule that began it: the other one neither ends nor overtakes it at once.
func TestAnotherRuleMeanwhile(t *testing.T) {
	s := &story{t: t, plan: plan(t, "Sun 03:00", 0)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(7, 3, 0), Begin)
	s.plan = plan(t, "every 15m", 0)
	s.step(at(7, 4, 7), Nothing)
	s.is("", 0, "")
	s.step(at(7, 4, 15), Nothing)
	s.is(Overtaken, 1, "1 run")
	s.ended(at(7, 4, 16), Outcome{Done: true})
	s.step(at(7, 4, 16), Begin)
	s.ended(at(7, 4, 17), Outcome{Why: "no"})
	s.plan = plan(t, "daily 04:16", 0)
	s.step(at(7, 4, 18), Begin)
	s.is(Done, 0, "")
	s.ended(at(7, 4, 19), Outcome{Done: true})
	s.step(at(7, 4, 20), Nothing)
}
