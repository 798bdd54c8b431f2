package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

const (
	// gatherTimeout bounds how long a new master waits for one survivor's first answer: a survivor that is heard answers in milliseconds. What it acknowledged and could not give is not lost: it is set aside there.
	gatherTimeout = 2 * time.Second
	// gatherTries: connections may fail in the very moment of a failure.
	gatherTries = 3
)

// gather takes from every survivor whatever lies above this node's position
// (promise P4). A survivor that cannot be reached is passed over, loudly.
func (v *volume) gather(ctx context.Context, o *opened, role Role) {
	for _, node := range role.Survivors {
		if node == v.e.o.Node {
			continue
		}
		var err error
		for try := range gatherTries {
			if err = v.pull(ctx, o, role, node); err == nil || ctx.Err() != nil || !problem.KindOf(err).Retry() {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryLeast << try):
			}
		}
		if err != nil && ctx.Err() == nil {
			v.log.Warn("could not take a survivor's changes; what only it has will be kept there as divergent", "survivor", node, "err", err)
		}
	}
}

// pull asks one survivor and applies what it has and this node has not.
func (v *volume) pull(ctx context.Context, o *opened, role Role, node cluster.NodeID) error {
	dctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	conn, err := v.e.o.Dial(dctx, node, wire.ServicePull)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	mine := o.journal.History()
	if err := writeJSON(conn, wire.FrameHello, wire.Hello{Volume: v.c.Name, Reign: role.Reign, History: mine}); err != nil {
		return err
	}
	var welcome wire.Welcome
	if err := readJSON(conn, wire.FrameWelcome, &welcome); err != nil {
		return err
	}
	if end := welcome.History.End(); end.Term >= role.Reign.Term { // of one side each, while they were parted: nothing could continue it
		return &problem.Problem{Op: "take changes", Kind: problem.Conflict, Subject: string(node), Err: fmt.Errorf("its changes up to %v are of another reign than %v", end, role.Reign)}
	}
	owed := o.journal.Owed()
	ahead := welcome.History.End().Compare(mine.End()) > 0
	if !ahead && owed.Len() == 0 {
		return nil
	}
	rejoin := role.Rejoin && welcome.Plan.Action == reconcile.SetAside && welcome.History.End().Term > mine.End().Term
	if welcome.Plan.Action != reconcile.Continue && !rejoin {
		if !ahead {
			return nil // it lacks changes that are here, and has none that are not
		}
		return &problem.Problem{Op: "take changes", Kind: problem.Conflict, Subject: string(node),
			Err: fmt.Errorf("its history %v does not continue %v", welcome.History.End(), mine.End())}
	}
	if ahead && v.ownUnsynced(o) { // that may take longer than the survivor waits
		conn.Close()
		if err := v.syncOwn(o); err != nil {
			return err
		}
		return v.pull(ctx, o, role, node)
	}
	s := v.newSession(conn, o, role.Reign)
	ready := wire.Ready{From: mine.End(), Owed: debtsOf(owed.List())}
	if rejoin { // as a follower would, before it takes what the later reign wrote
		err := v.endOwnReign(ctx, o)
		if err == nil {
			ready, err = v.agree(o, welcome)
		}
		v.mu.Lock()
		for _, d := range ready.Owed {
			if !d.Tree {
				v.rejoined = append(v.rejoined, string(d.Path))
			}
		}
		v.mu.Unlock()
		if err != nil {
			return local(err)
		}
	}
	s.pulling = true
	s.aside = apply.NewSet(o.root, node, mine.End().Term, apply.WhyConflict, time.Now())
	if err := writeJSON(conn, wire.FrameReady, ready); err != nil {
		return err
	}
	if err := s.run(ctx); !errors.Is(err, errEnd) {
		return err
	}
	v.log.Info("took a survivor's changes", "survivor", node, "from", mine.End(), "to", o.journal.Position())
	return nil
}

