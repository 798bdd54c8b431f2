package vm

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"revolve/internal/calendar"
	"revolve/internal/cluster"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/schedule"
)

// Schedule is what the configuration says of copies that are made by themselves.
type Schedule struct {
	Name     string
	Text     string // its time, as the configuration writes it
	When     calendar.Rule
	Machines []ScheduledMachine // the critical ones first
	Wake     bool               // nodes on demand are woken for it, and powered off again
	Wait     bool               // what was missed waits for the next window
}

// ScheduledMachine is one of its group.
type ScheduledMachine struct {
	Name     string
	Critical bool
	Plans    Plans
}

// Scheduled is how a schedule stands for one machine, as its home says.
type Scheduled struct {
	Schedule string         `json:"schedule"`
	VM       string         `json:"vm"`
	Node     cluster.NodeID `json:"node,omitempty"` // its home; "": none that answers is
	When     string         `json:"when"`
	Next     time.Time      `json:"next,omitzero"` // when a run begins, or is tried again
	Running  bool           `json:"running,omitempty"`
	Past     schedule.Past  `json:"past"`
	Why      string         `json:"why,omitempty"` // nothing is done for it
}

// Trouble is what went wrong with the newest run, "" if nothing.
func (s *Scheduled) Trouble() string {
	switch s.Past.Result {
	case schedule.Missed, schedule.Failed, schedule.Unfinished, schedule.Overtaken:
		return fmt.Sprintf("the copy of %s by schedule %s was %s: %s", s.VM, s.Schedule, word(s.Past.Result), s.Past.Why)
	}
	return ""
}

func word(r schedule.Result) string {
	if r == schedule.Unfinished {
		return "not finished in time"
	}
	return string(r)
}

// Bounds of schedules.
const (
	scheduleTick = time.Second
	// homesEvery is how often it is looked which machines are at home here.
	homesEvery = 15 * time.Second
)

type scheduleKey struct{ Schedule, VM string }

// run is one run of a schedule: all its machines'.
type run struct {
	schedule string
	begin    int64 // seconds since 1970
}

// diary is what the engine knows of schedules. Only its goroutine changes it, under the engine's lock.
type diary struct {
	pasts   map[scheduleKey]schedule.Past
	home    map[string]cluster.NodeID // of scheduled machines, as this node knows it
	looked  time.Time
	saved   []byte // what the file is to say
	job     string // the copy that runs
	of      scheduleKey
	stopped bool // it was told to stop
	waits   bool // a run waits for its turn, or has it
}

// keepSchedules copies machines when their time has come.
func (e *Engine) keepSchedules(ctx context.Context) error {
	if e.o.Schedules == nil {
		return nil
	}
	began := time.Now()
	pasts := e.readPasts()
	e.change(func() { e.diary.pasts = pasts })
	e.diary.saved = e.packPasts()
	tick := time.NewTicker(scheduleTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			e.lookAtSchedules(ctx, time.Since(began))
		}
	}
}

// lookAtSchedules does what is to be done now.
func (e *Engine) lookAtSchedules(ctx context.Context, up time.Duration) {
	list, now := e.o.Schedules(), time.Now()
	d := &e.diary
	if now.Sub(d.looked) >= homesEvery || now.Before(d.looked) {
		e.seeHomes(ctx, list)
	}
	e.takeIn(list, now)
	type due struct {
		s Schedule
		m ScheduledMachine
	}
	var waiting []due
	for _, s := range list {
		for _, m := range s.Machines {
			k := scheduleKey{s.Name, m.Name}
			runs := d.job != "" && d.of == k
			if home := d.home[m.Name]; home != e.o.Node && (home != "" || !runs) { // what runs has its end, also while it is not known where it is at home
				continue
			}
			p, act := schedule.Step(d.pasts[k], planOf(s, m), schedule.Input{Now: now, Up: up, Running: runs})
			e.setPast(k, p)
			switch act {
			case schedule.Begin:
				waiting = append(waiting, due{s, m})
			case schedule.End:
				d.stopped = true
				e.Pause(d.job)
			}
		}
	}
	e.stopStray(list)
	e.dropPasts(list)
	if now := e.packPasts(); string(now) != string(d.saved) { // what happens after it, in the next second
		e.savePasts(now)
	}
	if d.job != "" || e.open() != nil {
		return
	}
	e.change(func() { d.waits = len(waiting) > 0 })
	if len(waiting) == 0 {
		return
	}
	// Of equally critical ones the one that was copied longest ago: what takes a whole window leaves the next to the others.
	slices.SortStableFunc(waiting, func(x, y due) int {
		if x.m.Critical != y.m.Critical {
			return boolOrder(y.m.Critical, x.m.Critical)
		}
		return d.pasts[scheduleKey{x.s.Name, x.m.Name}].Done.Compare(d.pasts[scheduleKey{y.s.Name, y.m.Name}].Done)
	})
	e.beginScheduled(waiting[0].s, waiting[0].m, now)
}

