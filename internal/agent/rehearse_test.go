package agent

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/clients"
	"revolve/internal/failover/history"
)

// What speaks against a rehearsal before it begins.
func TestHindrance(t *testing.T) {
	good := func() control.Status {
		return control.Status{Node: "a", Verdict: control.Warning, Reasons: []string{"something small"}, Nodes: []control.Node{
			{Name: "a", Eligible: control.Yes, Hold: control.No, Maintenance: control.No}, {Name: "b", Hold: control.No, Maintenance: control.No}}}
	}
	for want, c := range map[string]struct {
		change func(*control.Status)
		soon   time.Duration // it may pass within that,
		after  time.Duration // or, if the addresses have just moved, that
	}{
		"":                           {func(*control.Status) {}, 0, 0},
		"hold is on (b)":             {func(s *control.Status) { s.Nodes[1].Hold = control.Yes }, toldWithin, toldWithin},
		"hold is on (a)":             {func(s *control.Status) { s.Nodes[0].Hold = control.Yes }, 0, 0},
		"b is in maintenance":        {func(s *control.Status) { s.Nodes[1].Maintenance = control.Yes }, toldWithin, toldWithin},
		"a is not fit to lead: ill":  {func(s *control.Status) { s.Nodes[0].Eligible, s.Nodes[0].WhyNot = control.No, "ill" }, 0, soonWithin},
		"a is not fit to lead":       {func(s *control.Status) { s.Nodes[0].Eligible = control.NotKnown }, 0, soonWithin},
		"an alarm stands: something": {func(s *control.Status) { s.Verdict = control.Critical }, 0, soonWithin},
	} {
		for moved, soon := range map[bool]time.Duration{false: c.soon, true: c.after} {
			s := good()
			c.change(&s)
			if why, hint, within := hindrance(s, moved); !strings.HasPrefix(why, want) || want == "" && why != "" || why != "" && hint == "" || within != soon {
				t.Errorf("want %q, got %q (%q), which may pass in %v", want, why, hint, within)
			}
		}
	}
}

// A scheduled rehearsal comes once in an opening of its window, also on the node that was its standby and is master since.
func TestRehearsedSince(t *testing.T) {
	opened := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	drill := func(at time.Time, result string, scheduled bool) history.Rehearsal {
		return history.Rehearsal{Node: "a", Began: at, Ordered: history.Order{Why: history.WhyRehearsal, Node: "a"}, Scheduled: scheduled, Result: result}
	}
	turn := func(at time.Time, user string) history.Record {
		return history.Record{Term: 7, Master: "b", From: "a", Cause: history.CauseSwitch, At: at, Ordered: &history.Order{Why: history.WhyRehearsal, User: user, Node: "a"}}
	}
	for name, c := range map[string]struct {
		drills  []history.Rehearsal
		records []history.Record
		want    bool
	}{
		"none":                {},
		"done":                {drills: []history.Rehearsal{drill(opened, history.Done, true)}, want: true},
		"aborted":             {drills: []history.Rehearsal{drill(opened.Add(time.Minute), history.Aborted, true)}, want: true},
		"running":             {drills: []history.Rehearsal{drill(opened, history.Running, true)}, want: true},
		"refused":             {drills: []history.Rehearsal{drill(opened.Add(time.Minute), history.Refused, true)}},
		"a week ago":          {drills: []history.Rehearsal{drill(opened.AddDate(0, 0, -7), history.Done, true)}},
		"by hand":             {drills: []history.Rehearsal{drill(opened, history.Done, false)}},
		"its standby":         {records: []history.Record{turn(opened, "")}, want: true},
		"its standby, old":    {records: []history.Record{turn(opened.Add(-time.Minute), "")}},
		"standby of a hand's": {records: []history.Record{turn(opened, "root")}},
	} {
		a := &Agent{}
		var err error
		if a.rehearsed, err = history.OpenRehearsals(filepath.Join(t.TempDir(), "r")); err != nil {
			t.Fatal(err)
		}
		if a.history, err = history.Open(filepath.Join(t.TempDir(), "h")); err != nil {
			t.Fatal(err)
		}
		if err := a.rehearsed.Put(c.drills...); err != nil {
			t.Fatal(err)
		}
		if err := a.history.Put(c.records...); err != nil {
			t.Fatal(err)
		}
		if got := a.rehearsedSince(opened); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What an agent did not end is aborted when it starts again; what other nodes run is theirs.
func TestUnendedRehearsal(t *testing.T) {
	a := &Agent{o: Options{Node: "a"}}
	var err error
	if a.rehearsed, err = history.OpenRehearsals(filepath.Join(t.TempDir(), "r")); err != nil {
		t.Fatal(err)
	}
	for i, n := range []cluster.NodeID{"a", "b"} {
		r := history.Rehearsal{Node: n, Began: time.Unix(int64(i+1), 0), Ordered: history.Order{Why: history.WhyRehearsal, Node: n}, Result: history.Running}
		if err := a.rehearsed.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	a.settleRehearsals()
	for _, r := range a.rehearsed.List() {
		if want := map[cluster.NodeID]string{"a": history.Aborted, "b": history.Running}[r.Node]; r.Result != want || r.Check() != nil {
			t.Errorf("got %+v", r)
		}
	}
}

// Whatever an error says, the record of it is one that the other nodes take.
func TestCleanText(t *testing.T) {
	for _, s := range []string{strings.Repeat("ä", 2000), "a\nb\x1b[2J", "\xff\xfe", strings.Repeat("x", whyLongest-1) + "€"} {
		r := history.Rehearsal{Node: "a", Began: time.Unix(1, 0), Ordered: history.Order{Why: history.WhyRehearsal, Node: "a"}, Result: history.Aborted, Why: clean(s)}
		if err := r.Check(); err != nil || r.Why == "" {
			t.Errorf("%.20q: %v", s, err)
		}
	}
}

// The list of a former master counts once, for a while, and never for its own node.
func TestClientsAreTaken(t *testing.T) {
	now := time.Now()
	list := make([]clients.Conn, 2)
	of := cluster.Reign{Term: 7, Owner: "a"}
	for name, c := range map[string]struct {
		self cluster.NodeID
		at   time.Time
		want int
	}{"fresh": {"b", now, 2}, "old": {"b", now.Add(clientsKeep + time.Second), 0}, "its own": {"a", now, 0}} {
		var k clientele
		k.tell(of, list, now)
		if got := k.known(c.self, c.at); got != c.want {
			t.Errorf("%s: %d known", name, got)
		}
		if got := len(k.take(c.self, c.at)); got != c.want || k.known(c.self, c.at) != 0 {
			t.Errorf("%s: %d taken, %d left", name, got, k.known(c.self, c.at))
		}
	}
}

// An announcement belongs to the switch that follows it, from the node that made it.
func TestAnnouncedOrder(t *testing.T) {
	now := time.Now()
	by := &history.Order{Why: history.WhySwitch, User: "alice", Node: "c"}
	for name, c := range map[string]struct {
		from cluster.NodeID
		at   time.Time
		want bool
	}{"at once": {"a", now, true}, "another master": {"b", now, false}, "too late": {"a", now.Add(orderedFor + time.Second), false}} {
		x := announced{by: by, from: "a", at: now}
		if got := x.of(c.from, c.at); (got != nil) != c.want || x.of(c.from, c.at) != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
