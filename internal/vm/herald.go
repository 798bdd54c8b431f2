package vm

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
)

// This file is that a person's order is a use of its nodes from the moment it is given: it may wait behind a long one, and
// meanwhile others have nodes power themselves off.

const (
	heraldWithin = 5 * time.Second // for one word: the order itself waits for it
	heraldAgain  = 5 * time.Second // to those that did not hear it
)

// heralded is that the nodes of an order are told of it. Its own meeting with them comes after that: it is counted apart.
type heralded struct {
	begins, done chan struct{} // the order begins; nothing is told any more
}

// announceOrder has the nodes of an order told of it. The caller has mu.
func (e *Engine) announceOrder(j *Job) {
	if e.o.Power == nil {
		return
	}
	h := &heralded{make(chan struct{}), make(chan struct{})}
	select {
	case e.heralds <- j:
		j.herald = h
	default: // its meeting with them is told as ever
	}
}

// heralding tells nodes of orders.
func (e *Engine) heralding(ctx context.Context) error {
	var g errgroup.Group
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case j := <-e.heralds:
			e.mu.Lock()
			h := j.herald
			e.mu.Unlock()
			g.Go(func() error { e.tellOf(ctx, j, h); return nil })
		}
	}
}

// tellOf tells the nodes of an order of it, also those that come while it waits, until it begins.
func (e *Engine) tellOf(ctx context.Context, j *Job, h *heralded) {
	defer close(h.done)
	for left := e.guests(j); len(left) > 0; {
		var told []cluster.NodeID
		var mu sync.Mutex
		var g errgroup.Group
		for _, n := range left {
			if !e.o.Power.There(n) {
				continue
			}
			g.Go(func() error {
				within, cancel := context.WithTimeout(ctx, heraldWithin)
				defer cancel()
				if _, err := e.hold(within, n, &HoldOrder{For: holdFor, Person: true}); err == nil {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, n)
				}
				return nil
			})
		}
		_ = g.Wait() // it never fails
		left = slices.DeleteFunc(left, func(n cluster.NodeID) bool { return slices.Contains(told, n) })
		select {
		case <-ctx.Done():
			return
		case <-h.begins:
			return
		case <-time.After(heraldAgain):
		}
	}
}

// hush ends that when the order begins.
func (e *Engine) hush(ctx context.Context, j *Job) {
	if j.herald == nil {
		return
	}
	close(j.herald.begins)
	select {
	case <-ctx.Done():
	case <-j.herald.done:
	}
}
