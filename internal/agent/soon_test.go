package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/election"
	"revolve/internal/mirror"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// What passes is waited for, as long as it may take; what does not pass is refused at once, and who has gone orders nothing more.
func TestPatience(t *testing.T) {
	refusal := &problem.Problem{Op: "switch to", Kind: problem.Unavailable, Subject: "b", Err: errors.New("b is lagging"), Hint: "wait"}
	for what, c := range map[string]struct {
		errs []error // of each try; the last one stays
		gone time.Duration
		want string
		more bool // than one try
	}{
		"done":                      {errs: []error{nil}},
		"done in a moment":          {errs: []error{soon(refusal, soonWithin), soon(refusal, soonWithin), nil}, more: true},
		"it does not pass":          {errs: []error{refusal, nil}, want: "switch to b: b is lagging"},
		"it has not passed":         {errs: []error{soon(refusal, soonWithin)}, want: "switch to b: b is lagging (waited 5s for that to change)", more: true},
		"it does not pass any more": {errs: []error{soon(refusal, soonWithin), refusal, nil}, want: "switch to b: b is lagging", more: true},
		"its time is over":          {errs: []error{soon(refusal, toldWithin)}, want: "switch to b: b is lagging (waited 1s for that to change)", more: true},
		"who ordered it has gone":   {errs: []error{soon(refusal, soonWithin)}, gone: 2 * time.Second, want: "switch to b: b is lagging (waited 2s for that to change)", more: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.gone > 0 {
				ctx, cancel = context.WithTimeout(ctx, c.gone)
				defer cancel()
			}
			tries := 0
			_, err := patiently(ctx, func() (int, error) {
				tries++
				return 0, c.errs[min(tries, len(c.errs))-1]
			})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want || c.more != (tries > 1) || err != nil && (problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) != "wait" || strings.Contains(got, "waited") && passesIn(err) > 0) {
				t.Errorf("%s: %d tries, %q", what, tries, got)
			}
		})
	}
}

// Who can take over takes over, the best of those that can; if nobody can, it is said of each what it lacks, and whether that may pass.
func TestSuccession(t *testing.T) {
	never := strings.Replace(before, "b: { ", "b: { candidate: false, ", 1)
	for what, c := range map[string]struct {
		text string
		to   cluster.NodeID
		do   func(a *Agent, b, c *beat.PeerReport, volume *mirror.Report)
		want string // the successor, or what the refusal has
		soon time.Duration
	}{
		"all are fit":         {want: "c"},
		"one is named":        {to: "c", want: "c"},
		"itself":              {to: "a", want: "a"},
		"nobody of that name": {to: "x", want: "not in the configuration"},
		"the best is not yet": {do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) { v.Standbys[1].State = "catching-up" }, want: "b"},
		"it says so in advance": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) { v.Standbys[0].State = "lagging" },
			want: "b is lagging (volume home)", soon: soonWithin},
		"it is far behind": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) {
			v.Standbys[0].State, v.Standbys[0].Progress = "catching-up", &mirror.Progress{LeftSeconds: 40}
		}, want: "b is catching-up (volume home, about 40s left)"},
		"nobody knows how far": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) {
			v.Standbys[0].State, v.Standbys[0].Progress = "catching-up", &mirror.Progress{LeftSeconds: -1}
		}, want: "b is catching-up (volume home)", soon: soonWithin},
		"it is almost there": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) {
			v.Standbys[0].State, v.Standbys[0].Progress = "catching-up", &mirror.Progress{LeftSeconds: 2}
		}, want: "b is catching-up (volume home)", soon: soonWithin},
		"it turns to this master": {to: "c", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) { v.Standbys = v.Standbys[:1] },
			want: "c is not connected for volume home", soon: soonWithin},
		"it does not say so yet":   {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.Class = cluster.Lagging }, want: "b is standby and lagging, as it says", soon: soonWithin},
		"it was master just now":   {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.Role = cluster.Master }, want: "b is master and in-sync, as it says", soon: soonWithin},
		"in maintenance":           {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.Maintenance = true }, want: "b is in maintenance", soon: toldWithin},
		"ill":                      {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.Ill = true }, want: "b has an ill service", soon: toldWithin},
		"barred":                   {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.Class = cluster.Barred }, want: "b cannot lead", soon: toldWithin},
		"a late heartbeat":         {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.State = beat.PeerSuspect }, want: "b is silent since a moment ago", soon: toldWithin},
		"silent":                   {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.State = beat.PeerDead }, want: "b is silent"},
		"never heard":              {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, _ *mirror.Report) { b.State = beat.PeerUnknown }, want: "b was not heard yet"},
		"never to lead":            {to: "b", text: never, want: "b is no candidate"},
		"the one is, one may come": {text: never, do: func(_ *Agent, _, c *beat.PeerReport, _ *mirror.Report) { c.Class = cluster.Lagging }, want: "b is no candidate; c is standby and lagging", soon: soonWithin},
		"a paused volume goes as it is": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) {
			v.Standbys, v.Paused = nil, &mirror.Pause{}
		}, want: "b"},
		"a paused volume that leads no more": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) {
			v.Leading, v.Standbys, v.Paused = false, nil, &mirror.Pause{}
		}, want: "b"},
		"a broken volume does not lead": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) {
			v.Leading, v.Standbys, v.Problem = false, nil, "its directory is gone"
		}, want: "b"},
		"this master has just begun": {to: "b", do: func(_ *Agent, _, _ *beat.PeerReport, v *mirror.Report) { v.Leading = false },
			want: "b waits for volume home, which this master is taking over", soon: soonWithin},
		"it has begun, and one is silent": {to: "b", do: func(_ *Agent, b, _ *beat.PeerReport, v *mirror.Report) { v.Leading, b.State = false, beat.PeerDead }, want: "b is silent"},
	} {
		a := standby(t)
		if c.text == "" {
			c.text = before
		}
		a.o.Node, a.o.Roster, a.disks = "a", holding(t, roster.Roster{Generation: 1, Config: c.text}), nil
		peers := []beat.PeerReport{{Node: "b", State: beat.PeerAlive, Role: cluster.Standby, Class: cluster.InSync}, {Node: "c", State: beat.PeerAlive, Role: cluster.Standby, Class: cluster.InSync}}
		a.report = beat.Report{Role: cluster.Master, Master: "a", Peers: peers}
		sees(a, "in-sync", "in-sync")
		volume := &a.looks.last.Load().volumes[0]
		volume.Name, volume.Leading = "home", true
		if c.do != nil {
			c.do(a, &peers[0], &peers[1], volume)
		}
		to, err := a.succession(c.to)
		if err == nil && string(to) != c.want || err != nil && (!strings.Contains(err.Error(), c.want) || problem.HintOf(err) == "") || passesIn(err) != c.soon {
			t.Errorf("%s: %q, %v (may pass in %v)", what, to, err, passesIn(err))
		}
	}
}

