package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

// This file has a new configuration checked on every node that answers, before it is tried.

// hearWithin is how long a node that answers may not be heard yet: it sends heartbeats as soon as it runs, and what is
// heard is reported five times a second.
const hearWithin = time.Second

// checkAll has every node that answers look at a configuration. It returns those that must confirm it: who is heard, or is heard
// soon after it answered. The newest report of who is heard may be from before a node's start.
func (a *Agent) checkAll(ctx context.Context, now *config.Config, text string, mustAnswer bool) ([]cluster.NodeID, error) {
	if err := a.wouldDo(text); err != nil {
		return nil, err
	}
	expect := []cluster.NodeID{a.o.Node}
	var mu sync.Mutex
	var g errgroup.Group
	for _, n := range a.cfg().Nodes {
		if _, stays := now.Node(n.Name); n.Name == a.o.Node || !stays {
			continue
		}
		g.Go(func() error {
			confirms, err := a.checkOne(ctx, n.Name, text, mustAnswer)
			if confirms {
				mu.Lock()
				defer mu.Unlock()
				expect = append(expect, n.Name)
			}
			return err
		})
	}
	err := g.Wait()
	slices.Sort(expect)
	return expect, err
}

// checkOne has one node look at a configuration.
func (a *Agent) checkOne(ctx context.Context, n cluster.NodeID, text string, mustAnswer bool) (confirms bool, err error) {
	asking, heard := ctx, a.hears(n)
	if !heard { // most likely it is off: who waits for the change need not wait for that
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, tellWithin)
		defer cancel()
	}
	ans, err := a.askTrial(asking, n, trialFrame{Config: text})
	switch {
	case err != nil && mustAnswer && a.hears(n):
		return false, &problem.Problem{Op: "check the configuration on node", Kind: problem.Unavailable, Subject: string(n), Err: err,
			Hint: "nothing was changed; look at revolve status, and try again; a node of an older version cannot go back by itself: upgrade it first, or do without (--deadline 0)"}
	case err != nil:
		return false, nil // it is off, and gets what stays when it is back
	case ans.Refused != "":
		return false, &problem.Problem{Op: "check the configuration on node", Kind: ans.Kind, Subject: string(n), Err: errors.New(ans.Refused), Hint: "nothing was changed; " + ans.Hint}
	}
	return heard || a.hearsSoon(ctx, n), nil
}

func (a *Agent) hears(n cluster.NodeID) bool { return slices.Contains(alive(a.current()), n) }

// hearsSoon waits until a node is heard; false if it is not within hearWithin. Who answers and is never heard could not confirm.
func (a *Agent) hearsSoon(ctx context.Context, n cluster.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, hearWithin)
	defer cancel()
	for {
		r, changed := a.reportAndNext()
		if slices.Contains(alive(r), n) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}
