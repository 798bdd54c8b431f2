// Package vm is tier 2: libvirt machines that run on one node, with points of
// them on others, which a person can start there.
//
// It decides in which order a machine is held still, cloned, let go on, sent and
// published, and whether it may be started here. How changes are known is in
// package block, how points are kept in vm/points, how they travel in
// vm/transfer, and how libvirt is asked in vm/libvirt. It never deletes a point,
// never stops a machine for good, and never starts one that may run elsewhere
// unless a person has typed its name.
//
//	engine := vm.New(vm.Options{Node: "a", Store: store, Host: libvirt.At(libvirt.DefaultSocket), ...})
//	err := engine.Run(ctx)                                   // carries orders out, one after the other
//	job, err := engine.Order(vm.Order{VMs: []string{"ad1"}}) // its answers say how far it is
package vm

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/power"
	"revolve/internal/problem"
	"revolve/internal/vm/keep"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
	"revolve/internal/vm/transfer"
)

// Host is what is asked of libvirt on this node.
type Host interface {
	Machines(ctx context.Context) ([]libvirt.Machine, error)
	State(ctx context.Context, name string) (libvirt.State, error)
	Saved(ctx context.Context, name string) (bool, error) // whether it is off, and its memory is kept
	Definition(ctx context.Context, name string) (string, error)
	Suspend(ctx context.Context, name string) error
	Resume(ctx context.Context, name string) error
	Freeze(ctx context.Context, name string) (int, error)
	Thaw(ctx context.Context, name string) error
	PressPower(ctx context.Context, name string) error
	Start(ctx context.Context, name string) error
	Define(ctx context.Context, xml string) error
	Create(ctx context.Context, xml string) error // a machine that is gone when it ends
	Destroy(ctx context.Context, name string) error
	Ping(ctx context.Context, name string) error // its guest's agent
}

// Options are what an engine needs.
type Options struct {
	Node  cluster.NodeID
	Store *points.Store
	Host  Host
	TPM   tpm.Place
	Guard []string // argv of the program that lets a machine go on if this process dies meanwhile (Guard); empty: none
	Nodes func() []cluster.NodeID
	Dial  func(ctx context.Context, node cluster.NodeID, service string) (transfer.Conn, error)
	// MayBeOff says of which nodes off is a normal state: those that are on demand.
	MayBeOff func(node cluster.NodeID) bool
	// WereOn are those of them that were heard, and did not say since that they power themselves off: their silence says nothing. nil: none.
	WereOn func() []cluster.NodeID
	// Keep are the rules by which this node keeps points of a machine.
	Keep func(vm string) keep.Rules
	// Schedules are the copies that are made by themselves; nil: none are. State is the directory in which it is kept what became of them.
	Schedules func() []Schedule
	State     string
	// Power wakes nodes on demand; nil: nobody does.
	Power Power
	// CaughtUp reports whether the volumes of this node are; nil: there are none.
	CaughtUp func() bool
	// Proc is where processes are seen; "": where the kernel shows them.
	Proc string
	// Uptime is how long this machine has been up, whatever the clock says; nil: the kernel says it.
	Uptime func() time.Duration
	Log    *slog.Logger
	Step   func(name string) // called at the labelled moments; tests end the process there. May be nil
}

// Engine carries out what people order. Its methods may be called from anywhere.
type Engine struct {
	o       Options
	orders  chan *Job
	heralds chan *Job // of which the nodes are to be told

	mu                 sync.Mutex
	jobs               []*Job
	starting           map[string]int       // machines that are being started here, and by how many
	hooked             map[string]time.Time // those that libvirt was let start, and until when they are not seen running yet
	admitted           map[string]bool      // those that libvirt's hook lets start now
	told               map[string]time.Time // what lasts, and when it was told
	left               map[int]string       // guards that watch on, and their machines
	diary              diary
	receiving, serving int // points that come, and orders about machines that are carried out
	use                use
	vain               map[cluster.NodeID]time.Time     // nodes that did not come when they were woken, and when that was known
	wakes              map[run]map[cluster.NodeID]int   // how often nodes were woken for a run
	wanted             map[cluster.NodeID]time.Duration // nodes that a person had powered on from here, and when, by the uptime
	rested             map[cluster.NodeID]rested        // nodes that were powered off from here
	stays              map[cluster.NodeID]stay          // nodes that were woken and do not power themselves off
	ledger             ledger
	offered            time.Time // when nodes that were woken were asked to power themselves off last; letRest's alone
}

