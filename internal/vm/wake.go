package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// This file is nodes on demand that are woken for copies: they are there before the first one, and are held until the last.

// Power is how nodes are woken and powered off.
type Power interface {
	On(ctx context.Context, node cluster.NodeID) error
	// Off has it power itself off, unless it knows better: then the error says why. StaleTerm says that it never will for this run.
	Off(ctx context.Context, node cluster.NodeID, o RestOrder) error
	There(node cluster.NodeID) bool
	// HeardLately reports whether it is heard, or was within that time, or may have been.
	HeardLately(node cluster.NodeID, within time.Duration) bool
}

const (
	// comesWithin is how long a node may take from being woken to being heard: a server's firmware tests its memory for minutes. Who comes later was started by somebody else, as far as is known.
	comesWithin = 15 * time.Minute
	// wakeWithin is how long it may take until its volumes are caught up as well.
	wakeWithin = 30 * time.Minute
	wakePoll   = time.Second
	// answersWithin is how long one that is heard may take to answer: one without room for points never does.
	answersWithin = 2 * time.Minute
	// wakeAgain is how often a node that is not heard yet is woken: packets get lost.
	wakeAgain = time.Minute
	// wakesMost is how often a node is woken for one run: a copy that fails for a reason of its own is tried again until the
	// next run, and power cycles wear disks out.
	wakesMost = 3
	// vainFor is how long schedules do not wait again for a node that did not come: the other machines' turns are to come.
	vainFor = 30 * time.Minute
)

// party are the nodes of one order that may be off, as they are met.
type party struct {
	met    map[cluster.NodeID]Awake // who is there, and how it was then
	told   map[cluster.NodeID]wokenNode
	absent map[cluster.NodeID]string // who is to be woken and is not there, and why
}

