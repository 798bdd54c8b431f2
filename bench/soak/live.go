package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

const (
	tick        = 100 * time.Millisecond
	sampleEvery = 5 * time.Second
	calmLeast   = 2 * time.Second // between two faults
	calmMost    = 14 * time.Second
	// doubles is how often, in a hundred, a second fault comes while the first lasts.
	doubles = 25
	// undoTries are tried before the soak gives up: an agent may be down by the fault of another.
	undoTries = 20
)

// struck is a fault that was made.
type struck struct {
	Kind     string
	Node     string
	Master   bool // it struck the node that had the address
	Parts    bool
	Stops    bool      // the node
	Kills    bool      // the agent, which is started again
	From, To time.Time // To is zero while it lasts
	Refused  string
	undo     func() error
	until    time.Time
	on       *node
	tries    int // to undo it
}

// day is the state of a soak while it runs.
type day struct {
	lab    *lab
	rnd    *rand.Rand
	began  time.Time
	faults []*struck
	meter  meter
	deck   []fault // what comes next: every kind once, then again in another order
}

// live forms the cluster, strikes it until the time is over, heals it and judges.
func (l *lab) live(ctx context.Context, o options) (*result, error) {
	d := &day{lab: l, rnd: rand.New(rand.NewPCG(o.seed, 1)), began: time.Now(), meter: meter{every: sampleEvery}}
	for _, n := range l.nodes {
		if err := n.boot(); err != nil {
			return nil, err
		}
	}
	if err := l.whole(ctx); err != nil {
		return nil, fmt.Errorf("the cluster does not form: %w", err)
	}
	if err := l.startClient(); err != nil {
		return nil, err
	}
	quiet := o.long / 5
	if o.long >= whole {
		quiet = quietWhole
	}
	err := d.strikeUntil(ctx, d.began.Add(o.long-quiet))
	if err = errors.Join(err, d.heal()); err != nil {
		return nil, err
	}
	fmt.Printf("%s all faults are over: %d\n", d.clock(), len(d.faults))
	r := newResult(o, d)
	r.whole(l.whole(ctx), d)
	if err := l.endClient(ctx); err != nil {
		return nil, err
	}
	if err := r.look(ctx, l); err != nil {
		return nil, err
	}
	for end := d.began.Add(o.long); ctx.Err() == nil && time.Now().Before(end); time.Sleep(tick) {
		d.meter.look(l, d.began)
		if err := l.supervise(ctx); err != nil {
			return nil, err
		}
	}
	r.end(ctx, d)
	return r, ctx.Err()
}

func (d *day) clock() string {
	t := time.Since(d.began)
	return fmt.Sprintf("%02d:%02d", int(t.Minutes()), int(t.Seconds())%60)
}

func (l *lab) startClient() (err error) {
	out, err := os.Create(l.clientFile())
	if err != nil {
		return err
	}
	defer out.Close()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	l.asker, err = l.client.Start(testbed.Command{Argv: []string{exe, roleAsk, vip}, Stdout: out, Stderr: os.Stderr})
	return err
}

func (l *lab) endClient(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endIn)
	defer cancel()
	err := l.asker.Signal(unix.SIGTERM)
	if err == nil {
		_, err = l.asker.Wait(ctx)
	}
	return err
}

// strikeUntil makes faults until then.
func (d *day) strikeUntil(ctx context.Context, end time.Time) error {
	next := time.Now().Add(calmLeast)
	for ; time.Now().Before(end); time.Sleep(tick) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := d.undoDue(time.Now()); err != nil {
			return err
		}
		if err := d.lab.supervise(ctx); err != nil {
			return err
		}
		d.meter.look(d.lab, d.began)
		if time.Now().Before(next) {
			continue
		}
		s, err := d.strike(ctx)
		if err != nil {
			return err
		}
		next = time.Now().Add(between(d.rnd, calmLeast, calmMost))
		if d.rnd.IntN(100) >= doubles && s != nil && s.To.IsZero() {
			next = s.until.Add(between(d.rnd, calmLeast, calmMost))
		}
	}
	return nil
}

// draw takes the next kind of fault.
func (d *day) draw() fault {
	if len(d.deck) == 0 {
		d.deck = faults()
		d.rnd.Shuffle(len(d.deck), func(i, j int) { d.deck[i], d.deck[j] = d.deck[j], d.deck[i] })
	}
	f := d.deck[0]
	d.deck = d.deck[1:]
	return f
}

// target is the master every second time, else any node; one on which no fault is.
func (d *day) target(f fault) *node {
	m := d.lab.master()
	if byHand := f.name == "files' times step" || f.name == "many changes at once"; m != nil && (byHand || d.rnd.IntN(2) == 0) {
		if fits(f, m) {
			return m
		}
		if byHand {
			return nil
		}
	}
	for _, i := range d.rnd.Perm(len(d.lab.nodes)) {
		if n := d.lab.nodes[i]; fits(f, n) {
			return n
		}
	}
	return nil
}

func fits(f fault, n *node) bool { return !n.struck && !n.down && !(f.ends && n.name == keeper) }

// strike makes the next fault; nil if no node is left for one.
func (d *day) strike(ctx context.Context) (*struck, error) {
	f := d.draw()
	n := d.target(f)
	if n == nil {
		return nil, nil
	}
	m := d.lab.master()
	s := &struck{Kind: f.name, Node: n.name, Master: n == m, Parts: f.parts, Stops: f.stops || f.ends, Kills: f.kills, From: time.Now(), on: n}
	d.faults = append(d.faults, s)
	n.struck = true
	undo, lasts, err := f.begin(ctx, n, d.rnd)
	if err != nil { // refused, or not to be had just now: said, and the day goes on
		s.Refused = strings.Join(strings.Fields(err.Error()), " ")
	}
	s.undo, s.until = undo, time.Now().Add(lasts)
	fmt.Printf("%s %s on %s%s for %s %s\n", d.clock(), f.name, n.name, map[bool]string{true: " (master)"}[s.Master], lasts.Round(100*time.Millisecond), s.Refused)
	if undo == nil {
		s.over()
	}
	return s, nil
}

func (s *struck) over() {
	s.To, s.on.struck = time.Now(), false
}

func (d *day) undoDue(now time.Time) error {
	for _, s := range d.faults {
		if s.To.IsZero() && !now.Before(s.until) {
			if err := s.undo(); err != nil && s.tries < undoTries {
				fmt.Printf("%s undo %s on %s: %v\n", d.clock(), s.Kind, s.Node, err)
				s.until, s.tries = now.Add(time.Second), s.tries+1
				continue
			} else if err != nil {
				return fmt.Errorf("undo %s on %s: %w", s.Kind, s.Node, err)
			}
			s.over()
		}
	}
	return nil
}

// heal undoes what still lasts.
func (d *day) heal() error {
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(tick) {
		err := d.undoDue(time.Now().Add(time.Hour))
		if err != nil || !slices.ContainsFunc(d.faults, func(s *struck) bool { return s.To.IsZero() }) {
			return err
		}
	}
	return errors.New("a fault cannot be undone")
}
