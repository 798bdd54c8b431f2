package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

const (
	// inSyncWithin is the design's bound: a standby no more than this behind is in-sync.
	inSyncWithin = time.Second
	// loadPatience: a standby behind by more stays in-sync while its acknowledgements move at least this often, since then it is only this moment's load.
	loadPatience = 2 * time.Second
)

// lead serves the volume as master until ctx ends. First it takes from every
// survivor what lies above its own position (P4); only then its own reign
// begins, and with it the sending of deletes and overwrites.
func (v *volume) lead(ctx context.Context, o *opened, role Role) error {
	if o.journal.History().Reign() != role.Reign {
		after, err := v.settleUnproven(ctx, o, role)
		if err != nil {
			return err
		}
		// A node that led before, too: what is written from here on belongs to the new reign. In the old one it would lie
		// below what the survivors bring, and nobody who has that would ever ask for it. What it wrote is synced only before
		// another's reign comes: its own go on from one to the next, and nobody waits for the disk (keepMarking does it later).
		if err := v.stopRecording(ctx, o); err != nil {
			return err
		}
		v.gather(ctx, o, role)
		after()
		if ctx.Err() != nil {
			return nil
		}
		if err := o.watcher.Drain(ctx); err != nil { // read later, it would be journaled as if it had come after all that was taken
			return err
		}
	}
	if err := v.begin(o, role.Reign); err != nil {
		return local(err)
	}
	v.fail(nil)
	v.mu.Lock()
	v.leading, v.leadCtx = role.Reign, ctx
	v.mu.Unlock()
	<-ctx.Done()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leading, v.leadCtx = cluster.Reign{}, nil
	clear(v.streams)
	return nil
}

// begin starts this node's reign in the journal, or goes on with it after limbo
// or trouble with the disk: what was written here meanwhile comes first.
func (v *volume) begin(o *opened, reign cluster.Reign) error {
	// What stayed here though the last master did not have it is the truth now: the others get it.
	o.applying.Lock()
	answers, all := o.applier.TakeAnswers()
	answers = append(o.applier.TakeGiven(), answers...)
	incomplete := o.applier.Absent().Names > 0 || all
	err := o.applier.Settled()
	o.applying.Unlock()
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	owed := o.journal.Owed()
	if o.journal.History().Reign() != reign {
		if err := o.journal.Append(journal.Record{Kind: journal.Begun, Reign: reign}); err != nil {
			return err
		}
	}
	told := answered(o, answers, owed)
	settled, short := unpaid(o, owed)
	incomplete = incomplete || short
	if err := o.journal.Append(settled...); err != nil {
		return err
	}
	if v.lost || v.gap || !v.known || incomplete || len(v.doubts) > 0 {
		// Nobody watched all the time: standbys compare. What is absent here was not seen going, so nothing is deleted there.
		v.lost, v.gap = false, false
		next := o.journal.Next()
		if err := o.journal.Append(journal.Record{Kind: journal.Tree, Pos: next, Below: true}); err != nil {
			return err
		}
	}
	o.applier.Reigned()
	o.links.Reset() // what was applied here is not told to it
	o.links.Look()
	pending := v.pending
	if len(v.aside) > 0 && time.Since(v.asideAt) <= asideLast {
		pending = append(v.aside, pending...)
	}
	pending = inPresent(o, pending)
	for _, path := range v.rejoined { // what was set aside here: the others get what is here now
		pending = append(pending, watch.Event{Kind: watch.Dirty, Path: path})
	}
	pending = append(pending, told...)
	v.rejoined = nil
	v.aside, v.doubts = nil, nil // standbys compare: that covers what was doubted
	v.pending, v.written, v.bytes, v.known = nil, nil, 0, true
	v.take(o, record)
	v.markLocked(o.journal.Position())
	if err := v.journalEvents(o, pending); err != nil {
		return err
	}
	return o.journal.Sync()
}

