package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

const (
	// commitOps and commitBytes: a follower with more waiting data behind a batch goes on reading until this much is staged, and commits once for all.
	commitOps   = 4096
	commitBytes = 64 << 20
	// silence: a source pings every 200 ms; this much silence means that it or the way is gone.
	silence = 3 * time.Second
)

// errEnd says that the source has sent all (pull).
var errEnd = errors.New("mirror: the source has sent all")

// session is one incoming stream: a standby's from its master, or a new
// master's from a survivor.
type session struct {
	v     *volume
	o     *opened
	conn  Conn
	dial  func(ctx context.Context) (Conn, error) // the second connection
	reign cluster.Reign

	pulling bool
	drain   func(ctx context.Context) error // has all notifications read

	// The applier's lock (opened.applying) guards what follows, and writing to conn.
	batches uint64 // received and not yet committed
	queued  int    // answers that are written and not yet sent
	partial bool   // operations came since the last Batch
	anew    bool   // a tree is staged that the journal does not owe yet
	compare map[uint64]*apply.Comparison
	wants   wire.Wants
	aside   *apply.Set // what others wrote here; pulling: what a survivor has in the place of that
	warned  time.Time
	said    wire.Said
	saidAt  time.Time
	sealed  chan struct{}
	flown   chan struct{} // holds one token when something is published and not yet durable
	offered chan struct{} // closed at the first large file: the second connection is needed
	opening bool
	first   cluster.Position // what the source had at its first ping
	second  Conn             // nil while there is none
	ending  atomic.Bool      // a pull: the source has sent all over the first one
}

func (v *volume) newSession(conn Conn, o *opened, reign cluster.Reign) *session {
	return &session{
		v: v, o: o, conn: conn, reign: reign,
		dial:    func(ctx context.Context) (Conn, error) { return v.e.o.Dial(ctx, conn.Peer(), wire.ServiceBulk) },
		drain:   func(ctx context.Context) error { return o.watcher.Drain(ctx) },
		aside:   apply.NewSet(o.root, v.e.o.Node, reign.Term, apply.WhyForeign, time.Now()),
		compare: map[uint64]*apply.Comparison{},
		sealed:  make(chan struct{}, 1), flown: make(chan struct{}, 1), offered: make(chan struct{}),
	}
}

// run takes what the source sends until the stream ends.
func (s *session) run(ctx context.Context) error {
	s.o.applying.Lock()
	s.o.applier.From(s.conn.Peer())
	s.o.applying.Unlock()
	if err := s.guard(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.receive() })
	g.Go(func() error { return s.between(ctx) })
	g.Go(func() error { return s.settling(ctx) })
	g.Go(func() error { return s.bulk(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		s.conn.Close()
		return nil
	})
	err := g.Wait()
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	s.o.applier.Abort()
	return errors.Join(err, s.o.applier.Guard(nil))
}

// guard has the applier tell what others write here from what it applies itself. What they wrote before is
// known when it begins: to a new master as the first changes of its reign, to a standby as foreign.
func (s *session) guard(ctx context.Context) error {
	s.o.applying.Lock()
	known, err := s.o.applier.Clock()
	s.o.applying.Unlock()
	if err != nil {
		return s.localOr(err)
	}
	if err := s.drain(ctx); err != nil { // what is written from here on may be told later
		return err
	}
	s.v.turnIfForeign() // a stream that ended may have taken the token and left what waits
	g := &apply.Guard{Known: known, Stays: s.pulling, Moved: s.v.moved, Put: s.v.putHere, Waits: func(rel string, have tree.Meta) bool { return s.v.waits(rel) || s.o.missed(rel, have) }}
	if s.pulling {
		g.Waits = func(rel string, _ tree.Meta) bool { return s.v.writtenHere(rel) }
	}
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	g.Set = s.aside
	s.v.renamedSince(s.o.applier.Now)
	return s.localOr(s.o.applier.Guard(g))
}

func (s *session) receive() error {
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		kind, payload, err := s.conn.Read()
		if err != nil {
			return err
		}
		if err := s.frame(kind, payload); errors.Is(err, errRest) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.sendQueued(); err != nil {
			return err
		}
	}
}

// maxQueued is how many answers to lists leave together, if more lists are here already: a record and a wake-up of the source for each
// would cost as much as a third of the comparing. Few enough that the source does not wait for them.
const maxQueued = 16

