package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// fakeAgent answers the local API with what a test wants; it keeps nothing, and what it has no method for is not asked.
type fakeAgent struct {
	control.Keeper
	control.Members
	control.Verifier
	control.Explainer
	control.Machines
	mu     sync.Mutex
	status control.Status
	sync   func(ctx context.Context) error
	move   func(ctx context.Context) // before a switch is refused
	aside  atomic.Bool
}

func (f *fakeAgent) set(change func(*control.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

func (f *fakeAgent) Status() control.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeAgent) Fitness() control.Fitness {
	if f.aside.Load() {
		return control.Fitness{Node: "a", Why: "it is in maintenance", Penalty: 254}
	}
	return control.Fitness{Node: "a", Eligible: true, Why: "in-sync and well", Score: 1000}
}

func (f *fakeAgent) Sync(ctx context.Context) error {
	if f.sync == nil {
		return nil
	}
	return f.sync(ctx)
}

func (f *fakeAgent) History(context.Context) (h control.History, err error) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.Local)
	heard, suspect, claim, announced := at.Add(-300*time.Millisecond), at.Add(-200*time.Millisecond), at.Add(-15*time.Millisecond), at.Add(time.Millisecond)
	missing, rpo, pos := uint64(2), 12.5, cluster.Position{Term: 6, Seq: 40}
	h.Silent = []control.Silent{{Node: "c", Why: "no answer"}}
	h.Records = []history.Record{{Term: 7, Master: "b", From: "a", FromTerm: 6, Cause: history.CauseSilence, At: at,
		Times:   history.Times{Heard: &heard, Suspect: &suspect, Claim: &claim, Address: &at, Announced: &announced},
		Volumes: []history.Volume{{Name: "home", Advertised: &pos, Applied: cluster.Position{Term: 6, Seq: 38}, Missing: &missing, RPO: &rpo}}},
		{Term: 6, Master: "a", Cause: history.CauseStart, At: at.Add(-time.Hour), Volumes: []history.Volume{}}}
	h.Records[0].Measure()
	h.Rehearsals = []history.Rehearsal{{Node: "a", Began: at.Add(-time.Minute), Ordered: history.Order{Why: history.WhyRehearsal, Node: "a"}, Scheduled: true, Result: history.Refused, Why: "hold is on (b)"}, f.drill("b")}
	return h, nil
}

// drill is a rehearsal that went well.
func (f *fakeAgent) drill(to cluster.NodeID) history.Rehearsal {
	there, back := 24.0, 8.25
	return history.Rehearsal{Node: "a", Began: time.Date(2026, 11, 1, 11, 30, 0, 0, time.Local), Ordered: history.Order{Why: history.WhyRehearsal, User: "alice as root", Node: "c"}, To: to,
		Result: history.Done, Master: "a", There: &history.Leg{Term: 8, RTO: &there}, Back: &history.Leg{Term: 9, RTO: &back}}
}

func (f *fakeAgent) Rehearse(_ context.Context, o control.RehearsalOrder) (history.Rehearsal, error) {
	switch r := f.drill(o.To); {
	case o.Stay > 10*time.Second:
		return r, f.refuse("rehearse")
	case o.DryRun:
		return history.Rehearsal{Node: "a", To: "b", Result: history.Possible}, nil
	default:
		return r, nil
	}
}

func (f *fakeAgent) refuse(op string) error {
	return &problem.Problem{Op: op, Kind: problem.Unavailable, Err: errors.New("this is a test"), Hint: "look at `revolve status`"}
}
func (f *fakeAgent) Switch(ctx context.Context, _ cluster.NodeID) (cluster.NodeID, error) {
	if f.move != nil {
		f.move(ctx)
	}
	return "", f.refuse("switch")
}
func (f *fakeAgent) KeptAside(context.Context, control.KeptQuery) (a control.DivergentAnswer, err error) {
	a.Divergent = []control.Divergent{}
	return a, nil
}
func (f *fakeAgent) Trash(context.Context, control.KeptQuery) (a control.TrashAnswer, err error) {
	a.Trash = []control.Trashed{}
	return a, nil
}
func (f *fakeAgent) Configuration() control.Configuration {
	return control.Configuration{Generation: 1}
}
func (f *fakeAgent) Divergent() ([]control.Divergent, error) { return []control.Divergent{}, nil }
func (f *fakeAgent) Hold(_ context.Context, on bool) (control.Ordered, error) {
	return control.Ordered{On: on, Nodes: []cluster.NodeID{"a"}, Missed: []cluster.NodeID{"b"}}, nil
}
func (f *fakeAgent) Maintenance(_ context.Context, on, force bool) (control.Ordered, error) {
	if !force {
		return control.Ordered{}, f.refuse("step aside")
	}
	f.aside.Store(on)
	return control.Ordered{On: on, Nodes: []cluster.NodeID{"a"}, Missed: []cluster.NodeID{}, Master: "b"}, nil
}

