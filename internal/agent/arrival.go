package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/clients"
	"revolve/internal/problem"
)

// This file is what follows when the addresses have come here: the clients are
// told, and it is measured when the first of them is served again.

const (
	// tellAtOnce packets are sent between two pauses of tellPause: 4096 clients are told within a second, without a burst that a switch would drop.
	tellAtOnce = 64
	tellPause  = 10 * time.Millisecond
	// firstWithin is how long the first client is awaited. Without one by then nobody asks.
	firstWithin = time.Minute
)

// tellRounds are when the clients are told: a client's kernel answers such a packet
// at most every 500 ms (tcp_invalid_ratelimit, ip-sysctl), and may believe in the old
// card for a second (its neighbour table's locktime), so its answer may be lost at first.
func tellRounds() []time.Duration {
	return []time.Duration{0, 600 * time.Millisecond, 1300 * time.Millisecond, 3 * time.Second}
}

// arrival is that the addresses came here; first is what became known later of its record.
type (
	arrival struct {
		reign cluster.Reign
		told  []clients.Conn
	}
	first struct {
		reign          cluster.Reign
		packet, answer time.Time
		told           *int
	}
)

// arrived notices that the addresses have come here. It never waits.
func (a *Agent) arrived(before, now beat.Report) {
	if before.Role == cluster.Master || now.Role != cluster.Master || len(a.o.Config.VIPs) == 0 {
		return
	}
	select {
	case a.arrivals <- arrival{now.Reign, a.clients.take(a.o.Node, time.Now())}:
	default: // the one before is just being taken over
	}
}

// welcome serves one arrival after the other; a new one ends what is left of the one before.
func (a *Agent) welcome(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case x := <-a.arrivals:
			within, cancel := context.WithTimeout(ctx, firstWithin)
			f := a.afterArrival(within, x)
			cancel()
			select {
			case a.firsts <- f:
			case <-ctx.Done():
			}
		}
	}
}

// afterArrival tells the clients, and waits for the first one that is served.
func (a *Agent) afterArrival(ctx context.Context, x arrival) first {
	f := first{reign: x.reign}
	if len(x.told) > 0 {
		n := len(x.told)
		f.told = &n
	}
	packet, answer := a.tap(false), a.tap(true) // before anybody is told
	reign, over := context.WithCancel(ctx)
	var g, end errgroup.Group
	end.Go(func() error { defer over(); a.reignOver(reign, x.reign); return nil })
	g.Go(func() error { f.packet = awaitFirst(reign, packet); return nil })
	g.Go(func() error { f.answer = awaitFirst(reign, answer); return nil })
	g.Go(func() error { a.tellClients(ctx, x); return nil })
	_ = g.Wait() // none of them fails
	over()
	_ = end.Wait()
	if !f.answer.IsZero() && (f.packet.IsZero() || f.packet.After(f.answer)) {
		f.packet = f.answer // no later than that: the kernel begins to stamp packets a moment after a tap asks it to, and what has no stamp has the time of its reading
	}
	return f
}

// tellClients makes the clients of the master before notice that their connections are gone.
func (a *Agent) tellClients(ctx context.Context, x arrival) {
	if len(x.told) == 0 {
		return
	}
	t, err := clients.NewTeller()
	if err != nil {
		a.o.Log.Warn("clients with old connections are not told that the addresses moved", "connections", len(x.told), "err", err, "hint", problem.HintOf(err))
		return
	}
	defer t.Close()
	began, sent, refused := time.Now(), 0, 0
	for round, at := range tellRounds() {
		for i, c := range x.told {
			pause := time.Duration(0)
			switch {
			case i == 0:
				pause = at - time.Since(began)
			case i%tellAtOnce == 0:
				pause = tellPause
			}
			if !a.reigns(ctx, x.reign, pause) {
				return
			}
			if err := t.Tell(c, round); err != nil {
				refused++ // the next round repeats it
				continue
			}
			sent++
		}
	}
	a.o.Log.Info("told the clients that their connections are gone", "connections", len(x.told), "packets", sent, "refused", refused)
}

// reigns waits, and reports whether this node still leads with that reign.
func (a *Agent) reigns(ctx context.Context, r cluster.Reign, pause time.Duration) bool {
	if pause > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	now := a.current()
	return ctx.Err() == nil && now.Role == cluster.Master && now.Reign.Owner == r.Owner && now.Reign.Term >= r.Term
}

// tap is nil where the system does not let us watch.
func (a *Agent) tap(answers bool) *clients.Tap {
	t, err := clients.OpenTap(a.vips(), answers)
	if err != nil {
		a.o.Log.Warn("the first client after this failover is not seen", "err", err, "hint", problem.HintOf(err))
		return nil
	}
	return t
}

// reignOver returns when this node does not lead with that reign any more, or ctx ends.
func (a *Agent) reignOver(ctx context.Context, r cluster.Reign) {
	for {
		_, changed := a.reportAndNext()
		if !a.reigns(ctx, r, 0) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// awaitFirst is when the first packet of a client passed; zero if none did until ctx ended. It closes the tap.
func awaitFirst(ctx context.Context, t *clients.Tap) time.Time {
	if t == nil {
		return time.Time{}
	}
	defer t.Close()
	at, _ := t.Wait(ctx)
	return at
}

// fillFirst puts what became known into the record; false: there is no record yet.
func (a *Agent) fillFirst(f first) (bool, error) {
	for _, r := range a.history.List() {
		if r.Term != f.reign.Term || r.Master != f.reign.Owner {
			continue
		}
		if f.packet.IsZero() && f.answer.IsZero() && f.told == nil {
			return true, nil
		}
		r.Times.Packet, r.Times.Answer, r.ClientsTold = some(f.packet), some(f.answer), f.told
		r.Revision++
		return true, a.history.Put(r)
	}
	return false, nil
}

// firstsLate bounds what waits for its record: a disk that does not answer keeps none of it for ever.
const firstsLate = 4

// fillFirsts fills in what waits, and keeps what has no record yet.
func (a *Agent) fillFirsts(waiting []first) (left []first, err error) {
	for _, f := range waiting {
		done, failed := a.fillFirst(f)
		err = errors.Join(err, failed)
		if !done {
			left = append(left, f)
		}
	}
	return left[max(0, len(left)-firstsLate):], err
}
