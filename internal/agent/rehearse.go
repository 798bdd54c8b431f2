package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// This file is rehearsals: the master moves the addresses to a standby, and has
// them moved back when it is in-sync again. Whatever speaks against that in
// between ends it, and the addresses stay where they are: the standby serves.

// orderRehearse asks the master for a rehearsal.
const orderRehearse = "rehearse"

const (
	// stayMost bounds how long the standby is asked to lead.
	stayMost = 10 * time.Minute
	// inSyncWithin is how long the way back waits, beyond that, for this node to be in-sync.
	inSyncWithin = time.Minute
	// visitEvery is how often it is looked whether something speaks against the way back.
	visitEvery = 100 * time.Millisecond
	// alarmFor is how long an alarm has to stand: a switch itself raises some for a moment.
	alarmFor = 2 * time.Second
	// backTries and backAgain are for the order to move back: the other node may see later than this one that it is in-sync.
	backTries = 5
	backAgain = time.Second
	// measureWithin bounds the wait for the records of the two reigns.
	measureWithin = 3 * time.Second
	// whyLongest bounds what a rehearsal says of its end; its record refuses more.
	whyLongest = 900
)

// drill is one rehearsal to be carried out.
type drill struct {
	r    history.Rehearsal
	stay time.Duration
	done chan drilled // one place: nobody may wait for it any more
}

type drilled struct {
	r   history.Rehearsal
	err error
}

func (a *Agent) openRehearsals() (err error) {
	a.rehearsed, err = history.OpenRehearsals(filepath.Join(a.o.State, "rehearsals"))
	return err
}

// Rehearse has the master, wherever it is, carry a rehearsal out.
func (b backend) Rehearse(ctx context.Context, o control.RehearsalOrder) (history.Rehearsal, error) {
	order := orderFrame{What: orderRehearse, To: o.To, Stay: o.Stay, DryRun: o.DryRun, By: b.a.typed(ctx, history.WhyRehearsal)}
	return patiently(ctx, func() (history.Rehearsal, error) { return b.a.rehearseThere(ctx, order) })
}

// rehearseThere has the master of this moment carry one out.
func (a *Agent) rehearseThere(ctx context.Context, order orderFrame) (history.Rehearsal, error) {
	r := a.current()
	switch {
	case r.Master == a.o.Node:
		return a.rehearseHere(ctx, order)
	case r.Master == "":
		return history.Rehearsal{}, a.masterless("rehearse")
	}
	ans, err := a.ask(ctx, r.Master, order)
	if ans.Rehearsal == nil {
		ans.Rehearsal = &history.Rehearsal{}
	}
	return *ans.Rehearsal, err
}

// rehearseHere carries one out, or with a dry run says whether it could.
func (a *Agent) rehearseHere(ctx context.Context, o orderFrame) (history.Rehearsal, error) {
	r := history.Rehearsal{Node: a.o.Node, Began: time.Now().UTC(), Ordered: a.wanted(history.WhyRehearsal), Result: history.Possible, Master: a.o.Node}
	if o.By != nil {
		r.Ordered.User, r.Ordered.Node = o.By.User, o.By.Node
	}
	if o.Stay < 0 || o.Stay > stayMost {
		return r, &problem.Problem{Op: "rehearse", Kind: problem.Invalid, Err: fmt.Errorf("the standby cannot be asked to lead for %v", o.Stay), Hint: "--stay takes 0s to 10m"}
	}
	to, err := a.rehearsable(o.To)
	if r.To = to; err != nil || o.DryRun {
		return r, err
	}
	if !a.rehearsing.CompareAndSwap(false, true) {
		return r, &problem.Problem{Op: "rehearse", Kind: problem.Conflict, Err: errors.New("a rehearsal is going on"), Hint: "wait for it: revolve history; to end it: revolve hold on"}
	}
	d := drill{r, o.Stay, make(chan drilled, 1)}
	a.drills <- d // one place, and one rehearsal
	select {
	case x := <-d.done:
		return x.r, x.err
	case <-ctx.Done():
		return r, &problem.Problem{Op: "wait for the rehearsal", Kind: problem.Timeout, Err: ctx.Err(), Hint: "it goes on: revolve history; to end it: revolve hold on"}
	}
}

