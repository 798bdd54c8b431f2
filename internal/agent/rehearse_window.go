package agent

import (
	"context"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

const (
	// scheduleEvery is how often the master looks at the rehearsals' window.
	scheduleEvery = 5 * time.Second
	// calmBefore is how long a node has to be master before it rehearses by itself: what brought the addresses here may not be over.
	calmBefore = time.Minute
	// refusedAgain is the wait after a rehearsal that could not begin, within its window: to look costs nothing.
	refusedAgain = 15 * time.Second
	// scheduledStay is how long the standby leads in a rehearsal that nobody watches.
	scheduledStay = 10 * time.Second
)

// rehearseInWindow rehearses once in every opening of the window. It says when to look again.
func (a *Agent) rehearseInWindow(ctx context.Context, now, next time.Time) time.Time {
	w := a.o.Config.Failover.Rehearsal
	r := a.current()
	if a.external() || !w.Open(now) || now.Before(next) || r.Role != cluster.Master || now.Sub(r.Since) < calmBefore || a.rehearsedSince(w.Opened(now)) {
		return next
	}
	to, err := a.rehearsable("")
	if err != nil {
		a.refuseRehearsal(w.Opened(now), now, clean(err.Error()))
		return now.Add(refusedAgain)
	}
	if !a.rehearsing.CompareAndSwap(false, true) {
		return next // one is ordered this moment
	}
	defer a.rehearsing.Store(false)
	drilled := history.Rehearsal{Node: a.o.Node, Began: now.UTC(), Ordered: a.wanted(history.WhyRehearsal), Scheduled: true, To: to}
	_, _ = a.rehearse(ctx, drill{r: drilled, stay: scheduledStay}) // it is logged and written down
	return next
}

// rehearsedSince reports whether a rehearsal began since then, as far as this node
// knows: it may have been the standby of one, and master ever since.
func (a *Agent) rehearsedSince(t time.Time) bool {
	for _, r := range a.rehearsed.List() {
		if !r.Began.Before(t) && r.Scheduled && r.Result != history.Refused {
			return true
		}
	}
	for _, r := range a.history.List() {
		if r.Ordered != nil && r.Ordered.Why == history.WhyRehearsal && r.Ordered.User == "" && !r.At.Before(t) {
			return true
		}
	}
	return false
}

// refuseRehearsal writes down, once in an opening of the window, that the rehearsal cannot begin, and what the last reason was.
func (a *Agent) refuseRehearsal(opened, now time.Time, why string) {
	for _, r := range a.rehearsed.List() {
		if r.Node != a.o.Node || r.Result != history.Refused || r.Began.Before(opened) {
			continue
		}
		if r.Why != why {
			r.Why = why
			r.Revision++
			a.noteRehearsal(r)
		}
		return
	}
	a.o.Log.Warn("the rehearsal cannot begin; it is tried again within its window", "why", why)
	a.noteRehearsal(history.Rehearsal{Node: a.o.Node, Began: now.UTC(), Ordered: a.wanted(history.WhyRehearsal), Scheduled: true, Result: history.Refused, Why: why, Master: a.o.Node})
}

// rehearsalStatus is the last rehearsal that this node knows of.
func (a *Agent) rehearsalStatus() *history.Rehearsal {
	if list := a.rehearsed.List(); len(list) > 0 {
		return &list[0]
	}
	return nil
}

// rehearsalText reminds of a rehearsal that did not end well, until one does.
func rehearsalText(s *control.Status) []string {
	r := s.Rehearsal
	if r == nil || r.Result != history.Aborted && r.Result != history.Refused {
		return nil
	}
	return []string{fmt.Sprintf("the rehearsal of %s was %s: %s; when all is well: revolve rehearse", r.Began.Local().Format(time.DateTime), r.Result, r.Why)}
}
