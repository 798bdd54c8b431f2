package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// Options says which story to tell.
type Options struct {
	Nodes  int       // 2-8
	Tree   string    // directory to mirror; "" = the Go installation's sources
	Repeat int       // rounds of faults; 0 = 1
	Seed   uint64    // of the random moments; 0 = a fresh one
	Stay   bool      // stay up after the end, until ctx ends
	Color  bool      // Out is a terminal that shows colours
	Live   bool      // Out is a terminal: show what is under way
	Out    io.Writer // where the story is told
	Page   string    // socket on which the status page is served; "" = none
	Log    string    // directory that gets the nodes' logs when something was wrong; "" = none
}

// story is one telling.
type story struct {
	ctx    context.Context
	o      Options
	t      *theatre
	j      *judge
	pen    *pen
	report *Report
	start  time.Time
	round  int
	told   int           // how often the present event was told
	stalls time.Duration // longest stall of the machine that disturbed an event
}

// Tell plays the story on the stage and judges it. The report is complete as far
// as the story came; an error says why it did not come to its end. Whether the
// promises held is in the report, not in the error.
func Tell(ctx context.Context, stage *testbed.Stage, o Options) (*Report, error) {
	if o.Nodes < minNodes || o.Nodes > maxNodes {
		return nil, &problem.Problem{Op: "tell the story", Kind: problem.Invalid, Subject: fmt.Sprintf("%d nodes", o.Nodes),
			Err: errors.New("out of range"), Hint: fmt.Sprintf("choose --nodes from %d to %d", minNodes, maxNodes)}
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1e9) + 1
	}
	o.Repeat = max(o.Repeat, 1)
	s := &story{o: o, pen: newPen(o), j: newJudge(), start: time.Now(), report: &Report{Seed: o.Seed, Fidelity: Fidelity{Reasons: []string{}}}}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	tasks, tctx := errgroup.WithContext(inner)
	s.ctx = tctx
	t, err := openTheatre(tctx, tasks, stage, o.Nodes, o.Seed)
	if err != nil {
		return s.report, err
	}
	s.t, s.report.Nodes = t, t.plan.names
	if o.Page != "" {
		tasks.Go(func() error { return t.page(tctx, o.Page) })
	}
	err = s.play()
	if cause := context.Cause(tctx); err != nil && cause != nil && ctx.Err() == nil {
		err = cause // a task failed, and that ended the rest
	}
	s.finish(err)
	if err == nil && o.Stay {
		s.pen.stay(s)
		<-tctx.Done()
	}
	cancel()
	if terr := tasks.Wait(); err == nil && terr != nil && ctx.Err() == nil {
		err = terr
	}
	if err != nil || !s.report.Held {
		err = errors.Join(err, s.saveLogs())
	}
	return s.report, errors.Join(err, t.bed.Close())
}

func (s *story) sinceStart() float64 { return time.Since(s.start).Seconds() }

func (s *story) play() error {
	source, err := findTree(s.ctx, s.o.Tree)
	if err != nil {
		return err
	}
	s.pen.opening(s, source)
	if err := s.t.found(s.ctx); err != nil {
		return err
	}
	s.t.tasks.Go(func() error { return s.t.watchBarriers(s.t.ctx) })
	for _, step := range []func() error{s.curtain, func() error { return s.mirrorTree(source) }, s.steady} {
		if err := s.again(step); err != nil {
			return err
		}
	}
	for s.round = 1; s.round <= s.o.Repeat; s.round++ {
		for _, event := range []func() error{s.planned, s.powerCut, s.freeze, s.kill, s.otherLink, s.vipLink, s.partition} {
			if err := s.again(event); err != nil {
				return err
			}
		}
	}
	return s.again(s.newcomer) // last: what it copies would weigh on the times of the others
}

