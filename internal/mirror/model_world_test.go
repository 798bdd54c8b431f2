package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/watch"
	"revolve/internal/problem"
)

// modelWorld is several nodes with their engines. Everything above the kernel is
// real: engines, sessions, journals, appliers, directories. Ours are the
// connections, the watchers, who leads, and the clock (synctest).
type modelWorld struct {
	nodes         []*modelNode
	model         model
	rnd           *rand.Rand
	mu            sync.Mutex // guards conns, and what dial reads of a node; all else is the steps'
	conns         []*modelConn
	steps, reigns int
	dirs          bool      // directories are renamed, too
	told          time.Time // when every notification had been read
	prompt        bool      // notifications are read at once
	// divergent is how many versions were found in no tree.
	divergent int
	story     []string // what happened besides the steps, for a failure
}

// modelNode is a machine. Its disk and its terms survive its agent.
type modelNode struct {
	w          *modelWorld
	id         cluster.NodeID
	dir, state string
	group      int // who is in the same one is reached
	cutNext    int // frames after which the next connection breaks; 0: it does not
	terms      modelTerms
	role       Role

	mu    sync.Mutex // guards src and watch
	src   *source
	watch *modelWatcher // nil while the agent does not run

	engine *Engine // nil while the agent does not run
	cancel context.CancelFunc
	ctx    context.Context
	run    sync.WaitGroup
}

type modelConn struct {
	a, b *modelNode
	cut  *cutter
}

// modelTerms is the durable memory of the highest term.
type modelTerms struct {
	mu   sync.Mutex
	seen cluster.Term
}

func (m *modelTerms) Seen() cluster.Term {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

func (m *modelTerms) Accept(t cluster.Term) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t < m.seen {
		return &problem.Problem{Op: "accept term", Kind: problem.StaleTerm, Err: fmt.Errorf("%d is older than %d", t, m.seen)}
	}
	m.seen = t
	return nil
}

// modelWatcher gives what happened to the engine when the storm lets it.
type modelWatcher struct {
	n      *modelNode
	mu     sync.Mutex
	queue  []watch.Event
	may    int // so many may be read
	drains []chan struct{}
	wake   chan struct{}
}

func (m *modelWatcher) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *modelWatcher) Run(ctx context.Context, emit func([]watch.Event) error) error {
	for {
		m.mu.Lock()
		n, drains := min(m.may, len(m.queue)), m.drains
		if len(drains) > 0 {
			n = len(m.queue)
		}
		batch := slices.Clone(m.queue[:n])
		m.queue, m.drains, m.may = m.queue[n:], nil, m.may-min(n, m.may)
		m.mu.Unlock()
		if len(batch) > 0 {
			if err := emit(batch); err != nil {
				return err
			}
		}
		for _, d := range drains {
			close(d)
		}
		if n > 0 || len(drains) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		}
	}
}

func (m *modelWatcher) Drain(ctx context.Context) error {
	m.n.settleWrites()
	done := make(chan struct{})
	m.mu.Lock()
	m.drains = append(m.drains, done)
	m.mu.Unlock()
	m.poke()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *modelWatcher) Backend() watch.Backend { return watch.Fanotify }
func (m *modelWatcher) OwnUnknown() bool       { return false }
func (m *modelWatcher) Await(bool)             {}
func (m *modelWatcher) Overlook(string) bool   { return false }
func (m *modelWatcher) Stats() watch.Stats     { return watch.Stats{} }
func (m *modelWatcher) Close() error           { return nil }

// let lets n events be read.
func (m *modelWatcher) let(n int) {
	m.mu.Lock()
	m.may += n
	m.mu.Unlock()
	m.poke()
}

// letAll lets all be read that has happened.
func (m *modelWatcher) letAll() {
	m.mu.Lock()
	m.may = max(m.may, len(m.queue))
	m.mu.Unlock()
	m.poke()
}