// guests are the nodes of an order to which it matters that they are needed: those that may be off, and those that are to be.
func (e *Engine) guests(j *Job) (nodes []cluster.NodeID) {
	for _, vm := range j.Order.VMs {
		for _, n := range e.targets(j.Order.Plans[vm]) {
			if (j.Order.Poweroff || e.o.MayBeOff(n)) && !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
	}
	slices.Sort(nodes)
	return nodes
}

// rouse has the nodes of an order there, before the first machine: those that are on are asked to stay, and those on
// demand that are off are woken, where that is ordered. Who does not come in time is left out by the copies themselves.
func (e *Engine) rouse(ctx context.Context, j *Job) {
	p := party{met: map[cluster.NodeID]Awake{}, told: map[cluster.NodeID]wokenNode{}, absent: map[cluster.NodeID]string{}}
	e.change(func() { j.party = p })
	if e.o.Power == nil || ctx.Err() != nil {
		return
	}
	missing := map[cluster.NodeID]awaited{}
	futile := sync.OnceValue(func() string { return e.futile(ctx, j) })
	for _, n := range e.guests(j) {
		if e.o.Power.There(n) {
			if a, err := e.meet(ctx, j, n); err == nil || !a.Leaving {
				continue
			}
		}
		if !j.Order.Wake || !e.o.MayBeOff(n) {
			continue
		}
		if why := cmp.Or(e.tired(j, n), futile()); why != "" {
			e.miss(j, n, why)
			continue
		}
		missing[n] = awaited{}
	}
	for began := time.Now(); len(missing) > 0; {
		for _, n := range slices.Sorted(maps.Keys(missing)) {
			if w, still := e.await(ctx, j, n, missing[n], time.Since(began)); still {
				missing[n] = w
			} else {
				delete(missing, n)
			}
		}
		if len(missing) > 0 && !e.wait(ctx, wakePoll) {
			return
		}
	}
}

// awaited is a node that is to come.
type awaited struct {
	told  time.Time // when it was told to power on last
	heard time.Time // since when it is there, and does not answer
}

// await does what is to be done about a node that is to come, and says whether it is still waited for.
func (e *Engine) await(ctx context.Context, j *Job, n cluster.NodeID, w awaited, waited time.Duration) (_ awaited, still bool) {
	if e.o.Power.There(n) {
		a, err := e.meet(ctx, j, n)
		switch {
		case err == nil, a.Leaving: // one that is leaving is woken when it is off
			w.heard = time.Time{}
		case w.heard.IsZero():
			w.heard = time.Now()
		case time.Since(w.heard) >= answersWithin: // it takes no copies, as far as is known; they say why
			return w, false
		}
		return w, (err != nil || !a.CaughtUp) && waited < wakeWithin
	}
	switch {
	case waited >= comesWithin:
		e.change(func() { e.vain[n] = time.Now() })
		e.o.Log.Warn("a node was woken for a copy, and does not come", "node", n, "after", comesWithin)
		e.miss(j, n, fmt.Sprintf("it was woken, and did not come within %s", comesWithin))
		delete(j.party.told, n)
		e.forget(n, "it did not come in time; whoever starts it now is somebody else")
		return w, false
	case time.Since(w.told) >= wakeAgain:
		w.told = time.Now()
		if err := e.tellOn(ctx, j, n); err != nil {
			e.o.Log.Warn("a node is not woken for a copy", "node", n, "err", err, "hint", problem.HintOf(err))
			if problem.KindOf(err) != problem.Invalid { // one that nothing wakes is off as ever
				e.miss(j, n, "it is not woken: "+err.Error())
			}
			return w, false
		}
	}
	return w, true
}

func (e *Engine) miss(j *Job, n cluster.NodeID, why string) {
	e.change(func() { j.party.absent[n] = why })
}

// tired says why a schedule does not wake a node now: it did not come not long ago, or was woken for this run often enough.
func (e *Engine) tired(j *Job, n cluster.NodeID) string {
	if !j.scheduled {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if at, ok := e.vain[n]; ok && time.Since(at) < vainFor {
		return "it did not come when it was woken not long ago"
	}
	if e.wakes[j.run][n] >= wakesMost {
		return fmt.Sprintf("it was woken %d times for this run", wakesMost)
	}
	return ""
}

// countWake takes note that a node is woken for a run of a schedule. Of runs that are over nothing is kept.
func (e *Engine) countWake(j *Job, n cluster.NodeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.wakes, func(r run, _ map[cluster.NodeID]int) bool {
		for k, p := range e.diary.pasts {
			if k.Schedule == r.schedule && p.Turn != nil && p.Turn.Begin.Unix() == r.begin {
				return false
			}
		}
		return r != j.run
	})
	if e.wakes[j.run] == nil {
		e.wakes[j.run] = map[cluster.NodeID]int{}
	}
	e.wakes[j.run][n]++
}

// futile says why no node has to be woken for an order: none of its machines can be copied, as this node knows by itself.
func (e *Engine) futile(ctx context.Context, j *Job) string {
	var failed []string
	for _, vm := range j.Order.VMs {
		if j.Order.Rest != "" {
			return ""
		}
		if _, err := e.next(vm); err != nil {
			failed = append(failed, err.Error())
		} else if _, err := e.imagesOf(ctx, vm); err != nil {
			failed = append(failed, err.Error())
		}
	}
	if len(failed) == 0 || len(failed) < len(j.Order.VMs) {
		return ""
	}
	return "there is nothing to copy to it: " + failed[0]
}

// tellOn tells a node to power on. For a schedule that is written down before: whoever wakes a node owes it its rest,
// also after a restart. A node that could not be told is owed nothing: whoever starts it is somebody else.
func (e *Engine) tellOn(ctx context.Context, j *Job, n cluster.NodeID) error {
	_, before := j.party.told[n]
	if !before {
		w := wokenNode{At: time.Now().UTC(), Boot: bootID(), Up: e.o.Uptime()}
		if j.scheduled {
			e.countWake(j, n)
		}
		switch {
		case !j.scheduled || e.isWanted(n):
		case e.wasOn(n):
			e.o.Log.Info("a node that was on until a moment ago is woken for a copy, and stays on after it", "node", n)
		default:
			if err := e.ledger.put(n, w); err != nil {
				return &problem.Problem{Op: "wake", Kind: problem.Unavailable, Subject: string(n), Err: fmt.Errorf("that it is to be powered off again cannot be written down: %w", err), Hint: "make room in the state directory"}
			}
		}
		j.party.told[n] = w
	}
	err := e.o.Power.On(ctx, n)
	if err != nil && before { // it was told once, and may be coming
		e.o.Log.Warn("a node is not woken again for a copy", "node", n, "err", err)
		return nil
	}
	if err != nil {
		delete(j.party.told, n)
		e.forget(n, "it could not be told to power on")
	}
	return err
}

// meet asks a node that is there to stay as long as it is needed, and takes note of how it was when it was first asked.
func (e *Engine) meet(ctx context.Context, j *Job, n cluster.NodeID) (Awake, error) {
	if _, met := j.party.met[n]; met {
		return e.hold(ctx, n, nil)
	}
	a, err := e.hold(ctx, n, &HoldOrder{For: holdFor, Person: !j.scheduled})
	if err != nil { // an older version, or it powers itself off just now
		e.o.Log.Info("a node does not say that it stays", "node", n, "err", err)
		return a, err
	}
	first := a
	if w, ours := j.party.told[n]; ours && came(w, a, e.o.Uptime()) {
		first.Uses = 0 // who began to use it since it started did so before this moment
		if !j.scheduled {
			first.Uses = 1 // this order
		}
	}
	e.change(func() { j.party.met[n] = first })
	e.recognize(n, a)
	return a, nil
}

// hold says to a node that it is needed, or not any more; without an order it only asks how it is.
func (e *Engine) hold(ctx context.Context, n cluster.NodeID, o *HoldOrder) (a Awake, err error) {
	v, err := e.Ask(ctx, n, Question{What: askHold, Hold: o})
	if v.Awake != nil {
		a = *v.Awake
	}
	if err == nil && a.Token == "" {
		err = &problem.Problem{Op: "hold", Kind: problem.Corrupt, Subject: string(n), Err: errors.New("it does not say how it is")}
	}
	return a, err
}

// came reports whether a node's start came of its being woken: it has not been up for longer than that. Who cannot know says no.
func came(w wokenNode, a Awake, up time.Duration) bool {
	since, known := w.since(bootID(), up)
	return known && a.Up > 0 && a.Up < since
}

// recognize looks at a node that was woken for a schedule when it is heard: is this the run of it that came of that?
func (e *Engine) recognize(n cluster.NodeID, a Awake) {
	w, ok := e.ledger.get(n)
	switch {
	case !ok || w.Token == a.Token && w.Told.IsZero():
	case w.Token == a.Token:
		e.forget(n, "it agreed to power itself off, and is still on")
	case !w.Told.IsZero():
		e.forget(n, "it was powered off, and somebody else started it since")
	case w.Token != "":
		e.forget(n, "it, or its agent, was started anew since")
	case !came(w, a, e.o.Uptime()):
		e.forget(n, "it was on before it was woken, or nobody knows")
	default:
		w.Token = a.Token
		if err := e.ledger.renew(n, w); err != nil { // after a restart of this agent it would not be known
			e.loudly("ledger", "which nodes were woken is not written down", "err", err)
		}
	}
}

// forget leaves a node that was woken to others: it stays on.
func (e *Engine) forget(n cluster.NodeID, why string) {
	if _, ok := e.ledger.get(n); !ok {
		return
	}
	e.o.Log.Warn("a node that was woken for a copy is not powered off: "+why, "node", n)
	if e.o.Power.There(n) && !strings.Contains(why, wantedOn) { // who wants it on knows
		e.stay(n, why)
	} else {
		e.change(func() { delete(e.stays, n) })
	}
	e.strikeOut(n)
}

func (e *Engine) strikeOut(n cluster.NodeID) {
	if err := e.ledger.drop(n); err != nil {
		e.loudly("ledger", "which nodes were woken is not written down", "err", err)
	}
}

// Wanted takes note that a person had a node powered on from here: what a schedule woke is left on then, also if that is in this moment.
func (e *Engine) Wanted(n cluster.NodeID) {
	e.change(func() { e.wanted[n] = e.o.Uptime() })
	e.forget(n, wantedOn)
}

// isWanted reports whether that was while the node may still be coming.
func (e *Engine) isWanted(n cluster.NodeID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, ok := e.wanted[n]
	return ok && e.o.Uptime()-at < comesWithin
}

// keepHeld says anew that the nodes of an order are needed, until ctx ends. Those that did not hear it yet are told soon, and
// whose order it is: a word that got lost takes no person's use away.
func (e *Engine) keepHeld(ctx context.Context, j *Job) {
	said := map[cluster.NodeID]string{} // their tokens then
	for n, a := range j.party.met {
		said[n] = a.Token
	}
	nodes, last := e.guests(j), time.Now() // those that were met know it already
	for ctx.Err() == nil {
		all := time.Since(last) >= holdAgain // also if one that hangs took its time
		if all {
			last = time.Now()
		}
		for _, n := range nodes {
			if all || said[n] == "" {
				said[n] = e.holdOn(ctx, j, n, said[n])
			}
		}
		e.wait(ctx, holdSoon)
	}
}

// holdOn says it to one, and is the token under which that node knows whose order it is; "": it does not.
func (e *Engine) holdOn(ctx context.Context, j *Job, n cluster.NodeID, said string) string {
	if !e.o.Power.There(n) {
		return said
	}
	a, err := e.hold(ctx, n, &HoldOrder{For: holdFor})
	if err == nil && a.Token != said && !j.scheduled {
		a, err = e.hold(ctx, n, &HoldOrder{For: holdFor, Person: true})
	}
	if err != nil {
		if ctx.Err() == nil {
			e.o.Log.Debug("a node does not say that it stays", "node", n, "err", err)
		}
		return said
	}
	return a.Token
}

// letGo says to a node that it is not needed any more.
func (e *Engine) letGo(ctx context.Context, n cluster.NodeID) error {
	_, err := e.hold(ctx, n, &HoldOrder{})
	return err
}

// letAllGo says it to all nodes of an order.
func (e *Engine) letAllGo(ctx context.Context, j *Job) {
	for _, n := range e.guests(j) {
		if e.o.Power == nil || !e.o.Power.There(n) {
			continue
		}
		if err := e.letGo(ctx, n); err != nil { // it ends by itself
			e.o.Log.Debug("a node is not let go", "node", n, "err", err)
		}
	}
}
