package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// neighbours are two agents, a and b, that can ask each other if b listens at the port; and their configuration.
func neighbours(t *testing.T) (agents [2]*Agent, text string, port netip.AddrPort) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	text = strings.NewReplacer("10.77.0.11", "127.0.0.2", "10.77.0.12", "127.0.0.1", "vips:\n  - { address: 10.77.0.200/24, link: lan }", fmt.Sprintf("port: %d", port.Port())).Replace(formerly)
	states := [2]string{t.TempDir(), t.TempDir()}
	if err := peer.Init(states[0], "homelab", "a"); err != nil {
		t.Fatal(err)
	}
	if err := peer.Issue(states[0], "b", 0, peer.DefaultLife, states[1]); err != nil {
		t.Fatal(err)
	}
	for i, s := range states {
		id, err := peer.LoadIdentity(s)
		if err != nil {
			t.Fatal(err)
		}
		store := holding(t, roster.Roster{Generation: 1, Config: text})
		agents[i] = &Agent{o: Options{Config: store.Config(), Roster: store, State: s, Node: id.Node, Log: slog.New(slog.DiscardHandler)}, id: id, changed: make(chan struct{}), record: &record{}}
	}
	return agents, text, port
}

// A standby that would not lead says so before the addresses move: what the master heard of it last may be older. A record that
// nobody can write is no reason against a switch.
func TestASuccessorDeclines(t *testing.T) {
	agents, _, port := neighbours(t)
	a, b := agents[0], agents[1]
	ctx, stop := context.WithCancel(context.Background())
	l, err := peer.Listen(ctx, b.id, func(cluster.NodeID) bool { return true }, []netip.AddrPort{port}, b.o.Log)
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	var older atomic.Bool // than announcements: it declines nothing
	g.Go(func() error {
		return l.Serve(ctx, func(ctx context.Context, c *peer.Conn) {
			if !older.Load() {
				_ = b.serveOrder(ctx, c)
				return
			}
			defer c.Close()
			_ = readQuestion(c, switchWithin, &orderFrame{})
			_ = answer(c, answerFrame{Kind: problem.Unavailable, Err: "this node is not the master any more", Hint: "try again"})
		})
	})
	by := a.wanted(history.WhySwitch)
	for what, c := range map[string]struct {
		do   func()
		want string
	}{
		"nothing":                   {func() {}, ""},
		"it hears another master":   {func() { b.report.Master = "c" }, ""},
		"it powers itself off":      {func() { _ = b.closeHere() }, "not eligible: b: it is powering itself off"},
		"it is in maintenance":      {func() { b.record.now.Maintenance = true }, "not eligible: b: a person has it in maintenance"},
		"its agent is being ended":  {func() { b.ending.Store(true) }, "not eligible: b: its agent is being stopped"},
		"its trial is over":         {func() { b.trial.outlived.Store(true) }, "not eligible: b: it is only in a configuration that was not confirmed in time"},
		"it runs an older version":  {func() { older.Store(true) }, ""},
		"it stays on after all":     {func() { _ = b.closeHere(); b.reopen() }, ""},
		"it is in service again":    {func() { b.record.now.Maintenance = true; b.record.now.Maintenance = false }, ""},
		"it was successor long ago": {func() { b.announced.by, b.announced.at = &by, time.Now().Add(-orderedFor); _ = b.closeHere() }, "it is powering itself off"},
	} {
		b.report = beat.Report{Role: cluster.Standby, Master: "a"}
		b.announced.by = nil
		c.do()
		err := a.announce(ctx, "b", by)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "") {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		b.reopen()
		older.Store(false)
		b.ending.Store(false)
		b.trial.outlived.Store(false)
		b.record.now.Maintenance = false
	}
	stop()
	_ = g.Wait()
	if err := a.announce(context.Background(), "b", by); err != nil {
		t.Errorf("it does not answer: %v", err)
	}
}

// A node to which the addresses are about to be moved does not power itself off: it has said that it would take them.
func TestASuccessorStaysOn(t *testing.T) {
	a := standby(t)
	by := history.Order{Why: history.WhySwitch, Node: "a"}
	if err := a.orderedBy("a", &by); err != nil {
		t.Fatal(err)
	}
	if err := a.closeHere(); problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "" || a.rests() {
		t.Errorf("it goes: %v", err)
	}
	a.announced.at = time.Now().Add(-switchWithin) // it never came
	if err := a.closeHere(); err != nil || !a.rests() {
		t.Errorf("it stays: %v", err)
	}
}