func newModelWorld(base string, seed uint64) (*modelWorld, error) {
	w := &modelWorld{dirs: os.Getenv(envModelAll) != "", prompt: os.Getenv(envModelLate) == "", model: newModel(), rnd: rand.New(rand.NewPCG(seed, 11))}
	for i := range 3 + int(seed%3) {
		n := &modelNode{w: w, id: cluster.NodeID(rune('a' + i))}
		n.dir, n.state = filepath.Join(base, string(n.id)), filepath.Join(base, "state-"+string(n.id))
		n.src = &source{dir: n.dir, newDirs: journal.Dirty, stamp: int64(i) << 40}
		if (seed/3)%2 == 1 {
			n.src.newDirs = journal.Tree
		}
		if err := errors.Join(os.Mkdir(n.dir, 0o755), os.Mkdir(n.state, 0o755)); err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, n)
	}
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	w.elect(false)
	return w, nil
}

// start starts the node's agent.
func (n *modelNode) start() error {
	e, err := New(Options{
		Node: n.id, State: n.state, Volumes: []VolumeConfig{{Name: "v", Path: n.dir, TrashAge: time.Hour, SyncFull: n.id == "b"}}, Terms: &n.terms,
		Dial: n.dial, Proc: n.state, Stamp: kernelTime, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Watch: func(watch.Options) (Watcher, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.watch = &modelWatcher{n: n, wake: make(chan struct{}, 1)}
			return n.watch, nil
		},
	})
	if err != nil {
		return err
	}
	n.w.mu.Lock()
	n.engine = e
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.w.mu.Unlock()
	n.run.Go(func() {
		if err := e.Run(n.ctx); err != nil {
			panic(err) // it says that a volume's failure is no end
		}
	})
	synctest.Wait()
	return nil
}

// stop ends the agent: in order, or as a kill does, which nobody hears of.
func (n *modelNode) stop(clean bool) error {
	if n.engine == nil {
		return nil
	}
	if !clean {
		n.w.disconnect(n)
	}
	n.cancel()
	n.w.disconnect(n)
	n.run.Wait()
	n.w.mu.Lock()
	n.engine, n.role = nil, Role{}
	n.w.mu.Unlock()
	n.mu.Lock()
	n.watch = nil
	n.mu.Unlock()
	// The bubble's days are milliseconds of the kernel's: what follows the end must have a later time than what was before it.
	tick := unix.NsecToTimespec(int64(betweenStamps))
	_ = unix.Nanosleep(&tick, nil)
	if clean {
		return nil
	}
	err := os.Remove(filepath.Join(n.state, "journal", "v", "clean"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// settleWrites tells what was written and not closed.
func (n *modelNode) settleWrites() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.src.settle()
	n.tell()
}

// tell puts what happened into the kernel's queue; the lock is held. Nobody hears it while no agent runs.
func (n *modelNode) tell() {
	events := n.src.events
	n.src.events = nil
	if n.watch == nil {
		n.src.settling = nil
		return
	}
	kinds := map[journal.Kind]watch.Kind{journal.Dirty: watch.Dirty, journal.Tree: watch.Dirty, journal.Removed: watch.Removed, journal.Renamed: watch.Renamed}
	n.watch.mu.Lock()
	defer n.watch.mu.Unlock()
	for _, e := range events {
		n.watch.queue = append(n.watch.queue, watch.Event{Kind: kinds[e.Kind], Path: e.Path, Old: e.Old, Inode: e.inode, Dir: e.dir, Tree: e.Kind == journal.Tree})
	}
}

// kernelTime is the kernel's clock, which stamps inodes also in a bubble.
func kernelTime() time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		panic(err)
	}
	return time.Unix(now.Unix())
}

// betweenStamps is more than the time between two stamps of inodes.
const betweenStamps = 11 * time.Millisecond

func (w *modelWorld) node(id cluster.NodeID) *modelNode {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *modelNode) bool { return n.id == id })]
}

func (n *modelNode) dial(ctx context.Context, to cluster.NodeID, service string) (Conn, error) {
	far := n.w.node(to)
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if far.engine == nil || far.group != n.group || far.ctx.Err() != nil {
		return nil, &problem.Problem{Op: "connect", Kind: problem.Unavailable, Subject: string(to), Err: errors.New("it does not answer")}
	}
	mine, theirs, cut := newPipe(n.id, to)
	cut.after(n.cutNext)
	n.cutNext = 0
	mine.service, theirs.service = service, service
	n.w.conns = append(n.w.conns, &modelConn{n, far, cut})
	e, fctx := far.engine, far.ctx
	far.run.Go(func() { _ = e.Handle(fctx, theirs) }) // its end is the connection's
	return mine, nil
}

