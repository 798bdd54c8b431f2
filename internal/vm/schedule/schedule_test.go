package schedule

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones are the same on every machine

	"revolve/internal/calendar"
)

const up = time.Hour // long since the start

func plan(t testing.TB, text string, length time.Duration) Plan {
	t.Helper()
	r, ok := calendar.Parse(text)
	if !ok {
		t.Fatalf("%q is no rule", text)
	}
	r.Length = length
	return Plan{When: r, Text: text}
}

func at(day, hour, minute int) time.Time {
	return time.Date(2026, 6, day, hour, minute, 0, 0, time.UTC) // the 7th is a Sunday
}

// story plays a past through a list of moments.
type story struct {
	t    *testing.T
	plan Plan
	p    Past
	run  bool
}

func (s *story) step(now time.Time, want Act) {
	s.t.Helper()
	before, _ := json.Marshal(s.p)
	var act Act
	kept := s.p
	s.p, act = Step(s.p, s.plan, Input{Now: now, Up: up, Running: s.run})
	if after, _ := json.Marshal(kept); string(after) != string(before) {
		s.t.Fatalf("at %v what was given in changed: %s, %s", now, before, after)
	}
	if act != want {
		s.t.Fatalf("at %v: %d, want %d; %+v, turn %+v", now, act, want, s.p, s.p.Turn)
	}
	s.run = s.run || act == Begin
}

func (s *story) ended(now time.Time, o Outcome) {
	s.t.Helper()
	s.run = false
	s.p = Ended(s.p, s.plan, now, o)
}

func (s *story) is(r Result, behind int, why string) {
	s.t.Helper()
	if s.p.Result != r || s.p.Behind != behind || !strings.Contains(s.p.Why, why) {
		s.t.Fatalf("it is %s, %d behind (%s), want %s, %d (%s)", s.p.Result, s.p.Behind, s.p.Why, r, behind, why)
	}
}

// A week as it is to be: nothing before its time, one copy, nothing more.
func TestARun(t *testing.T) {
	s := &story{t: t, plan: plan(t, "Sun 03:00", 3*time.Hour)}
	s.step(at(4, 12, 0), Nothing)
	s.step(at(7, 2, 59), Nothing)
	s.step(at(7, 3, 0), Begin)
	s.step(at(7, 3, 1), Nothing)
	s.ended(at(7, 4, 0), Outcome{Done: true})
	s.is(Done, 0, "")
	s.step(at(7, 4, 0), Nothing)
	s.step(at(7, 12, 0), Nothing)
	s.step(at(14, 2, 59), Nothing)
	s.step(at(14, 3, 0), Begin)
}

// A schedule that is new, or a machine that has just come here, has missed nothing.
func TestNothingWasMissedBefore(t *testing.T) {
	for _, now := range []time.Time{at(7, 3, 30), at(7, 12, 0), at(8, 0, 0)} {
		s := &story{t: t, plan: plan(t, "Sun 03:00", 3*time.Hour)}
		s.step(now, Nothing)
		s.step(at(14, 2, 59), Nothing)
		s.step(at(14, 3, 0), Begin)
		s.is("", 0, "")
	}
}

// What does not finish is paused; the next run goes on with it, and then takes one of its own.
func TestPaused(t *testing.T) {
	s := &story{t: t, plan: plan(t, "Sun 03:00-06:00", 0)}
	rest := &Paused{Point: "p1", Nodes: []string{"b"}}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(7, 3, 0), Begin)
	s.step(at(7, 5, 59), Nothing)
	s.step(at(7, 6, 0), End)
	s.step(at(7, 6, 0), End) // until it has ended
	s.ended(at(7, 6, 1), Outcome{Stopped: true, Why: "its time was over", Paused: rest})
	s.is(Unfinished, 1, "its time was over")
	s.step(at(7, 6, 2), Nothing)
	s.step(at(13, 23, 0), Nothing)
	s.step(at(14, 3, 0), Begin)
	if s.p.Paused == nil || s.p.Paused.Point != "p1" {
		t.Fatalf("the point that was paused is forgotten: %+v", s.p)
	}
	s.ended(at(14, 4, 0), Outcome{Done: true, Rest: true})
	s.step(at(14, 4, 0), Begin)
	s.ended(at(14, 4, 10), Outcome{Done: true})
	s.is(Done, 0, "")
	s.step(at(14, 4, 11), Nothing)

	// The rest that came just in time is a copy; there is no time for another.
	s.step(at(21, 3, 0), Begin)
	s.ended(at(21, 6, 0), Outcome{Done: true, Rest: true})
	s.is(Done, 0, "")
	s.step(at(21, 6, 0), Nothing)
}

