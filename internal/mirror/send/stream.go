// Package send streams one volume's changes to one follower: it reads the
// journal behind the follower's position, looks at the state of each path now,
// and sends that.
//
// The journal holds names in order, the files hold the present. Between the two
// a file may have been renamed, replaced or removed: everything in here that
// looks complicated is about never sending the present of one file under the
// past name of another. Three rules do it. A path that a later record of the
// backlog renames is read under its last name only (later.go). A path that
// cannot be read now stays owed until a record says what became of it. And when
// a rename is sent, what was recently sent under the old name must still be the
// same inode (recent.go).
//
// It never writes to the volume and never decides who may follow.
package send

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/pace"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	// backlogMax and backlogBytes are how many records are held at once, and of how long paths; a follower further
	// behind compares trees, which is cheaper then. With the index of their names, 64 MiB for one follower.
	backlogMax   = 200_000
	backlogBytes = 32 << 20
	// batchRecords and batchBytes bound one batch: the follower commits it as a whole.
	batchRecords = 512
	batchBytes   = 8 << 20
	// windowBatches and windowBytes bound what is under way unacknowledged: a follower shows batches before it has them on its disk.
	windowBatches = 1024
	windowBytes   = 64 << 20
	// windowLists bounds the unanswered List frames; a frame in each direction per list keeps the answers below inbox.
	// While a follower commits it answers none: what is listed ahead is what its next commit can hold.
	windowLists = 64
	inbox       = 128
	// pingEvery is how often a follower hears where the master stands.
	pingEvery = 200 * time.Millisecond
	// aheadLast is how long after a comparison records may come of what happened before it, if nobody says when they
	// have come: the watcher settles for up to 2 s. aheadRests is for a rename that was seen while its system call was
	// still under way: after that the watcher is asked (ahead.go).
	aheadLast  = 10 * time.Second
	aheadRests = time.Second
	// readTries: a file that changes this often while it is read stays owed and is tried again later.
	readTries = 3
)

// ErrTooFarBehind says that the follower must compare trees.
var ErrTooFarBehind = errors.New("send: the follower is too far behind for its backlog to be held")

// Conn is what a stream needs of a connection.
type Conn interface {
	Read() (kind byte, payload []byte, err error)
	Write(kind byte, parts ...[]byte) error
	Flush() error
	Close() error
}

// Options say what a Stream sends.
type Options struct {
	Root     *tree.Root
	Journal  *journal.Journal
	Excluded func(rel string) bool
	Links    *links.Finder     // the names of inodes with several; nil: each name is sent as a file of its own
	Versions *Versions         // of large files; nil: they are always sent whole
	Reads    *Reads            // shared with the volume's other streams; nil: this one reads for itself
	Reign    cluster.Reign     // in whose name
	Until    *cluster.Position // end there, and with the answers to what is owed (pull); nil: follow for ever
	Owed     reconcile.Owed    // by the source itself, under the names of Until (pull)
	Extras   wire.Extras       // what a first comparison does with extra names
	Compare  bool              // begin with a comparison of the whole tree
	Shared   cluster.Position  // the last position of which both know the changes
	Ping     func(acked cluster.Position) wire.Ping
	Drain    func(ctx context.Context) error // returns when every change made so far is journaled; nil: nobody writes here
	Acked    func(p cluster.Position)        // told of every acknowledgement; may be nil
	Pacer    *Pacer                          // of the link; nil: no limit
	Log      *slog.Logger
}

// State is what is known of a follower.
type State struct {
	Acked   cluster.Position // everything up to here is durable there
	Settled cluster.Position // the same, and nothing that a record up to here made necessary besides is still to come
	Owed    uint64           // except this many paths
	Pending int              // records read and not yet acknowledged
	Busy    bool             // a comparison of trees is under way
	Began   time.Time        // when that comparison began
	Said    wire.Said        // what the follower says of itself
	LastAck time.Time
}