// curtain starts all nodes at once and waits for the first master.
func (s *story) curtain() error {
	ev := &Event{Name: "start", At: s.sinceStart(), from: now()}
	s.pen.coming(ev.Name)
	at := now()
	if err := errors.Join(s.t.startOnlooker(), s.t.startClient()); err != nil {
		return err
	}
	for _, name := range s.t.plan.names {
		if err := s.t.boot(s.t.machines[name]); err != nil {
			return err
		}
	}
	master, err := s.t.master(s.ctx, startWithin)
	if err != nil {
		return err
	}
	who, since := s.t.holders.gainedAt("", at)
	ev.After = who
	if err := s.t.publish(master); err != nil {
		return err
	}
	if _, err := s.t.settled(s.ctx, settleWithin); err != nil {
		return err
	}
	var first answer
	err = until(s.ctx, serviceWithin, lookEvery, "the first answer", func() bool {
		var ok bool
		first, ok = s.t.answers.firstAfter(at, 0)
		return ok
	})
	if err != nil {
		return err
	}
	ev.BackMS = msPtr(first.answered.sub(at))
	ev.SettleMS = msPtr(now().sub(at))
	s.t.calm.Store(true)
	return s.tell(ev, fmt.Sprintf("%d agents start, %s becomes master after %.1f s", len(s.t.plan.names), who, since.sub(at).Seconds()))
}

// mirrorTree copies a tree onto the master and waits until all nodes have it.
func (s *story) mirrorTree(source string) error {
	ev, master, err := s.begin("tree")
	if err != nil {
		return err
	}
	tree := &s.report.Tree
	tree.Source, tree.FS = source, s.t.machines[master].node.FS()
	if source == "" {
		source = filepath.Join(s.t.plan.dir, "made")
		tree.Source = "made up (no Go installation found, no --tree)"
		if err := makeTree(s.ctx, source, s.o.Seed); err != nil {
			return &problem.Problem{Op: "make a tree", Kind: problem.Internal, Err: err}
		}
	}
	at := now()
	done, master, err := s.copyOnto(source, master)
	if err != nil {
		return err
	}
	copied := now()
	tree.Files, tree.Bytes, tree.Refused = done.files, done.bytes, done.refused
	tree.CopyMS = ms(copied.sub(at))
	if _, err := s.t.settled(s.ctx, treeWithin); err != nil {
		return err
	}
	if err := s.t.syncNow(s.ctx, master); err != nil {
		return err
	}
	tree.InSync = ms(now().sub(copied))
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, copied); err != nil {
		return err
	}
	tree.Equal = ev.Held()
	return s.tell(ev, fmt.Sprintf("%d files, %.0f MB onto %s in %.1f s, everywhere %.1f s later",
		tree.Files, float64(tree.Bytes)/1e6, master, tree.CopyMS/1e3, tree.InSync/1e3))
}

// copyOnto copies the tree onto the master; where another node became master
// meanwhile, once more onto that, since the first copy is no change of the master's.
func (s *story) copyOnto(source, master string) (copied, string, error) {
	for try := 1; ; try++ {
		dir := "tree"
		if try > 1 {
			dir = fmt.Sprintf("tree%d", try)
		}
		at := now()
		done, err := copyTree(s.ctx, source, filepath.Join(s.t.plan.volume(master, volHome), dir))
		if err != nil {
			return done, master, err
		}
		who, _ := s.t.holders.gainedAt(master, at)
		if who == "" || try == retellings {
			return done, master, nil
		}
		s.less(fmt.Sprintf("%s became master while the tree was copied onto %s", who, master))
		if master, err = s.t.master(s.ctx, serviceWithin); err != nil {
			return done, master, err
		}
	}
}

// steady looks at a while in which nothing happens: it is what the measured
// silences have to be compared with.
func (s *story) steady() error {
	ev, master, err := s.begin("steady")
	if err != nil {
		return err
	}
	at, before := now(), s.t.ledger.count()
	worst, known := 0.0, false
	for now().sub(at) < steadyFor {
		if st, err := s.t.status(s.ctx, master); err == nil {
			if lag, ok := st.worstLag(); ok {
				worst, known = max(worst, lag), true
			}
		}
		if err := pause(s.ctx, barrierEvery); err != nil {
			return err
		}
	}
	to := now()
	took := to.sub(at).Seconds()
	changes := s.t.ledger.count() - before
	if err := pause(s.ctx, lostAfter); err != nil {
		return err
	}
	s.undisturbed(ev, master, at, to)
	if err := s.refusals(); err != nil {
		return err
	}
	lost := s.t.answers.lostBetween(false, at, to)
	if ev.Lost = &lost; lost > 0 {
		ev.misses("P1", "%d queries got no answer while nothing happened", lost)
	}
	lag := "unknown"
	if known {
		lag = fmt.Sprintf("%.0f ms", worst)
	}
	return s.tell(ev, fmt.Sprintf("steady: %.0f answers/s, %.0f changes/s, lag at most %s", float64(s.t.answers.count(at, to))/took, float64(changes)/took, lag))
}

