package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

const formerly = `cluster: homelab
nodes:
  a: { links: { lan: 10.77.0.11 } }
  b: { links: { lan: 10.77.0.12 } }
vips:
  - { address: 10.77.0.200/24, link: lan }
failover: { failback: { window: "daily 03:00-04:00" } }
volumes:
  home: { path: /srv/home }
`

// TestWhatIsDoneIsWhatIsSaid: the master carries out of a change what
// `config diff` and the documentation say of its keys.
func TestWhatIsDoneIsWhatIsSaid(t *testing.T) {
	for _, c := range []struct {
		old, new string
		want     config.Effect
	}{
		{"10.77.0.12 }", "10.77.0.12 }, priority: 7", config.EffectNow},
		{"10.77.0.12 }", "10.77.0.12 }, source: file", config.EffectNow},
		{"vips:", "  c: { links: { lan: 10.77.0.13 } }\nvips:", config.EffectNow},
		{"vips:", "bandwidth: { lan: { rate: 1MiB } }\nvips:", config.EffectNow},
		{"10.77.0.12", "10.77.0.22", config.EffectAnew},
		{"10.77.0.200", "10.77.0.201", config.EffectAnew},
		{"/srv/home }", "/srv/home, trash: 3d }", config.EffectRestart},
		{"10.77.0.12 }", "10.77.0.12 }, paths: { home: /tank }", config.EffectRestart},
		{"03:00-04:00", "04:00-05:00", config.EffectRestart},
		{"vips:", "web: { listen: [\":8480\"] }\nvips:", config.EffectRestart},
		{"vips:", "services: { x: { check: \"tcp://127.0.0.1:1\" } }\nvips:", config.EffectRestart},
		{"vips:", "vm_storage: /srv/vms\nvips:", config.EffectRestart},
		{"vips:", "alarms: [ { ntfy: { url: \"https://ntfy.sh/x\" } } ]\nvips:", config.EffectRestart},
		{"vips:", "port: 7400\nvips:", config.EffectRefused},
		{"failover: { ", "failover: { profile: fast, ", config.EffectRefused},
		{"homelab", "another", config.EffectRefused},
	} {
		after := strings.Replace(formerly, c.old, c.new, 1)
		list, err := config.Diff([]byte(formerly), []byte(after))
		if err != nil || len(list) != 1 || list[0].Effect != c.want {
			t.Errorf("%s: %v, %v", c.new, list, err)
		}
		was, now := parse(t, formerly), parse(t, after)
		a := &Agent{o: Options{Config: was, Node: "a"}}
		done := &control.Changed{}
		err = a.compare(was, now, done)
		got := config.EffectNow
		switch {
		case problem.KindOf(err) == problem.Conflict && err != nil:
			got = config.EffectRefused
		case err != nil:
			t.Errorf("%s: %v", c.new, err)
		case len(done.Anew) > 0:
			got = config.EffectAnew
		case len(done.Restart) > 0:
			got = config.EffectRestart
		}
		if got != c.want {
			t.Errorf("%s: done %q, said %q", c.new, got, c.want)
		}
		concerned := needsAnew(was, now, "a") || needsAnew(was, now, "b")
		if concerned != (c.want == config.EffectAnew) {
			t.Errorf("%s: an agent starts anew: %v", c.new, concerned)
		}
	}
}

// TestOnlyTheNodesConcernedStartAnew: the address of b is of no concern to the sockets of a.
func TestOnlyTheNodesConcernedStartAnew(t *testing.T) {
	was, now := parse(t, formerly), parse(t, strings.Replace(formerly, "10.77.0.12", "10.77.0.22", 1))
	if needsAnew(was, now, "a") || !needsAnew(was, now, "b") {
		t.Error("the wrong agent starts anew")
	}
}