// Stream sends to one follower.
type Stream struct {
	o    Options
	conn Conn
	in   chan frame

	mu    sync.Mutex // guards what State and the bulk connection read
	state State
	big   bulk
	meter meter

	reader  *journal.Reader
	taker   *taker           // of what other streams have read
	backlog []journal.Record // read and not yet sent
	held    int              // bytes of its paths
	later   later
	absent  reconcile.Owed // cannot be read under any name now; the follower owes them once told
	untold  []string       // of these, what the next batch has to say
	told    map[string]time.Time
	looking map[string]bool  // of those, the ones whose inode's other names are looked for
	scan    <-chan struct{}  // closed when the search ends that they wait for; nil: none is under way
	grouped map[uint64]int64 // inodes with several names that this batch holds, and their ctime
	recent  recent
	proof   proof
	dir     *tree.Held       // the directory of which a list is being answered, nil: none is held open
	inside  string           // its path when it was opened
	trees   []treeJob        // comparisons to make between batches
	ahead   time.Time        // when the follower was last given the present of whole directories; zero: all that happened before is journaled
	asked   time.Time        // since when that is being asked for, zero if it is not
	suspect cluster.Position // renames of directories up to here may have happened to what was given then
	given   cluster.Position // where the journal was when the follower was last told something outside of its sequence

	jobs    uint64
	batch   uint64 // number of the batch being sent
	marks   []mark // end of every batch not yet acknowledged
	ops     int    // in the batch being sent
	bytes   int
	flown   int              // bytes of the batches not yet acknowledged
	pos     cluster.Position // of the last record sent
	lists   int              // unanswered List frames
	job     uint64           // the comparison whose end is awaited, 0 if none is
	over    *wire.Compared   // its end
	unpaid  *unpaid          // the comparison that is over and still owed, nil if none is
	ask     chan struct{}    // has Drain called
	heard   chan error       // and says what that returned
	scratch []byte
}

type frame struct {
	kind    byte
	payload []byte
}

type mark struct {
	batch uint64
	pos   cluster.Position
	sent  int // records
	bytes int
	extra bool // it holds answers: what was asked for, or compared, besides the records
}

type treeJob struct {
	path   string
	extras wire.Extras
	seq    uint64 // the journal's record, 0 if there is none
	ask    bool
	// settles: it has been compared, and all that came of that has been sent; it is to be paid.
	settles bool
	debt    bool   // the follower owes it: what is gone here may still have a rename to come
	sum     []byte // of what it has there, if it says so
}

// New prepares a stream from position from, with what the follower still owes.
func New(conn Conn, o Options, ready wire.Ready) (*Stream, error) {
	if err := ready.Check(); err != nil {
		return nil, err
	}
	reader, err := o.Journal.Reader(ready.From)
	if err != nil {
		return nil, err
	}
	s := &Stream{
		o: o, conn: Paced(conn, o.Pacer), in: make(chan frame, inbox), reader: reader, pos: ready.From,
		told: map[string]time.Time{}, looking: map[string]bool{}, grouped: map[uint64]int64{}, recent: newRecent(),
		big: newBulk(), ask: make(chan struct{}, 1), heard: make(chan error),
	}
	s.lookedAhead() // an earlier stream may have
	s.state = State{Acked: ready.From, Owed: uint64(len(ready.Owed)), LastAck: time.Now()}
	if o.Compare {
		s.trees = append(s.trees, treeJob{path: "", extras: o.Extras})
	}
	var last []treeJob // after the single paths, which may be set aside as well
	whole := o.Compare || slices.ContainsFunc(ready.Owed, func(d wire.Debt) bool { return d.Tree && len(d.Path) == 0 })
	for _, d := range ready.Owed {
		switch {
		case !d.Tree:
			// Before a comparison of everything, what is gone here is to be gone there too: it would count as extra.
			s.trees = append(s.trees, treeJob{path: string(d.Path), debt: !whole, sum: d.Sum})
		case len(d.Path) > 0:
			last = append(last, treeJob{path: string(d.Path), extras: wire.ExtrasTrash})
		case !o.Compare:
			// Owed as a whole: nobody watched over there, so what is extra there is explained by nothing.
			last = append(last, treeJob{extras: wire.ExtrasDivergent})
		}
	}
	s.trees = append(s.trees, last...)
	s.settle()
	return s, nil
}

