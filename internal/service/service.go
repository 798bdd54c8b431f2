// Package service runs what is configured to run beside the files: daemons that
// run on every node, and the commands that a volume's changes call for
// (on_change).
//
// A service is started before the node listens for a role, watched, and asked
// whether it is well; a floating address that comes or goes starts and stops
// nothing. A systemd unit is only ever started; a command of our own (exec) is a
// child that is started again when it ends, and that ends with the agent. The
// package decides nothing about roles: it reports, and the agent draws the
// conclusion.
//
// A hook is told of every path that changed on this node, whether its programs
// wrote it or the mirror did, and runs its command once things are quiet for a
// moment. It never looks at the files, never runs two commands of one volume at
// once, and a command that fails is a line in the status and not the end of
// anything.
//
//	s := service.New(service.Options{Services: cfg.Services, Dir: dir, Env: env, Log: log})
//	go s.Run(ctx)   // before everything else; ends after it
//	<-s.Settled()   // healthy, ill, or late: the node may listen
//	if s.Ill() { ... }
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/config"
)

const (
	// startWithin is how long a node waits for its required services before it listens all the same, and how long a service counts as starting.
	startWithin = 5 * time.Second
	// doubtful is the part of an interval after which a check is repeated while its answer may change the state.
	doubtful = 4
	// livesFor is how long the process of a service without a check must have been there to be well.
	livesFor = time.Second
	// maxReason bounds what a service may put into the status and the log.
	maxReason = 500
)

// Options say what runs on this node.
type Options struct {
	Services []config.Service
	Dir      string          // where the children are remembered
	Env      func() []string // what commands find in their environment besides the agent's own
	Log      *slog.Logger

	manager manager // of units; New finds the machine's own
}

// Report is how one service is now.
type Report struct {
	Name      string
	How       string // what runs it: "unit named.service", "exec", or "" if something else does
	Required  bool
	State     State
	Since     time.Time // of State
	LastError string    // the last one, also if it is healthy again
	Restarts  int       // since the agent's start
}

// Services are those of one node.
type Services struct {
	o       Options
	list    []*service
	settled chan struct{}
}

// service is one of them.
type service struct {
	c        config.Service
	o        *Options
	log      *slog.Logger
	settled  func()        // tells that something has changed
	poke     chan struct{} // holds one token when a check is due at once
	launched atomic.Bool   // the first start was tried

	mu       sync.Mutex
	health   health
	up       bool // its process is there, as far as is known
	upSince  time.Time
	life     int // counts the times that it came up or went
	lastErr  string
	restarts int
}

// New prepares the services; Run works.
func New(o Options) *Services {
	if o.manager == nil {
		o.manager = systemd{}
	}
	s := &Services{o: o, settled: make(chan struct{})}
	for _, c := range o.Services {
		s.list = append(s.list, &service{c: c, o: &s.o, log: o.Log.With("service", c.Name), poke: make(chan struct{}, 1),
			health: newHealth(c.Rise, c.Fall, time.Now())})
	}
	return s
}

// Run starts and watches everything until ctx ends; then it ends its own children.
func (s *Services) Run(ctx context.Context) error {
	news := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range s.list {
		v.settled = func() {
			select {
			case news <- struct{}{}:
			default:
			}
		}
		g.Go(func() error { v.keep(ctx); return nil })
		g.Go(func() error { v.watch(ctx); return nil })
	}
	g.Go(func() error { s.settle(ctx, news); return nil })
	return g.Wait()
}

// Settled is closed when every service was started and every required one is
// known to be healthy or ill, or when that takes too long.
func (s *Services) Settled() <-chan struct{} { return s.settled }

func (s *Services) settle(ctx context.Context, news <-chan struct{}) {
	late := time.After(startWithin)
	for settled := false; ; {
		if !settled && s.ready() {
			settled = true
			close(s.settled)
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
			continue
		case <-late: // also for what is not required
		}
		for _, v := range s.list {
			v.mu.Lock()
			v.health.late(time.Now())
			v.mu.Unlock()
		}
		if !settled {
			close(s.settled)
		}
		return
	}
}

func (s *Services) ready() bool {
	for _, v := range s.list {
		if !v.launched.Load() || v.c.Required && v.report().State == Starting {
			return false
		}
	}
	return true
}

// Ill reports whether a required service is ill, or not well in its time.
func (s *Services) Ill() bool {
	for _, v := range s.list {
		if r := v.report(); r.Required && (r.State == Ill || r.State == Starting) {
			return true
		}
	}
	return false
}

