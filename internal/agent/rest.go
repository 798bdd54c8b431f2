package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/history"
	"revolve/internal/power"
	"revolve/internal/problem"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
)

// This file is how this node powers itself off: first everything is closed, then everything is looked at that speaks
// against it, then it goes at once. What is not known speaks against it.

const (
	// restFor is how long a node that agreed begins nothing and leads no more. One that is still there then was not powered off.
	restFor = 10 * time.Minute
	// backWithin is how long the election may take to know; it reports several times a second.
	backWithin = 5 * time.Second
	// spareWithin is how long the master may take for its word: it looks at nothing but its memory.
	spareWithin = 10 * time.Second
	// spareFresh is how old that may be when this node goes, and lookTries how often all is looked at for that: libvirt takes its time.
	spareFresh = 5 * time.Second
	lookTries  = 3
	// peopleEvery is how often it is looked who is logged in: who comes and goes in between is not seen.
	peopleEvery = 10 * time.Second
	// restFile is in the state directory while this node is about to be off.
	restFile    = "power-off.json"
	maxRestFile = 4 << 10
)

// restNote keeps an agent that is started anew meanwhile from taking part again.
type restNote struct {
	System string        `json:"system"` // which run of it: the note is void in the next one
	Until  time.Duration `json:"until"`  // by the uptime
}

// refuseOff is why this node stays on.
func (a *Agent) refuseOff(kind problem.Kind, why, hint string) error {
	return &problem.Problem{Op: "power off", Kind: kind, Subject: string(a.o.Node), Err: errors.New(why), Hint: hint}
}

// offHere powers this node off, if nothing speaks against it. That is looked at twice: before anything is closed, so that
// a refusal costs nothing, and when everything is, so that nothing comes in between. run is nil where a person orders it.
func (a *Agent) offHere(ctx context.Context, run *vm.RestOrder, by string) error {
	ctx, cancel := context.WithTimeout(ctx, askOffWithin) // a master that is frozen does not answer
	defer cancel()
	_, _ = a.people.look(a) // who is here when it is ordered is no use that comes in between
	before := a.usesSoFar()
	err := a.mayRest(ctx, run)
	if err == nil {
		err = a.askToSpare(ctx)
	}
	if err == nil {
		err = a.closeHere()
	}
	if err != nil {
		return err
	}
	err = a.stepBack(ctx)
	if err == nil {
		a.goes(ctx) // before the last look, which may take no longer; it is taken back if that refuses
		err = a.lastLook(ctx, run, before)
	}
	if err == nil {
		cfg, _ := a.cfg().Node(a.o.Node)
		a.o.Log.Info("powering off, as ordered", "by", by) // not the command: it may have a secret
		if err = power.Begin(ctx, cmp.Or(cfg.Power.Off, defaultOff)); err != nil {
			err = a.refuseOff(problem.Unavailable, "the command failed: "+err.Error(), "try it by hand on that node; another one: power: { off: COMMAND }")
		}
	}
	if err != nil {
		a.comeBack()
	}
	return err
}

// lastLook is the second one, when everything is closed. What takes its time comes first: what this node knows by itself is
// as it is at this moment, and the master's word is young.
func (a *Agent) lastLook(ctx context.Context, run *vm.RestOrder, before int64) error {
	for range lookTries {
		if err := a.askToSpare(ctx); err != nil {
			return err
		}
		spared := time.Now()
		if err := a.mayRest(ctx, run); err != nil {
			return err
		}
		for _, look := range []func() error{func() error { return a.nobodyIsHere(run) }, func() error { return a.asItWas(run, before) }, a.settled, a.inSync, a.leadsNot} {
			if err := look(); err != nil {
				return err
			}
		}
		if !a.rests() { // the machine slept meanwhile
			break
		}
		if time.Since(spared) < spareFresh {
			return nil
		}
	}
	return a.refuseOff(problem.Unavailable, "it took too long to look at everything", "try it again")
}

// asItWas refuses if somebody began to use this node since it was looked first, or since the run that orders it met it.
func (a *Agent) asItWas(run *vm.RestOrder, before int64) error {
	if run != nil && a.vms != nil {
		if err := a.vms.AsItCame(run); err != nil {
			return err
		}
	}
	if a.usesSoFar() != before {
		return a.refuseOff(problem.Conflict, "somebody began to use it meanwhile", "see who wants it on; if it is to be off all the same, try it again")
	}
	return nil
}

// notAside refuses a run while a person has this node in maintenance: somebody works on it.
func (a *Agent) notAside(run *vm.RestOrder) error {
	if run != nil && a.record.memory().Maintenance {
		return a.refuseOff(problem.Conflict, "a person has it in maintenance", "on that node: revolve maintenance off")
	}
	return nil
}

