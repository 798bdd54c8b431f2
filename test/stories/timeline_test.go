package stories

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"revolve/internal/testbed"
)

// timeline records from the kernel's own messages which address was where and
// when, and what the story did to the links.
type timeline struct {
	mu     sync.Mutex
	events []event
	tasks  sync.WaitGroup
	boots  map[string]bool
	ctx    context.Context
}

// newTimeline ends its watches when the test does.
func newTimeline(t *testing.T) *timeline {
	ctx, cancel := context.WithCancel(context.Background())
	l := &timeline{ctx: ctx, boots: map[string]bool{}}
	t.Cleanup(func() {
		cancel()
		l.tasks.Wait()
	})
	return l
}

// event is an address that came to or went from a node, or (pair set) a path
// between two nodes that opened or closed.
type event struct {
	at   time.Time
	node string
	addr netip.Addr
	pair [2]string
	on   bool
}

// watch follows the node's addresses until its power goes off.
func (l *timeline) watch(t *testing.T, n *node) {
	t.Helper()
	boot := fmt.Sprintf("%s-%d", n.name, n.HostPID())
	if l.boots[boot] {
		return // its agent was restarted, its power never went
	}
	l.boots[boot] = true
	w, err := n.WatchAddresses()
	must(t, err)
	l.tasks.Go(func() {
		defer w.Close()
		if err := w.Run(l.ctx, func(c testbed.AddressChange) {
			l.add(event{at: c.At, node: n.name, addr: c.Addr, on: !c.Gone})
		}); err != nil {
			t.Error(err)
		}
	})
}

func (l *timeline) add(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// gone is when the address left the node for the last time after the given
// moment; false if it has not left.
func (l *timeline) gone(node string, a netip.Addr, after time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.events) - 1; i >= 0; i-- {
		e := l.events[i]
		if e.node == node && e.addr == a {
			return e.at, !e.on && e.at.After(after)
		}
	}
	return time.Time{}, false
}

// together is the longest time for which two nodes that had a two-way path all
// the while both held the address, and which they were.
func (l *timeline) together(a netip.Addr, names []string) (longest time.Duration, who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, x := range names {
		for _, y := range names[i+1:] {
			if d := l.pair(a, x, y); d > longest {
				longest, who = d, x+" and "+y
			}
		}
	}
	return longest, who
}

func (l *timeline) pair(a netip.Addr, x, y string) (longest time.Duration) {
	hasX, hasY, path := false, false, true
	var since time.Time
	for _, e := range append(l.events[:len(l.events):len(l.events)], event{at: time.Now()}) {
		before := hasX && hasY && path
		if before {
			longest = max(longest, e.at.Sub(since))
		}
		switch {
		case e.addr == a && e.node == x:
			hasX = e.on
		case e.addr == a && e.node == y:
			hasY = e.on
		case e.pair == [2]string{x, y}:
			path = e.on
		}
		if hasX && hasY && path && !before {
			since = e.at
		}
	}
	return longest
}