// sendQueued sends the answers that wait, unless there will be more in a moment.
func (s *session) sendQueued() error {
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	if s.queued == 0 || s.queued < maxQueued && s.conn.Buffered() > 0 {
		return nil
	}
	s.queued = 0
	return s.conn.Flush()
}

func (s *session) frame(kind byte, payload []byte) error {
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	switch kind {
	case wire.FrameOp:
		op, err := wire.DecodeOp(payload)
		if err != nil {
			return corrupt(err)
		}
		if op.Kind == wire.OpBegun && cluster.Term(op.ID) > s.reign.Term {
			return corrupt(fmt.Errorf("reign of term %d begins in a stream of reign %v", op.ID, s.reign))
		}
		s.partial = true
		s.anew = s.anew || s.o.applier.OwesAnew(op)
		return s.localOr(s.o.applier.Stage(op))
	case wire.FrameBatch:
		b, err := wire.DecodeBatch(payload)
		if err != nil {
			return corrupt(err)
		}
		if b.Term != s.reign.Term {
			return corrupt(fmt.Errorf("batch of term %d in a stream of reign %v", b.Term, s.reign))
		}
		s.partial = false
		s.batches++
		ops, bytes := s.o.applier.Pending()
		if s.conn.Buffered() > 0 && ops < commitOps && bytes < commitBytes && !s.anew {
			return nil // more is here already: commit once for all of it
		}
		return s.publish()
	case wire.FrameList:
		l, err := wire.DecodeList(payload)
		if err != nil {
			return corrupt(err)
		}
		return s.list(l)
	case wire.FrameTreeEnd:
		return s.treeEnd(payload)
	case wire.FramePing:
		var p wire.Ping
		if err := json.Unmarshal(payload, &p); err != nil {
			return corrupt(err)
		}
		if !s.pulling { // a survivor's only says that it lives
			s.pinged(p)
			s.behind(p.Head)
			if err := s.say(); err != nil {
				return err
			}
		}
		if err := s.o.applier.Idle(); err != nil {
			return s.localOr(err)
		}
		return s.commitIfWhole()
	case wire.FrameEnd:
		if err := s.commitIfWhole(); err != nil {
			return err
		}
		return s.end()
	}
	return corrupt(fmt.Errorf("unexpected frame %d", kind))
}

func corrupt(err error) error {
	return &problem.Problem{Op: "read stream", Kind: problem.Corrupt, Err: err}
}

// localOr marks an applier's error as this node's own: its disk is full, gone or read-only.
func (s *session) localOr(err error) error {
	if err == nil {
		return nil
	}
	return local(&problem.Problem{Op: "apply to volume", Kind: kindOf(err), Subject: s.v.c.Path, Err: err,
		Hint: "make space or make the volume writable; revolve goes on by itself and nothing is lost"})
}

// commitIfWhole commits what is staged if it ends with a batch.
func (s *session) commitIfWhole() error {
	if s.partial || s.batches == 0 {
		return nil
	}
	return s.commit()
}

// behind has the applier know when this session has brought what the source had at its first ping. Where that stands
// later does not matter: under load nobody ever has what it has that moment.
func (s *session) behind(head cluster.Position) {
	caught := false
	if s.first, caught = reached(s.first, head, s.o.journal.Position()); caught {
		s.o.applier.CaughtUp()
	}
}

// reached is where the source stood at first, and whether this node is as far; head is where it stands now, if that was said.
func reached(first, head, here cluster.Position) (cluster.Position, bool) {
	none := cluster.Position{}
	if first == none {
		first = head
	}
	return first, first != none && here.Compare(first) >= 0
}

// commit makes everything staged durable and acknowledges it. The term is
// checked here, at the receiver, for every commit (promise P3).
func (s *session) commit() error {
	if err := s.commitStaged(); err != nil {
		return err
	}
	if len(s.wants.IDs) > 0 && !s.opening {
		s.opening = true
		close(s.offered)
	}
	if err := s.sendWants(); err != nil {
		return err
	}
	s.behind(cluster.Position{})
	done := s.o.applier.TakeLanded() + s.batches
	s.batches = 0
	return s.acknowledge(done)
}

