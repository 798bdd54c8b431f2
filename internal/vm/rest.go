package vm

import (
	"context"
	"errors"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// This file is nodes that are powered off when the copies are there: only by the run that woke them or was told to by a
// person, and only as they were when that run met them. What is not known is a reason to leave a node on.

const (
	// offAgain is how often a node that was woken is asked to power itself off, which it refuses while it is in use; offGivenUp after how long that is left to people.
	offAgain   = time.Minute
	offGivenUp = 24 * time.Hour
	// goneWithin is how long a node that agreed may take to be off.
	goneWithin = 10 * time.Minute
	// restTries is how often a node is asked at the end of an order, a second apart: it takes a moment to see that the last copy has ended.
	restTries = 10
)

// verify looks once more whether a point is where it is said to be, before that node is powered off. What came came:
// when the copy is to end, nobody can be asked any more, and nothing is struck out for that.
func (e *Engine) verify(ctx context.Context, j *Job, i int) error {
	id, nodes := e.arrived(j, i)
	var failed []error
	for _, n := range nodes {
		v, err := e.Ask(ctx, n, Question{What: askLook, VM: j.Order.VMs[i]})
		if err != nil && ctx.Err() != nil {
			break
		}
		if err == nil && !holds(v, j.Order.VMs[i], string(id)) {
			err = &problem.Problem{Op: "find point on", Kind: problem.Corrupt, Subject: string(n), Err: errors.New(string(id) + " was published there, and is not there"), Hint: "look at the storage there: revolve vm points " + j.Order.VMs[i]}
		}
		if err != nil {
			failed = append(failed, err)
			e.change(func() {
				for k := range j.VMs[i].Nodes {
					if a := &j.VMs[i].Nodes[k]; a.Node == n {
						a.Record, a.Error, a.Hint = nil, err.Error(), problem.HintOf(err)
					}
				}
			})
		}
	}
	return errors.Join(failed...)
}

func holds(v View, vm, id string) bool {
	for _, s := range v.VMs {
		for _, r := range s.Points {
			if s.VM == vm && string(r.ID) == id {
				return true
			}
		}
	}
	return false
}

// putToRest powers off the nodes of an order that wants that, when its last machine is copied.
func (e *Engine) putToRest(ctx context.Context, j *Job) {
	for _, n := range e.guests(j) {
		err := e.mayRest(j, n)
		if err == nil {
			err = e.askOff(ctx, n, RestOrder{Token: j.party.met[n].Token, Uses: j.party.met[n].Uses})
		}
		e.change(func() {
			if a := j.lastOn(n); a != nil {
				if a.PoweredOff = err == nil; err != nil {
					a.StaysOn = err.Error()
				}
			}
		})
	}
}

// askOff asks a node some times to power itself off.
func (e *Engine) askOff(ctx context.Context, n cluster.NodeID, o RestOrder) (err error) {
	for range restTries {
		if err = e.o.Power.Off(ctx, n, o); problem.KindOf(err) != problem.Conflict || !e.wait(ctx, time.Second) {
			break
		}
	}
	return err
}

// mayRest refuses what this node knows to speak against it.
func (e *Engine) mayRest(j *Job, n cluster.NodeID) error {
	refuse := func(why string) error {
		return &problem.Problem{Op: "power off", Kind: problem.Conflict, Subject: string(n), Err: errors.New(why)}
	}
	if e.o.Power == nil {
		return refuse("nothing says how")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, met := j.party.met[n]; !met {
		return refuse("it was not there when the order began, so it is not known who started it")
	}
	for i, vm := range j.Order.VMs {
		if !slices.Contains(e.targets(j.Order.Plans[vm]), n) {
			continue
		}
		if k := slices.IndexFunc(j.VMs[i].Nodes, func(a Arrival) bool { return a.Node == n }); k < 0 || j.VMs[i].Nodes[k].Record == nil {
			return refuse("it does not have the copy of " + vm)
		}
	}
	for _, other := range e.jobs {
		if other == j || other.Ended {
			continue
		}
		for _, vm := range other.Order.VMs {
			if slices.Contains(e.targets(other.Order.Plans[vm]), n) {
				return refuse("another order copies " + vm + " to it")
			}
		}
	}
	return nil
}

// lastOn is the last copy of an order that came to a node. nil: none did.
func (j *Job) lastOn(n cluster.NodeID) *Arrival {
	for i := len(j.VMs) - 1; i >= 0; i-- {
		for k := range j.VMs[i].Nodes {
			if a := &j.VMs[i].Nodes[k]; a.Node == n && a.Record != nil {
				return a
			}
		}
	}
	return nil
}

// busy reports whether copies are ordered here.
func (e *Engine) busy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.jobs, func(j *Job) bool { return !j.Ended })
}

// letRest powers off what was woken for schedules, when none of them needs it any more.
func (e *Engine) letRest(ctx context.Context, now time.Time) {
	d := &e.diary
	if now.Sub(d.offered) < offAgain && !now.Before(d.offered) || e.o.Power == nil || e.busy() {
		return
	}
	d.offered = now
	for n, w := range e.ledger.all() {
		if there, _ := e.o.Power.Ready(n); there {
			e.offer(ctx, n, now)
			continue
		}
		since, known := w.since(bootID(), e.o.Uptime())
		switch {
		case !w.Told.IsZero(): // it is off
			e.strikeOut(n)
		case w.Token == "" && (!known || since >= comesWithin):
			e.forget(n, "it did not come in time; whoever starts it now is somebody else")
		case w.Token != "" && now.Sub(w.At) >= offGivenUp:
			e.forget(n, "it is not heard, and was woken a day ago")
		}
	}
}

// offer has a node that was woken power itself off, if it is still as it came.
func (e *Engine) offer(ctx context.Context, n cluster.NodeID, now time.Time) {
	if w, ok := e.ledger.get(n); ok && !w.Told.IsZero() && now.Sub(w.Told) < goneWithin && !now.Before(w.Told) {
		return // it is on its way
	}
	a, err := e.hold(ctx, n, 0) // this node needs it no more
	if err == nil {
		e.recognize(n, a)
	}
	w, ours := e.ledger.get(n)
	switch {
	case !ours:
		return
	case err != nil || w.Token == "": // it is heard, and does not answer yet
	default:
		err = e.o.Power.Off(ctx, n, RestOrder{Token: w.Token})
		if err == nil {
			w.Told = now.UTC()
			err = e.ledger.put(n, w)
		}
	}
	switch {
	case err == nil:
	case problem.KindOf(err) == problem.StaleTerm:
		e.forget(n, err.Error())
	case now.Sub(w.At) >= offGivenUp:
		e.forget(n, "a day was not enough: "+err.Error())
	default:
		e.loudly("rest "+string(n), "a node that was woken for a copy stays on", "node", n, "err", err, "hint", problem.HintOf(err))
	}
}
