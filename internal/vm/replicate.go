package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// Order is what a person wants copied.
type Order struct {
	VMs     []string         `json:"vms"`
	Targets []cluster.NodeID `json:"targets"`        // those of Plans if empty
	Level   points.Level     `json:"level"`          // that of Plans if empty
	Within  time.Duration    `json:"within"`         // how long a guest may take to shut down
	Whole   bool             `json:"whole"`          // prove every block
	Force   bool             `json:"force"`          // also onto a copy of another history
	Rest    points.ID        `json:"rest,omitempty"` // no new point, but this one, to nodes that do not have it yet; for one machine

	Wake     bool `json:"wake,omitempty"`     // nodes on demand that are off are woken first
	Poweroff bool `json:"poweroff,omitempty"` // and those that have the point power themselves off

	Plans map[string]Plans `json:"plans,omitempty"` // what the configuration says of each
}

// Plans are for one machine.
type Plans struct {
	Targets []cluster.NodeID `json:"targets"` // all other nodes if empty
	Level   points.Level     `json:"level"`
}

// Job is an order, and how far it is.
type Job struct {
	ID    string `json:"id"`
	Order Order  `json:"order"`
	Ended bool   `json:"ended"`
	VMs   []Work `json:"vms"`

	stop      context.CancelFunc // nil: it was not begun
	paused    bool
	scheduled bool // not by a person
	run       run  // of which schedule
	party     party
	herald    *heralded // nil: nobody is told
}

// Work is what became of one machine.
type Work struct {
	VM     string        `json:"vm"`
	Point  points.ID     `json:"point,omitempty"`
	Level  points.Level  `json:"level,omitempty"`
	Weaker string        `json:"weaker,omitempty"` // why Level is weaker than what was ordered
	Stood  time.Duration `json:"stood"`            // how long the machine stood still, nanoseconds
	Error  string        `json:"error,omitempty"`
	Hint   string        `json:"hint,omitempty"`
	Nodes  []Arrival     `json:"nodes"`
}

// Arrival is what became of a point on its way to one node.
type Arrival struct {
	Node       cluster.NodeID `json:"node"`
	File       string         `json:"file,omitempty"` // that is being sent
	Tracker    block.Tracker  `json:"tracker,omitempty"`
	Why        string         `json:"why,omitempty"`
	Changed    int64          `json:"changed"`
	Sent       int64          `json:"sent"`
	Record     *points.Record `json:"record,omitempty"` // published
	Took       time.Duration  `json:"took"`
	PoweredOff bool           `json:"powered_off,omitempty"` // as ordered
	StaysOn    string         `json:"stays_on,omitempty"`    // why it did not
	Off        bool           `json:"off,omitempty"`         // the node is on demand, and was not reached
	Unwoken    string         `json:"unwoken,omitempty"`     // though it was to be woken: why
	Again      int            `json:"again,omitempty"`       // how often the connection broke, and the same point went on
	Error      string         `json:"error,omitempty"`
	Hint       string         `json:"hint,omitempty"`
}

func (j *Job) copy() Job {
	c := *j
	c.VMs = slices.Clone(j.VMs)
	for i := range c.VMs {
		c.VMs[i].Nodes = slices.Clone(c.VMs[i].Nodes)
	}
	return c
}

func (e *Engine) carryOut(ctx context.Context, j *Job) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	e.change(func() {
		if j.stop = stop; j.paused {
			stop()
		}
	})
	e.hush(ctx, j)
	e.rouse(ctx, j)
	var g errgroup.Group
	held, enough := context.WithCancel(ctx)
	if len(e.guests(j)) > 0 && e.o.Power != nil {
		g.Go(func() error { e.keepHeld(held, j); return nil })
	}
	e.copyAll(ctx, j)
	enough()
	_ = g.Wait() // it never fails
	if j.Order.Poweroff {
		e.putToRest(ctx, j)
	}
	e.letAllGo(ctx, j)
	e.change(func() { j.Ended = true })
}

// copyAll copies one machine after the other.
func (e *Engine) copyAll(ctx context.Context, j *Job) {
	for i, name := range j.Order.VMs {
		e.mu.Lock()
		j.VMs = append(j.VMs, Work{VM: name, Nodes: []Arrival{}})
		e.mu.Unlock()
		err := e.replicate(ctx, j, i)
		if err != nil {
			e.o.Log.Error("machine not replicated", "vm", name, "err", err)
			e.change(func() { j.VMs[i].Error, j.VMs[i].Hint = err.Error(), problem.HintOf(err) })
		}
	}
}

func (e *Engine) change(do func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	do()
}

