package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// followState is what a standby knows of its own standing.
type followState struct {
	master  cluster.NodeID
	up      bool // the stream runs
	insync  bool
	lag     time.Duration
	head    cluster.Position
	heard   time.Time
	lost    time.Time // when the stream from a master that still leads ended; zero if it runs, or never did
	link    cluster.LinkID
	reason  string // why there is no stream
	report  json.RawMessage
	poke    chan struct{} // a session's: holds one token when something is to be asked for
	foreign chan struct{} // holds one token when foreign changes may wait
}

// followMaster keeps a stream from the master until the role changes.
func (v *volume) followMaster(ctx context.Context, o *opened, role Role) error {
	v.fail(nil)
	wake := make(chan struct{}, 1)
	v.setFollow(func(f *followState) {
		*f = followState{master: role.Master, foreign: wake, insync: f.insync && f.master == role.Master, report: f.report}
	})
	v.turnIfForeign() // written while nobody was followed
	wait := retryLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := v.followOnce(ctx, o, role)
		if ctx.Err() != nil {
			return nil
		}
		if fatal(err) {
			return err
		}
		say := false
		v.setFollow(func(f *followState) {
			if f.up {
				f.lost = time.Now()
			}
			f.up, f.reason = false, err.Error()
			say = problem.KindOf(err) != problem.Unavailable && v.ended.due(time.Now(), f.reason)
		})
		if say {
			v.log.Warn("the stream from the master ended", "master", role.Master, "err", err, "hint", problem.HintOf(err))
		}
		if time.Since(began) > retryMost {
			wait = retryLeast
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, retryMost)
		}
	}
	return nil
}

func (v *volume) setFollow(change func(*followState)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.follow)
}

// turnIfForeign wakes the following session if something waits for it.
func (v *volume) turnIfForeign() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending)+len(v.doubts) > 0 || v.lost || v.gap {
		v.turnForeign()
	}
}

// turnForeign wakes the following session; the lock is held.
func (v *volume) turnForeign() {
	if v.follow.foreign == nil {
		return
	}
	select {
	case v.follow.foreign <- struct{}{}:
	default:
	}
}

// followOnce connects, agrees on a common history and follows until the stream breaks.
func (v *volume) followOnce(ctx context.Context, o *opened, role Role) error {
	conn, err := v.e.o.Dial(ctx, role.Master, wire.ServiceFollow)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// From here on a local change is foreign: it belongs to no reign of this node's.
	if err := v.endOwnReign(ctx, o); err != nil {
		return err
	}
	if err := writeJSON(conn, wire.FrameHello, wire.Hello{Volume: v.c.Name, Reign: role.Reign, History: o.journal.History()}); err != nil {
		return err
	}
	var welcome wire.Welcome
	if err := readJSON(conn, wire.FrameWelcome, &welcome); err != nil {
		return err
	}
	if welcome.Reign.Term > role.Reign.Term { // not to be made durable: no master could ever be above it
		return corrupt(fmt.Errorf("welcome to reign %v, asked for %v", welcome.Reign, role.Reign))
	}
	if err := v.accept(welcome.Reign.Term); err != nil {
		return err
	}
	s := v.newSession(conn, o, welcome.Reign)
	ready, err := v.agree(o, welcome)
	if err != nil {
		return local(err)
	}
	if err := v.proveGiven(o, &ready); err != nil {
		return local(err)
	}
	if err := writeJSON(conn, wire.FrameReady, ready); err != nil {
		return err
	}
	v.setFollow(func(f *followState) {
		f.up, f.link, f.reason, f.heard, f.lost, f.poke = true, conn.Link(), "", time.Now(), time.Time{}, s.sealed
	})
	return s.run(ctx)
}

// accept makes the master's term durable. Where this node's disk refuses that,
// the volume does not work here, and a full disk's trash goes first.
func (v *volume) accept(t cluster.Term) error {
	err := v.e.o.Terms.Accept(t)
	switch problem.KindOf(err) {
	case problem.StaleTerm, problem.Corrupt: // the master's fault
		return err
	}
	v.fail(v.makeRoom(err))
	return err
}