// unpaid settles the debts that no survivor could pay: what is here is the truth now. The others may have something else there:
// after changes of this node's were set aside, say; or the very thing, which is nowhere else, and which they keep. short says that something
// is not here that was not seen going: they compare.
func unpaid(o *opened, owed reconcile.Owed) (settled []journal.Record, short bool) {
	var kept []journal.Record
	for next, list := o.journal.Next(), owed.List(); len(list) > 0; list = list[1:] {
		d := list[0]
		settled = append(settled, journal.Record{Kind: journal.Paid, Path: d.Path, Below: d.Tree})
		_, err := o.root.Glance(d.Path)
		short = short || d.Tree || tree.IsGone(err)
		// What was on its way is not absent because somebody removed it: a copy stays when a person says that what is absent may go.
		if !d.Tree && (err == nil || tree.IsGone(err)) {
			kept = append(kept, journal.Record{Kind: journal.Dirty, Pos: next, Path: d.Path, Below: d.Path != ""}) // everybody has the volume's own directory
			next.Seq++
		}
	}
	return append(settled, kept...), short
}

// inPresent tells what became of local changes that no record told of when they were made: what a stream brought since may
// have undone them, or be where a rename put something, and would be told as if that had been there before. So the names are
// told that are there now, and those that are not.
func inPresent(o *opened, changes []watch.Event) (events []watch.Event) {
	for _, e := range changes {
		if e.Kind == watch.Overflow || e.Kind == watch.Dirty && !e.Tree || e.Path == "" {
			events = append(events, e)
			continue
		}
		for _, path := range []string{e.Old, e.Path} {
			if path == "" {
				continue
			}
			now := presentOf(o, path)
			now.Tree = now.Dir
			events = append(events, now)
		}
	}
	return events
}

// answered tells the others what survivors gave this node. What they said is gone, and is, is told as removed; what
// is only missing here was not given, or could not be made: nobody saw it go (P6).
func answered(o *opened, answers []apply.Answer, owed reconcile.Owed) (events []watch.Event) {
	for _, a := range answers {
		e := presentOf(o, a.Path)
		if e.Kind == watch.Removed && (!a.Gone || len(owed.Under(a.Path)) > 0) {
			continue
		}
		events = append(events, e)
	}
	return events
}

// presentOf tells the others what is here, or that nothing is.
func presentOf(o *opened, path string) watch.Event {
	m, err := o.root.Glance(path)
	if tree.IsGone(err) {
		return watch.Event{Kind: watch.Removed, Path: path}
	}
	return watch.Event{Kind: watch.Dirty, Path: path, Dir: err == nil && m.Kind == tree.Dir}
}

// serveFollower streams to one standby.
func (v *volume) serveFollower(ctx context.Context, conn Conn, hello wire.Hello) error {
	v.mu.Lock()
	o, reign, leadCtx, compare := v.open, v.leading, v.leadCtx, v.compare[conn.Peer()]
	v.mu.Unlock()
	seen := v.e.o.Terms.Seen()
	switch {
	case hello.Reign.Term < seen && hello.Reign != reign:
		return refuse(conn, problem.StaleTerm, fmt.Sprintf("reign %v is over; term %d has been seen", hello.Reign, seen), seen)
	case o == nil || reign != hello.Reign:
		return refuse(conn, problem.Unavailable, "not the master of that reign (yet)", seen)
	}
	// The reign's end ends the stream; the receiver's check of the term is the guarantee.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(leadCtx, cancel)()
	history := o.journal.History()
	plan := reconcile.Decide(history, hello.History, o.journal.Oldest())
	if compare {
		plan.Action = reconcile.Compare
	}
	if err := writeJSON(conn, wire.FrameWelcome, wire.Welcome{Reign: reign, History: history, Plan: plan}); err != nil {
		return err
	}
	var ready wire.Ready
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := readReady(conn, &ready)
	stop()
	if err != nil {
		return err
	}
	return v.stream(ctx, conn, o, reign, plan, ready)
}

// readyTimeout bounds the time that a follower may take to set changes aside.
const readyTimeout = 10 * time.Minute

func readReady(conn Conn, ready *wire.Ready) error {
	if err := conn.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	return readJSONNow(conn, wire.FrameReady, ready)
}