// rehearsable is the standby to which the addresses would move, or why they do not.
func (a *Agent) rehearsable(to cluster.NodeID) (cluster.NodeID, error) {
	if a.external() {
		return "", placedByAnother("rehearse with", cmp.Or(string(to), "(any)"))
	}
	if to == a.o.Node {
		return "", &problem.Problem{Op: "rehearse with", Kind: problem.Invalid, Subject: string(to), Err: errors.New("it is the master"), Hint: "name a standby, or none: the best one is taken"}
	}
	if why, hint, within := hindrance(backend{a}.Status(), a.movedLately()); why != "" {
		return "", soon(&problem.Problem{Op: "rehearse", Kind: problem.Unavailable, Err: errors.New(why), Hint: hint}, within)
	}
	return a.succession(to)
}

// hindrance is what speaks against a rehearsal, and what to do; "" if nothing does. It may pass within that time: what another
// node says is as old as its last heartbeat, and a move raises an alarm for a moment.
func hindrance(s control.Status, moved bool) (why, hint string, within time.Duration) {
	for _, n := range s.Nodes {
		if n.Name != s.Node {
			within = toldWithin
		}
		switch {
		case n.Hold == control.Yes:
			return fmt.Sprintf("hold is on (%s): nothing moves by itself", n.Name), "revolve hold off", within
		case n.Maintenance == control.Yes:
			return fmt.Sprintf("%s is in maintenance", n.Name), "on that node: revolve maintenance off", within
		}
		within = 0
	}
	if moved {
		within = soonWithin
	}
	for _, n := range s.Nodes {
		if n.Name == s.Node && n.Eligible != control.Yes {
			return fmt.Sprintf("%s is not fit to lead: %s", n.Name, cmp.Or(n.WhyNot, "it is not known how it is")), "look at `revolve status`", within
		}
	}
	if s.Verdict == control.Critical && len(s.Reasons) > 0 {
		return "an alarm stands: " + s.Reasons[0], "look at `revolve status`, and rehearse when it is well", within
	}
	return "", "", 0
}

// rehearsals carries out what is ordered and what the configuration's window says, one after the other.
func (a *Agent) rehearsals(ctx context.Context) error {
	a.settleRehearsals()
	tick := time.NewTicker(scheduleEvery)
	defer tick.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-a.drills:
			r, err := a.rehearse(ctx, d)
			a.rehearsing.Store(false)
			d.done <- drilled{r, err}
		case now := <-tick.C:
			next = a.rehearseInWindow(ctx, now, next)
		}
	}
}

// rehearse carries one out and writes it down.
func (a *Agent) rehearse(ctx context.Context, d drill) (history.Rehearsal, error) {
	r := d.r
	r.Result = history.Running
	a.noteRehearsal(r)
	a.drilling.Store(&r.Ordered)
	defer a.drilling.Store(nil)
	a.o.Log.Info("rehearsal: the addresses move to a standby, and back", "to", r.To, "by", r.Ordered)
	err := a.thereAndBack(ctx, &r, d.stay)
	now := time.Now().UTC()
	r.Ended, r.Master, r.Result = &now, a.current().Master, history.Done
	if err != nil {
		r.Result, r.Why = history.Aborted, clean(err.Error())
	}
	r.Revision++
	a.noteRehearsal(r)
	if err == nil {
		a.o.Log.Info("rehearsal: done", "there", *r.There, "back", *r.Back)
		return r, nil
	}
	a.o.Log.Warn("rehearsal: aborted; the addresses stay where they are", "master", r.Master, "why", err)
	return r, &problem.Problem{Op: "rehearse with", Kind: problem.Unavailable, Subject: string(r.To),
		Err:  fmt.Errorf("aborted: %s; %s is master, and stays it", r.Why, cmp.Or(r.Master, "no node")),
		Hint: "look at `revolve status`; to bring the addresses back when all is well: revolve switch " + string(a.o.Node)}
}

// clean is a text of errors as a record may have it.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), whyLongest)], "")
}

func (a *Agent) noteRehearsal(r history.Rehearsal) {
	if err := a.rehearsed.Put(r); err != nil {
		a.o.Log.Warn("a rehearsal is not written down", "err", err, "hint", problem.HintOf(err))
	}
}

// settleRehearsals ends what an agent of this node began and did not end.
func (a *Agent) settleRehearsals() {
	for _, r := range a.rehearsed.List() {
		if r.Node == a.o.Node && r.Result == history.Running {
			r.Result, r.Why = history.Aborted, "the agent of "+string(a.o.Node)+" ended meanwhile"
			r.Revision++
			a.noteRehearsal(r)
		}
	}
}

