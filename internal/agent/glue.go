package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/mirror"
	"revolve/internal/mirror/kept"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/vm"
)

const (
	// wordEvery is how often the beat process hears from us; it gives up the VIPs after 800 ms without.
	wordEvery = 100 * time.Millisecond
	// flushWithin bounds a handover's flush; the beat process aborts the switch after 2 s.
	flushWithin = 1900 * time.Millisecond
	// switchWithin bounds a planned switch as a whole.
	switchWithin = 5 * time.Second
)

// watchReports turns what the beat process says into the mirror's direction.
func (a *Agent) watchReports(ctx context.Context) error {
	reports := a.beat.Reports()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r, ok := <-reports:
			if !ok {
				return nil
			}
			a.took(r)
			a.reports.Add(1)
		}
	}
}

func (a *Agent) took(r beat.Report) {
	for _, n := range r.Notes {
		a.o.Log.Info(n)
	}
	a.record.observe(max(r.SeenTerm, r.Reign.Term))
	a.spared.sees(r)
	a.mu.Lock()
	before := a.report
	a.report, a.reported = r, time.Now()
	close(a.changed)
	a.changed = make(chan struct{})
	flush := r.Handover.ID != 0 && r.Handover.ID != a.flushing
	if flush {
		a.flushing = r.Handover.ID
	}
	a.mu.Unlock()
	if r.Role == cluster.Master && before.Role != r.Role {
		a.used("it was master")
	}
	if before.Role != r.Role || before.Reign != r.Reign {
		a.o.Log.Info("role", "role", r.Role, "master", r.Master, "reign", r.Reign)
	}
	a.arrived(before, r)
	for i, t := range r.Turns {
		var told []mirror.Told
		if i == len(r.Turns)-1 {
			told = a.engine.Told() // before the new role is set
		}
		a.turn(t, told)
	}
	role := roleOf(r, a.o.Node)
	role.Rejoin = a.external()
	a.engine.SetRole(role)
	if flush {
		select {
		case a.handovers <- r.Handover:
		default: // one is being flushed; the beat process aborts a switch that is not answered
		}
	}
}

// flushes carries out the flushes of planned switches, apart from the reports,
// which must not wait.
func (a *Agent) flushes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case h := <-a.handovers:
			a.flush(ctx, h)
		}
	}
}

// roleOf is the mirror's role in what the election decided.
func roleOf(r beat.Report, self cluster.NodeID) mirror.Role {
	role := mirror.Role{Reign: r.Reign, Master: r.Master, Lead: r.Role == cluster.Master && r.Master == self}
	if role.Lead {
		role.Survivors = alive(r)
	}
	if r.Role == cluster.Limbo || !role.Lead && role.Master == self {
		return mirror.Role{}
	}
	return role
}