func (v *volume) stream(ctx context.Context, conn Conn, o *opened, reign cluster.Reign, plan reconcile.Plan, ready wire.Ready) error {
	extras := wire.ExtrasDivergent
	if plan.Known && !ready.Unknown {
		extras = wire.ExtrasTrash
	}
	node := conn.Peer()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f := &follower{ctx: ctx, stop: stop, since: time.Now(), link: conn.Link(), changed: time.Now()}
	s, err := send.New(conn, send.Options{
		Root: o.root, Journal: o.journal, Excluded: v.excluded, Links: o.links, Versions: o.versions, Reads: o.reads, Reign: reign, Extras: extras,
		Compare: plan.Action == reconcile.Compare, Shared: plan.From,
		Ping:  func(acked cluster.Position) wire.Ping { return v.ping(o, f) },
		Acked: func(p cluster.Position) { v.acked(node, p) },
		Drain: o.watcher.Drain,
		Pacer: v.e.pacer(f.link),
		Log:   v.log,
	}, ready)
	if errors.Is(err, journal.ErrTrimmed) {
		v.mustCompare(node, true)
		return refuse(conn, problem.Unavailable, "the journal was trimmed meanwhile; come again", 0)
	}
	if err != nil {
		return err
	}
	f.stream = s
	v.mu.Lock()
	if v.leading != reign {
		v.mu.Unlock()
		return refuse(conn, problem.Unavailable, "the reign just ended", 0)
	}
	old := v.streams[node]
	v.streams[node] = f
	v.ackedLocked(node, ready.From, time.Now())
	v.again.over()
	say := v.again.due(time.Now(), string(node))
	v.mu.Unlock()
	if old != nil { // a node follows once; what is left of the other is dead, or was never alive
		old.stop()
	}
	if old != nil && say {
		v.log.Info("a standby reconnected", "standby", node)
	}
	v.mustCompare(node, false)
	err = s.Run(ctx)
	v.mu.Lock()
	if v.streams[node] == f {
		delete(v.streams, node)
	}
	v.mu.Unlock()
	if errors.Is(err, send.ErrTooFarBehind) || errors.Is(err, journal.ErrTrimmed) {
		v.mustCompare(node, true)
	}
	return err
}

func (v *volume) mustCompare(node cluster.NodeID, must bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if must {
		v.compare[node] = true
	} else {
		delete(v.compare, node)
	}
}

// serveBulk serves the second connection of a standby that streams.
func (v *volume) serveBulk(ctx context.Context, conn Conn) error {
	v.mu.Lock()
	f := v.streams[conn.Peer()]
	v.mu.Unlock()
	if f == nil {
		return refuse(conn, problem.Unavailable, "no stream to belong to", 0)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.stream.Bulk(ctx, conn, v.e.pacer(conn.Link())) })
	g.Go(func() error { // the follower never writes here: a read ends when it has gone
		if _, _, err := conn.Read(); err != nil {
			return err
		}
		return &problem.Problem{Op: "serve bulk", Kind: problem.Corrupt, Subject: string(conn.Peer()), Err: errors.New("unexpected frame")}
	})
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return g.Wait()
}

// inSync decides whether a standby counts as in-sync now.
func (v *volume) inSync(o *opened, f *follower) (insync bool, lag time.Duration) {
	st := f.stream.State()
	v.mu.Lock()
	defer v.mu.Unlock()
	if st.Acked != f.acked {
		f.acked, f.changed = st.Acked, time.Now()
	}
	if o.journal.Position().Compare(st.Acked) > 0 {
		lag = v.lagLocked(st.Acked)
	}
	switch {
	case st.Busy && (!f.insync || time.Since(st.Began) > inSyncWithin):
		f.insync = false // catching up; comparing a directory or two for a moment is no reason
	case lag <= inSyncWithin:
		f.insync = true
	case time.Since(f.changed) > loadPatience:
		f.insync = false
	}
	return f.insync, lag
}

func (v *volume) ping(o *opened, f *follower) wire.Ping {
	insync, lag := v.inSync(o, f)
	p := wire.Ping{Head: o.journal.Position(), LagMS: lag.Milliseconds(), InSync: insync}
	p.Report = v.standbyJSON()
	return p
}

// flushPoll is how often a barrier looks again.
const flushPoll = time.Millisecond