// commitStaged does that, and gathers what is to be asked for.
func (s *session) commitStaged() error {
	if err := s.current(); err != nil {
		return err
	}
	s.o.applier.StageReady()
	if err := s.o.applier.Commit(); err != nil {
		return s.localOr(err)
	}
	s.anew = false
	trees, ids, have := s.o.applier.TakeMissed()
	s.wants.Have = append(s.wants.Have, have...)
	s.wants.Trees = append(s.wants.Trees, trees...)
	s.wants.Names = append(s.wants.Names, s.o.applier.TakeNames()...)
	s.wants.IDs = append(s.wants.IDs, ids...)
	return nil
}

func (s *session) wantTree(path string) { s.wants.Trees = append(s.wants.Trees, []byte(path)) }

// sendWants asks for what has come together.
func (s *session) sendWants() error {
	if len(s.wants.Trees)+len(s.wants.Names)+len(s.wants.IDs) == 0 {
		return nil
	}
	b, err := json.Marshal(s.wants)
	if err != nil {
		return err
	}
	s.wants = wire.Wants{}
	return errors.Join(s.conn.Write(wire.FrameWants, b), s.conn.Flush())
}

func (s *session) list(l wire.List) error {
	c := s.compare[l.Job]
	if c == nil {
		// A list is compared at once: what came before it and is only staged must be in the tree.
		if err := s.commitIfWhole(); err != nil {
			return err
		}
		c = s.o.applier.Compare(l.Job)
		s.compare[l.Job] = c
	}
	names, err := c.List(l)
	if err != nil {
		return s.localOr(err)
	}
	b, err := json.Marshal(wire.Wants{Job: l.Job, Dir: []byte(l.Dir), Names: names, Sums: c.Sums(l.Dir, names)})
	if err != nil {
		return err
	}
	s.queued++
	return s.conn.Write(wire.FrameWants, b)
}

func (s *session) treeEnd(payload []byte) error {
	id, _, err := wire.DecodeID(payload)
	if err != nil {
		return corrupt(err)
	}
	c := s.compare[id]
	if c == nil {
		c = s.o.applier.Compare(id)
	}
	delete(s.compare, id)
	if err := s.commitIfWhole(); err != nil { // its files first: they touch the directories' times
		return err
	}
	result, err := c.End()
	if err != nil {
		return s.localOr(err)
	}
	return writeJSON(s.conn, wire.FrameCompared, result)
}

// foreignDelay is how long a local change on a standby is left alone before it
// counts as foreign. A node that has just become master gets its first writes a
// moment before it knows: they are not foreign, and this session ends by then.
const foreignDelay = time.Second

// between does what is not started by a frame: publishing large files that are
// complete, and setting foreign changes aside.
func (s *session) between(ctx context.Context) error {
	s.v.mu.Lock()
	foreign := s.v.follow.foreign
	s.v.mu.Unlock()
	if s.pulling {
		foreign = nil
	}
	var due <-chan time.Time
	strangers := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.sealed:
		case <-foreign:
			due = time.After(foreignDelay)
			continue
		case <-due:
			due = nil
			strangers = true
		}
		err := s.betweenOnce(strangers)
		strangers = false
		if err != nil {
			return err
		}
	}
}

func (s *session) betweenOnce(foreign bool) error {
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	if foreign {
		if err := s.foreign(); err != nil {
			return err
		}
	}
	if s.ending.Load() {
		return s.commitRest()
	}
	if s.partial {
		return nil // the batch's end will publish it
	}
	return s.commitPaid()
}

// commitPaid publishes finished transfers, and tells the source in an
// acknowledgement of no batch when the last debt is paid.
func (s *session) commitPaid() error {
	before := s.o.journal.OwedLen()
	if err := s.commit(); err != nil {
		return err
	}
	if after := s.o.journal.OwedLen(); after != before {
		ack := wire.Ack{Pos: s.o.journal.Position(), Owed: uint64(after)}
		return errors.Join(s.conn.Write(wire.FrameAck, ack.Append(nil)), s.conn.Flush())
	}
	return nil
}

func (s *session) pinged(p wire.Ping) {
	v := s.v
	v.mu.Lock()
	defer v.mu.Unlock()
	v.follow.head, v.follow.lag, v.follow.heard = p.Head, time.Duration(p.LagMS)*time.Millisecond, time.Now()
	v.follow.insync = p.InSync
	if p.InSync {
		v.known = true
	}
	if len(p.Report) > 0 {
		v.follow.report = append(json.RawMessage(nil), p.Report...)
	}
}
