package agent

import (
	"context"
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

// orderedBy takes the announcement of from. Only the master has anything to announce.
func (a *Agent) orderedBy(from cluster.NodeID, by *history.Order) error {
	if by == nil || a.current().Master != from {
		return &problem.Problem{Op: "read order", Kind: problem.Conflict, Subject: string(from), Err: fmt.Errorf("it is not the master"), Hint: "revolve status says who is"}
	}
	if err := by.Check(); err != nil {
		return err
	}
	if own := a.drilling.Load(); own != nil && by.Why == history.WhyRehearsal {
		by = own // the way back of a rehearsal that is carried out here
	}
	a.announced.mu.Lock()
	defer a.announced.mu.Unlock()
	a.announced.by, a.announced.from, a.announced.at = by, from, time.Now()
	return nil
}

// announce tells the successor who orders what. It is a courtesy to the record: without it the switch goes on.
func (a *Agent) announce(ctx context.Context, to cluster.NodeID, by history.Order) {
	ctx, cancel := context.WithTimeout(ctx, orderedWithin)
	defer cancel()
	if _, err := a.send(ctx, to, orderFrame{What: orderOrdered, By: &by}); err != nil {
		a.o.Log.Debug("the successor does not know who ordered the switch", "to", to, "err", err)
	}
}

// typed is an order of the person at the local API.
func (a *Agent) typed(ctx context.Context, why string) *history.Order {
	return &history.Order{Why: why, User: control.Caller(ctx), Node: a.o.Node}
}

// wanted is an order of this node's agent itself.
func (a *Agent) wanted(why string) history.Order { return history.Order{Why: why, Node: a.o.Node} }
