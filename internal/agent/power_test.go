package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/problem"
	"revolve/internal/roster"
	"revolve/internal/vm"
	"revolve/internal/vm/points"
)

// A node powers itself off only if it is on demand, surely not master, and has all changes. What is not known keeps it on.
func TestWhatKeepsANodeOn(t *testing.T) {
	onDemand := strings.Replace(before, "b: { links: { lan: 10.77.0.12 },", "b: { links: { lan: 10.77.0.12 }, power: { mode: on-demand },", 1)
	well := beat.Report{Role: cluster.Standby, Master: "a", Class: cluster.InSync}
	for what, c := range map[string]struct {
		text string
		r    beat.Report
		age  time.Duration
		want string
		kind problem.Kind
	}{
		"nothing":               {onDemand, well, 0, "", 0},
		"it is always on":       {before, well, 0, "it is not on demand", problem.Invalid},
		"it is master":          {onDemand, beat.Report{Role: cluster.Master, Master: "b", Class: cluster.InSync}, 0, "it is master", problem.Conflict},
		"its addresses stay":    {onDemand, beat.Report{Role: cluster.Standby, Master: "b", Class: cluster.InSync}, 0, "it is master", problem.Conflict},
		"nobody is master":      {onDemand, beat.Report{Role: cluster.Standby, Class: cluster.InSync}, 0, "it hears no master", problem.Conflict},
		"an old report":         {onDemand, well, 2 * reportAge, "its election is not heard", problem.Conflict},
		"it is behind":          {onDemand, beat.Report{Role: cluster.Standby, Master: "a", Class: cluster.Lagging}, 0, "not caught up", problem.Conflict},
		"it catches up":         {onDemand, beat.Report{Role: cluster.Standby, Master: "a", Class: cluster.Stale}, 0, "not caught up", problem.Conflict},
		"it says nothing of it": {onDemand, beat.Report{Role: cluster.Standby, Master: "a"}, 0, "not caught up", problem.Conflict},
	} {
		a := &Agent{o: Options{Node: "b", Config: parse(t, c.text), Roster: holding(t, roster.Roster{Generation: 1, Config: c.text})}, report: c.r, reported: time.Now().Add(-c.age)}
		err := a.mayRest()
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || problem.KindOf(err) != c.kind || problem.HintOf(err) == "") {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// Whoever logs in on a node is seen once; that it cannot be seen is an error, and forgets nobody.
func TestWhoIsLoggedInIsNoted(t *testing.T) {
	store, err := points.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &Agent{vms: vm.New(vm.Options{Node: "b", Store: store})}
	uses := func() int { return a.vms.Awake().Uses }
	for i, c := range []struct {
		who  []string
		err  error
		uses int
	}{
		{nil, nil, 0},
		{[]string{"x (session 1)"}, nil, 1},
		{[]string{"x (session 1)"}, nil, 1},
		{nil, errors.New("no /proc"), 1},
		{[]string{"x (session 1)", "y (session 2)"}, nil, 2},
		{nil, nil, 2},
		{[]string{"x (session 3)"}, nil, 3},
	} {
		a.people.who = func() ([]string, error) { return c.who, c.err }
		list, err := a.people.look(a)
		if len(list) != len(c.who) || !errors.Is(err, c.err) || uses() != c.uses {
			t.Errorf("%d: %v, %v, %d uses", i, list, err, uses())
		}
	}
	a.keepHere()
	if uses() != 4 {
		t.Error("that a person powered it on is not noted")
	}
}