// Bounds of what is waiting and remembered.
const (
	maxWaiting = 16
	maxJobs    = 32
)

// New makes an engine; nothing is done before Run.
func New(o Options) *Engine {
	if o.Uptime == nil {
		o.Uptime = power.Uptime
	}
	if o.Proc == "" {
		o.Proc = Proc
	}
	return &Engine{o: o, use: newUse(), vain: map[cluster.NodeID]time.Time{}, wakes: map[run]map[cluster.NodeID]int{}, wanted: map[cluster.NodeID]time.Duration{}, stays: map[cluster.NodeID]stay{}, rested: map[cluster.NodeID]rested{}, ledger: ledger{dir: o.State}, orders: make(chan *Job, maxWaiting), heralds: make(chan *Job, maxWaiting), starting: map[string]int{}, hooked: map[string]time.Time{}, admitted: map[string]bool{}, left: map[int]string{}, told: map[string]time.Time{}}
}

// Services are what other nodes ask this one for.
func Services() []string { return []string{transfer.Service, AskService} }

// Run lets go on whatever a process before this one held still, and carries out
// orders until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	e.recover(ctx)
	if err := e.ledger.load(); err != nil {
		e.o.Log.Warn("which nodes were woken for copies is not known any more; they stay on", "err", err)
	}
	e.diary.waits = e.o.Schedules != nil // until it was looked
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.watchHomes(ctx) })
	g.Go(func() error { return e.keepRest(ctx) })
	g.Go(func() error { return e.heralding(ctx) })
	g.Go(func() error { return e.keepSchedules(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case j := <-e.orders:
				e.carryOut(ctx, j)
			}
		}
	})
	return g.Wait()
}

// Order asks for copies. The job is carried out behind those before it.
func (e *Engine) Order(o Order) (id string, err error) {
	e.Used("copies were ordered on it")
	return e.order(o, nil)
}

// order takes an order: a person's, or that of a schedule's run.
func (e *Engine) order(o Order, of *run) (id string, err error) {
	if len(o.VMs) == 0 {
		return "", &problem.Problem{Op: "replicate", Kind: problem.Invalid, Err: errors.New("no machine is named"), Hint: "name one: revolve vm list"}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.closed(); err != nil {
		return "", err
	}
	j := &Job{Order: o, scheduled: of != nil, ID: time.Now().UTC().Format("20060102T150405.000000Z")}
	if of != nil {
		j.run = *of
	}
	if len(e.orders) == cap(e.orders) { // nobody else puts one in: this has mu
		return "", &problem.Problem{Op: "replicate", Kind: problem.Unavailable, Err: errors.New("too many orders wait"), Hint: "wait for them: revolve vm list"}
	}
	if of == nil {
		e.announceOrder(j)
	}
	e.orders <- j
	if e.jobs = append(e.jobs, j); len(e.jobs) > maxJobs {
		e.jobs = e.jobs[1:]
	}
	return j.ID, nil
}

// Look is how a job stands. ok is false if there is none of that name.
func (e *Engine) Look(id string) (j Job, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, j := range e.jobs {
		if j.ID == id {
			return j.copy(), true
		}
	}
	return Job{}, false
}

// Pause ends a job; what came is kept, and Order.Rest goes on with it. Of one that has ended, or that there is not, nothing is done.
func (e *Engine) Pause(id string) {
	e.change(func() {
		for _, j := range e.jobs {
			if j.ID == id {
				if j.paused = true; j.stop != nil {
					j.stop()
				}
			}
		}
	})
}

// announce tells whoever asks that a machine is being started here, until done.
// It comes before anybody is asked: of two nodes that want to start it, at most one does.
func (e *Engine) announce(vm string) (done func()) {
	e.change(func() { e.starting[vm]++ })
	return func() { e.change(func() { e.ended(vm) }) }
}

// ended is the end of one start. The caller has mu.
func (e *Engine) ended(vm string) {
	if e.starting[vm]--; e.starting[vm] <= 0 {
		delete(e.starting, vm)
	}
}

func (e *Engine) step(name string) {
	if e.o.Step != nil {
		e.o.Step(name)
	}
}