// What fails is tried again, ever later, until the end of its run; then the next one.
func TestTriedAgain(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 2*time.Hour)}
	s.step(at(1, 0, 0), Nothing)
	now, tries := at(1, 3, 0), 0
	for now.Before(at(1, 5, 0)) {
		var act Act
		if s.p, act = Step(s.p, s.plan, Input{Now: now, Up: up}); act == Begin {
			tries++
			s.ended(now, Outcome{Why: "b does not answer"})
		}
		now = now.Add(time.Minute)
	}
	if tries != 8 { // after 0, 1, 3, 7, 15, 31, 61 and 91 minutes
		t.Errorf("tried %d times", tries)
	}
	s.step(at(1, 5, 0), Nothing)
	s.is(Failed, 1, "b does not answer")
	s.step(at(2, 3, 0), Begin)
	s.ended(at(2, 3, 1), Outcome{Done: true})
	s.is(Done, 0, "")
}

// A machine whose turn does not come before the end is told so.
func TestNoTurn(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", time.Hour)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(1, 3, 0), Begin)
	s.run = false // others go first
	s.step(at(1, 4, 0), Nothing)
	s.is(Failed, 1, "its turn did not come")
}

// Runs that were missed are made up for once, as soon as somebody is there, for as long as a window is.
func TestMadeUp(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 2*time.Hour)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(4, 9, 0), Begin) // the 1st to the 4th
	s.is(Missed, 4, "4 runs")
	s.step(at(4, 10, 59), Nothing)
	s.step(at(4, 11, 0), End)
	s.ended(at(4, 11, 0), Outcome{Stopped: true, Why: "its time was over", Paused: &Paused{Point: "p"}})
	s.is(Unfinished, 4, "its time")
	s.step(at(4, 12, 0), Nothing)
	s.step(at(5, 3, 0), Begin)
	s.ended(at(5, 3, 30), Outcome{Done: true})
	s.is(Done, 0, "")
	if s.p.MadeUp != 4 {
		t.Errorf("made up for %d runs", s.p.MadeUp)
	}

	// Back within a window: what was missed before it is counted, and this run is in time.
	s.step(at(8, 4, 0), Begin)
	s.is(Missed, 2, "2 runs")
	if s.p.Turn.MadeUp || !s.p.Turn.End.Equal(at(8, 5, 0)) {
		t.Errorf("its turn is %+v", s.p.Turn)
	}
	s.ended(at(8, 4, 1), Outcome{Done: true})
	s.step(at(8, 4, 2), Nothing)
}

// One that is made up for does not hinder the next: it is tried until then.
func TestMadeUpUntilTheNext(t *testing.T) {
	s := &story{t: t, plan: plan(t, "daily 03:00", 0)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(1, 9, 0), Begin)
	s.ended(at(1, 9, 1), Outcome{Why: "no"})
	s.step(at(2, 2, 59), Begin)
	s.ended(at(2, 2, 59), Outcome{Why: "no"})
	s.step(at(2, 3, 0), Begin)
	s.is(Failed, 1, "no")
	if !s.p.Turn.Begin.Equal(at(2, 3, 0)) || s.p.Turn.MadeUp {
		t.Errorf("its turn is %+v", s.p.Turn)
	}
}

// Where a machine is stopped for its copy, what was missed waits for the window.
func TestWaits(t *testing.T) {
	s := &story{t: t, plan: plan(t, "Sun 03:00", 2*time.Hour)}
	s.plan.Waits = true
	s.step(at(1, 0, 0), Nothing)
	s.step(at(8, 9, 0), Nothing)
	s.is(Missed, 1, "waits for the next window")
	s.step(at(8, 9, 1), Nothing)
	s.is(Missed, 1, "")
	s.step(at(14, 3, 0), Begin)
}