// Reports are those of all services, in the order of the configuration.
func (s *Services) Reports() []Report {
	var out []Report
	for _, v := range s.list {
		out = append(out, v.report())
	}
	return out
}

func (v *service) report() Report {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Report{Name: v.c.Name, How: v.how(), Required: v.c.Required, State: v.health.state, Since: v.health.since, LastError: v.lastErr, Restarts: v.restarts}
}

// how says what runs the service here.
func (v *service) how() string {
	switch {
	case v.c.Unit != "" && (v.c.Exec == "" || v.o.manager.present()):
		return "unit " + v.c.Unit
	case v.c.Exec != "":
		return "exec"
	}
	return ""
}

// keep keeps what runs the service running.
func (v *service) keep(ctx context.Context) {
	switch how := v.how(); {
	case how == "exec":
		v.keepChild(ctx)
	case how != "":
		v.keepUnit(ctx)
	default:
		v.rose()
	}
}

// rose notes that the process is there.
func (v *service) rose() {
	v.mu.Lock()
	if !v.up {
		v.up, v.upSince = true, time.Now()
		v.life++
	}
	v.mu.Unlock()
	v.launch()
	select {
	case v.poke <- struct{}{}:
	default:
	}
}

// fell notes that the process is not there: that makes it ill without a check.
func (v *service) fell(why error) {
	v.change(func(now time.Time) error {
		if v.up {
			v.life++
		}
		v.up = false
		v.health.dead(now)
		return why
	})
	v.launch()
}

// launch notes that the first start was tried.
func (v *service) launch() {
	v.launched.Store(true)
	v.settled()
}

// change lets do change the health, and tells of a new state in the log. do
// gives the reason of what is bad.
func (v *service) change(do func(now time.Time) error) {
	v.mu.Lock()
	before, old := v.health.state, v.lastErr
	if err := do(time.Now()); err != nil {
		v.lastErr = clip(err.Error())
	}
	after, why := v.health.state, v.lastErr
	v.mu.Unlock()
	switch {
	case before == after && (after != Ill || why == old):
		return
	case after == Healthy:
		v.log.Info("service is healthy")
	default:
		v.log.Warn("service is "+string(after), "err", why)
	}
	v.settled()
}

func clip(s string) string {
	if len(s) > maxReason {
		return s[:maxReason] + "..."
	}
	return s
}

// watch asks the service again and again whether it is well.
func (v *service) watch(ctx context.Context) {
	for {
		v.mu.Lock()
		wait := v.c.Interval
		if !v.health.sure() {
			wait /= doubtful
		}
		v.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-v.poke:
		case <-time.After(wait):
		}
		v.look(ctx)
	}
}

// look asks once. What was asked of a process that is gone meanwhile counts for nothing.
func (v *service) look(ctx context.Context) {
	v.mu.Lock()
	up, life, since := v.up, v.life, v.upSince
	v.mu.Unlock()
	if !up {
		return
	}
	var err error
	if v.c.Check.Kind != config.CheckNone {
		err = ask(ctx, v.c.Check, v.c.Timeout, v.env())
	} else if lived := time.Since(since); lived < livesFor {
		return
	}
	if ctx.Err() != nil {
		return
	}
	v.change(func(now time.Time) error {
		switch {
		case v.life != life:
			return nil
		case err == nil:
			v.health.well(now)
		default:
			v.health.unwell(now)
			if v.health.rising() {
				return nil
			}
		}
		return err
	})
}

func (v *service) env() []string {
	return append(v.o.Env(), "REVOLVE_SERVICE_NAME="+v.c.Name)
}

// keepChild runs the command, again whenever it ends.
func (v *service) keepChild(ctx context.Context) {
	c := child{name: v.c.Name, command: v.c.Exec, dir: v.o.Dir, log: v.log}
	if ended, err := c.endOld(); err != nil {
		v.log.Warn("what a former agent may have left running could not be looked for", "err", err)
	} else if ended > 0 {
		v.log.Info("ended what a former agent left running", "processes", ended)
	}
	var again backoff
	for ctx.Err() == nil {
		began := time.Now()
		err := c.run(ctx, v.env(), v.rose)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, errEnded) {
				v.log.Warn("service did not end well", "err", err)
			}
			return
		}
		v.fell(err)
		wait := again.next(time.Since(began))
		v.log.Warn("service ended; it is started again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		v.mu.Lock()
		v.restarts++
		v.mu.Unlock()
	}
}

// reasonf is an error for the status.
func reasonf(format string, args ...any) error { return fmt.Errorf(format, args...) }
