package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
	"revolve/internal/vm/schedule"
	"revolve/internal/vm/transfer"
)

// A copy whose end comes just after its last arrival is done: that nobody could be asked any more takes no point away.
// A node that does not answer in time keeps its record from being believed.
func TestVerifyAfterTheEnd(t *testing.T) {
	for what, c := range map[string]struct {
		before, meanwhile, done bool
	}{"ended before": {true, false, true}, "ended meanwhile": {false, true, true}, "no answer": {false, false, false}} {
		e := newEngine(t, &fakeHost{})
		ctx, end := context.WithCancel(t.Context())
		defer end()
		if c.before {
			end()
		}
		e.o.Dial = func(context.Context, cluster.NodeID, string) (transfer.Conn, error) {
			if c.meanwhile {
				end()
			}
			return nil, &problem.Problem{Op: "connect to", Kind: problem.Timeout, Subject: "b"}
		}
		p := points.First("m", time.Now())
		j := &Job{Order: Order{VMs: []string{"m"}, Wake: true}, VMs: []Work{{VM: "m", Point: p.ID, Nodes: []Arrival{{Node: "b", Record: &points.Record{Point: p}}, {Node: "c", Record: &points.Record{Point: p}}}}}}
		err := e.verify(ctx, j, 0)
		o := outcomeOf(j, true, ctx.Err() != nil)
		if o.Done != c.done || (err == nil) != c.done {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
		past := schedule.Ended(schedule.Past{Turn: &schedule.Turn{Begin: p.Taken, End: time.Now()}}, schedule.Plan{}, time.Now(), o)
		if (past.Result == schedule.Done) != c.done {
			t.Errorf("%s: the run is %s (%s)", what, past.Result, past.Why)
		}
	}
}

// plug is the power of b.
type plug struct {
	l       *scheduledLab
	since   time.Time // it is on
	busy    int       // so often it refuses to be off
	said    []string
	refused error
}

func (p *plug) say(what string) { p.said = append(p.said, what) }
func (p *plug) On(context.Context, cluster.NodeID) error {
	p.say("on")
	if p.refused == nil && len(p.said) > 1 { // the first packet is lost
		p.since, p.l.unheard = time.Now(), false
	}
	return p.refused
}
func (p *plug) Off(context.Context, cluster.NodeID) error {
	if p.busy--; p.busy >= 0 {
		return &problem.Problem{Op: "power off", Kind: problem.Conflict, Subject: "b", Err: errors.New("a machine runs on it")}
	}
	p.say(fmt.Sprintf("off with %d points", len(p.l.points())))
	p.l.unheard = true
	return nil
}
func (p *plug) Ready(cluster.NodeID) (there, caughtUp bool) {
	return !p.l.unheard, !p.l.unheard && time.Since(p.since) > 20*time.Second
}

// One run of a schedule that wakes: the node is woken, until it comes; its volumes catch up; the copy is made
// and looked at; and it is powered off when it lets itself be. A restart of the agent does not make that forgotten.
func TestScheduledWake(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 10m", 9*time.Minute)
		p := &plug{l: l, busy: 2}
		l.power, l.unheard, l.list[0].Wake = p, true, true
		time.Sleep(time.Until(time.Now().Truncate(10 * time.Minute).Add(15 * time.Minute)))
		e := l.during(6*time.Minute + 30*time.Second) // woken at 20:00, again at 21:00, there, copied at 21:21, and in use
		if got := l.past(e); got.Result != schedule.Done || len(l.points()) != 1 || strings.Join(p.said, ", ") != "on, on" {
			t.Fatalf("%+v, %v, %v", got, l.points(), p.said)
		}
		l.during(3 * time.Minute)
		if strings.Join(p.said, ", ") != "on, on, off with 1 points" {
			t.Fatalf("%v", p.said)
		}
		e = l.during(10 * time.Second)
		if len(e.diary.woken) != 0 {
			t.Errorf("it is still to be powered off: %v", e.diary.woken)
		}
		// It is on already: then it is not powered off.
		p.said, l.unheard = nil, false
		e = l.during(10 * time.Minute)
		if got := l.past(e); got.Result != schedule.Done || len(l.points()) != 2 || len(p.said) != 0 {
			t.Fatalf("%+v, %v, %v", got, l.points(), p.said)
		}
		// It cannot be woken: the copy fails, and says that the node is off.
		p.refused, l.unheard = errors.New("no such card"), true
		e = l.during(10 * time.Minute)
		if s := e.Scheduled(time.Now())[0]; s.Past.Turn == nil || !strings.Contains(s.Past.Turn.Why, "b is off") {
			t.Fatalf("%+v, %+v", s.Past, s.Past.Turn)
		}
	})
}