func debts(list []reconcile.Debt) (out []wire.Debt) {
	for _, d := range list {
		out = append(out, wire.Debt{Path: []byte(d.Path), Tree: d.Tree})
	}
	return out
}

// servePull gives a new master what this node has above its position. From here
// on this node accepts nothing more of an older reign, so that what it hands
// over is all that it will ever have acknowledged.
func (v *volume) servePull(ctx context.Context, conn Conn, hello wire.Hello) error {
	v.mu.Lock()
	o, leading := v.open, v.leading
	v.mu.Unlock()
	if o == nil {
		return refuse(conn, problem.Unavailable, "the volume does not work here", 0)
	}
	if leading.Compare(hello.Reign) >= 0 {
		return refuse(conn, problem.StaleTerm, fmt.Sprintf("this node leads reign %v", leading), leading.Term)
	}
	if err := v.e.o.Terms.Accept(hello.Reign.Term); err != nil {
		return refuse(conn, problem.StaleTerm, err.Error(), v.e.o.Terms.Seen())
	}
	if err := v.hearOwn(ctx, o); err != nil {
		return err
	}
	// A commit of the old reign that is under way ends first; the next one sees the term.
	o.applying.Lock()
	err := o.applier.Settle() // what is visible here is handed over
	history := o.journal.History()
	mine := o.journal.Owed()
	o.applying.Unlock()
	if err != nil {
		return err
	}
	plan := reconcile.Decide(history, hello.History, o.journal.Oldest())
	if err := writeJSON(conn, wire.FrameWelcome, wire.Welcome{Reign: hello.Reign, History: history, Plan: plan}); err != nil {
		return err
	}
	var ready wire.Ready
	if err := readJSON(conn, wire.FrameReady, &ready); err != nil {
		return nil // it needs nothing
	}
	ready.Owed = payable(ready.Owed, mine, history.End(), ready.From)
	o.links.Reset() // what was applied here is not told to it
	until := history.End()
	s, err := send.New(conn, send.Options{
		Root: o.root, Journal: o.journal, Excluded: v.excluded, Links: o.links, Reign: hello.Reign, Until: &until, Owed: mine, Shared: plan.From, Log: v.log,
		// A frozen survivor must not keep a new master waiting: its connection would live on.
		Ping: func(cluster.Position) wire.Ping { return wire.Ping{Head: until} },
	}, ready)
	if err != nil {
		return err
	}
	v.mu.Lock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v.streams[conn.Peer()] = &follower{ctx: ctx, stop: cancel, stream: s, since: time.Now(), changed: time.Now()}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if f := v.streams[conn.Peer()]; f != nil && f.stream == s {
			delete(v.streams, conn.Peer())
		}
	}()
	return s.Run(ctx)
}

// hearOwn has what was written here under a reign of this node's in its journal: a change whose notification was
// not read would be handed over without a record, and those who follow would never be told of it. The new master waits
// no longer than its own bound for that.
func (v *volume) hearOwn(ctx context.Context, o *opened) error {
	v.mu.Lock()
	own := v.mode == record
	v.mu.Unlock()
	if !own {
		return nil
	}
	dctx, cancel := context.WithTimeout(ctx, gatherTimeout/2)
	defer cancel()
	err := o.watcher.Drain(dctx)
	if err != nil && ctx.Err() == nil && dctx.Err() != nil { // better without what came last than nothing at all
		v.log.Warn("not everything that was written here was told in time; a new master gets what is journaled, and the rest is kept aside", "waited", gatherTimeout/2)
		return nil
	}
	return err
}

// payable are the debts of the caller's that this node does not owe itself, if
// it stands at least where the caller stands.
func payable(theirs []wire.Debt, mine reconcile.Owed, end, from cluster.Position) (out []wire.Debt) {
	if end.Compare(from) < 0 {
		return nil
	}
	for _, d := range theirs {
		if _, owed := mine.Get(string(d.Path)); !owed && !d.Tree {
			out = append(out, d)
		}
	}
	return out
}