// State returns what is known of the follower now.
func (s *Stream) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run sends until ctx ends, the connection breaks or Until is reached.
func (s *Stream) Run(ctx context.Context) error {
	defer s.reader.Close()
	s.taker = s.o.Reads.join()
	defer s.o.Reads.leave(s.taker)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.receive(ctx) })
	g.Go(func() error { return s.hearing(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		s.conn.Close() // ends a Read or Write that hangs
		return nil
	})
	g.Go(func() error {
		err := s.send(ctx)
		if err == nil {
			err = errDone
		}
		return err
	})
	if err := g.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

var errDone = errors.New("send: done")

func (s *Stream) receive(ctx context.Context) error {
	for {
		kind, payload, err := s.conn.Read()
		if err != nil {
			return err
		}
		select {
		case s.in <- frame{kind, append([]byte(nil), payload...)}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Stream) send(ctx context.Context) error {
	ping := time.NewTimer(untilPing(time.Now()))
	defer ping.Stop()
	if err := s.foretell(ctx); err != nil {
		return err
	}
	for {
		changed := s.o.Journal.Changed()
		wait := s.o.Pacer.wait(pace.Small, 0)
		if err := s.work(ctx, wait == 0); err != nil {
			return err
		}
		if s.finished() {
			return errors.Join(s.conn.Write(wire.FrameEnd), s.conn.Flush())
		}
		if err := s.conn.Flush(); err != nil {
			return err
		}
		if wait == 0 && s.mayGoOn() {
			continue
		}
		var may <-chan time.Time
		if wait > 0 {
			may = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-s.in:
			if err := s.handle(ctx, f); err != nil {
				return err
			}
		case err := <-s.heard:
			s.caughtUp(err)
		case <-changed:
		case <-may:
		case <-ping.C:
			ping.Reset(untilPing(time.Now()))
			if err := s.tick(); err != nil {
				return err
			}
		}
	}
}

// untilPing is how long it is until the next ping: all streams of a master send theirs at the same moments, for which it wakes once.
func untilPing(now time.Time) time.Duration {
	return pingEvery - time.Duration(now.UnixNano()%int64(pingEvery))
}

// mayGoOn reports whether there is something to do that waits for nobody.
func (s *Stream) mayGoOn() bool {
	switch {
	case len(s.trees) > 0:
		return true
	case s.holds():
		return len(s.marks) == 0
	}
	return len(s.backlog) > 0 && s.windowOpen()
}

// windowOpen reports whether another batch may go out.
func (s *Stream) windowOpen() bool { return len(s.marks) < windowBatches && s.flown < windowBytes }

// finished reports whether a pull has everything that it asked for.
func (s *Stream) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.o.Until != nil && s.pos.Compare(*s.o.Until) >= 0 && len(s.trees) == 0 && len(s.marks) == 0 && s.big.idle() && len(s.looking) == 0
}

// work does one piece: a comparison that is due, or a batch of the backlog; if it
// may not send now, it reads on only.
func (s *Stream) work(ctx context.Context, may bool) error {
	if !may {
		return s.readOn()
	}
	if len(s.trees) > 0 {
		job := s.trees[0]
		s.trees = s.trees[1:]
		return s.runTree(ctx, job)
	}
	if err := s.readOn(); err != nil {
		return err
	}
	if s.holds() {
		return s.release(ctx)
	}
	if len(s.backlog) == 0 && s.o.Until == nil {
		s.trees = append(s.trees, s.proof.take(time.Now())...)
	}
	if len(s.backlog) == 0 || !s.windowOpen() {
		return nil
	}
	return s.sendBatch()
}

// readOn takes what the journal has into the backlog.
func (s *Stream) readOn() error {
	for len(s.backlog) <= backlogMax && s.held <= backlogBytes {
		records, err := s.reader.Next(batchRecords)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			s.note(func(st *State) { st.Pending = len(s.backlog) + s.underway() })
			return nil
		}
		for _, r := range records {
			if s.o.Until != nil && r.Kind.IsChange() && r.Pos.Compare(*s.o.Until) > 0 {
				return nil
			}
			if r.Kind.IsChange() && time.Since(s.ahead) < aheadLast {
				s.suspectTo(r.Pos)
			}
			s.backlog = append(s.backlog, r)
			s.held += pathBytes(r)
			s.later.add(r)
		}
	}
	return ErrTooFarBehind
}

func pathBytes(r journal.Record) int { return len(r.Path) + len(r.Old) }

func (s *Stream) underway() (n int) {
	for _, m := range s.marks {
		n += m.sent
	}
	return n
}

func (s *Stream) note(change func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

// handle deals with one frame of the follower's.
func (s *Stream) handle(ctx context.Context, f frame) error {
	switch f.kind {
	case wire.FrameAck:
		ack, err := wire.DecodeAck(f.payload)
		if err != nil {
			return err
		}
		return s.acked(ack)
	case wire.FrameWants:
		var w wire.Wants
		if err := json.Unmarshal(f.payload, &w); err != nil {
			return err
		}
		return s.wanted(ctx, w)
	case wire.FrameCompared:
		var c wire.Compared
		if err := json.Unmarshal(f.payload, &c); err != nil {
			return err
		}
		if s.job == 0 || c.Job != s.job || s.over != nil || len(c.Sample) > wire.MaxSample {
			return fmt.Errorf("send: the end of comparison %d, which nobody waits for", c.Job)
		}
		s.over = &c
		return nil
	case wire.FrameSaid:
		said := &wire.Said{}
		if err := errors.Join(json.Unmarshal(f.payload, said), said.Check()); err != nil {
			return err
		}
		s.note(func(st *State) { st.Said = *said })
		return nil
	}
	return fmt.Errorf("send: unexpected frame %d", f.kind)
}

// ping tells the follower where the source stands, and that it lives.
func (s *Stream) ping() error {
	if s.o.Ping == nil {
		return nil
	}
	b, err := json.Marshal(s.o.Ping(s.State().Acked))
	if err != nil {
		return err
	}
	return errors.Join(s.conn.Write(wire.FramePing, b), s.conn.Flush())
}
