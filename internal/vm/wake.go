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

// This file is nodes on demand that are woken for a copy, and powered off when it is there.

// Power is how nodes are woken and powered off.
type Power interface {
	On(ctx context.Context, node cluster.NodeID) error
	Off(ctx context.Context, node cluster.NodeID) error // it powers itself off, unless it knows better
	Ready(node cluster.NodeID) (there, caughtUp bool)
}

const (
	// wakeWithin is how long a node may take from being woken to having caught up with its volumes.
	wakeWithin = 30 * time.Minute
	wakePoll   = time.Second
	// wakeAgain is how often a node that is not heard yet is woken: packets get lost.
	wakeAgain = time.Minute
	// offAgain is how often a node that was woken is asked to power itself off, which it refuses while it is in use; offGivenUp after how long that is left to people.
	offAgain   = time.Minute
	offGivenUp = 24 * time.Hour
)

// wake wakes the nodes on demand that are off, and waits until their volumes are
// caught up: what comes from the mirror goes first. Who does not come in time is left out by the copy itself.
func (e *Engine) wake(ctx context.Context, targets []cluster.NodeID) {
	if e.o.Power == nil {
		return
	}
	woken := map[cluster.NodeID]time.Time{} // and when last
	for _, n := range targets {
		if there, _ := e.o.Power.Ready(n); !there && e.o.MayBeOff(n) {
			e.change(func() { e.diary.woken[n] = time.Now() }) // before it is: whoever wakes a node owes it its rest
			woken[n] = time.Time{}
		}
	}
	for late := time.Now().Add(wakeWithin); len(woken) > 0 && time.Now().Before(late); {
		for _, n := range slices.Sorted(maps.Keys(woken)) {
			switch there, caughtUp := e.o.Power.Ready(n); {
			case caughtUp:
				delete(woken, n)
			case !there && time.Since(woken[n]) >= wakeAgain:
				woken[n] = time.Now()
				if err := e.o.Power.On(ctx, n); err != nil {
					e.o.Log.Warn("a node is not woken for a copy", "node", n, "err", err, "hint", problem.HintOf(err))
					delete(woken, n)
				}
			}
		}
		if len(woken) > 0 && !e.wait(ctx, wakePoll) {
			return
		}
	}
}

// verify looks once more whether a point is where it is said to be, before that node is powered off.
func (e *Engine) verify(ctx context.Context, j *Job, i int) error {
	id, nodes := e.arrived(j, i)
	var failed []error
	for _, n := range nodes {
		v, err := e.Ask(ctx, n, Question{What: askLook, VM: j.Order.VMs[i]})
		if ctx.Err() != nil { // the copy was ended meanwhile: nobody was asked, and what was published is there
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

// putToRest powers off the nodes that have the point of an order that wants that.
func (e *Engine) putToRest(ctx context.Context, j *Job, i int) {
	_, nodes := e.arrived(j, i)
	for _, n := range nodes {
		err := e.off(ctx, n)
		e.change(func() {
			for k := range j.VMs[i].Nodes {
				if a := &j.VMs[i].Nodes[k]; a.Node == n {
					if a.PoweredOff = err == nil; err != nil {
						a.StaysOn = err.Error()
					}
				}
			}
		})
	}
}

func (e *Engine) off(ctx context.Context, n cluster.NodeID) error {
	if e.o.Power == nil {
		return &problem.Problem{Op: "power off", Kind: problem.Invalid, Subject: string(n), Err: errors.New("nothing says how")}
	}
	return e.o.Power.Off(ctx, n)
}

// letRest powers off what was woken for schedules, when none of them needs it any more.
func (e *Engine) letRest(ctx context.Context, now time.Time) {
	d := &e.diary
	if len(d.woken) == 0 || now.Sub(d.offered) < offAgain && !now.Before(d.offered) {
		return
	}
	d.offered = now
	for _, n := range slices.Sorted(maps.Keys(d.woken)) {
		err := error(nil)
		if there, _ := e.o.Power.Ready(n); there {
			err = e.off(ctx, n)
		} else if now.Sub(d.woken[n]) < wakeWithin {
			continue // it may still be coming up
		}
		if err != nil && now.Sub(d.woken[n]) < offGivenUp {
			e.loudly("rest "+string(n), "a node that was woken for a copy stays on", "node", n, "err", err, "hint", problem.HintOf(err))
			continue
		}
		e.change(func() { delete(d.woken, n) })
	}
}
