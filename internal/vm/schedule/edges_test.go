package schedule

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
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

// One that was overtaken and is broken off, for the program ended, had its turn.
func TestOvertakenAndBrokenOff(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 0)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(1, 3, 0), Begin)
	s.step(at(2, 3, 0), Nothing)
	s.run = false
	s.step(at(2, 3, 1), Begin)
	s.is(Failed, 1, "broken off")
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

// A machine that is first seen while the clock is behind has missed nothing when the clock is put right.
func TestFirstSeenWithAWrongClock(t *testing.T) {
	for what, c := range map[string]struct {
		clock time.Time
		up    time.Duration
		again time.Duration // how long the program has run when the clock is right
	}{
		"1970, right at once":                            {time.Unix(100, 0), time.Second, 30 * time.Second},
		"1970, right after an hour":                      {time.Unix(100, 0), time.Second, time.Hour},
		"1970, first seen long after the start":          {time.Unix(4000, 0), time.Hour, 2 * time.Hour},
		"1970, the program began anew":                   {time.Unix(100, 0), 9 * time.Minute, time.Second},
		"that of the day it was put off":                 {at(1, 12, 0), time.Second, 30 * time.Second},
		"that of the day it was put off, and tried then": {at(1, 2, 59), time.Second, 9 * time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			s := &story{t: t, plan: plan(t, "every 1h", 0)}
			s.p, _ = Step(s.p, s.plan, Input{Now: c.clock, Up: c.up})
			if p, act := Step(s.p, s.plan, Input{Now: c.clock.Add(time.Minute), Up: c.up + time.Minute}); act == Begin {
				s.p = p
				s.ended(c.clock.Add(time.Minute), Outcome{Why: "c does not answer"})
			}
			for m := range 3 {
				p, act := Step(s.p, s.plan, Input{Now: at(20, 3, 30+m), Up: c.again + time.Duration(m)*time.Minute})
				if act != Nothing || p.Result != "" || p.Behind != 0 {
					t.Fatalf("%d, %+v, turn %+v", act, p, p.Turn)
				}
				s.p = p
			}
			s.step(at(20, 4, 0), Begin)
			s.is("", 0, "")
		})
	}
}

// What was seen for long enough is known: the node that goes off then has missed what comes meanwhile.
func TestFirstSeenThenOff(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 0)}
	for m := range 12 {
		s.p, _ = Step(s.p, s.plan, Input{Now: at(1, 12, m), Up: time.Duration(m) * time.Minute})
	}
	s.p, _ = Step(s.p, s.plan, Input{Now: at(3, 12, 0), Up: time.Second})
	s.is(Missed, 2, "2 runs")
}

// What a clock said that was a year ahead is cut: else the machine would for a year be the one that was copied last.
func TestDoneAhead(t *testing.T) {
	s := &story{t: t, plan: plan(t, "every 1h", 0)}
	s.step(at(1, 0, 30), Nothing)
	s.step(at(1, 1, 0).AddDate(1, 0, 0), Begin)
	s.ended(at(1, 1, 1).AddDate(1, 0, 0), Outcome{Done: true})
	s.step(at(1, 1, 2), Nothing)
	if now := at(1, 1, 2); s.p.Done.After(now) || s.p.Over.After(now) || s.p.Done.IsZero() {
		t.Fatalf("at %v: %+v", now, s.p)
	}
	s.step(at(1, 2, 0), Begin)
}

// Reasons are as long as the errors of all nodes; what is kept of them is bounded, here and from a disk.
func TestReasonsAreCut(t *testing.T) {
	long := "c: " + strings.Repeat("ä", 1<<20)
	whole := func(what, why string) {
		t.Helper()
		if len(why) > maxWhy || !utf8.ValidString(why) || !strings.HasPrefix(why, "c: ää") || !strings.HasSuffix(why, "ä ...") {
			t.Errorf("%s: %d bytes, %.20q", what, len(why), why)
		}
	}
	s := &story{t: t, plan: plan(t, "daily 03:00", time.Hour)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(1, 3, 0), Begin)
	s.ended(at(1, 3, 1), Outcome{Why: long})
	whole("tried", s.p.Turn.Why)
	s.step(at(1, 3, 2), Begin)
	s.ended(at(1, 4, 0), Outcome{Stopped: true, Why: long})
	whole("unfinished", s.p.Why)
	p := Past{Why: long, Turn: &Turn{Why: long}}.Sane()
	whole("read", p.Why)
	whole("read of a turn", p.Turn.Why)
	if short := strings.Repeat("x", maxWhy); cut(short) != short {
		t.Errorf("%q was cut", short)
	}
}

// Nobody looked at a machine that was off: it is not said that the node was.
func TestMissedSaysNoMoreThanIsKnown(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", time.Hour)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(3, 9, 0), Begin)
	s.is(Missed, 3, "for 3 runs this node was off, or did not see the machine run")
}
