package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/mirror"
	"revolve/internal/power"
	"revolve/internal/problem"
	"revolve/internal/roster"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// noHost is a libvirt without machines.
type noHost struct{ vm.Host }

func (noHost) Machines(context.Context) ([]libvirt.Machine, error) { return nil, nil }

func opened(t *testing.T) *points.Store {
	t.Helper()
	store, err := points.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// standby is the agent of c, which is on demand and well, and follows a.
func standby(t *testing.T) *Agent {
	t.Helper()
	text := strings.Replace(before, "c: { links: { lan: 10.77.0.13 }", "c: { links: { lan: 10.77.0.13 }, power: { mode: on-demand }", 1)
	a := &Agent{o: Options{Node: "c", State: t.TempDir(), Config: parse(t, text), Roster: holding(t, roster.Roster{Generation: 1, Config: text}), Log: slog.New(slog.DiscardHandler)},
		report: beat.Report{Role: cluster.Standby, Master: "a", Class: cluster.InSync}, reported: time.Now(), record: &record{}}
	a.standing.Store(&standing{class: cluster.InSync, at: time.Now()})
	a.people.who = func() ([]string, error) { return nil, nil }
	a.runs = func(context.Context) string { return "" }
	a.vms = vm.New(vm.Options{Node: "c", Host: noHost{}, Store: opened(t), Log: a.o.Log, Proc: t.TempDir()})
	return a
}

// A node powers itself off only if it is on demand, surely not master, and has all changes; if nothing is under way that it
// has a part in, nobody is logged in and no machine needs it. What is not known keeps it on.
func TestWhatKeepsANodeOn(t *testing.T) {
	asItCame := func(a *Agent) *vm.RestOrder { return &vm.RestOrder{Token: a.vms.Awake().Token} }
	for what, c := range map[string]struct {
		do   func(a *Agent)
		run  bool
		want string
		kind problem.Kind
	}{
		"nothing":               {func(*Agent) {}, false, "", 0},
		"nothing, of a run":     {func(*Agent) {}, true, "", 0},
		"it is always on":       {func(a *Agent) { a.o.Roster = holding(t, roster.Roster{Generation: 1, Config: before}) }, false, "it is not on demand", problem.Invalid},
		"it is master":          {func(a *Agent) { a.report.Role, a.report.Master = cluster.Master, "c" }, false, "it is master", problem.Conflict},
		"its addresses stay":    {func(a *Agent) { a.report.Master = "c" }, false, "it is master", problem.Conflict},
		"nobody is master":      {func(a *Agent) { a.report.Master = "" }, false, "it hears no master", problem.Conflict},
		"an old report":         {func(a *Agent) { a.reported = time.Now().Add(-2 * reportAge) }, false, "its election is not heard", problem.Conflict},
		"it is behind":          {func(a *Agent) { a.standing.Store(&standing{class: cluster.Lagging, at: time.Now()}) }, false, "not caught up", problem.Conflict},
		"it catches up":         {func(a *Agent) { a.standing.Store(&standing{class: cluster.Stale, at: time.Now()}) }, false, "not caught up", problem.Conflict},
		"it says nothing of it": {func(a *Agent) { a.standing.Store(nil) }, false, "not caught up", problem.Conflict},
		"its disk hangs": {func(a *Agent) {
			a.standing.Store(&standing{class: cluster.InSync, at: time.Now().Add(-2 * standingAge)})
		}, false, "not caught up", problem.Conflict},
		"it is never to lead": {func(a *Agent) { a.report.Class = cluster.Barred }, false, "", 0},
		"a configuration is tried": {func(a *Agent) {
			text := a.o.Roster.Current().Config
			a.o.Roster = holding(t, roster.Roster{Generation: 2, Config: text + "# x\n", Trial: &roster.Trial{Seconds: 60, Former: text, Expect: []cluster.NodeID{"a", "b", "c"}}})
		}, false, "a configuration is tried", problem.Conflict},
		"it starts anew":         {func(a *Agent) { a.trial.since = time.Now() }, false, "a configuration is tried", problem.Conflict},
		"a rehearsal":            {func(a *Agent) { a.rehearsing.Store(true) }, false, "a rehearsal is going on", problem.Conflict},
		"somebody is logged in":  {func(a *Agent) { a.people.who = func() ([]string, error) { return []string{"x"}, nil } }, true, "x is logged in", problem.Conflict},
		"whoever types it":       {func(a *Agent) { a.people.who = func() ([]string, error) { return []string{"x"}, nil } }, false, "", 0},
		"nobody knows who is":    {func(a *Agent) { a.people.who = func() ([]string, error) { return nil, errors.New("no /proc") } }, true, "it cannot be seen whether somebody", problem.Conflict},
		"somebody used it":       {func(a *Agent) { a.vms.Used("it was master") }, true, "somebody uses it: it was master", problem.StaleTerm},
		"a person does not mind": {func(a *Agent) { a.vms.Used("it was master") }, false, "", 0},
		"it is in maintenance":   {func(a *Agent) { a.record.now.Maintenance = true }, true, "a person has it in maintenance", problem.Conflict},
		"maintenance, a person":  {func(a *Agent) { a.record.now.Maintenance = true }, false, "", 0},
		"an order was typed":     {func(a *Agent) { backend{a}.Ordered("maintenance") }, true, "somebody uses it: a person ordered something on it: maintenance", problem.StaleTerm},
		"it keeps no points":     {func(a *Agent) { a.vms = nil }, true, "it keeps no points", problem.Conflict},
		"its points are not mounted": {func(a *Agent) {
			a.vms, a.noVMs, a.o.Config.VMStorage = nil, errors.New("no such directory"), "/srv/vms"
		}, false, "whether it is the home of one: no such directory", problem.Conflict},
	} {
		a := standby(t)
		run := asItCame(a)
		if !c.run {
			run = nil
		}
		c.do(a)
		err := a.mayRest(t.Context(), run)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || problem.KindOf(err) != c.kind) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		if err != nil && problem.HintOf(err) == "" {
			t.Errorf("%s: %v, and no next step", what, err)
		}
	}
}