// serve runs the agent's API until the returned function is called.
func (f *fakeAgent) serve(t *testing.T, state string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, control.Socket(state), f, slog.New(slog.DiscardHandler)) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := control.Dial(state).Status(ctx); err == nil {
			return func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func clusterOf(nodes ...string) control.Status {
	s := control.Status{AsOf: time.Now(), Cluster: "homelab", Node: "a", Term: 7, Master: "a", Verdict: control.OK, Reasons: []string{},
		VIPs: []control.VIP{{Address: "10.77.0.200/24", Holder: "a"}}, Beat: control.Beat{Refused: []string{}}}
	v := control.Volume{Name: "home", State: "leading", Standbys: []control.Standby{}}
	for _, n := range nodes {
		id := cluster.NodeID(n)
		s.Nodes = append(s.Nodes, control.Node{Name: id, State: "alive", Role: "standby", Eligible: control.Yes, InSync: control.Yes, Since: time.Now().Add(-90 * time.Minute),
			Links: []control.Link{{Name: "lan", Up: control.Yes}, {Name: "fast", Up: control.Yes}}})
		if n != "a" {
			v.Standbys = append(v.Standbys, control.Standby{Node: id, State: "in-sync", Since: time.Now(), Position: cluster.Position{Term: 7, Seq: 1234567}})
		}
	}
	s.Nodes[0].Role = "master"
	s.Volumes = []control.Volume{v}
	return s
}

func TestWatchOnATerminal(t *testing.T) {
	for _, how := range []string{"q", "ctrl-c", "SIGTERM"} {
		t.Run(how, func(t *testing.T) {
			state := t.TempDir()
			f := &fakeAgent{status: clusterOf("a", "b")}
			stop := f.serve(t, state)
			x := openTerminal(t, []string{"TERM=xterm", "NO_COLOR=1"}, "status", "--watch", "--state", state)
			x.until("ok: a is master, term 7; 1 of 1 standbys in-sync")
			f.set(func(s *control.Status) { s.Verdict, s.Reasons = control.Warning, []string{"node b is dead"} })
			x.until("# node b is dead")
			stop()
			x.until("no answer since ")
			stop = f.serve(t, state)
			defer stop()
			f.set(func(s *control.Status) { s.Master, s.Term = "b", 8 })
			x.until("b is master, term 8")
			switch how {
			case "q":
				_, err := x.keys.WriteString("q")
				must(t, err)
			case "ctrl-c":
				_, err := x.keys.Write([]byte{3})
				must(t, err)
			case "SIGTERM":
				must(t, x.cmd.Process.Signal(syscall.SIGTERM))
			}
			x.ended(1)
			x.until("\x1b[?25h\x1b[?1049l")
			out := x.shown()
			if regexp.MustCompile("\x1b\\[(2J|[0-9;]*m)").MatchString(out) {
				t.Errorf("it clears the screen, or has colours: %q", out)
			}
		})
	}
}

// At 80x24 nothing wraps or scrolls, however large the cluster.
func TestWatchFitsTheScreen(t *testing.T) {
	s := clusterOf("a", "a-node-with-quite-a-long-name", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l")
	s.Verdict, s.Reasons = control.Warning, []string{strings.Repeat("a long reason ", 20)}
	state := t.TempDir()
	defer (&fakeAgent{status: s}).serve(t, state)()
	x := openTerminal(t, []string{"TERM=xterm"}, "status", "--watch", "--state", state)
	x.until("more lines")
	x.until("q ends it, ? keys\x1b[K")
	frame, _, _ := strings.Cut(x.shown(), "q ends it")
	_, frame, _ = strings.Cut(frame, "\x1b[H")
	lines := strings.Split(frame, "\r\n")
	if len(lines) != 24 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		l = strings.NewReplacer("\x1b[K", "", "\r", "", "\x1b[1;33m", "", "\x1b[m", "").Replace(l)
		if utf8.RuneCountInString(l) > 80 || strings.Contains(l, "\x1b") {
			t.Errorf("does not fit: %q", l)
		}
	}
	if !strings.Contains(frame, "\x1b[1;33mwarning: ") {
		t.Error("no colour where colours are wanted")
	}
}

// Keys scroll, hold and help; the verdict stays in sight.
func TestWatchKeys(t *testing.T) {
	s := clusterOf("a", "b", "c", "d", "e", "f", "g", "h")
	for i, a := range s.Nodes {
		for _, b := range s.Nodes[i+1:] {
			s.Pairs = append(s.Pairs, control.Pair{A: a.Name, B: b.Name, Links: []control.PairLink{{Name: "lan", Up: control.Yes}, {Name: "fast", Up: control.No, WhyNot: "they do not hear each other"}}})
		}
	}
	state := t.TempDir()
	f := &fakeAgent{status: s}
	defer f.serve(t, state)()
	x := openTerminal(t, []string{"TERM=xterm", "NO_COLOR=1"}, "status", "--live", "--state", state)
	press := func(keys, shows string) {
		t.Helper()
		x.mu.Lock()
		x.screen.Reset()
		x.mu.Unlock()
		_, err := x.keys.WriteString(keys)
		must(t, err)
		x.until(shows)
		x.until("q ends it")
		if out := x.shown(); !strings.Contains(out, "ok: a is master, term 7") && !strings.Contains(out, "b is master") {
			t.Errorf("after %q the verdict is not shown: %q", keys, out)
		}
	}
	x.until("LINKS")
	press("G", "the end;")
	press("g", "more lines: j or space")
	press("\x1b[6~", "e - f, fast: down, they do not hear each other")
	press("?", "hold what is shown, and go on")
	press("?", "NODE")
	press("p", "held  q ends it")
	f.set(func(s *control.Status) { s.Master, s.Term = "b", 8 })
	press("j", "held  q ends it") // a look later it is still what was held
	if strings.Contains(x.shown(), "b is master") {
		t.Error("what is held changes")
	}
	press("p", "b is master, term 8")
	_, err := x.keys.WriteString("q")
	must(t, err)
	x.ended(0)
}

// On a terminal that cannot be drawn on, and without one, a block is printed for every change.
func TestWatchWithoutDrawing(t *testing.T) {
	state := t.TempDir()
	f := &fakeAgent{status: clusterOf("a", "b")}
	defer f.serve(t, state)()
	x := openTerminal(t, []string{"TERM=dumb"}, "status", "--watch", "--state", state)
	x.until("ok: a is master, term 7")
	f.set(func(s *control.Status) { s.Volumes[0].Standbys[0].LagMS = 3 }) // no change worth a block
	f.set(func(s *control.Status) { s.Master = "b" })
	x.until("b is master, term 7")
	must(t, x.cmd.Process.Signal(os.Interrupt))
	x.ended(0)
	if out := x.shown(); strings.Contains(out, "\x1b") || strings.Count(out, "NODE ") != 2 {
		t.Errorf("got %q", out)
	}
}

// A barrier on a terminal shows how far the standbys are; elsewhere it says nothing until the end.
func TestSyncShowsProgress(t *testing.T) {
	state := t.TempDir()
	s := clusterOf("a", "b")
	s.Volumes[0].Standbys[0].State = "catching-up"
	s.Volumes[0].Standbys[0].Progress = &control.Progress{Files: 3, FilesTotal: 9, Bytes: 1 << 20, BytesTotal: 4 << 20, BytesPerSecond: 1 << 19, LeftSeconds: 6}
	release := make(chan struct{})
	f := &fakeAgent{status: s, sync: func(ctx context.Context) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}}
	defer f.serve(t, state)()
	x := openTerminal(t, []string{"TERM=xterm"}, "sync", "--wait", "--state", state)
	x.until("home on b: 3 of 9 files, 1.0 MiB of 4.0 MiB, 512.0 KiB/s, about 6s left")
	close(release)
	x.until("the standbys have it (")
	x.ended(0)
	var out, errs strings.Builder
	if status := Main(t.Context(), []string{"revolve", "sync", "--wait", "--state", state}, strings.NewReader(""), &out, &errs); status != 0 || errs.Len() > 0 {
		t.Errorf("without a terminal: %d %q", status, errs.String())
	}
}