// TestOwnFile: with source: file a configuration is taken if the file says the same, whatever its form.
func TestOwnFile(t *testing.T) {
	own := strings.Replace(formerly, "vips:", "# of its own\nvips:", 1)
	own = strings.Replace(own, "10.77.0.11 }", "10.77.0.11 }, source: file", 1)
	file := filepath.Join(t.TempDir(), "revolve.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := roster.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(own)
	if _, _, err := store.Configure(file); err != nil {
		t.Fatal(err)
	}
	a := &Agent{o: Options{Config: store.Config(), Roster: store, Node: "a", File: file}}
	other := strings.Replace(own, "10.77.0.200", "10.77.0.201", 1)
	for what, c := range map[string]struct{ file, pushed, complaint string }{
		"the same":                     {own, own, ""},
		"the same in another form":     {own, strings.ReplaceAll(own, "# of its own\n", ""), ""},
		"something else":               {own, other, "differs in vips"},
		"the file is ahead":            {other, other, ""},
		"the file is broken":           {"cluster: 7\n", own, "cannot be read"},
		"the file does not care":       {formerly, other, "differs in nodes.a.source, vips"}, // what is in force does
		"the change ends source: file": {own, formerly, "differs in nodes.a.source"},
	} {
		write(c.file)
		err := a.fileRefuses(c.pushed)
		if c.complaint == "" && err != nil || c.complaint != "" && (problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), c.complaint)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b := (&Agent{o: Options{Config: store.Config(), Roster: store, Node: "b", File: file}}); b.fileRefuses(other) != nil {
		t.Error("node b has no source: file, and refuses")
	}
	if none := (&Agent{o: Options{Config: store.Config(), Roster: store, Node: "a"}}); none.fileRefuses(own) == nil {
		t.Error("without a file of its own it takes everything")
	}
}

// TestOwnFileGuardsTheWayBack: the former configuration comes back past a node's own
// file only from a trial that is on here, never because a roster calls itself a way back.
func TestOwnFileGuardsTheWayBack(t *testing.T) {
	own := strings.Replace(formerly, "10.77.0.11 }", "10.77.0.11 }, source: file", 1)
	file := filepath.Join(t.TempDir(), "revolve.yaml")
	if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(own, "10.77.0.200", "10.77.0.201", 1)
	for what, c := range map[string]struct {
		now, next roster.Roster
		complaint string
	}{
		"a lie":               {roster.Roster{Generation: 1, Config: own}, roster.Roster{Generation: 2, Config: other, Tried: "x"}, "vips"},
		"of a trial slept by": {roster.Roster{Generation: 1, Config: own}, roster.Roster{Generation: 3, Config: other, Tried: formerly}, "vips"},
		"a lie to come":       {roster.Roster{Generation: 1, Config: own}, roster.Roster{Generation: 2, Config: own, Trial: &roster.Trial{Seconds: 60, Former: other}}, "vips"},
		"of the trial that is on": {roster.Roster{Generation: 2, Config: own, Trial: &roster.Trial{Seconds: 60, Former: other}},
			roster.Roster{Generation: 3, Config: other, Tried: own}, ""},
		"to another than that": {roster.Roster{Generation: 2, Config: own, Trial: &roster.Trial{Seconds: 60, Former: formerly}},
			roster.Roster{Generation: 3, Config: other, Tried: own}, "vips"},
		"a trial that is honest": {roster.Roster{Generation: 1, Config: other}, roster.Roster{Generation: 2, Config: own, Trial: &roster.Trial{Seconds: 60, Former: other}}, ""},
	} {
		store := holding(t, c.now)
		running := parse(t, strings.Replace(formerly, "10.77.0.200", "10.77.0.209", 1)) // it starts anew for any of them: no beat runs here that could be told
		a := &Agent{o: Options{Config: running, Roster: store, Node: "a", File: file, Log: slog.New(slog.DiscardHandler)}, id: identity(t, "a")}
		taken, err := a.take(&c.next, parse(t, c.next.Config))
		if taken != (c.complaint == "") || c.complaint == "" && err != nil || c.complaint != "" && (problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), c.complaint)) {
			t.Errorf("%s: taken %v, %v", what, taken, err)
		}
	}
}