// What takes longer than from one run to the next goes on, and misses none.
func TestLongerThanTheGap(t *testing.T) {
	s := &story{t: t, plan: plan(t, "every 1m", 0)}
	s.step(at(1, 0, 0), Nothing)
	s.step(at(1, 0, 1), Begin)
	for m := 2; m < 9; m++ {
		s.step(at(1, 0, m), Nothing)
	}
	s.ended(at(1, 0, 9), Outcome{Done: true})
	s.step(at(1, 0, 9), Begin)
	s.is(Done, 0, "")
}

// A clock that is put right a little: back over a beginning is no second copy, forward over one is a late one.
func TestClockPutRight(t *testing.T) {
	s := &story{t: t, plan: plan(t, "Sun 03:00", 3*time.Hour)}
	s.step(at(6, 0, 0), Nothing)
	s.step(at(7, 3, 0), Begin)
	s.ended(at(7, 3, 1), Outcome{Done: true})
	s.step(at(7, 2, 58), Nothing)
	s.step(at(7, 3, 0), Nothing)
	s.step(at(7, 4, 0), Nothing)
	s.step(at(14, 2, 0), Nothing)
	s.step(at(14, 5, 0), Begin)
	s.is(Done, 0, "")
	s.step(at(14, 2, 0), Nothing) // it goes on
	s.step(at(14, 6, 0), End)
}

// A clock that was a year ahead does not stop copies for a year; one that begins in 1970 makes none, and forgets nothing.
func TestClockThatWasWrong(t *testing.T) {
	year := func(now time.Time) time.Time { return now.AddDate(1, 0, 0) }
	s := &story{t: t, plan: plan(t, "Sun 03:00", 3*time.Hour)}
	s.step(year(at(6, 0, 0)), Nothing)
	s.step(year(at(6, 0, 0)).AddDate(0, 0, 8), Begin) // made up for
	s.ended(year(at(7, 3, 0)).AddDate(0, 0, 8), Outcome{Done: true})
	s.step(at(7, 4, 0), Nothing)
	s.step(at(14, 3, 0), Begin)
	s.is(Done, 0, "")
	s.ended(at(14, 3, 1), Outcome{Done: true})

	was := s.p
	for m := range 9 {
		var act Act
		s.p, act = Step(s.p, s.plan, Input{Now: time.Unix(int64(60*m), 0).UTC(), Up: time.Duration(m) * time.Minute})
		if act != Nothing || s.p != was {
			t.Fatalf("in 1970: %d, %+v, was %+v", act, s.p, was)
		}
	}
	s.step(at(21, 3, 0), Begin)
	s.is(Done, 0, "")
}

// What is written down is what is read, and what was tampered with is bounded.
func TestKept(t *testing.T) {
	p := Past{Rule: "daily 03:00", Since: at(1, 0, 0), Settled: at(2, 0, 0), Result: Failed, Why: "x", Over: at(2, 1, 0), Behind: 2, Turn: &Turn{Begin: at(3, 0, 0), Tries: 3}, Paused: &Paused{"p", []string{"b"}, at(3, 0, 0)}}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var got Past
	if err = json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(got.Sane()); string(again) != string(b) {
		t.Errorf("%s was written, %s read", b, again)
	}
	if got = (Past{Behind: 1 << 40, MadeUp: -1, Turn: &Turn{Tries: -5}}).Sane(); got.Behind != maxCounted || got.MadeUp != 0 || got.Turn.Tries != 0 {
		t.Errorf("%+v", got)
	}
}

// model is a schedule that is watched minute by minute, by a list of all its runs.
type model struct {
	runs    []calendar.Run
	waits   bool
	begun   int // index of the newest run that has begun
	settled int // index of the newest run that is over
	turn    int // index of the run under way, -1: none
	end     time.Time
	left    int // minutes of the copy that runs
	missed  int
}