// replicate takes a point of one machine and brings it to every target.
func (e *Engine) replicate(ctx context.Context, j *Job, i int) error {
	name := j.Order.VMs[i]
	release, err := e.o.Store.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	defer func() { // when the machine goes on again
		id, nodes := e.arrived(j, i)
		e.pruneAfter(ctx, name, id, nodes)
	}()
	plans := j.Order.Plans[name]
	targets := e.targets(plans)
	if len(targets) == 0 {
		return &problem.Problem{Op: "replicate", Kind: problem.Invalid, Subject: name, Err: errors.New("there is no other node")}
	}
	if err := ctx.Err(); err != nil {
		return &problem.Problem{Op: "replicate", Kind: problem.Unavailable, Subject: name, Err: errors.New("it was stopped before it began"), Hint: "order it again"}
	}
	err = e.copyTo(ctx, j, i, plans, targets)
	if j.Order.Wake || j.Order.Poweroff {
		err = errors.Join(err, e.verify(ctx, j, i))
	}
	return err
}

// copyTo takes a point, or goes on with one, and brings it to every target.
func (e *Engine) copyTo(ctx context.Context, j *Job, i int, plans Plans, targets []cluster.NodeID) error {
	name := j.Order.VMs[i]
	if j.Order.Rest != "" {
		return e.sendRest(ctx, j, i, targets)
	}
	src, err := e.prepare(ctx, name)
	if err != nil {
		return err
	}
	defer func() { src.Close() }()
	whole := !slices.ContainsFunc(src.Files, func(f points.SourceFile) bool { return !f.Kept })
	stood, level, err := e.still(ctx, name, plans.Level, j.Order.Within, func(reached points.Level) error {
		src.Level = reached
		err := src.Clone()
		if err == nil && !whole { // nothing keeps this moment but the machine that stands still
			if err = e.settle(src); err == nil {
				err = e.sendAll(ctx, j, i, src, targets)
			}
		}
		return err
	})
	e.change(func() {
		j.VMs[i].Point, j.VMs[i].Level, j.VMs[i].Stood = src.ID, level, stood
		if slices.Index(points.Levels(), level) < slices.Index(points.Levels(), plans.Level) {
			j.VMs[i].Weaker = fmt.Sprintf("it was paused by somebody else, or its memory was saved, so its guest could be asked for nothing: %s, not %s", level, plans.Level)
			e.o.Log.Warn("a point is weaker than ordered: the machine was paused or saved", "vm", name, "level", level, "ordered", plans.Level)
		}
	})
	if err != nil || !whole {
		return err
	}
	if err := e.settle(src); err != nil {
		return err
	}
	e.o.Log.Info("point taken", "vm", name, "point", src.ID, "level", level, "stood", stood)
	return e.sendAll(ctx, j, i, src, targets)
}

// targets are the nodes that get a machine's points.
func (e *Engine) targets(p Plans) []cluster.NodeID {
	list := p.Targets
	if len(list) == 0 {
		list = e.o.Nodes()
	}
	return slices.DeleteFunc(slices.Clone(list), func(n cluster.NodeID) bool { return n == e.o.Node })
}

// sendRest goes on with a point that was taken before and is kept here. Nothing is held still for it.
func (e *Engine) sendRest(ctx context.Context, j *Job, i int, targets []cluster.NodeID) error {
	name := j.Order.VMs[i]
	r, err := e.o.Store.Get(name, j.Order.Rest)
	if err != nil {
		return err
	}
	c, ok, err := e.o.Store.Chain(name)
	if err != nil {
		return err
	}
	if !ok || c.Home != e.o.Node || c.Last.ID != r.ID {
		return &problem.Problem{Op: "go on with", Kind: problem.Conflict, Subject: string(r.ID), Err: errors.New("the history of " + name + " went on after it"), Hint: "take a new point: revolve vm replicate " + name}
	}
	src, err := e.o.Store.Reopen(&r)
	if err != nil {
		return err
	}
	defer src.Close()
	e.change(func() { j.VMs[i].Point, j.VMs[i].Level = r.ID, r.Level })
	return e.sendAll(ctx, j, i, src, targets)
}

// arrived are the nodes where a job's point of one machine came.
func (e *Engine) arrived(j *Job, i int) (id points.ID, nodes []cluster.NodeID) {
	e.change(func() {
		for _, n := range j.VMs[i].Nodes {
			if n.Record != nil {
				id, nodes = n.Record.ID, append(nodes, n.Node)
			}
		}
	})
	return id, nodes
}

// settle makes a point what the machine's history goes on from, one step after the
// other: a point that failed is nobody's ancestor.
func (e *Engine) settle(src *points.Source) error {
	if err := src.Settle(); err != nil {
		return err
	}
	return e.o.Store.SetChain(src.VM, e.chain(src))
}

func (e *Engine) chain(src *points.Source) points.Chain {
	last := src.Point
	last.Files = nil
	return points.Chain{Last: last, Home: e.o.Node, Since: time.Now().UTC()}
}

