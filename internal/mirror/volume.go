package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/exclude"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/problem"
)

const (
	// retryLeast and retryMost bound the pause before a failed volume, stream or connection is tried again.
	retryLeast = 20 * time.Millisecond
	retryMost  = time.Second
	// maxPending bounds the local changes remembered while nobody may journal them; beyond it the whole tree is compared.
	maxPending = 100_000
	// maxPendingBytes bounds their paths.
	maxPendingBytes = 16 << 20
	// maxMarks bounds the samples of "position p was reached at time t" from which lag is told.
	maxMarks = 4096
)

// volume is one volume of this node.
type volume struct {
	e   *Engine
	c   VolumeConfig
	log *slog.Logger

	exclude exclude.List

	turned chan struct{} // holds one token when the role may have changed
	longAt atomic.Int64  // when tooLong warned last, ns since the epoch

	mu       sync.Mutex
	open     *opened // nil while the volume is not open
	mode     mode
	pending  []watch.Event   // local changes that are not journaled
	written  map[string]bool // paths of pending; true: with all that is below
	lost     bool            // pending overflowed
	bytes    int             // of paths in pending
	aside    []watch.Event   // lately treated as foreign; part of the next reign of this node's all the same
	asideAt  time.Time       // of the last of them
	gap      bool            // the volume broke: nobody watched until it was opened again
	replica  bool            // the tree was a replica before, but this node's state knows nothing of it
	doubts   []string        // directories whose names changed while nobody watched
	known    bool            // the watcher has run since this tree was last known to equal its journal
	marks    []mark
	streams  map[cluster.NodeID]*follower
	lags     map[cluster.NodeID]*lagHistory
	compare  map[cluster.NodeID]bool // must compare trees at the next connection
	rejoined []string                // paths set aside here before this node's reign, which begin tells of
	leading  cluster.Reign           // zero unless streams are served
	leadCtx  context.Context
	follow   followState
	problem  string // why the volume does not work; "" if it does
	paused   *Pause // it waits for a person; part of problem
	counter  apply.Counter
	applied  apply.Stats // last known; the applier is busy while it commits
	since    time.Time
	prover   prover
	live     LiveSet // of the last look

	broken, ended, bulk, again complaint // log lines about the volume, its stream, its second connection, and standbys that reconnect
}

// opened is what exists while the volume works.
type opened struct {
	root    *tree.Root
	journal *journal.Journal
	watcher Watcher
	links   *links.Finder
	// versions are clones of what was sent lately.
	versions *send.Versions
	reads    *send.Reads
	since    time.Time // everything that was published here before is journaled
	written  time.Time // the journal's last write: nobody watched from here
	until    time.Time // to here
	// unclean, flown, scanned and unproven: it stopped uncleanly as a standby, and what is not known to be whole since (the volume's lock guards the last).
	unclean  bool
	flown    map[string]journal.Flying
	scanned  chan struct{} // closed when the search for what nobody watched is over
	found    bool          // afterStop has done that search, and more
	unproven unproven
	// applying guards the applier: a following or pulling session holds it while it writes.
	applying sync.Mutex
	applier  *apply.Applier
	pruner   *apply.Pruner
}

type mode uint8

const (
	collect mode = iota // local changes are remembered: foreign on a standby, first changes of a reign on a new master
	record              // local changes are journaled: this node's reign is the journal's last
)

type mark struct {
	pos cluster.Position
	at  time.Time
}

type follower struct {
	ctx     context.Context // ends with the stream
	stop    context.CancelFunc
	stream  *send.Stream
	since   time.Time
	insync  bool
	link    cluster.LinkID
	changed time.Time // when acknowledgements last moved
	acked   cluster.Position
}

func newVolume(e *Engine, c VolumeConfig) (*volume, error) {
	list, err := exclude.Parse(c.Exclude)
	if err != nil {
		return nil, &problem.Problem{Op: "read the patterns of volume", Kind: problem.Invalid, Subject: string(c.Name), Err: err, Hint: "revolve config check"}
	}
	return &volume{
		e: e, c: c, exclude: list, log: e.o.Log.With("volume", c.Name), turned: make(chan struct{}, 1),
		streams: map[cluster.NodeID]*follower{}, compare: map[cluster.NodeID]bool{}, lags: map[cluster.NodeID]*lagHistory{}, since: time.Now(),
		prover: prover{order: make(chan Proving, 1)},
	}, nil
}

func (v *volume) turn() {
	select {
	case v.turned <- struct{}{}:
	default:
	}
}