// minute says what happens in one at which somebody is there: "begin", "end", "done" or "".
func (m *model) minute(now time.Time, takes int) string {
	for m.begun+1 < len(m.runs) && !m.runs[m.begun+1].Begin.After(now) {
		m.begun++
	}
	newest := m.begun
	if m.turn >= 0 {
		if m.left--; m.left <= 0 {
			m.settled, m.turn = max(m.turn, newest-1), -1
			return "done"
		}
		if !m.end.IsZero() && !now.Before(m.end) {
			m.settled, m.turn = m.turn, -1
			return "end"
		}
		return ""
	}
	if newest <= m.settled {
		return ""
	}
	r := m.runs[newest]
	m.missed += newest - m.settled - 1
	m.end = r.End
	if !now.Before(r.Latest) {
		if m.missed++; m.waits {
			m.settled = newest
			return ""
		}
		if !r.End.IsZero() {
			m.end = now.Add(r.End.Sub(r.Begin))
		}
	}
	m.turn, m.left = newest, takes
	return "begin"
}

// Weeks of random schedules, copies of every length and nodes that are not always there, beside the model.
func TestAgainstEveryMinute(t *testing.T) {
	seed := rand.Uint64()
	for n := range 5 {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		zone := []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC", "Pacific/Apia"}[r.IntN(6)]
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		began := []time.Time{time.Date(2026, 3, 20, 0, 0, 0, 0, loc), time.Date(2026, 10, 20, 0, 0, 0, 0, loc), time.Date(2018, 10, 28, 0, 0, 0, 0, loc), time.Date(2011, 12, 20, 0, 0, 0, 0, loc)}[r.IntN(4)]
		p := Plan{When: randomRule(r), Waits: r.IntN(3) == 0}
		what := fmt.Sprintf("seed %d, %d: %s from %v, %+v", seed, n, zone, began, p)
		sideBySide(t, what, r, p, began)
	}
}

func randomRule(r *rand.Rand) calendar.Rule {
	if r.IntN(5) == 0 {
		return calendar.Rule{Every: []time.Duration{time.Hour, 2 * time.Hour, 12 * time.Hour}[r.IntN(3)], Length: time.Duration(r.IntN(2)*20) * time.Minute}
	}
	rule := calendar.Rule{From: time.Duration(r.IntN(24*60)) * time.Minute}
	if r.IntN(2) == 0 {
		rule.From = time.Duration(r.IntN(4*60)) * time.Minute
	}
	for d := range rule.Days {
		rule.Days[d] = r.IntN(3) == 0
	}
	rule.Days[r.IntN(7)] = true
	switch r.IntN(3) {
	case 0:
		rule.Window, rule.To = true, time.Duration(r.IntN(24*60))*time.Minute
	case 1:
		rule.Length = time.Duration(1+r.IntN(300)) * time.Minute
	}
	return rule
}

func sideBySide(t *testing.T, what string, r *rand.Rand, plan Plan, began time.Time) {
	t.Helper()
	const minutes = 18 * 24 * 60
	m := &model{waits: plan.Waits, begun: -1, settled: -1, turn: -1}
	for at := plan.When.Next(began); at.Begin.Before(began.Add(minutes * time.Minute)); at = plan.When.Next(at.Begin) {
		m.runs = append(m.runs, at)
	}
	s := &story{t: t, plan: plan}
	s.step(began, Nothing)
	off := 0
	var said []string
	for i := 1; i < minutes; i++ {
		now := began.Add(time.Duration(i) * time.Minute)
		if off--; off > 0 {
			continue
		}
		if m.turn < 0 && r.IntN(2000) == 0 {
			off = r.IntN(4 * 24 * 60) // it is not there
			continue
		}
		takes := 1 + r.IntN(90)
		want := m.minute(now, takes)
		got := ""
		if want == "done" && s.run {
			s.ended(now, Outcome{Done: true})
			got = "done"
		} else {
			var act Act
			s.p, act = Step(s.p, plan, Input{Now: now, Up: up, Running: s.run})
			switch act {
			case Begin:
				got, s.run = "begin", true
			case End:
				got = "end"
				s.ended(now, Outcome{Stopped: true})
			}
		}
		if got != want {
			t.Fatalf("%s: at %v it says %q, watched was %q; before: %q; %+v, turn %+v", what, now, got, want, said[max(0, len(said)-6):], s.p, s.p.Turn)
		}
		if got != "" {
			said = append(said, got+" "+now.Format("01-02 15:04"))
		}
	}
	if !slices.ContainsFunc(said, func(x string) bool { return strings.HasPrefix(x, "begin") }) && len(m.runs) > 0 && !plan.Waits {
		t.Fatalf("%s: nothing ever began", what)
	}
}
