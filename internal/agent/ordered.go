package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// This file is who ordered a planned switch: the master tells its successor, who
// writes the record of it.

// orderOrdered announces who orders the switch that follows.
const orderOrdered = "ordered"

const (
	// orderedWithin bounds the announcement: the switch does not wait for it any longer, and its record says less then.
	orderedWithin = time.Second
	// orderedFor is how long an announcement counts: for the switch that follows it.
	orderedFor = 2 * switchWithin
)

// announced is the order that the master has announced last.
type announced struct {
	mu   sync.Mutex
	by   *history.Order
	from cluster.NodeID
	at   time.Time
}

// of is the order, once, if it is of that master and still counts.
func (x *announced) of(master cluster.NodeID, now time.Time) *history.Order {
	x.mu.Lock()
	defer x.mu.Unlock()
	by := x.by
	x.by = nil
	if x.from != master || now.Sub(x.at) > orderedFor {
		return nil
	}
	return by
}

// orderedBy takes the announcement of from. Only the master has anything to announce. A node that would not lead says so: what
// the master heard of it last may be older than that, and addresses that nobody takes are nowhere for a moment.
func (a *Agent) orderedBy(from cluster.NodeID, by *history.Order) error {
	if by == nil || a.current().Master != from {
		return &problem.Problem{Op: "read order", Kind: problem.Conflict, Subject: string(from), Err: fmt.Errorf("it is not the master"), Hint: "revolve status says who is"}
	}
	if err := by.Check(); err != nil {
		return err
	}
	a.announced.mu.Lock() // until it is taken: closeHere looks at it when it has begun. Not closing, which is held while a disk is waited for
	defer a.announced.mu.Unlock()
	if why := a.declines(); why != "" {
		return &problem.Problem{Kind: problem.Unavailable, Subject: string(a.o.Node), Err: errors.New(why), Hint: "wait until `revolve status` shows it as eligible"}
	}
	if own := a.drilling.Load(); own != nil && by.Why == history.WhyRehearsal {
		by = own // the way back of a rehearsal that is carried out here
	}
	a.announced.by, a.announced.from, a.announced.at = by, from, time.Now()
	return nil
}

// declines is why this node would not take the addresses; "" if it would.
func (a *Agent) declines() string {
	switch {
	case a.goingOff.Load() || a.rests(): // in this order: the former ends when the latter has begun
		return "it is powering itself off"
	case a.ending.Load():
		return "its agent is being stopped"
	case a.trial.outlived.Load():
		return "it is only in a configuration that was not confirmed in time"
	case a.record.memory().Maintenance:
		return "a person has it in maintenance"
	}
	return ""
}

// isSuccessor reports whether the addresses are about to be moved here.
func (a *Agent) isSuccessor() bool {
	a.announced.mu.Lock()
	defer a.announced.mu.Unlock()
	return a.announced.by != nil && time.Since(a.announced.at) < switchWithin
}

// announce tells the successor who orders what, and fails if that one declines. For the rest it is a courtesy to the record:
// one that does not answer is left to the election.
func (a *Agent) announce(ctx context.Context, to cluster.NodeID, by history.Order) error {
	ctx, cancel := context.WithTimeout(ctx, orderedWithin)
	defer cancel()
	var ans answerFrame
	err := a.question(ctx, to, serviceOrder, orderFrame{What: orderOrdered, By: &by}, &ans)
	if err == nil && ans.Err != "" {
		err = errors.New(ans.Err)
	}
	if ans.Declined && err != nil {
		return &problem.Problem{Op: "switch to", Kind: problem.Unavailable, Subject: string(to), Err: fmt.Errorf("the successor is not eligible: %w", err),
			Hint: "nothing changed; wait until `revolve status` shows it as eligible"}
	}
	if err != nil {
		a.o.Log.Debug("the successor does not know who ordered the switch", "to", to, "err", err)
	}
	return nil
}

// typed is an order of the person at the local API.
func (a *Agent) typed(ctx context.Context, why string) *history.Order {
	return &history.Order{Why: why, User: control.Caller(ctx), Node: a.o.Node}
}

// wanted is an order of this node's agent itself.
func (a *Agent) wanted(why string) history.Order { return history.Order{Why: why, Node: a.o.Node} }