// disconnect breaks every connection of n, or all between groups if n is nil.
func (w *modelWorld) disconnect(n *modelNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = slices.DeleteFunc(w.conns, func(c *modelConn) bool {
		if n == nil && c.a.group == c.b.group || n != nil && c.a != n && c.b != n {
			return false
		}
		c.cut.stop()
		return true
	})
}

// cutLater breaks the connections of n when so many more frames have passed.
func (w *modelWorld) cutLater(n *modelNode, frames int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		if c.a == n || c.b == n {
			c.cut.after(frames)
		}
	}
}

// leader is who leads in n's group, nil if nobody does.
func (w *modelWorld) leader(n *modelNode) *modelNode {
	for _, m := range w.nodes {
		if m.group == n.group && m.engine != nil && m.role.Lead {
			return m
		}
	}
	return nil
}

// alive are the running nodes of each group.
func (w *modelWorld) alive() map[int][]*modelNode {
	groups := map[int][]*modelNode{}
	for _, n := range w.nodes {
		if n.engine != nil {
			groups[n.group] = append(groups[n.group], n)
		}
	}
	return groups
}

// elect has every group led as the election would: by who leads already, the
// higher reign first, or by the fittest. With usurp another takes over.
func (w *modelWorld) elect(usurp bool) {
	groups := w.alive()
	for _, g := range slices.Sorted(mapKeys(groups)) {
		list := groups[g]
		slices.SortStableFunc(list, func(x, y *modelNode) int {
			return cmp.Or(boolInt(y.role.Lead)-boolInt(x.role.Lead), y.role.Reign.Compare(x.role.Reign)*boolInt(x.role.Lead),
				cmp.Compare(y.engine.Class(), x.engine.Class()), y.engine.Fresh().Compare(x.engine.Fresh()))
		})
		first := list[0]
		if !first.role.Lead && w.rnd.IntN(8) == 0 || usurp {
			first = list[w.rnd.IntN(len(list))]
		}
		w.lead(first, list)
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func mapKeys(groups map[int][]*modelNode) func(func(int) bool) {
	return func(yield func(int) bool) {
		for g := range groups {
			if !yield(g) {
				return
			}
		}
	}
}

// lead makes first the master of its group, by a new reign where it does not lead the newest.
func (w *modelWorld) lead(first *modelNode, list []*modelNode) {
	top, mine := cluster.Term(0), first.role.Reign
	for _, n := range list {
		top = max(top, n.terms.Seen())
		if n != first && n.role.Lead && n.role.Reign.Compare(mine) >= 0 {
			top = max(top, n.role.Reign.Term)
			mine = cluster.Reign{}
		}
	}
	if !first.role.Lead || mine.Term < top {
		mine = cluster.Reign{Term: top + 1, Owner: first.id}
		if err := first.terms.Accept(mine.Term); err != nil {
			panic(err)
		}
		w.reigns++
		w.story = append(w.story, fmt.Sprintf("step %d: %s leads %v", w.steps, first.id, mine))
	}
	for _, i := range w.rnd.Perm(len(list)) {
		n := list[i]
		role := Role{Reign: mine, Master: first.id, Lead: n == first}
		if role.Lead {
			for _, s := range list {
				role.Survivors = append(role.Survivors, s.id)
			}
		}
		n.role = role
		n.engine.SetRole(role)
		if w.rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(w.rnd.IntN(300)) * time.Millisecond)
		}
	}
}

// problems are what the engines complain of.
func (w *modelWorld) problems() string {
	var b strings.Builder
	for _, n := range w.nodes {
		if n.engine == nil {
			continue
		}
		for _, r := range n.engine.Reports() {
			if r.Problem != "" || r.Reason != "" {
				fmt.Fprintf(&b, "%s: problem %q, reason %q\n", n.id, r.Problem, r.Reason)
			}
		}
	}
	return b.String()
}