// stopStray ends the copy that runs if nothing here says any more when it is to end: its machine is at home elsewhere
// now, or in no schedule of that name. It would hold up all others.
func (e *Engine) stopStray(list []Schedule) {
	d := &e.diary
	if d.job == "" || d.stopped || e.carries(list, d.of) {
		return
	}
	e.o.Log.Warn("scheduled copy stopped: this node carries its schedule out no more", "schedule", d.of.Schedule, "vm", d.of.VM, "home", d.home[d.of.VM])
	d.stopped = true
	e.Pause(d.job)
}

// carries reports whether a schedule's machine is this node's, as far as is known.
func (e *Engine) carries(list []Schedule, k scheduleKey) bool {
	wanted := slices.ContainsFunc(list, func(s Schedule) bool {
		return s.Name == k.Schedule && slices.ContainsFunc(s.Machines, func(m ScheduledMachine) bool { return m.Name == k.VM })
	})
	home := e.diary.home[k.VM]
	return wanted && (home == "" || home == e.o.Node)
}

func boolOrder(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

func planOf(s Schedule, m ScheduledMachine) schedule.Plan {
	return schedule.Plan{When: s.When, Text: s.Text, Waits: s.Wait || m.Plans.Level == points.Shutdown}
}

func (e *Engine) setPast(k scheduleKey, p schedule.Past) {
	if reflect.DeepEqual(e.diary.pasts[k], p) {
		return
	}
	if was := e.diary.pasts[k]; was.Result != p.Result || was.Over != p.Over {
		e.tellRun(k, p)
	}
	e.change(func() { e.diary.pasts[k] = p })
}

// tellRun logs what became of a run.
func (e *Engine) tellRun(k scheduleKey, p schedule.Past) {
	switch p.Result {
	case schedule.Done:
		e.o.Log.Info("scheduled copy done", "schedule", k.Schedule, "vm", k.VM, "made_up_for", p.MadeUp)
	case schedule.Missed, schedule.Failed, schedule.Unfinished, schedule.Overtaken:
		e.o.Log.Warn("scheduled copy "+word(p.Result), "schedule", k.Schedule, "vm", k.VM, "why", p.Why, "in_a_row", p.Behind)
	}
}

// beginScheduled orders the copy of one machine, or the rest of the one before.
func (e *Engine) beginScheduled(s Schedule, m ScheduledMachine, now time.Time) {
	k := scheduleKey{s.Name, m.Name}
	plans := m.Plans
	o := Order{VMs: []string{m.Name}, Wake: s.Wake}
	if p := e.diary.pasts[k]; p.Paused != nil {
		switch left := e.restFor(m.Name, p.Paused, e.targets(plans)); {
		case len(left) > 0 && len(left) < len(e.targets(plans)) && triedRest(p): // the others are to have a new point
		case len(left) > 0:
			o.Rest, plans.Targets = points.ID(p.Paused.Point), left
		default:
			p.Paused = nil
			e.setPast(k, p)
		}
	}
	o.Plans = map[string]Plans{m.Name: plans}
	id, err := e.order(o, &run{schedule: s.Name, begin: e.diary.pasts[k].Turn.Begin.Unix()})
	if err != nil { // too many wait
		e.setPast(k, schedule.Ended(e.diary.pasts[k], planOf(s, m), now, schedule.Outcome{Why: err.Error(), Paused: e.diary.pasts[k].Paused}))
		return
	}
	e.change(func() { e.diary.job, e.diary.of, e.diary.stopped = id, k, false })
	e.o.Log.Info("scheduled copy begins", "schedule", s.Name, "vm", m.Name, "rest_of", o.Rest)
}

// triedRest reports whether the rest of an earlier run's point was tried in this run already, and failed.
func triedRest(p schedule.Past) bool {
	return p.Turn != nil && p.Turn.Tries > 0 && !p.Turn.Begin.Equal(p.Paused.Begin)
}

// takeIn takes in how far the copy is that runs.
func (e *Engine) takeIn(list []Schedule, now time.Time) {
	d := &e.diary
	if d.job == "" {
		return
	}
	j, known := e.Look(d.job)
	p := d.pasts[d.of]
	if known {
		p = p.Keep(e.pausedOf(&j, p.Paused))
	}
	if known && !j.Ended {
		e.setPast(d.of, p)
		return
	}
	plan := schedule.Plan{}
	for _, s := range list {
		for _, m := range s.Machines {
			if k := (scheduleKey{s.Name, m.Name}); k == d.of {
				plan = planOf(s, m)
			}
		}
	}
	o := outcomeOf(&j, known, d.stopped)
	o.Paused = p.Paused
	if o.Done {
		o.Paused = nil
	}
	e.setPast(d.of, schedule.Ended(p, plan, now, o))
	e.change(func() { d.job, d.of = "", scheduleKey{} })
}

// outcomeOf is what a copy came to. A node on demand that is off is no failure
// while another one has the point, unless it was to be woken.
func outcomeOf(j *Job, known, stopped bool) schedule.Outcome {
	if !known || len(j.VMs) == 0 {
		return schedule.Outcome{Why: "nothing is known of the copy any more"}
	}
	w := j.VMs[0]
	came, failed, off := 0, []string{}, []string{}
	for _, n := range w.Nodes {
		switch {
		case n.Record != nil:
			came++
		case n.Off && n.Unwoken != "":
			failed = append(failed, fmt.Sprintf("%s is off: %s", n.Node, n.Unwoken))
		case n.Off:
			off = append(off, fmt.Sprintf("%s is off", n.Node))
		default:
			failed = append(failed, fmt.Sprintf("%s: %s", n.Node, n.Error))
		}
	}
	o := schedule.Outcome{Rest: j.Order.Rest != "", Stopped: stopped}
	switch {
	case came > 0 && len(failed) == 0:
		o.Done = true
	case stopped:
		o.Why = "it was paused at its end"
	case len(w.Nodes) == 0:
		o.Why = w.Error
	default:
		o.Why = strings.Join(append(failed, off...), "; ")
	}
	return o
}

// pausedOf is what is left of the copy, should it end now: its point, if that is kept here, and the nodes that do not have it.
func (e *Engine) pausedOf(j *Job, before *schedule.Paused) *schedule.Paused {
	if len(j.VMs) == 0 || j.VMs[0].Point == "" {
		return before
	}
	w := &j.VMs[0]
	p := &schedule.Paused{Point: string(w.Point), Nodes: []string{}}
	for _, n := range w.Nodes {
		if n.Record == nil {
			p.Nodes = append(p.Nodes, string(n.Node))
		}
	}
	if before != nil && before.Point == p.Point && slices.Equal(before.Nodes, p.Nodes) {
		return before
	}
	if r, err := e.o.Store.Get(w.VM, w.Point); err != nil || !r.Whole() {
		return nil
	}
	return p
}

// restFor are the nodes that are still to have the rest of a point; none if it is not what its machine's history goes on from.
func (e *Engine) restFor(vm string, p *schedule.Paused, targets []cluster.NodeID) (left []cluster.NodeID) {
	c, ok, err := e.o.Store.Chain(vm)
	if err != nil || !ok || c.Home != e.o.Node || string(c.Last.ID) != p.Point {
		return nil
	}
	if r, err := e.o.Store.Get(vm, c.Last.ID); err != nil || !r.Whole() {
		return nil
	}
	for _, n := range targets {
		if slices.Contains(p.Nodes, string(n)) {
			left = append(left, n)
		}
	}
	return left
}

// seeHomes looks where the scheduled machines are at home. One of which there are no points is where it runs.
func (e *Engine) seeHomes(ctx context.Context, list []Schedule) {
	home := map[string]cluster.NodeID{}
	var running []string
	for _, s := range list {
		for _, m := range s.Machines {
			if _, seen := home[m.Name]; seen {
				continue
			}
			r := e.records(m.Name)
			if home[m.Name] = r.Home; r.Home != "" || r.Unread != "" {
				continue
			}
			if running == nil {
				running = e.running(ctx)
			}
			if slices.Contains(running, m.Name) {
				home[m.Name] = e.o.Node
			}
		}
	}
	e.change(func() { e.diary.home, e.diary.looked = home, time.Now() })
}

// running are the machines that run here, or would if they were let.
func (e *Engine) running(ctx context.Context) []string {
	names := []string{}
	list, err := e.o.Host.Machines(ctx)
	if err != nil {
		return names // vm list says why
	}
	for _, m := range list {
		if m.State == libvirt.Running || m.State == libvirt.Paused {
			names = append(names, m.Name)
		}
	}
	return names
}

// Scheduled is how the schedules stand for the machines that are at home here.
func (e *Engine) Scheduled(now time.Time) (out []Scheduled) {
	if e.o.Schedules == nil {
		return nil
	}
	list := e.o.Schedules()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range list {
		for _, m := range s.Machines {
			k := scheduleKey{s.Name, m.Name}
			p, kept := e.diary.pasts[k]
			if !kept {
				continue
			}
			out = append(out, Scheduled{Schedule: s.Name, VM: m.Name, Node: e.o.Node, When: s.Text, Next: p.Next(planOf(s, m), now), Running: e.diary.job != "" && e.diary.of == k, Past: p})
		}
	}
	return out
}

// AllScheduled is how the schedules stand on every node that answers.
func (e *Engine) AllScheduled(ctx context.Context) (out []Scheduled, silent map[cluster.NodeID]error) {
	out = e.Scheduled(time.Now())
	views, silent := e.askAll(ctx, Question{What: askSchedule})
	for _, v := range views {
		for _, s := range v.Scheduled {
			s.Node = v.Node
			out = append(out, s)
		}
	}
	return e.withoutHome(out), silent
}

// withoutHome adds what no node that answered does anything for.
func (e *Engine) withoutHome(out []Scheduled) []Scheduled {
	if e.o.Schedules == nil {
		return out
	}
	for _, s := range e.o.Schedules() {
		for _, m := range s.Machines {
			if !slices.ContainsFunc(out, func(x Scheduled) bool { return x.Schedule == s.Name && x.VM == m.Name }) {
				out = append(out, Scheduled{Schedule: s.Name, VM: m.Name, When: s.Text, Why: "no node that answers is its home; a machine that was never copied has to run"})
			}
		}
	}
	return out
}