// A refusal of the beat process by which nothing changed is of what it hears: that may be newer than its report.
func TestUnready(t *testing.T) {
	for _, why := range []election.Failure{election.NotInSync, election.NotEligible, election.Busy, election.FlushTimeout, election.Shared} {
		if got, want := passesIn(unready(why.String(), errors.New("no"))) > 0, why == election.NotInSync || why == election.NotEligible; got != want {
			t.Errorf("%v: %v", why, got)
		}
	}
}

// Where there was a master a moment ago there is one in a moment.
func TestMasterlessPasses(t *testing.T) {
	a := standby(t)
	for _, c := range []struct {
		since time.Duration
		soon  time.Duration
	}{{0, soonWithin}, {2 * soonWithin, 0}} {
		a.report = beat.Report{Role: cluster.Standby, Since: time.Now().Add(-c.since)}
		if err := a.masterless("switch"); passesIn(err) != c.soon || problem.KindOf(err) != problem.Unavailable {
			t.Errorf("no master since %v: %v", c.since, passesIn(err))
		}
	}
}

// A move away from the master is of the master that there was when it was typed: if another one took over while the order
// waited, there is nothing left to move, and the new master is left in peace. A place that is named is gone to all the same.
func TestAnotherMasterIsNotMovedAway(t *testing.T) {
	agents, _, _ := neighbours(t)
	a := agents[0]
	for what, c := range map[string]struct {
		order func(ctx context.Context) (cluster.NodeID, error)
		now   beat.Report
		want  cluster.NodeID // "": it fails, as nobody answers
	}{
		"switch":          {func(ctx context.Context) (cluster.NodeID, error) { return backend{a}.Switch(ctx, "") }, beat.Report{Role: cluster.Standby, Master: "b"}, "b"},
		"maintenance":     {a.makeWay, beat.Report{Role: cluster.Standby, Master: "b"}, "b"},
		"a name is typed": {func(ctx context.Context) (cluster.NodeID, error) { return backend{a}.Switch(ctx, "b") }, beat.Report{Role: cluster.Standby, Master: "b"}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			a.report = beat.Report{Role: cluster.Master, Master: "a", Peers: []beat.PeerReport{{Node: "b", State: beat.PeerAlive, Role: cluster.Standby, Class: cluster.Lagging}}}
			sees(a, "lagging", "")
			go func() {
				time.Sleep(time.Second)
				a.mu.Lock()
				defer a.mu.Unlock()
				a.report = c.now
			}()
			to, err := c.order(t.Context())
			if to != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%s: %q, %v", what, to, err)
			}
		})
	}
}

// What a barrier refuses at once is of this moment: a volume that is being taken over, a standby that is about to be in-sync. A
// disk that does not answer is not.
func TestTheBarrierPasses(t *testing.T) {
	a := standby(t)
	var err error
	if a.engine, err = mirror.New(a.mirrorOptions()); err != nil {
		t.Fatal(err)
	}
	if err := a.brought(t.Context(), "b"); passesIn(err) != toldWithin || problem.KindOf(err) != problem.Unavailable {
		t.Errorf("the volume is not served yet: %v (may pass in %v)", err, passesIn(err))
	}
	a.disks = disks{{name: "volume home", pulse: pulse{began: time.Now().Add(-2 * pulseStalled), ill: true}}}
	if err := a.brought(t.Context(), "b"); err == nil || passesIn(err) != 0 {
		t.Errorf("a disk that hangs: %v (may pass in %v)", err, passesIn(err))
	}
}