// A node whose disk takes its time while it writes down that it is to be off declines at once: the master does not wait, and moves
// the addresses to one that does not answer. Where it stays on after all, it takes them again.
func TestWhoIsClosingDeclinesAtOnce(t *testing.T) {
	a := standby(t)
	by := history.Order{Why: history.WhySwitch, Node: "a"}
	note := filepath.Join(a.o.State, restFile+".new")
	if err := syscall.Mkfifo(note, 0o600); err != nil { // to open it for writing waits for a reader, as a slow disk would have it wait
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- a.closeHere() }()
	for until := time.Now().Add(10 * time.Second); !a.goingOff.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nobody sees that it is about to be off")
		}
	}
	if err := a.orderedBy("a", &by); problem.KindOf(err) != problem.Unavailable || a.isSuccessor() {
		t.Errorf("it is writing it down: %v", err)
	}
	slow, err := os.OpenFile(note, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	slow.Close()
	if err := <-closed; err == nil {
		t.Error("it is not written down")
	}
	if err := a.orderedBy("a", &by); err != nil || !a.isSuccessor() {
		t.Errorf("it stays on after all: %v", err)
	}
}

// Of an announcement and an order to be off one is first, and the other one sees it.
func TestAnnouncedOrClosed(t *testing.T) {
	a := standby(t)
	by := history.Order{Why: history.WhySwitch, Node: "a"}
	for range 200 {
		a.announced.by = nil
		closed := make(chan error)
		go func() { closed <- a.closeHere() }()
		declined := a.orderedBy("a", &by)
		if refused := <-closed; refused == nil && declined == nil {
			t.Fatal("it takes the addresses, and powers itself off")
		}
		a.reopen()
	}
}

// A question of all nodes names those that it leaves out, too; of one that is named, it asks nobody else.
func TestUnheardIsSilent(t *testing.T) {
	a := standby(t)
	a.report.Peers = []beat.PeerReport{{Node: "a", State: beat.PeerDead}, {Node: "b", State: beat.PeerAlive}}
	if got := a.unheard(control.KeptQuery{}, append(alive(a.report), "c")); len(got) != 1 || got[0].Node != "a" || got[0].Why == "" {
		t.Errorf("%+v, want a", got)
	}
	if got := a.unheard(control.KeptQuery{From: "b"}, []cluster.NodeID{"b"}); len(got) > 0 {
		t.Errorf("b was named: %+v", got)
	}
}

// A successor that declines ends the wait for it to have everything, and is the reason that is said; one that cannot get everything
// is asked all the same.
func TestADeclineEndsTheWait(t *testing.T) {
	no, late := errors.New("it is powering itself off"), errors.New("it went away")
	for what, c := range map[string]struct {
		announced    error
		asked, sends time.Duration // what each takes; sends of 0: until it is ended
		failed       error
		declined     error
		err          error
		took         time.Duration
	}{
		"it declines":                     {no, time.Millisecond, 0, context.Canceled, no, context.Canceled, time.Millisecond},
		"it declines after it failed":     {no, 2 * time.Millisecond, time.Millisecond, late, no, late, 2 * time.Millisecond},
		"it takes them":                   {nil, time.Millisecond, 3 * time.Millisecond, nil, nil, nil, 3 * time.Millisecond},
		"it takes them, and gets not all": {nil, 3 * time.Millisecond, time.Millisecond, late, nil, late, 3 * time.Millisecond},
		"it takes them before it has all": {nil, 0, time.Millisecond, nil, nil, nil, time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			declined, err := readied(t.Context(), func(ctx context.Context) error {
				time.Sleep(c.asked)
				if ctx.Err() != nil {
					return nil
				}
				return c.announced
			}, func(ctx context.Context) error {
				if c.sends == 0 {
					<-ctx.Done()
					return ctx.Err()
				}
				time.Sleep(c.sends)
				return c.failed
			})
			if !errors.Is(declined, c.declined) || !errors.Is(err, c.err) || time.Since(began) != c.took {
				t.Errorf("%s: %v, %v after %v", what, declined, err, time.Since(began))
			}
		})
	}
}