// prepare does everything that can be done while the machine runs.
func (e *Engine) prepare(ctx context.Context, name string) (*points.Source, error) {
	next, err := e.next(name)
	if err != nil {
		return nil, err
	}
	return e.prepareAs(ctx, name, next)
}

func (e *Engine) prepareAs(ctx context.Context, name string, next points.Point) (*points.Source, error) {
	list, err := e.imagesOf(ctx, name)
	if err != nil {
		return nil, err
	}
	return e.o.Store.Take(next, e.o.Node, list)
}

// imagesOf are the files of a machine that a point is made of.
func (e *Engine) imagesOf(ctx context.Context, name string) (list []points.Image, err error) {
	text, err := e.o.Host.Definition(ctx, name)
	if err != nil {
		return nil, err
	}
	d, err := readDomain(text)
	if err != nil {
		return nil, err
	}
	return images(d, text, e.o.TPM)
}

// next is the place of the next point in the machine's history. Another node's
// machine is not continued here: it must be started here first.
func (e *Engine) next(name string) (points.Point, error) {
	now := time.Now().UTC()
	list, err := e.o.Store.List(name)
	if err != nil {
		return points.Point{}, err
	}
	c, ok, err := e.o.Store.Chain(name)
	if err != nil {
		return points.Point{}, err
	}
	home := c.Home // a machine that was fenced here has its home elsewhere
	moved := ok && home != e.o.Node
	if len(list) > 0 && list[0].Node != e.o.Node && (!ok || list[0].Newer(&c.Last)) {
		home, moved = list[0].Node, true
	}
	if ok && c.Home == e.o.Node && !moved {
		p := c.Last.Next(now)
		p.Level = points.Live
		return p, nil
	}
	if moved {
		return points.Point{}, &problem.Problem{Op: "replicate", Kind: problem.Conflict, Subject: name, Err: errors.New("its home is " + string(home) + "; here are copies of it"),
			Hint: "run this on " + string(home) + ", or make this node its home: revolve vm start " + name + " --on " + string(e.o.Node)}
	}
	p := points.First(name, now)
	if len(list) > 0 {
		p = list[0].Next(now)
	}
	p.Level = points.Live
	return p, nil
}

// sendAll brings a point to all targets at once: what the disk read for one is in
// memory for the others. Of images that are not kept, the table is written with
// the first, so they go one after the other.
func (e *Engine) sendAll(ctx context.Context, j *Job, i int, src *points.Source, targets []cluster.NodeID) error {
	e.change(func() {
		for _, n := range targets {
			j.VMs[i].Nodes = append(j.VMs[i].Nodes, Arrival{Node: n})
		}
	})
	var g errgroup.Group
	if slices.ContainsFunc(src.Files, func(f points.SourceFile) bool { return !f.Kept }) {
		g.SetLimit(1)
	}
	failed := make([]error, len(targets))
	for k, node := range targets {
		g.Go(func() error {
			failed[k] = e.sendOne(ctx, j, i, k, src, node)
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(failed...)
}

// A connection that breaks is made anew for the same point, which goes on where it
// stopped, after 1, 2, 4, 8 and 16 s: what lasts longer is for people, or the next window.
const (
	maxAgain   = 5
	againAfter = time.Second
)

// wait is false if ctx ended first.
func (e *Engine) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (e *Engine) sendOne(ctx context.Context, j *Job, i, k int, src *points.Source, node cluster.NodeID) error {
	began := time.Now()
	a := func(do func(a *Arrival)) { e.change(func() { do(&j.VMs[i].Nodes[k]) }) }
	var record points.Record
	var err error
	met := false // a node that was never reached is off: nothing is under way there
	for again := 0; ; again++ {
		var conn transfer.Conn
		if conn, err = e.o.Dial(ctx, node, transfer.Service); err == nil {
			met = true
			record, err = transfer.Send(ctx, conn, transfer.Sending{Store: e.o.Store, Source: src, Whole: j.Order.Whole, Force: j.Order.Force, Step: e.o.Step, Tell: func(m transfer.Moment) {
				a(func(a *Arrival) {
					a.File, a.Tracker, a.Why, a.Changed, a.Sent = m.File, m.Tracker, m.Why, m.Changed, m.Sent
				})
			}})
		}
		if !met || again == maxAgain || !transfer.Broken(err) || !e.wait(ctx, againAfter<<again) {
			break
		}
		e.o.Log.Warn("a point goes on after its connection broke", "vm", src.VM, "point", src.ID, "to", node, "err", err)
		a(func(a *Arrival) { a.Again++ })
	}
	a(func(a *Arrival) {
		a.Took = time.Since(began)
		if err != nil {
			a.Error, a.Hint = err.Error(), problem.HintOf(err)
			if a.Off = !met && ctx.Err() == nil && e.o.MayBeOff(node); a.Off {
				a.Unwoken = j.party.absent[node]
			}
			return
		}
		a.Record = &record
	})
	return err
}