// excluded says which paths are none of ours.
func (v *volume) excluded(rel string) bool {
	if tree.IsHidden(rel) {
		return true
	}
	if len(rel) >= tree.MaxPath {
		v.tooLong(rel)
		return true
	}
	return v.exclude.Match(rel)
}

// longQuiet is the least time between two warnings about paths that are too long.
const longQuiet = time.Hour

// tooLong warns of a path that no node can be told of: every system call takes 4,095 bytes at most.
func (v *volume) tooLong(rel string) {
	now := time.Now().UnixNano()
	if last := v.longAt.Load(); now-last < int64(longQuiet) && last != 0 || !v.longAt.CompareAndSwap(last, now) {
		return
	}
	v.log.Warn("a path is too long to be mirrored", "bytes", len(rel), "most", tree.MaxPath-1, "begins", rel[:longShown], "hint", "move it up; it is on this node only")
}

// longShown is how much of such a path is shown.
const longShown = 200

// supervise runs the volume again and again until ctx ends.
func (v *volume) supervise(ctx context.Context) error {
	wait := retryMost
	for {
		err := v.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		v.fail(v.makeRoom(err))
		v.mu.Lock()
		v.gap = true
		v.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// fail notes, and logs once per reason, why the volume does not work.
func (v *volume) fail(err error) {
	text := ""
	if err != nil {
		text = err.Error()
		if hint := problem.HintOf(err); hint != "" {
			text += "; " + hint
		}
	}
	v.mu.Lock()
	if v.problem != text {
		v.since = time.Now()
	}
	v.problem = text
	if err == nil {
		v.broken.over()
	}
	say := err != nil && v.broken.due(time.Now(), text)
	v.mu.Unlock()
	if say {
		v.log.Error("the volume does not work", "err", err, "hint", problem.HintOf(err))
	}
}

// run opens the volume and works until ctx ends or something breaks.
func (v *volume) run(ctx context.Context) (err error) {
	o, err := v.openAll()
	if err != nil {
		return err
	}
	clean := false
	defer func() {
		v.mu.Lock()
		v.open = nil
		own := v.mode == record
		v.mu.Unlock()
		if clean && own { // an orderly end says that everything is on the disk
			clean = markDurable(o) == nil
		}
		if clean {
			v.leave(o)
		}
		o.versions.Close()
		err = errors.Join(err, o.watcher.Close(), o.journal.Close(clean), o.root.Close())
	}()
	g, gctx := errgroup.WithContext(ctx)
	told := false
	wctx, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		err := o.watcher.Run(wctx, v.events)
		if err == nil && gctx.Err() == nil {
			err = v.rootLost()
		}
		return err
	})
	g.Go(func() error {
		defer unwatch()
		<-gctx.Done()
		told = v.watchToTheEnd(ctx, o) == nil
		return nil
	})
	g.Go(func() error { return v.roles(gctx, o) })
	g.Go(func() error { return v.keepDurable(gctx, o) })
	g.Go(func() error { return v.keepMarking(gctx, o) })
	g.Go(func() error { return v.unwatched(gctx, o) })
	g.Go(func() error { return v.keepTrash(gctx, o) })
	g.Go(func() error { return v.proofs(gctx, o) })
	g.Go(func() error { return v.sweeps(gctx, o) })
	g.Go(func() error { return local(o.links.Run(gctx, v.alsoChanged)) })
	err = g.Wait()
	if ctx.Err() != nil {
		clean, err = told, nil
	}
	return err
}

// leave keeps for the next start what only this process knows; without it more is sent again.
func (v *volume) leave(o *opened) {
	o.applying.Lock()
	defer o.applying.Unlock()
	if err := o.applier.Leave(); err != nil {
		v.log.Warn("where files came from is not written for the next start", "err", err)
	}
}

// lastDrain bounds the wait for what the kernel has still to tell when the agent ends in order.
const lastDrain = 2 * time.Second

// watchToTheEnd journals what was written until an orderly end, or sets it aside: after it nobody looks for it.
func (v *volume) watchToTheEnd(ctx context.Context, o *opened) error {
	if ctx.Err() == nil { // something failed: what is not journaled is looked for at the next opening
		return nil
	}
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastDrain)
	defer cancel()
	if err := o.watcher.Drain(dctx); err != nil {
		return err
	}
	v.mu.Lock()
	own, events, lost, doubts := v.mode == record, v.pending, v.lost || v.gap, v.doubts
	v.mu.Unlock()
	if own || len(events)+len(doubts) == 0 && !lost {
		return nil
	}
	// Nothing would tell of a removal later, nor that nobody watched for a while.
	reign := o.journal.History().Reign()
	s := &session{v: v, o: o, reign: reign, aside: apply.NewSet(o.root, v.e.o.Node, reign.Term, apply.WhyForeign, time.Now())}
	o.applying.Lock()
	defer o.applying.Unlock()
	return s.setForeignAside(events, lost, doubts)
}