func identity(t *testing.T, node cluster.NodeID) *peer.Identity {
	t.Helper()
	state := t.TempDir()
	if err := peer.Init(state, "homelab", node); err != nil {
		t.Fatal(err)
	}
	id, err := peer.LoadIdentity(state)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestWhoJoinedDuringATrialIsNotOut: the others go back to before it joined, and
// forward again when it is applied again; only a revocation ends its membership.
func TestWhoJoinedDuringATrialIsNotOut(t *testing.T) {
	with := strings.Replace(formerly, "vips:", "  c: { links: { lan: 10.77.0.13 } }\nvips:", 1)
	tried := roster.Roster{Generation: 2, Config: with, Trial: &roster.Trial{Seconds: 60, Former: formerly}}
	start := func(r roster.Roster) *Agent {
		running := parse(t, strings.Replace(with, "10.77.0.200", "10.77.0.209", 1)) // it starts anew for any of them: no beat runs here that could be told
		return &Agent{o: Options{Config: running, Roster: holding(t, r), Node: "c", Log: slog.New(slog.DiscardHandler)}, id: identity(t, "c"), left: make(chan error, 1)}
	}
	a := start(tried)
	back, keep := tried.Back(), tried.Keep()
	later := back.Clone()
	later.Follow(&back)
	for _, r := range []roster.Roster{back, later} {
		if taken, err := a.take(&r, parse(t, r.Config)); taken || problem.KindOf(err) != problem.Unavailable {
			t.Errorf("generation %d without it: taken %v, %v", r.Generation, taken, err)
		}
	}
	a.refused(&peer.Refused{Why: peer.WhyUnknown, Generation: 3})
	if why := a.o.Roster.Out(); why != "" {
		t.Errorf("it is out: %s", why)
	}
	if taken, err := a.take(&keep, parse(t, keep.Config)); !taken || err != nil {
		t.Errorf("the way forward: %v, %v", taken, err)
	}
	a.refused(&peer.Refused{Why: peer.WhyUnknown, Generation: 9})
	if a.o.Roster.Out() == "" {
		t.Error("it was a member for good, was removed, and stays")
	}
	b := start(tried)
	b.refused(&peer.Refused{Why: peer.WhyRevoked, Generation: 3})
	if b.o.Roster.Out() == "" {
		t.Error("it was revoked, and stays")
	}
}

// TestWhoHasJustStartedMustConfirm: a report of who is heard is up to 200 ms old. A node that answers is asked whether it is
// in it or not; who is heard then must confirm, who is off is not waited for, and who cannot do it is heeded.
func TestWhoHasJustStartedMustConfirm(t *testing.T) {
	agents, text, port := neighbours(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, b := agents[0], agents[1]
	hear := func(state beat.PeerState) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.report.Peers = []beat.PeerReport{{Node: "b", State: state}}
		close(a.changed)
		a.changed = make(chan struct{})
	}
	check := func(what, new string, hears bool, want ...cluster.NodeID) {
		t.Helper()
		hear(beat.PeerDead) // that it was off is the newest report
		ctx, stop := context.WithCancel(context.Background())
		l, err := peer.Listen(ctx, b.id, func(cluster.NodeID) bool { return true }, []netip.AddrPort{port}, b.o.Log)
		must(err)
		var g errgroup.Group
		g.Go(func() error {
			return l.Serve(ctx, func(_ context.Context, c *peer.Conn) {
				_ = b.serveTrial(c)
				if hears {
					hear(beat.PeerAlive)
				}
			})
		})
		expect, err := a.checkAll(ctx, parse(t, new), new, true)
		if len(want) > 0 && err != nil || len(want) == 0 && problem.KindOf(err) != problem.Conflict || len(want) > 0 && !slices.Equal(expect, want) {
			t.Errorf("%s: %v must confirm, %v", what, expect, err)
		}
		stop()
		_ = g.Wait()
	}
	check("it has just started", text, true, "a", "b")
	check("it answers and is not heard", text, false, "a")
	check("it cannot do it", strings.Replace(text, "127.0.0.1", "192.0.2.99", 1), true)
	hear(beat.PeerDead)
	if expect, err := a.checkAll(context.Background(), parse(t, text), text, true); err != nil || !slices.Equal(expect, []cluster.NodeID{"a"}) {
		t.Errorf("it is off: %v must confirm, %v", expect, err)
	}
}

// TestAWordThatComesTooLateConfirmsNothing: a node is asked for no longer than its
// answer would count; the master looks at the deadline itself again in time.
func TestAWordThatComesTooLateConfirmsNothing(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	local := strings.NewReplacer("10.77.0.11", "127.0.0.2", "10.77.0.12", "127.0.0.1", "vips:\n  - { address: 10.77.0.200/24, link: lan }", fmt.Sprintf("port: %d", silent.Addr().(*net.TCPAddr).Port))
	text := local.Replace(formerly)
	store := holding(t, roster.Roster{Generation: 2, Config: text, Trial: &roster.Trial{Seconds: 4, Former: text, Expect: []cluster.NodeID{"a", "b"}}})
	a := &Agent{o: Options{Config: store.Config(), Roster: store, Node: "a", Log: slog.New(slog.DiscardHandler)}, id: identity(t, "a")}
	a.confirm(context.Background())
	if left, on := store.Trial(); !on || left <= 0 {
		t.Errorf("the master waited for a word until %v after the deadline (still tried: %v)", -left, on)
	}
	if a.trial.waitsFor() == "" {
		t.Error("it was confirmed without the word")
	}
}

// TestWhatIsConfirmedIsWhatStays: another roster may come into force while the master
// confirms; the configuration that stays is that of the generation that does.
func TestWhatIsConfirmedIsWhatStays(t *testing.T) {
	tried := strings.Replace(formerly, "10.77.0.200", "10.77.0.201", 1)
	r := roster.Roster{Generation: 2, Config: tried, Trial: &roster.Trial{Seconds: 60, Former: formerly, Expect: []cluster.NodeID{"a"}}}
	store := holding(t, r)
	if err := store.Reset(&r, parse(t, formerly)); err != nil { // as when it comes between two looks
		t.Fatal(err)
	}
	running := parse(t, strings.Replace(formerly, "10.77.0.200", "10.77.0.209", 1)) // it starts anew for any of them: no beat runs here that could be told
	a := &Agent{o: Options{Config: running, Roster: store, Node: "a", Log: slog.New(slog.DiscardHandler)}, id: identity(t, "a")}
	a.confirm(context.Background())
	if g := store.Current(); g.Generation != 4 || g.Trial != nil || !slices.Equal(store.Config().VIPs, parse(t, tried).VIPs) {
		t.Errorf("generation %d, tried %v, in force with %v", g.Generation, g.Trial != nil, store.Config().VIPs)
	}
}

// TestAWayBackThatFailsIsNotSaidAtEveryLook: a full disk stays full for a while.
func TestAWayBackThatFailsIsNotSaidAtEveryLook(t *testing.T) {
	said := &strings.Builder{}
	alone := "cluster: homelab\nnodes:\n  a: { links: { lan: 10.77.0.11 } }\n"
	store := holding(t, roster.Roster{Generation: 2, Config: alone, Trial: &roster.Trial{Seconds: 60, Former: strings.Replace(alone, "homelab", "other", 1)}})
	a := &Agent{o: Options{Config: store.Config(), Roster: store, Node: "a", Log: slog.New(slog.NewTextHandler(said, nil))}, id: identity(t, "a")}
	for range 3 {
		a.turnBack(context.Background())
	}
	if n := strings.Count(said.String(), "could not be brought back"); n != 1 {
		t.Errorf("said %d times:\n%s", n, said)
	}
}

// holding is the store of a node that goes by a roster.
func holding(t *testing.T, r roster.Roster) *roster.Store {
	t.Helper()
	store, err := roster.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Reset(&r, parse(t, r.Config)); err != nil {
		t.Fatal(err)
	}
	return store
}

// TestAnAddressMustBeThere: before a node changes its address, the machine has it.
func TestAnAddressMustBeThere(t *testing.T) {
	store, err := roster.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "revolve.yaml")
	if err := os.WriteFile(file, []byte(formerly), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Configure(file); err != nil {
		t.Fatal(err)
	}
	a := &Agent{o: Options{Config: store.Config(), Roster: store, Node: "b", File: file}}
	for addr, ok := range map[string]bool{"10.77.0.12": true, "127.0.0.1": true, "192.0.2.99": false} {
		if err := a.wouldDo(strings.Replace(formerly, "10.77.0.12", addr, 1)); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
