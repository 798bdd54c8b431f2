package vm

import (
	"context"
	"errors"
	"maps"
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
	restTick   = 5 * time.Second // how often it is looked whether any is to be asked
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
		err := e.askOff(ctx, j, n)
		e.change(func() {
			if a := j.lastOn(n); a != nil {
				if a.PoweredOff = err == nil; err != nil {
					a.StaysOn = err.Error()
				}
			}
		})
	}
}

// askOff lets a node go, and asks it some times to power itself off. Before each time it is looked what this node knows:
// an order for that node may have come meanwhile. One that begins later says to it that it needs it.
func (e *Engine) askOff(ctx context.Context, j *Job, n cluster.NodeID) (err error) {
	for range restTries {
		if err = e.spares(j, n); err != nil {
			return err
		}
		if err = e.letGo(ctx, n); err == nil {
			err = e.o.Power.Off(ctx, n, RestOrder{Token: j.party.met[n].Token, Uses: j.party.met[n].Uses})
		}
		if err == nil {
			e.agreed(n)
		}
		if problem.KindOf(err) != problem.Conflict || !e.wait(ctx, time.Second) {
			return err
		}
	}
	return err
}

// spares refuses what this node knows to speak against it.
func (e *Engine) spares(j *Job, n cluster.NodeID) error {
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
	if e.diary.waits {
		return refuse("copies of a schedule wait for their turn")
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

// busy reports whether copies are ordered here, or wait for their turn.
func (e *Engine) busy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.diary.waits || slices.ContainsFunc(e.jobs, func(j *Job) bool { return !j.Ended })
}

// keepRest has nodes that were woken power themselves off. It has a goroutine of its own: a node that hangs takes a minute.
func (e *Engine) keepRest(ctx context.Context) error {
	for e.wait(ctx, restTick) {
		if e.o.Power != nil {
			e.seeRested()
		}
		e.letRest(ctx, time.Now())
	}
	return nil
}

// PoweredOff takes note that a person had a node power itself off from here.
func (e *Engine) PoweredOff(n cluster.NodeID) { e.agreed(n) }

// agreed takes note that a node goes off because this one had it do so.
func (e *Engine) agreed(n cluster.NodeID) {
	e.change(func() { e.rested[n] = rested{at: e.o.Uptime()} })
}

// rested is when a node agreed, by this machine's uptime, and whether it was seen off since.
type rested struct {
	at  time.Duration
	off bool
}

// seeRested forgets those that somebody started since, or that did not go off.
func (e *Engine) seeRested() {
	e.mu.Lock()
	nodes := slices.Collect(maps.Keys(e.rested))
	e.mu.Unlock()
	for _, n := range nodes {
		there := e.o.Power.There(n)
		e.change(func() {
			r := e.rested[n]
			switch {
			case !there:
				r.off = true
				e.rested[n] = r
			case r.off, e.o.Uptime()-r.at >= goneWithin:
				delete(e.rested, n)
			}
		})
	}
}

// wasOn reports whether a node that is not heard was on until a while ago, as far as is known, and not powered off from here:
// it is being started anew, or nobody hears it for a moment, and who had it on wants it on.
func (e *Engine) wasOn(n cluster.NodeID) bool {
	e.mu.Lock()
	_, ours := e.rested[n]
	e.mu.Unlock()
	return !ours && e.o.Power.HeardLately(n, comesWithin)
}

// letRest powers off what was woken for schedules, when none of them needs it any more.
func (e *Engine) letRest(ctx context.Context, now time.Time) {
	if now.Sub(e.offered) < offAgain && !now.Before(e.offered) || e.o.Power == nil || e.busy() || e.open() != nil {
		return
	}
	e.offered = now
	e.forgetStays()
	for n, w := range e.ledger.all() {
		if e.o.Power.There(n) {
			e.offer(ctx, n, now)
			continue
		}
		switch {
		case !w.Told.IsZero(): // it is off
			e.strikeOut(n)
		case w.Token == "" && w.older(e.o.Uptime(), now, comesWithin):
			e.forget(n, "it did not come in time; whoever starts it now is somebody else")
		case w.older(e.o.Uptime(), now, offGivenUp):
			e.forget(n, "it is not heard, and was woken a day ago")
		}
	}
}

// offer has a node that was woken power itself off, if it is still as it came.
func (e *Engine) offer(ctx context.Context, n cluster.NodeID, now time.Time) {
	if w, ok := e.ledger.get(n); ok && !w.Told.IsZero() && now.Sub(w.Told) < goneWithin && !now.Before(w.Told) {
		return // it is on its way
	}
	a, err := e.hold(ctx, n, nil)
	if err == nil {
		e.recognize(n, a)
	}
	w, ours := e.ledger.get(n)
	switch {
	case !ours, e.busy():
		return
	case err != nil || w.Token == "": // it is heard, and does not answer yet
	default:
		err = e.o.Power.Off(ctx, n, RestOrder{Token: w.Token})
		if err == nil {
			e.agreed(n)
			e.change(func() { delete(e.stays, n) })
			w.Told = now.UTC()
			err = e.ledger.renew(n, w)
		}
	}
	switch {
	case err == nil:
	case problem.KindOf(err) == problem.StaleTerm:
		e.forget(n, err.Error())
	case w.older(e.o.Uptime(), now, offGivenUp):
		e.forget(n, "a day was not enough: "+err.Error())
	default:
		e.stay(n, err.Error())
		e.loudly("rest "+string(n), "a node that was woken for a copy stays on", "node", n, "err", err, "hint", problem.HintOf(err))
	}
}

// stay is why a node that was woken for a schedule is on.
type stay struct {
	since time.Duration // by this machine's uptime
	why   string
}

// stayTold is after how long people are told.
const stayTold = time.Hour

func (e *Engine) stay(n cluster.NodeID, why string) {
	e.change(func() {
		s, before := e.stays[n]
		if s.why = why; !before {
			s.since = e.o.Uptime()
		}
		e.stays[n] = s
	})
}

// Staying says of nodes that were woken for schedules and are still on after an hour, why.
func (e *Engine) Staying() map[cluster.NodeID]string {
	out := map[cluster.NodeID]string{}
	e.change(func() {
		for n, s := range e.stays {
			if e.o.Uptime()-s.since >= stayTold {
				out[n] = s.why
			}
		}
	})
	maps.DeleteFunc(out, func(n cluster.NodeID, _ string) bool { return !e.o.Power.There(n) })
	return out
}

// forgetStays drops those that are off meanwhile.
func (e *Engine) forgetStays() {
	e.mu.Lock()
	nodes := slices.Collect(maps.Keys(e.stays))
	e.mu.Unlock()
	for _, n := range nodes {
		if !e.o.Power.There(n) {
			e.change(func() { delete(e.stays, n) })
		}
	}
}