// refusals notes what the nodes' kernels refused to the product, as status says.
func (s *story) refusals() error {
	counts := map[string]int{}
	chowns := 0
	for _, name := range s.t.plan.names {
		st, err := s.t.status(s.ctx, name)
		if err != nil {
			return err
		}
		for _, r := range st.Beat.Refused {
			counts[r]++
		}
		for _, v := range st.Volumes {
			chowns += v.Refused
		}
	}
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		s.less(fmt.Sprintf("heartbeats: %s (%s)", what, plural(counts[what], "node")))
	}
	if chowns > 0 {
		s.less(fmt.Sprintf("mirror: chown refused %d times", chowns))
	}
	return nil
}

// less notes a reason why this was less than real machines.
func (s *story) less(reason string) {
	for _, r := range s.report.Fidelity.Reasons {
		if r == reason {
			return
		}
	}
	s.report.Fidelity.Reasons = append(s.report.Fidelity.Reasons, reason)
}

// tell closes an event. Bounds that it missed are weighed first: if the machine
// itself stood still meanwhile, they say nothing of the cluster.
func (s *story) tell(ev *Event, told string) error {
	ev.Told = told
	if err := s.oneAnswers(ev); err != nil {
		return err
	}
	if len(ev.late) > 0 {
		to := now()
		if err := pause(s.ctx, lostAfter+2*flushEvery); err != nil {
			return err
		}
		stall := s.t.answers.stall(ev.from, to)
		ev.StallMS = msPtr(stall)
		if stall > stallBound && s.told < retellings {
			ev.Disturbed = true
			s.stalls = max(s.stalls, stall)
		} else {
			ev.Late = ev.late
			ev.Broken = append(ev.Broken, ev.late...)
		}
	}
	if ev.Broken == nil {
		ev.Broken = []string{}
	}
	if ev.Late == nil {
		ev.Late = []string{}
	}
	s.report.Events = append(s.report.Events, *ev)
	s.pen.event(s, ev)
	return nil
}

// again plays an event, and once more while the machine's own stalls disturb it.
func (s *story) again(event func() error) error {
	for s.told = 1; ; s.told++ {
		first := len(s.report.Events)
		if err := event(); err != nil {
			return err
		}
		if !slices.ContainsFunc(s.report.Events[first:], func(e Event) bool { return e.Disturbed }) {
			return nil
		}
	}
}

// finish makes the closing table.
func (s *story) finish(err error) {
	for _, r := range s.t.bed.Fidelity() {
		s.less(r)
	}
	if n := s.report.Tree.Refused; n > 0 {
		s.less(fmt.Sprintf("copy of the tree: chown refused %d times", n))
	}
	if s.stalls > 0 {
		s.less(fmt.Sprintf("the machine stood still for up to %.0f ms; events that this disturbed were told again", ms(s.stalls)))
	}
	s.report.Fidelity.Level = "full"
	if len(s.report.Fidelity.Reasons) > 0 {
		s.report.Fidelity.Level = "partial"
	}
	s.report.Seconds = s.sinceStart()
	s.report.Promises = s.promises()
	s.report.Held = err == nil
	for _, p := range s.report.Promises {
		s.report.Held = s.report.Held && p.State != stateBroken
	}
	if err != nil {
		s.report.Error = err.Error()
	}
	s.pen.closing(s, err)
}

// saveLogs copies what the nodes said to where it outlives the stage.
func (s *story) saveLogs() error {
	if s.o.Log == "" {
		return nil
	}
	if err := os.MkdirAll(s.o.Log, 0o755); err != nil {
		return &problem.Problem{Op: "keep the logs", Subject: s.o.Log, Kind: problem.Unavailable, Err: err}
	}
	files, err := filepath.Glob(filepath.Join(s.t.plan.dir, "logs", "*.log"))
	for _, f := range files {
		to := filepath.Join(s.o.Log, filepath.Base(f))
		_ = os.Remove(to)
		if _, cerr := copyFile(f, to); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return &problem.Problem{Op: "keep the logs", Subject: s.o.Log, Kind: problem.Unavailable, Err: err}
	}
	return nil
}

// programPath is this program as another terminal can call it.
func (s *story) programPath() string {
	if p, err := os.Executable(); err == nil {
		return p
	}
	return "revolve"
}