// mayRest is everything that this node knows to speak against powering it off.
func (a *Agent) mayRest(ctx context.Context, run *vm.RestOrder) error {
	for _, look := range []func() error{
		a.onDemand, a.leadsNot, a.inSync, a.settled,
		func() error { return a.notAside(run) },
		func() error { return a.nobodyIsHere(run) }, // before the uses: whoever is seen now is one
		func() error { return a.noMachines(ctx, run) },
		a.leadsNot, // once more: libvirt takes its time
	} {
		if err := look(); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) onDemand() error {
	if !a.mayBeOff(a.o.Node) {
		return a.refuseOff(problem.Invalid, "it is not on demand: its silence would be an alarm", "say in the configuration that off is a normal state of it: power: { mode: on-demand }")
	}
	return nil
}

// leadsNot refuses unless it is known that another node is master.
func (a *Agent) leadsNot() error {
	switch r := a.current(); {
	case !fresh(a.lastReport()):
		return a.refuseOff(problem.Conflict, "its election is not heard, so it may be master", "look at it there: revolve status")
	case r.Role == cluster.Master || r.Master == a.o.Node:
		return a.refuseOff(problem.Conflict, "it is master", "move the addresses first: revolve switch")
	case r.Master == "":
		return a.refuseOff(problem.Conflict, "it hears no master, so it may have to be it", "wait until there is one: revolve status --watch")
	}
	return nil
}

// inSync refuses unless this node has all changes: what powers it off now has it catch up later. Whether it may lead is
// another matter: one that is no candidate, or has stepped back to be off, has them, too.
func (a *Agent) inSync() error {
	if len(a.cfg().Volumes) == 0 {
		return nil
	}
	class := cluster.Barred
	if s := a.standing.Load(); s != nil && time.Since(s.at) <= standingAge {
		class = s.class
	}
	if class != cluster.InSync {
		return a.refuseOff(problem.Conflict, fmt.Sprintf("its volumes are not caught up: it is %v", class), "wait until it is in-sync: revolve status --watch")
	}
	return nil
}

// settled refuses while this node knows of something under way that it has a part in.
func (a *Agent) settled() error {
	if _, on := a.o.Roster.Trial(); on || !a.trial.anew().IsZero() {
		return a.refuseOff(problem.Conflict, "a configuration is tried, and it has to confirm it", "wait until that is decided: revolve status")
	}
	if a.rehearsing.Load() {
		return a.refuseOff(problem.Conflict, "a rehearsal is going on", "wait for it: revolve history; to end it: revolve hold on")
	}
	return nil
}

// nobodyIsHere refuses a run while somebody is logged in. A person who types it is logged in as well, and knows.
func (a *Agent) nobodyIsHere(run *vm.RestOrder) error {
	people, err := a.people.look(a)
	switch {
	case run == nil:
		return nil
	case err != nil:
		return a.refuseOff(problem.Conflict, "it cannot be seen whether somebody is logged in on it: "+err.Error(), "if nobody needs it, power it off by hand: revolve power off "+string(a.o.Node))
	case len(people) > 0:
		return a.refuseOff(problem.Conflict, people[0]+" is logged in on it", "power it off by hand when nobody needs it: revolve power off "+string(a.o.Node))
	}
	return nil
}

// noMachines refuses while a machine needs this node. Machines run on a node that keeps no points of them, too.
func (a *Agent) noMachines(ctx context.Context, run *vm.RestOrder) error {
	switch {
	case a.vms != nil:
		return a.vms.MayRest(ctx, run)
	case run != nil:
		return a.refuseOff(problem.Conflict, "it keeps no points, so it is not known what it was woken for", "power it off by hand: revolve power off "+string(a.o.Node))
	case a.o.Config.VMStorage != "":
		return a.refuseOff(problem.Conflict, "its points of machines cannot be opened, so it is not known whether it is the home of one: "+a.noVMs.Error(), cmp.Or(problem.HintOf(a.noVMs), "look at vm_storage there: mounted? readable?"))
	}
	if why := a.occupied(ctx); why != "" {
		return a.refuseOff(problem.Conflict, why, "see what runs there: virsh list")
	}
	return nil
}

// occupied says which machine runs here, where nothing is kept of them.
func (a *Agent) occupied(ctx context.Context) string {
	if a.runs != nil {
		return a.runs(ctx)
	}
	return vm.Occupied(ctx, libvirt.At(libvirt.DefaultSocket), vm.Proc)
}

// closeHere has nothing begin here any more, also if this agent is started anew meanwhile.
func (a *Agent) closeHere() error {
	a.closing.Lock() // of two orders one is first
	defer a.closing.Unlock()
	if a.rests() {
		return a.refuseOff(problem.Unavailable, "it is powering itself off", "power it on again: revolve power on "+string(a.o.Node))
	}
	a.goingOff.Store(true) // before it looks whether it is successor: orderedBy looks the other way round, and of the two one sees the other
	defer a.goingOff.Store(false)
	if a.isSuccessor() {
		return a.refuseOff(problem.Conflict, "the addresses are being moved to it", "wait for it: revolve status --watch")
	}
	until := power.Uptime() + restFor
	b, err := json.Marshal(restNote{System: power.System(), Until: until})
	if err == nil {
		err = writeDurably(filepath.Join(a.o.State, restFile), b)
	}
	if err != nil {
		a.forgetRest()
		return a.refuseOff(problem.Unavailable, "that it is to be off cannot be written down: "+err.Error(), "make room in the state directory")
	}
	if a.vms != nil {
		if err := a.vms.Close(until); err != nil {
			a.forgetRest()
			return err
		}
	}
	a.resting.Store(&until)
	return nil
}

// restAgain goes on where an agent before this one was about to power its node off. If it is not, or not any more, the others are
// told that this node is on: any of them may believe a goodbye that was taken back before that agent was killed, or one of a system that
// was begun anew before anybody missed it.
func (a *Agent) restAgain() {
	if a.mayBeOff(a.o.Node) {
		a.farewell.goes(a.nodes()) // any of them may have been told
	}
	until, err := a.notedRest()
	if until == 0 {
		a.farewell.turnsBack()
		return
	}
	if a.vms != nil {
		_ = a.vms.Close(until) // it is open: nothing closed it yet
	}
	a.resting.Store(&until)
	a.o.Log.Warn("this node agreed to power itself off before its agent was started anew; it begins nothing until then", "within", (until - power.Uptime()).Round(time.Second), "err", err)
}

// notedRest is until when this node is about to be off, as an agent before this one wrote it down; 0: it is not.
func (a *Agent) notedRest() (until time.Duration, err error) {
	name := filepath.Join(a.o.State, restFile)
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	n := restNote{System: power.System(), Until: power.Uptime() + restFor} // if it cannot be read
	if err == nil && info.Mode().IsRegular() && info.Size() <= maxRestFile {
		var b []byte
		if b, err = os.ReadFile(name); err == nil {
			var read restNote
			if err = json.Unmarshal(b, &read); err == nil {
				n = read
			}
		}
	}
	if n.System != power.System() || power.Uptime() >= n.Until {
		a.forgetRest()
		return 0, nil
	}
	return min(n.Until, power.Uptime()+restFor), err
}

func (a *Agent) forgetRest() {
	if err := os.Remove(filepath.Join(a.o.State, restFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.o.Log.Warn("a note that this node is about to be off stays", "err", err)
	}
}

// stepBack has this node become master no more, and waits until the election knows.
func (a *Agent) stepBack(ctx context.Context) error {
	a.tell()
	ctx, cancel := context.WithTimeout(ctx, backWithin)
	defer cancel()
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		a.mu.Unlock()
		if err := a.leadsNot(); err != nil {
			return err
		}
		if r.Class == cluster.Barred {
			return nil
		}
		select {
		case <-ctx.Done():
			return a.refuseOff(problem.Unavailable, "its election does not say that it can be spared", "try it again")
		case <-changed:
		}
	}
}

// comeBack takes part again: it is not powered off.
func (a *Agent) comeBack() {
	a.reopen()
	a.tell()
	a.stays()
}

func (a *Agent) reopen() {
	a.closing.Lock() // it takes nothing from a later order to be off
	defer a.closing.Unlock()
	a.farewell.turnsBack()
	a.resting.Store(nil)
	a.forgetRest()
	if a.vms != nil {
		a.vms.Reopen()
	}
}

// outlived reopens this node if it is still here when it should be off, and says whether that is so.
func (a *Agent) outlived() bool {
	a.closing.Lock()
	defer a.closing.Unlock()
	until := a.resting.Load()
	if until == nil || power.Uptime() < *until {
		return false
	}
	a.farewell.turnsBack()
	a.resting.Store(nil)
	a.forgetRest()
	return true
}

// rests reports whether this node agreed to power itself off not long ago.
func (a *Agent) rests() bool {
	until := a.resting.Load()
	return until != nil && power.Uptime() < *until
}

func (a *Agent) lastReport() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reported
}