// A switch on a terminal shows what it waits for, and ends when it is interrupted: then nothing is ordered any more.
func TestSwitchShowsWhatItWaitsFor(t *testing.T) {
	state := t.TempDir()
	s := clusterOf("a", "b")
	s.Nodes[1].Eligible, s.Nodes[1].WhyNot = control.No, "it is lagging"
	gone := make(chan struct{})
	f := &fakeAgent{status: s, move: func(ctx context.Context) { <-ctx.Done(); close(gone) }}
	defer f.serve(t, state)()
	x := openTerminal(t, []string{"TERM=xterm"}, "switch", "--state", state)
	x.until("waiting for a standby that can take over; b: it is lagging")
	must(t, x.cmd.Process.Signal(os.Interrupt))
	<-gone
	if err := x.cmd.Wait(); err == nil {
		t.Error("an interrupted switch succeeds")
	}
}

func TestProgressIsHonest(t *testing.T) {
	for _, c := range []struct {
		p    control.Progress
		want string
	}{
		{control.Progress{Names: 1200, Files: 300, FilesTotal: -1, Bytes: 5 << 20, BytesTotal: -1, BytesPerSecond: 1 << 20, LeftSeconds: -1},
			"looked at 1200 names, 300 files, 5.0 MiB, 1.0 MiB/s, total not known yet"},
		{control.Progress{Files: 1, FilesTotal: 2, Bytes: 10, BytesTotal: 30, LeftSeconds: 120}, "1 of 2 files, 10 B of 30 B, about 2m left"},
		{control.Progress{Changes: 10, ChangesTotal: 50, FilesTotal: -1, BytesTotal: -1, LeftSeconds: 4}, "10 of 50 changes, about 4s left"},
	} {
		if got := progressText(&c.p); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

// The matrix has every pair once, and says why a link is not up.
func TestPairMatrix(t *testing.T) {
	s := clusterOf("a", "b", "c", "d")
	for i, a := range s.Nodes {
		for _, b := range s.Nodes[i+1:] {
			s.Pairs = append(s.Pairs, control.Pair{A: a.Name, B: b.Name, Links: []control.PairLink{{Name: "lan", Up: control.Yes}, {Name: "fast", Up: control.Yes}}})
		}
	}
	s.Pairs[1].Links[1] = control.PairLink{Name: "fast", Up: control.No, WhyNot: "c does not hear a"}
	for i := range s.Pairs[5].Links {
		s.Pairs[5].Links[i] = control.PairLink{Name: s.Pairs[5].Links[i].Name, WhyNot: "d is dead"}
	}
	s.Pairs[4].Links = nil
	want := `
LINKS  a    b    c
b      2/2
c      1/2  2/2
d      2/2  -    ?
  a - c, fast: down, c does not hear a
  c - d, lan: unknown, d is dead
  c - d, fast: unknown, d is dead
`
	if got := pairsText(s); got != want {
		t.Errorf("got%s\nwant%s", got, want)
	}
	s.Pairs = s.Pairs[1:]
	if got := pairsText(s); !strings.Contains(got, "b      ?\n") {
		t.Errorf("a pair of which nothing is said looks well:%s", got)
	}
	if got := pairsText(clusterOf("a", "b")); got != "" {
		t.Errorf("of two nodes: %s", got)
	}
	sixteen := clusterOf("one-of-sixteen-0", "one-of-sixteen-1", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p")
	sixteen.Pairs = []control.Pair{{A: "c", B: "d"}}
	for line := range strings.Lines(pairsText(sixteen)) {
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > 80 || strings.Contains(line, "…\n") {
			t.Errorf("does not fit: %q", line)
		}
	}
}

func TestStatusFitsEightyColumns(t *testing.T) {
	s := clusterOf("a", "a-node-with-quite-a-long-name", "c")
	s.Nodes[1].State, s.Nodes[1].Role = "unknown", "unknown"
	s.Reasons = []string{strings.Repeat("word ", 40)}
	s.Nodes[1].Links = append(s.Nodes[1].Links, control.Link{Name: "another-link", Up: control.No}, control.Link{Name: "third", Up: control.NotKnown})
	s.Nodes[2].Maintenance = control.Yes
	s.Volumes[0].Standbys[1].Progress = &control.Progress{FilesTotal: 100000, BytesTotal: 1 << 40, ChangesTotal: 5000000, Changes: 1, LeftSeconds: 100000, BytesPerSecond: 12 << 20}
	s.Volumes[0].Standbys[1].State = "catching-up"
	s.Volumes[0].Standbys[0].LagP50, s.Volumes[0].Standbys[0].LagP99 = 1.25, 19.04
	s.Volumes[0].Live = &control.LiveSet{Files: 3, Bound: 5.2}
	s.Volumes[0].Events = &control.Events{Read: 1000, Foreign: 700}
	text := statusText(s, time.Now())
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	for _, want := range []string{"maintenance", "a -> c", "2 of 4, another-link down", "1 of 2 standbys in-sync",
		"p50 1.2 ms, p99 19.0 ms", "3 files are open for writing", "within 6 s", "of 1000 notifications 700", "c never; `revolve verify` does it"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// Ordered takes no note of it.
func (f *fakeAgent) Ordered(string) {}

// Power refuses to power off the master, and wakes nobody.
func (f *fakeAgent) Power(_ context.Context, o control.PowerOrder) error {
	if !o.On {
		return f.refuse("power off")
	}
	return nil
}