// The master spares a standby only while another one could take over, and not two of them at once; never while something
// is under way that needs all.
func TestTheLastStandbyIsNotSpared(t *testing.T) {
	peers := func(change func(b *beat.PeerReport)) []beat.PeerReport {
		list := []beat.PeerReport{{Node: "b", State: beat.PeerAlive, Class: cluster.InSync}, {Node: "c", State: beat.PeerAlive, Class: cluster.InSync}}
		change(&list[0])
		return list
	}
	text := strings.Replace(before, "c: { links: { lan: 10.77.0.13 }", "c: { links: { lan: 10.77.0.13 }, power: { mode: on-demand }", 1)
	store := strings.Replace(text, "c: { ", "c: { candidate: false, ", 1)
	b := strings.Replace(text, "b: { ", "b: { candidate: false, ", 1)
	for what, c := range map[string]struct {
		text   string
		change func(b *beat.PeerReport)
		do     func(a *Agent)
		want   string
	}{
		"b is fit":                      {text, func(*beat.PeerReport) {}, nil, ""},
		"b is away":                     {text, func(b *beat.PeerReport) { b.State = beat.PeerUnknown }, nil, "no other standby"},
		"b is silent":                   {text, func(b *beat.PeerReport) { b.State = beat.PeerSuspect }, nil, "no other standby"},
		"b is behind":                   {text, func(b *beat.PeerReport) { b.Class = cluster.Lagging }, nil, "no other standby"},
		"b stepped back":                {text, func(b *beat.PeerReport) { b.Class = cluster.Barred }, nil, "no other standby"},
		"b is ill":                      {text, func(b *beat.PeerReport) { b.Ill = true }, nil, "no other standby"},
		"b is in maintenance":           {text, func(b *beat.PeerReport) { b.Maintenance = true }, nil, "no other standby"},
		"b is never to lead":            {b, func(*beat.PeerReport) {}, nil, "no other standby"},
		"b was spared":                  {text, func(*beat.PeerReport) {}, func(a *Agent) { _ = a.spare("b", true) }, "no other standby"},
		"b only asked":                  {text, func(*beat.PeerReport) {}, func(a *Agent) { _ = a.spare("b", false) }, ""},
		"c was spared":                  {text, func(*beat.PeerReport) {}, func(a *Agent) { _ = a.spare("c", true) }, ""},
		"b is away, c is never to lead": {store, func(b *beat.PeerReport) { b.State = beat.PeerUnknown }, nil, ""},
		"c was spared and came back":    {text, func(*beat.PeerReport) {}, func(a *Agent) { _ = a.spare("c", true); _ = a.spare("c", false) }, ""},
		"b was spared and came back": {text, func(*beat.PeerReport) {}, func(a *Agent) {
			a.spared.until = map[cluster.NodeID]time.Time{"b": time.Now().Add(restFor)}
			_ = a.spare("b", false)
		}, ""},
		"b was spared, went silent, and is back": {text, func(*beat.PeerReport) {}, func(a *Agent) {
			_ = a.spare("b", true)
			a.spared.sees(beat.Report{Peers: []beat.PeerReport{{Node: "b", State: beat.PeerDead}}})
		}, ""},
		"b was spared, and a heartbeat was late": {text, func(*beat.PeerReport) {}, func(a *Agent) {
			_ = a.spare("b", true)
			a.spared.sees(beat.Report{Peers: []beat.PeerReport{{Node: "b", State: beat.PeerSuspect}, {Node: "c", State: beat.PeerDead}}})
		}, "no other standby"},
		"b says it is in sync":          {text, func(*beat.PeerReport) {}, func(a *Agent) { sees(a, "lagging", "in-sync") }, "no other standby"},
		"c says it is in sync":          {store, func(*beat.PeerReport) {}, func(a *Agent) { sees(a, "in-sync", "lagging") }, "does not see that it has all changes"},
		"nothing was seen":              {store, func(*beat.PeerReport) {}, func(a *Agent) { a.looks.last.Store(nil) }, "does not see that it has all changes"},
		"what was seen is old":          {store, func(*beat.PeerReport) {}, func(a *Agent) { a.looks.last.Load().at = time.Now().Add(-2 * lookOld) }, "does not see that it has all changes"},
		"a switch was begun":            {store, func(*beat.PeerReport) {}, func(a *Agent) { a.switching.Add(1) }, "the addresses are being moved"},
		"a switch has no result":        {store, func(*beat.PeerReport) {}, func(a *Agent) { a.order = beat.SwitchOrder{ID: 2, To: "b"} }, "the addresses are being moved"},
		"a switch has its result":       {store, func(*beat.PeerReport) {}, func(a *Agent) { a.order = beat.SwitchOrder{ID: 2, To: "b"}; a.report.SwitchResult.ID = 2 }, ""},
		"the addresses go over":         {store, func(*beat.PeerReport) {}, func(a *Agent) { a.report.Handover.ID = 1 }, "the addresses are being moved"},
		"a rehearsal of another's":      {store, func(*beat.PeerReport) {}, func(a *Agent) { reigns(t, a, history.WhyRehearsal, time.Now()) }, "a rehearsal is going on"},
		"it was a rehearsal long ago":   {store, func(*beat.PeerReport) {}, func(a *Agent) { reigns(t, a, history.WhyRehearsal, time.Now().Add(-rehearsedWithin-time.Second)) }, ""},
		"nobody knows yet why it leads": {store, func(*beat.PeerReport) {}, func(a *Agent) { reigns(t, a, history.WhySwitch, time.Now()); a.report.Reign.Term++ }, "leads since a moment ago"},
		"nobody knows why it leads":     {store, func(*beat.PeerReport) {}, func(a *Agent) { reigns(t, a, history.WhySwitch, time.Now().Add(-time.Minute)); a.report.Reign.Term++ }, ""},
		"it leads by a person's order":  {store, func(*beat.PeerReport) {}, func(a *Agent) { reigns(t, a, history.WhySwitch, time.Now()) }, ""},
		"a rehearsal":                   {store, func(*beat.PeerReport) {}, func(a *Agent) { a.rehearsing.Store(true) }, "a rehearsal is going on"},
		"a configuration is tried":      {store, func(*beat.PeerReport) {}, func(a *Agent) { a.trial.since = time.Now() }, "a configuration is tried"},
	} {
		a := standby(t)
		a.o.Node, a.o.Roster = "a", holding(t, roster.Roster{Generation: 1, Config: c.text})
		a.report = beat.Report{Role: cluster.Master, Master: "a", Peers: peers(c.change)}
		sees(a, "in-sync", "in-sync")
		if c.do != nil {
			c.do(a)
		}
		err := a.spare("c", true)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "") {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// sees has a master see how its standbys b and c are.
func sees(a *Agent, b, c string) {
	a.looks = newLooker(nil)
	close(a.looks.ended)
	a.looks.last.Store(&sight{at: time.Now(), volumes: []mirror.Report{{Standbys: []mirror.Standby{{Node: "b", State: b}, {Node: "c", State: c}}}}})
}

// reigns has a node be master since then, for that reason.
func reigns(t *testing.T, a *Agent, why string, since time.Time) {
	t.Helper()
	a.report.Reign = cluster.Reign{Term: 7}
	a.report.Since = since
	var err error
	if a.history, err = history.Open(filepath.Join(t.TempDir(), "history")); err != nil {
		t.Fatal(err)
	}
	if err := a.history.Put(history.Record{Term: 7, Master: "a", At: since, Cause: history.CauseSwitch, Ordered: &history.Order{Why: why, Node: "b"}}); err != nil {
		t.Fatal(err)
	}
}

// Who wants a node on that is powering itself off is told that it is too late, not that all is well; whether or not it keeps points.
func TestKeepOnIsTooLate(t *testing.T) {
	for _, keeps := range []bool{true, false} {
		a := standby(t)
		if !keeps {
			a.vms = nil
		}
		if err := a.closeHere(); err != nil {
			t.Fatal(err)
		}
		err := backend{a}.Power(t.Context(), control.PowerOrder{Node: "c", On: true})
		if problem.KindOf(err) != problem.Unavailable || !strings.Contains(problem.HintOf(err), "revolve power on c") {
			t.Errorf("power on while it powers itself off: %v", err)
		}
		if err := a.closeHere(); problem.KindOf(err) != problem.Unavailable {
			t.Errorf("a second order: %v", err)
		}
	}
}

// An agent that is started anew while its node goes off takes no part, for the rest of that time; not after the next boot,
// nor when it came back.
func TestRestOverARestart(t *testing.T) {
	for what, c := range map[string]struct {
		note  string
		rests bool
	}{
		"as written":    {"", true},
		"another boot":  {`{"system":"another","until":9000000000000000000}`, false},
		"over":          {`{"system":"` + power.System() + `","until":1}`, false},
		"far ahead":     {`{"system":"` + power.System() + `","until":9000000000000000000}`, true},
		"torn":          {`{`, true},
		"far too large": {strings.Repeat(" ", maxRestFile+1), true},
	} {
		a := standby(t)
		if err := a.closeHere(); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(a.o.State, restFile)
		if c.note != "" {
			if err := os.WriteFile(name, []byte(c.note), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		next := standby(t)
		next.o.State = a.o.State
		next.restAgain()
		if next.rests() != c.rests || (next.vms.KeepOn() == nil) == c.rests {
			t.Errorf("%s: it rests: %v", what, next.rests())
		}
		if until := next.resting.Load(); c.rests && *until > power.Uptime()+restFor {
			t.Errorf("%s: until %s", what, *until)
		}
		if _, err := os.Stat(name); (err == nil) != c.rests {
			t.Errorf("%s: its note: %v", what, err)
		}
	}
	a := standby(t)
	a.restAgain()
	if a.rests() {
		t.Error("without a note it rests")
	}
}

// Whoever logs in on a node is seen once; that it cannot be seen is an error, and forgets nobody.
func TestWhoIsLoggedInIsNoted(t *testing.T) {
	a := standby(t)
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
	if err := a.keepHere(&history.Order{Why: history.WhyPower, Node: "a"}); err != nil || uses() != 4 {
		t.Errorf("that a person powered it on is not noted: %v", err)
	}
}

// between is a libvirt during whose answer something happens.
type between struct {
	noHost
	do func()
}

func (h between) Machines(context.Context) ([]libvirt.Machine, error) {
	h.do()
	return nil, nil
}

// Whoever begins to use a node between the two looks, or while libvirt is asked in the second, keeps it on; whether a run or
// a person has it be off, and whether or not it keeps points.
func TestUsedBetweenTheLooks(t *testing.T) {
	on := &history.Order{Why: history.WhyPower, Node: "a"}
	login := func(a *Agent) { a.people.who = func() ([]string, error) { return []string{"x"}, nil } }
	for what, c := range map[string]struct {
		points, run     bool
		before, libvirt func(a *Agent)
		want            string
	}{
		"nothing":               {points: true},
		"nothing, of a run":     {points: true, run: true},
		"power on":              {before: func(a *Agent) { _ = a.keepHere(on) }, want: "somebody began to use it"},
		"power on, with points": {points: true, before: func(a *Agent) { _ = a.keepHere(on) }, want: "somebody began to use it"},
		"an order":              {before: func(a *Agent) { backend{a}.Ordered("maintenance") }, want: "somebody began to use it"},
		"another logs in":       {before: login, want: "somebody began to use it"},
		"somebody logs in while libvirt is asked": {points: true, run: true, libvirt: login, want: "x is logged in"},
		"who leaves again":                        {points: true, run: true, libvirt: func(a *Agent) { a.used("x is logged in") }, want: "somebody uses it: x is logged in"},
		"a person's node, while libvirt is asked": {points: true, libvirt: login, want: "somebody began to use it"},
		"a trial begins while libvirt is asked":   {points: true, libvirt: func(a *Agent) { a.trial.since = time.Now() }, want: "a configuration is tried"},
	} {
		a := standby(t)
		a.asksMaster = func(context.Context) error { return nil }
		var run *vm.RestOrder
		if c.run {
			run = &vm.RestOrder{Token: a.vms.Awake().Token}
		}
		if c.libvirt != nil {
			a.vms = vm.New(vm.Options{Node: "c", Host: between{do: func() { c.libvirt(a) }}, Store: opened(t), Log: a.o.Log, Proc: t.TempDir()})
			if run != nil {
				run.Token = a.vms.Awake().Token
			}
		}
		if !c.points {
			a.vms = nil
		}
		before := a.usesSoFar()
		if c.before != nil {
			c.before(a)
		}
		if err := a.closeHere(); err != nil {
			t.Fatal(err)
		}
		if err := a.lastLook(t.Context(), run, before); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// The master's word is young when a node goes: where the look after it took its time, it is asked again, and not for ever.
func TestTheMastersWordIsYoung(t *testing.T) {
	for _, c := range []struct{ slow, asked int }{{0, 1}, {1, 2}, {100, lookTries}} {
		synctest.Test(t, func(t *testing.T) {
			a := standby(t)
			asked := 0
			a.asksMaster = func(context.Context) error { asked++; return nil }
			a.vms = vm.New(vm.Options{Node: "c", Host: between{do: func() {
				if c.slow > 0 {
					time.Sleep(spareFresh + time.Second)
				}
				c.slow--
				a.reported = time.Now()
			}}, Store: opened(t), Log: a.o.Log, Proc: t.TempDir()})
			if err := a.closeHere(); err != nil {
				t.Fatal(err)
			}
			s := a.standing.Load()
			s.at = time.Now().Add(time.Hour)
			err := a.lastLook(t.Context(), nil, a.usesSoFar())
			if (err == nil) != (c.asked < lookTries) || asked != c.asked {
				t.Errorf("%+v: %v, asked %d times", c, err, asked)
			}
		})
	}
}

// Whether a node was on until a moment ago; what is not known is taken for that.
func TestHeardLately(t *testing.T) {
	a := standby(t)
	now := time.Now()
	a.since, a.record.before = now.Add(-5*time.Minute), []cluster.NodeID{"b"}
	for what, c := range map[string]struct {
		p    beat.PeerReport
		want bool
	}{
		"it is heard":                       {beat.PeerReport{Node: "b", State: beat.PeerAlive, Since: now.Add(-time.Hour)}, true},
		"it has just gone":                  {beat.PeerReport{Node: "b", State: "dead", Since: now.Add(-time.Minute)}, true},
		"it went in the future":             {beat.PeerReport{Node: "b", State: "dead", Since: now.Add(time.Hour)}, true},
		"it went long ago":                  {beat.PeerReport{Node: "b", State: "dead", Since: now.Add(-time.Hour)}, false},
		"nobody knows of it":                {beat.PeerReport{Node: "x"}, true},
		"it was alive when the agent ended": {beat.PeerReport{Node: "b", State: beat.PeerUnknown}, true},
	} {
		a.report.Peers = []beat.PeerReport{c.p}
		if got := (nodePower{a}).HeardLately("b", 15*time.Minute); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	a.report.Peers = []beat.PeerReport{{Node: "b", State: beat.PeerUnknown}}
	a.record.before = nil
	if (nodePower{a}).HeardLately("b", 15*time.Minute) {
		t.Error("it was off when the agent before ended")
	}
	a.record.before, a.since = []cluster.NodeID{"b"}, now.Add(-time.Hour)
	if (nodePower{a}).HeardLately("b", 15*time.Minute) {
		t.Error("it was not heard in an hour")
	}
}

// Where a node cannot be closed, nothing says after a restart that it is; and one that outlived its time is open again, but
// not if it was closed anew.
func TestClosedAndNot(t *testing.T) {
	noted := func(a *Agent) bool {
		_, err := os.Stat(filepath.Join(a.o.State, restFile))
		return err == nil
	}
	a := standby(t)
	if err := a.vms.Close(power.Uptime() + time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := a.closeHere(); err == nil || noted(a) || a.rests() {
		t.Errorf("its machines were closed before: %v, noted %v", err, noted(a))
	}
	a.vms.Reopen()
	if err := a.closeHere(); err != nil || a.outlived() || !a.rests() || !noted(a) {
		t.Errorf("closed: %v", err)
	}
	past := power.Uptime() - time.Second
	a.resting.Store(&past)
	if !a.outlived() || noted(a) || a.outlived() {
		t.Error("it does not take part again")
	}
	a.closing.Lock()
	done := make(chan struct{})
	go func() { a.reopen(); close(done) }()
	select {
	case <-done:
		t.Error("it comes back while it is being closed")
	case <-time.After(50 * time.Millisecond):
	}
	a.closing.Unlock()
	<-done
}