// people are those who are logged in here.
type people struct {
	mu   sync.Mutex
	seen []string
	who  func() ([]string, error) // nil: the system says it
}

// look says who is logged in now, and takes note of those who were not when it was looked last.
func (p *people) look(a *Agent) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.who
	if who == nil {
		who = power.LoggedIn
	}
	list, err := who()
	for _, s := range list {
		if !slices.Contains(p.seen, s) {
			a.used(s + " is logged in")
		}
	}
	if err == nil {
		p.seen = list
	}
	return list, err
}

// watchRest takes note of who logs in on a node that others wake and power off, and of one that was not powered off though it agreed.
func (a *Agent) watchRest(ctx context.Context) error {
	tick := time.NewTicker(peopleEvery)
	defer tick.Stop()
	for {
		if a.mayBeOff(a.o.Node) {
			if _, err := a.people.look(a); err != nil {
				a.o.Log.Debug("it cannot be seen who is logged in", "err", err) // who asks for its end is told
			}
		}
		if a.outlived() {
			a.tell()
			a.stays()
			a.o.Log.Error("this node agreed to power itself off, and is still here; it takes part again", "hint", "try its command by hand: power.off of the configuration")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// whoOf names who orders power, for the log.
func whoOf(by *history.Order) string {
	switch {
	case by == nil:
		return "a run"
	case by.User == "":
		return "somebody on " + string(by.Node)
	}
	return by.User + " on " + string(by.Node)
}