func alive(r beat.Report) (nodes []cluster.NodeID) {
	for _, p := range r.Peers {
		if p.State == beat.PeerAlive || p.State == beat.PeerSuspect {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

// flush brings the successor of a planned switch to what was written before the
// addresses were deleted, and lets the beat process go on.
func (a *Agent) flush(ctx context.Context, h beat.Handover) {
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	switch err := a.brought(ctx, h.To); {
	case err != nil && a.disks.Ill():
		a.o.Log.Warn("planned switch: an ill disk gives what it gives; what the successor did not get is kept aside later", "to", h.To, "err", err)
	case err != nil:
		a.o.Log.Warn("planned switch: the successor did not get everything in time; the addresses come back here", "to", h.To, "err", err)
		return
	}
	a.mu.Lock()
	a.flushed = h.ID
	a.mu.Unlock()
	a.tell()
}

// brought waits until the successor has everything, as far as a disk gives it. A barrier that refuses goes by this moment: right
// after a move a volume may not be led here yet, or the successor's stream not be in-sync.
func (a *Agent) brought(ctx context.Context, to cluster.NodeID) error {
	if a.disks.Stalled() {
		return errors.New("the disk does not answer")
	}
	err := a.engine.Flush(ctx, to)
	if problem.KindOf(err) == problem.Unavailable {
		return soon(err, toldWithin)
	}
	return err
}

const (
	// standingAhead is how long before each word the mirror is asked how it stands. It may have to wait for a disk, the word may not.
	standingAhead = 10 * time.Millisecond
	// standingAge is how old the answer may be: a volume whose disk hangs for longer makes the node unfit to lead.
	standingAge = 10 * time.Second
)

// standing is how fit this node is to lead, as far as its data goes.
type standing struct {
	class cluster.Class
	fresh cluster.Position
	at    time.Time

	paused []cluster.VolumeID
}

// keepStanding asks the mirror, apart from the word, which must not wait.
func (a *Agent) keepStanding(ctx context.Context) error {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		a.standing.Store(&standing{class: a.engine.Class(), fresh: a.engine.Fresh(), at: time.Now(), paused: a.engine.Paused()})
		select {
		case a.stood <- struct{}{}:
		default: // not looked at yet
		}
		wait.Reset(beforeWord(time.Duration(a.said.Load()), time.Since(a.since)))
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
	}
}

// beforeWord is how long it is from now until standingAhead of a word, about wordEvery, if the last one was said at said.
func beforeWord(said, now time.Duration) time.Duration {
	wait := wordEvery - (now-said+standingAhead)%wordEvery
	if wait < wordEvery/2 { // this word has been asked for
		wait += wordEvery
	}
	return wait
}

func (a *Agent) tell() {
	a.telling.Lock()
	defer a.telling.Unlock()
	a.mu.Lock()
	w := beat.Word{Switch: a.order, Flushed: a.flushed}
	a.mu.Unlock()
	w.Reserved, w.Ill = a.record.reserved(), a.ill()
	w.Unfit = a.unfit.Load()
	ordered := a.record.memory()
	w.Wish = a.o.Config.Failover.Failback.Open(time.Now()) && !w.Ill && !ordered.Maintenance
	w.Hold, w.Maintenance = ordered.Hold, ordered.Maintenance
	if s := a.standing.Load(); s != nil {
		w.Class, w.Fresh = s.class, s.fresh
		if time.Since(s.at) > standingAge {
			w.Class = cluster.Barred
		}
	}
	if a.ending.Load() || a.trial.outlived.Load() || a.rests() {
		w.Class = cluster.Barred
	}
	w.Asking = !a.asked.Load() // it may have missed a change of the members; its rank counts meanwhile, so that no lesser one leads
	a.beat.Tell(w)
}

// recordQuiet is the least time between two log lines about a term record that
// cannot be written: it is tried again with every report, a few times a second.
const recordQuiet = time.Minute

// remember keeps the durable record: terms reserved ahead, who lives. No
// failover waits for it.
func (a *Agent) remember(ctx context.Context) error {
	var said time.Time
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		known := !a.reported.IsZero()
		a.mu.Unlock()
		var err error
		switch {
		case a.record.reserved() == 0 || r.NeedTerms > a.record.reserved():
			if err = a.record.reserve(r.NeedTerms); err == nil {
				a.tell()
			}
		case known && r.Role != cluster.Listening && a.record.setAlive(alive(r), a.known):
			err = a.record.flush()
		}
		if err != nil && time.Since(said) > recordQuiet {
			said = time.Now()
			a.o.Log.Error("the term record cannot be written; this node cannot claim a new reign until it can", "err", err, "hint", problem.HintOf(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// serve handles one connection of a peer.
func (a *Agent) serve(ctx context.Context, c *peer.Conn) {
	var err error
	switch {
	case c.Service() == serviceRoster:
		err = a.serveRoster(c)
	case c.Service() == serviceTrial:
		err = a.serveTrial(c)
	case c.Service() == serviceCA:
		err = a.serveCA(c)
	case c.Service() == serviceHistory:
		err = a.serveHistory(c)
	case c.Service() == serviceAlarms:
		err = a.serveAlarms(c)
	case c.Service() == serviceClients:
		err = a.serveClients(ctx, c)
	case c.Service() == serviceOrder:
		err = a.serveOrder(ctx, c)
	case c.Service() == peer.ServiceClock:
		err = peer.TellTime(c)
	case c.Service() == kept.Service:
		err = a.serveKept(ctx, c)
	case slices.Contains(vm.Services(), c.Service()):
		err = a.serveVMs(ctx, c)
	case slices.Contains(mirror.Services(), c.Service()):
		err = a.engine.Handle(ctx, c)
	default:
		err = errors.Join(&problem.Problem{Op: "serve", Kind: problem.NotFound, Subject: c.Service(), Err: errors.New("unknown service")}, c.Close())
	}
	if err != nil && ctx.Err() == nil && problem.KindOf(err) != problem.Unavailable {
		a.o.Log.Debug("connection ended", "peer", c.Peer(), "service", c.Service(), "err", err)
	}
}