// thereAndBack moves the addresses to the standby and back. An error says why they did not come back.
func (a *Agent) thereAndBack(ctx context.Context, r *history.Rehearsal, stay time.Duration) (err error) {
	r.There, err = a.leg(ctx, r.To, func(ctx context.Context) error {
		_, err := patiently(ctx, func() (cluster.NodeID, error) { return a.moveTo(ctx, r.To, r.Ordered) })
		return err
	})
	if err != nil {
		return err
	}
	if err := a.visit(ctx, r.To, stay); err != nil {
		return err
	}
	r.Back, err = a.leg(ctx, a.o.Node, func(ctx context.Context) (err error) {
		for range backTries {
			if _, err = a.send(ctx, r.To, orderFrame{What: "switch", To: a.o.Node, By: &r.Ordered}); err == nil || ctx.Err() != nil {
				return err
			}
			if why := a.against(r.To); why != "" {
				return errors.New(why)
			}
			select {
			case <-ctx.Done():
			case <-time.After(backAgain):
			}
		}
		return err
	})
	return err
}

// leg is one switch, to a node, and what it took.
func (a *Agent) leg(ctx context.Context, to cluster.NodeID, order func(context.Context) error) (*history.Leg, error) {
	began, before := time.Now(), a.current().Reign
	within, cancel := context.WithTimeout(ctx, (backTries+1)*switchWithin)
	defer cancel()
	if err := order(within); err != nil {
		return nil, err
	}
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		a.mu.Unlock()
		if r.Master == to && r.Reign.Term > before.Term {
			l := &history.Leg{Term: r.Reign.Term, Took: ms(time.Since(began))}
			l.RTO = a.measured(ctx, to, r.Reign.Term)
			return l, nil
		}
		select {
		case <-within.Done():
			return nil, fmt.Errorf("%s did not become master", to)
		case <-changed:
		}
	}
}

// measured is the RTO in the record of a reign, which its master has just begun to write.
func (a *Agent) measured(ctx context.Context, master cluster.NodeID, term cluster.Term) *float64 {
	ctx, cancel := context.WithTimeout(ctx, measureWithin)
	defer cancel()
	for {
		list := a.history.List()
		if master != a.o.Node {
			if told, err := a.askRecords(ctx, master); err == nil {
				list = told.records
			}
		}
		for _, r := range list {
			if r.Term == term && r.Master == master && r.RTO != nil {
				return r.RTO
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(visitEvery):
		}
	}
}

// visit waits until the standby has led for a while and this node is in-sync again.
func (a *Agent) visit(ctx context.Context, to cluster.NodeID, stay time.Duration) error {
	began := time.Now()
	var alarmed time.Time // since when something speaks against the way back
	for {
		now := time.Now()
		why := a.against(to)
		switch {
		case why == "":
			alarmed = time.Time{}
		case alarmed.IsZero():
			alarmed = now
		case now.Sub(alarmed) >= alarmFor:
			return errors.New(why)
		}
		r := a.current()
		ready := why == "" && r.Role == cluster.Standby && r.Class == cluster.InSync
		switch led := now.Sub(began); {
		case ready && led >= stay:
			return nil
		case led >= stay+inSyncWithin:
			return fmt.Errorf("%s is %v, and was not in-sync within %v", a.o.Node, r.Class, inSyncWithin)
		}
		select {
		case <-ctx.Done():
			return errors.New("the agent ends")
		case <-time.After(visitEvery):
		}
	}
}

// against is what speaks against moving the addresses from the standby back to this node; "" if nothing does.
func (a *Agent) against(to cluster.NodeID) string {
	if m := a.current().Master; m != to {
		return fmt.Sprintf("%s is master now, not %s: something else has moved the addresses", cmp.Or(m, "no node"), to)
	}
	s := backend{a}.Status()
	for _, n := range s.Nodes {
		switch {
		case n.Hold == control.Yes:
			return fmt.Sprintf("hold was turned on (%s)", n.Name)
		case n.Maintenance == control.Yes && (n.Name == to || n.Name == a.o.Node):
			return fmt.Sprintf("%s is in maintenance", n.Name)
		case n.WhyNot == whyIll && (n.Name == to || n.Name == a.o.Node):
			return fmt.Sprintf("a required service or a disk is ill on %s", n.Name)
		}
	}
	if s.Verdict == control.Critical && len(s.Reasons) > 0 {
		return "an alarm: " + s.Reasons[0]
	}
	return ""
}
