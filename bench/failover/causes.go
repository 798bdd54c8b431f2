package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// cause is something that happens to the holder of the address.
type cause struct {
	name, title string
	look        time.Duration // how long a trial watches after the strike, at least: two holders may appear late
	strike      func(ctx context.Context, l *lab, m *node) error
	mend        func(ctx context.Context, l *lab, m *node) error
	after       time.Duration // how long it watches after the repair as part of the trial
}

// frozenFor is longer than any kernel keeps an address of ours, and long enough
// to see that a kernel keeps one for ever.
const frozenFor = 3 * time.Second

// moveLimit is far more than Pacemaker takes at its defaults.
const moveLimit = 40 * time.Second

func causes() []cause {
	return []cause{
		{"power-cut", "power cut: switch ports down, then kill -9 of everything", 1200 * time.Millisecond, powerCut, powerOn, 0},
		{"planned", "planned: `revolve switch`; SIGTERM of the master's keepalived; Pacemaker's node attribute standby", 800 * time.Millisecond,
			func(ctx context.Context, l *lab, m *node) error { return l.engine.plan(ctx, m) },
			func(ctx context.Context, l *lab, m *node) error { return l.engine.replan(ctx, m) }, 0},
		{"link-down", "the address's link goes down (carrier lost), the second one stays", 1200 * time.Millisecond,
			func(_ context.Context, l *lab, m *node) error { l.holders.setApart(m.name, true); return m.Cut(lan) },
			func(_ context.Context, l *lab, m *node) error { l.holders.setApart(m.name, false); return m.Mend(lan) }, time.Second},
		{"kill", "SIGKILL of the engine's daemons at once; the service runs on", frozenFor, killAll, restart, 0},
		{"freeze", "the whole node frozen (SIGSTOP of all processes, the service too), resumed after 3 s", frozenFor,
			func(_ context.Context, _ *lab, m *node) error { return m.Hold() },
			func(_ context.Context, _ *lab, m *node) error { return m.Resume() }, 3 * time.Second},
		{"hang", "the engine's daemons alone frozen, resumed after 3 s; the service runs on", frozenFor,
			func(_ context.Context, l *lab, m *node) error { return signalAll(l.engine.processes(m), unix.SIGSTOP) },
			func(_ context.Context, l *lab, m *node) error { return signalAll(l.engine.processes(m), unix.SIGCONT) }, 3 * time.Second},
	}
}

func powerCut(_ context.Context, l *lab, m *node) error {
	l.holders.setApart(m.name, true)
	m.unwatch()
	_, err := m.PowerOff()
	l.holders.set(l.holders.held, m.name, false, now()) // its kernel is gone with its addresses
	return err
}

func powerOn(ctx context.Context, l *lab, m *node) error {
	if err := m.PowerOn(); err != nil {
		return err
	}
	l.holders.setApart(m.name, false)
	return m.boot(ctx)
}

// killAll stops them first: none may run a single instruction for another.
func killAll(_ context.Context, l *lab, m *node) error {
	pids := l.engine.processes(m)
	return errors.Join(signalAll(pids, unix.SIGSTOP), signalAll(pids, unix.SIGKILL))
}

func signalAll(pids []int, sig unix.Signal) error {
	if len(pids) == 0 {
		return errors.New("the engine has no process there")
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal %d: %w", pid, err)
		}
	}
	return nil
}

// restart is what a supervisor does. An address that the killed daemons have left
// for ever is removed by hand before, as a person would.
func restart(ctx context.Context, l *lab, m *node) error {
	if len(l.holders.current()) > 1 {
		if _, err := m.Run(ctx, "ip", "addr", "del", vip+"/24", "dev", string(lan)); err != nil {
			return err
		}
	}
	return l.engine.start(ctx, m)
}

// trial is what one strike did.
type trial struct {
	Blackout float64  `json:"blackout_ms"`       // longest time without an answer to the client
	Two      float64  `json:"two_ms"`            // how long two reachable nodes had the address
	TwoLast  float64  `json:"two_last_ms"`       // when, after the strike, the last such moment ended; 0: there was none
	Both     *float64 `json:"both_ms,omitempty"` // how long two cards answered for the address; nil: was not asked
	BothLast *float64 `json:"both_last_ms,omitempty"`
	Came     int      `json:"came"`              // how often any node got the address
	Changes  int      `json:"changes"`           // how often another node answered the client than before
	Refused  int      `json:"refused,omitempty"` // how often the switch was refused for now, nothing changed, and asked for again
}

// try strikes once.
func (c cause) try(ctx context.Context, l *lab) (t trial, err error) {
	m, err := l.whole(ctx)
	if err != nil {
		return t, fmt.Errorf("before: %w", err)
	}
	time.Sleep(rand.N(200 * time.Millisecond)) // any moment between two heartbeats
	l.refused = 0
	from := now()
	struck := make(chan error, 1)
	go func() { struck <- c.strike(ctx, l, m) }() // joined below; a command may return later than what it does
	err = until(ctx, moveLimit, 5*time.Millisecond, func() error {
		if l.answers.firstFrom(m.name[0], from) == 0 {
			return errors.New("nobody else has answered")
		}
		return nil
	})
	if err = errors.Join(err, <-struck); err != nil {
		return t, err
	}
	t.Refused = l.refused
	if rest := from.add(c.look) - now(); rest > 0 {
		time.Sleep(time.Duration(rest))
	}
	err = c.mend(ctx, l, m)
	time.Sleep(c.after)
	to := now()
	l.answers.readTo(to)
	l.cards.readTo(to)
	t.Blackout, t.Changes = l.answers.blackout(from, to)
	two, last := l.holders.two(from, to)
	t.Two, t.Came = two, l.holders.came(from, to)
	if last > 0 {
		t.TwoLast = last.sub(from)
	}
	t.asked(l.cards, from, to)
	return t, err
}

// steady watches a cluster to which nothing happens: every change is a false one.
func (l *lab) steady(ctx context.Context, d time.Duration) (t trial, err error) {
	if _, err := l.whole(ctx); err != nil {
		return t, err
	}
	from := now()
	select {
	case <-ctx.Done():
		return t, ctx.Err()
	case <-time.After(d):
	}
	to := now()
	l.answers.readTo(to)
	l.cards.readTo(to)
	t.Blackout, t.Changes = l.answers.blackout(from, to)
	t.Two, _ = l.holders.two(from, to)
	t.Came = l.holders.came(from, to)
	t.asked(l.cards, from, to)
	return t, nil
}

func (t trial) String() string {
	b, _ := json.Marshal(t) // numbers alone
	return string(b)
}

// asked takes in what the cards answered.
func (t *trial) asked(cards *answers, from, to instant) {
	both, last := cards.both(from, to)
	at := 0.0
	if last > 0 {
		at = last.sub(from)
	}
	t.Both, t.BothLast = &both, &at
}

// burn keeps both cores of the machine busy from outside of the nodes, at the
// priority of any other program. The result ends it.
func burn(stage *testbed.Stage) (end func(), err error) {
	var ends []func()
	end = func() {
		for _, e := range ends {
			e()
		}
	}
	for range 2 {
		ctx, cancel := context.WithCancel(context.Background())
		cmd := stage.Command(ctx, "/proc/self/exe", roleBurn)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			cancel()
			end()
			return nil, err
		}
		ends = append(ends, func() { cancel(); _ = cmd.Wait() })
	}
	return end, nil
}