func (v *volume) openAll() (o *opened, err error) {
	o = &opened{}
	if o.root, err = tree.Open(v.c.Path); err != nil {
		return nil, v.noRoot(err)
	}
	var found journal.Opened
	fail := func(err error) (*opened, error) {
		if o.journal != nil {
			err = errors.Join(err, o.journal.Close(false))
		}
		if o.watcher != nil {
			err = errors.Join(err, o.watcher.Close())
		}
		return nil, errors.Join(err, o.root.Close())
	}
	if err = v.identify(o.root); err != nil {
		return fail(err)
	}
	v.mu.Lock()
	v.paused = nil
	v.mu.Unlock()
	if o.journal, found, err = journal.Open(v.e.journalDir(v.c.Name)); err != nil {
		return fail(err)
	}
	o.watcher, err = v.e.o.watch(watch.Options{Root: v.c.Path, Ignore: v.excluded})
	if err != nil {
		return fail(err)
	}
	o.versions, o.reads = send.NewVersions(o.root), send.NewReads()
	o.since, o.written, o.until = found.Known, found.LastWrite, time.Now()
	o.flown, o.scanned = found.Flown, make(chan struct{})
	o.unclean = !found.Clean && o.journal.History().Reign().Owner != v.e.o.Node
	o.links = links.New(o.root, v.excluded)
	options := v.applyOptions(o)
	options.Unclean, options.Announced, options.Answered = !found.Clean, slices.Collect(maps.Keys(found.Flown)), found.Answered
	o.pruner = apply.NewPruner(options)
	o.applier, err = apply.New(options)
	if err != nil {
		return fail(&problem.Problem{Op: "prepare volume", Kind: kindOf(err), Subject: v.c.Path, Err: err,
			Hint: "the volume must be writable and have space; nothing was changed"})
	}
	v.overlook(o)
	if err := o.applier.ResumePlan(); err != nil {
		return fail(fmt.Errorf("go on with setting changes aside: %w", err))
	}
	v.relist(o, found)
	if err := v.afterStop(o, found); err != nil {
		return fail(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open, v.known, v.mode = o, false, collect // what is pending from before a failure still waits to be set aside
	if o.journal.History().Reign().Owner == v.e.o.Node {
		v.take(o, record)
		o.links.Look()
	}
	return o, nil
}

func kindOf(err error) problem.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return problem.NotFound
	case errors.Is(err, fs.ErrPermission):
		return problem.Permission
	}
	return problem.Unavailable
}

// roles does what the role asks for until ctx ends.
func (v *volume) roles(ctx context.Context, o *opened) error {
	wait := retryLeast
	for {
		role := v.e.currentRole()
		rctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		g, rctx := errgroup.WithContext(rctx)
		g.Go(func() error {
			err := v.play(rctx, o, role)
			done <- err
			return nil
		})
		again, err := v.untilTurned(ctx, done, role)
		cancel()
		_ = g.Wait() // play's error came through done
		if ctx.Err() != nil {
			return nil
		}
		if !again {
			wait = retryLeast
			continue
		}
		if fatal(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.turned:
			wait = retryLeast
		case <-time.After(wait):
			wait = min(2*wait, retryMost)
		}
	}
}

// untilTurned waits until the role changed (false) or playing it ended (true).
func (v *volume) untilTurned(ctx context.Context, done chan error, role Role) (ended bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case err := <-done:
			return true, err
		case <-v.turned:
			if !v.e.currentRole().equal(role) {
				return false, nil
			}
		}
	}
}

// fatal reports errors of this node's disk: the volume is opened anew, which
// finds out what is wrong. All others are the network's and the peers'.
func fatal(err error) bool {
	var local *localError
	return errors.As(err, &local)
}

// localError is a failure of this node's own volume or journal.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func local(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

func (v *volume) play(ctx context.Context, o *opened, role Role) error {
	switch {
	case role.Lead:
		return v.lead(ctx, o, role)
	case role.Master != "":
		return v.followMaster(ctx, o, role)
	}
	<-ctx.Done()
	return nil
}

func (v *volume) position() (cluster.Position, bool) {
	v.mu.Lock()
	o := v.open
	v.mu.Unlock()
	if o == nil {
		return cluster.Position{}, false
	}
	return o.journal.Position(), true
}