// flush returns when everything written before the call is on the standby.
func (v *volume) flush(ctx context.Context, to cluster.NodeID) error {
	v.mu.Lock()
	o, leading, paused := v.open, v.leading, v.paused
	v.mu.Unlock()
	if paused != nil && to != "" {
		return nil // a handover: there is nothing here that could still be sent, and the successor has the files
	}
	if o == nil || leading.Term == 0 {
		return &problem.Problem{Op: "flush volume", Kind: problem.Unavailable, Subject: string(v.c.Name), Err: errors.New("this node is not its master"),
			Hint: "revolve status says who is"}
	}
	wait, enough := v.waitFor(o, to)
	if len(wait) == 0 {
		return &problem.Problem{Op: "flush volume", Kind: problem.Unavailable, Subject: string(v.c.Name),
			Err: errors.New(notInSync(to)), Hint: "what was written last is only on this node; look at `revolve status`"}
	}
	if err := o.watcher.Drain(ctx); err != nil {
		return err
	}
	if err := v.namesTold(ctx, o); err != nil {
		return err
	}
	return v.reached(ctx, wait, enough, o.journal.Position())
}

// namesTold returns when the other names of what was changed are journaled, too.
func (v *volume) namesTold(ctx context.Context, o *opened) error {
	for o.links.Busy() {
		select {
		case <-ctx.Done():
			return &problem.Problem{Op: "flush volume", Kind: problem.Timeout, Subject: string(v.c.Name), Err: errors.New("the names of files with several are still looked for"),
				Hint: "it takes as long as reading all directories of the volume; try again"}
		case <-time.After(flushPoll):
		}
	}
	return nil
}

// reached returns when enough of wait have everything up to target.
func (v *volume) reached(ctx context.Context, wait map[cluster.NodeID]*follower, enough int, target cluster.Position) error {
	tick := time.NewTicker(flushPoll)
	defer tick.Stop()
	for {
		waiting, gone := waitingOf(wait, v.states(), target)
		have := len(wait) - len(waiting) - len(gone)
		switch {
		case have >= enough || have > 0 && len(waiting) == 0:
			return nil // who went away meanwhile is not in-sync any more
		case len(waiting) == 0: // nobody has it: every standby, or this reign, has gone
			return &problem.Problem{Op: "flush volume", Kind: problem.Unavailable, Subject: string(v.c.Name),
				Err: fmt.Errorf("%v went away before having everything", gone), Hint: "what was written last may be only on this node; look at `revolve status`"}
		}
		select {
		case <-ctx.Done():
			return &problem.Problem{Op: "flush volume", Kind: problem.Timeout, Subject: string(v.c.Name), Err: fmt.Errorf("%v did not reach %v", waiting, target),
				Hint: "look at `revolve status` for what holds it"}
		case <-tick.C:
		}
	}
}

// waitFor are the streams that a barrier waits for, and how many of them are
// enough: all that are in-sync when it begins, even if one falls behind
// meanwhile. If none is in-sync, one of those that are catching up.
func (v *volume) waitFor(o *opened, to cluster.NodeID) (wait map[cluster.NodeID]*follower, enough int) {
	all, wait := v.followers(), map[cluster.NodeID]*follower{}
	for n, f := range all {
		if insync, _ := v.inSync(o, f); insync && (to == "" || n == to) {
			wait[n] = f
		}
	}
	if len(wait) > 0 || to != "" {
		return wait, len(wait)
	}
	return all, 1
}

func (v *volume) followers() map[cluster.NodeID]*follower {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.streams)
}

// states are those of the streams that are served now.
func (v *volume) states() map[cluster.NodeID]send.State {
	states := map[cluster.NodeID]send.State{}
	for n, f := range v.followers() {
		if f.stream != nil {
			states[n] = f.stream.State()
		}
	}
	return states
}

// waitingOf are those of wait that have not everything up to target, and those
// that have no stream now. A standby that came back meanwhile is waited for: its
// new stream begins where it really stands.
func waitingOf(wait map[cluster.NodeID]*follower, now map[cluster.NodeID]send.State, target cluster.Position) (waiting, gone []cluster.NodeID) {
	for n := range wait {
		st, there := now[n]
		switch {
		case !there:
			gone = append(gone, n)
		case !at(st, target):
			waiting = append(waiting, n)
		}
	}
	return waiting, gone
}

func notInSync(to cluster.NodeID) string {
	if to == "" {
		return "no standby is connected"
	}
	return fmt.Sprintf("standby %s is not in-sync", to)
}

func at(st send.State, target cluster.Position) bool {
	return st.Settled.Compare(target) >= 0 && st.Owed == 0 && !st.Busy
}