// endOwnReign closes the journal of a reign of this node's, with what it wrote on the disk.
func (v *volume) endOwnReign(ctx context.Context, o *opened) error {
	if err := v.stopRecording(ctx, o); err != nil {
		return err
	}
	return v.syncOwn(o)
}

// stopRecording has nothing more journaled under a reign of this node's. What was written
// before this moment belongs to that reign, even if its notification is still
// unread: without the drain, a change made just before a freeze would be
// replaced by the master's before anybody knew of it.
func (v *volume) stopRecording(ctx context.Context, o *opened) error {
	v.mu.Lock()
	own := v.mode == record
	v.mu.Unlock()
	if !own {
		return nil
	}
	if err := o.watcher.Drain(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.take(o, collect)
	return nil
}

// syncOwn: what this node wrote itself must be on the disk before its journal goes on with another's reign.
// It takes as long as the disk has dirty pages, whoever wrote them.
func (v *volume) syncOwn(o *opened) error {
	if !v.ownUnsynced(o) {
		return nil
	}
	return local(markDurable(o))
}

func (v *volume) ownUnsynced(o *opened) bool {
	return o.journal.History().Reign().Owner == v.e.o.Node && o.journal.Durable().Compare(o.journal.Position()) < 0
}

// agree brings this node to the last position that it shares with the master.
func (v *volume) agree(o *opened, w wire.Welcome) (wire.Ready, error) {
	o.applying.Lock()
	defer o.applying.Unlock()
	o.applier.Abort()
	ready := wire.Ready{}
	plan := w.Plan
	if plan.Tail && plan.Known {
		tail, err := o.journal.Tail(plan.From, apply.MaxTail)
		switch {
		case errors.Is(err, journal.ErrTrimmed):
			ready.Unknown, plan.Action = true, reconcile.Compare
		case err != nil:
			return ready, err
		default:
			owner := o.journal.History().Reign().Owner
			set, err := o.applier.SetAside(plan.From, tail, owner, apply.WhyUnreceived)
			if err != nil {
				return ready, fmt.Errorf("set changes aside: %w", err)
			}
			v.log.Warn("changes that the master never received are kept aside", "changes", len(tail), "set", set.Name(), "behind", plan.From,
				"hint", "revolve divergent list")
		}
	}
	if err := o.applier.OweGiven(w.Reign.Owner, plan.Action == reconcile.Compare); err != nil {
		return ready, err
	}
	owed := o.journal.Owed()
	for _, d := range owed.List() {
		if d.Tree {
			o.applier.Unsure(d.Path)
		}
	}
	if plan.Action == reconcile.Compare {
		v.mu.Lock()
		replica := v.replica // its files came from the cluster: what differs is old
		v.mu.Unlock()
		if !plan.Known && !replica || ready.Unknown {
			if err := o.applier.Strange(); err != nil {
				return ready, err
			}
		}
		if err := o.journal.Adopt(w.History, append(owed.List(), reconcile.Debt{Tree: true})); err != nil {
			return ready, err
		}
		o.applier.Abort()
		owed = o.journal.Owed()
		v.log.Info("comparing the whole volume with the master", "from", w.History.End())
	}
	ready.From = o.journal.Position()
	ready.Owed = debtsOf(owed.List())
	return ready, nil
}

// proveGiven tells of what is only asked again what it is here: most of it does not have to come.
func (v *volume) proveGiven(o *opened, ready *wire.Ready) error {
	o.applying.Lock()
	defer o.applying.Unlock()
	return o.applier.Prove(ready.Owed)
}

// maxDebtBytes bounds the debts told one by one, well below a frame. More are
// told as the whole tree: the comparison honours each of them all the same.
const maxDebtBytes = 768 << 10

// debtBytes is about what a debt takes in a frame besides its path, with a sum: JSON.
const debtBytes = 96

func debtsOf(list []reconcile.Debt) []wire.Debt {
	bytes := 0
	for _, d := range list {
		bytes += (len(d.Path)+2)/3*4 + debtBytes
	}
	if bytes > maxDebtBytes {
		return []wire.Debt{{Tree: true}}
	}
	return debts(list)
}

// foreignQuiet is the least time between two warnings about foreign writes.
const foreignQuiet = time.Minute

// foreign sets aside what was written on this standby by others than revolve,
// and asks the master for those paths.
func (s *session) foreign() error {
	v := s.v
	v.mu.Lock()
	events, lost, doubts := v.pending, v.lost || v.gap, v.doubts
	v.pending, v.written, v.bytes, v.lost, v.gap, v.doubts = nil, nil, 0, false, false, nil
	v.asideLocked(events)
	v.mu.Unlock()
	if err := s.setForeignAside(events, lost, doubts); err != nil {
		v.putBack(events, lost, doubts)
		return local(err)
	}
	if len(events) > 0 && time.Since(s.warned) > foreignQuiet {
		s.warned = time.Now()
		v.log.Warn("files were written on a standby; they are kept aside and the master's come back", "events", len(events), "first", events[0].String(),
			"hint", "revolve divergent list; write through the VIP's node")
	}
	return s.sendWants()
}

func (s *session) setForeignAside(events []watch.Event, lost bool, doubts []string) error {
	var debts []reconcile.Debt
	if lost {
		doubts = []string{""}
	}
	for _, dir := range doubts {
		s.o.applier.Doubt(dir)
		debts = append(debts, reconcile.Debt{Path: dir, Tree: true})
	}
	events, err := s.withOtherNames(s.asTheyAre(events))
	if err != nil {
		return err
	}
	changed := map[string]bool{} // directories that something was written in: a rename carries it along
	for _, e := range events {
		for dir := tree.Parent(e.Path); dir != "" && !changed[dir]; dir = tree.Parent(dir) {
			changed[dir] = true
		}
		if e.Path == "" {
			continue // the root's own metadata: the master's comes with the next comparison
		}
		if err := s.foreignOne(e, changed); err != nil {
			return err
		}
		debts = append(debts, reconcile.Debt{Path: e.Path, Tree: e.Kind != watch.Dirty || e.Dir})
		if e.Old != "" {
			debts = append(debts, reconcile.Debt{Path: e.Old, Tree: true})
		}
	}
	if err := s.o.applier.Owe(debts); err != nil {
		return err
	}
	for _, d := range debts {
		if d.Tree {
			s.wantTree(d.Path)
		} else {
			s.wants.Names = append(s.wants.Names, []byte(d.Path))
		}
	}
	return nil
}

// asTheyAre are the events under the names that their files have by now: the master may have renamed a
// directory above them meanwhile. What turns out to be an echo of this node's own changes is left out.
func (s *session) asTheyAre(events []watch.Event) []watch.Event {
	now := make([]watch.Event, 0, len(events))
	for _, e := range events {
		if e.Kind != watch.Removed && e.Path != "" {
			e.Path = s.o.applier.Now(e.Path)
		}
		if s.o.echoes() && s.v.ownApply(e) {
			continue
		}
		now = append(now, e)
	}
	return now
}

// withOtherNames adds the names that were changed along with those that were used.
func (s *session) withOtherNames(events []watch.Event) ([]watch.Event, error) {
	var paths []string
	for _, e := range events {
		if e.Path != "" {
			paths = append(paths, e.Path)
		}
	}
	also, err := s.o.applier.OtherNames(paths)
	if err != nil {
		return nil, err
	}
	for _, name := range also {
		events = append(events[:len(events):len(events)], watch.Event{Kind: watch.Dirty, Path: name})
	}
	return events, nil
}

func (s *session) foreignOne(e watch.Event, changed map[string]bool) error {
	switch e.Kind {
	case watch.Removed:
		return s.aside.Note("removed", e.Path, "")
	case watch.Renamed, watch.Dirty:
		return s.o.applier.KeepForeign(s.aside, e.Path, e.Tree || changed[e.Old])
	}
	return nil
}
