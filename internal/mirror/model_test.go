package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

func modelWeights() []weight {
	return []weight{
		{"write", 30}, {"slow-write", 4}, {"big", 2}, {"save", 8}, {"mkdir", 14}, {"rename", 14}, {"exchange", 3}, {"remove", 6}, {"rmtree", 2},
		{"replace-dir", 2}, {"chmod", 3}, {"symlink", 2}, {"link", 3},
		// From here on: not the tree.
		{"emit", 24}, {"settle", 2}, {"pass", 14}, {"sync", 6}, {"split", 3}, {"heal", 3}, {"kill", 2}, {"stop", 1}, {"restart", 3}, {"switch", 1},
		{"usurp", 1}, {"cut", 2}, {"cut-later", 2},
	}
}

// envModelSplits has the nodes parted, and reigns usurped, too.
const envModelSplits = "REVOLVE_MODEL_SPLITS"

// envModelAll has directories renamed and exchanged, too.
const envModelAll = "REVOLVE_MODEL_DIRS"

// envModelLate has notifications come late, too: a master then sends states that its journal does not know yet.
const envModelLate = "REVOLVE_MODEL_LATE"

func newModelStorm(seed uint64, steps int) []stormOp {
	weights := modelWeights()
	if os.Getenv(envModelSplits) == "" {
		for i := range weights {
			if weights[i].what == "split" || weights[i].what == "usurp" {
				weights[i].n = 0
			}
		}
	}
	return stormOf(weights, rand.New(rand.NewPCG(seed, 13)), steps)
}

// step does one step of the storm.
func (w *modelWorld) step(o stormOp) error {
	w.steps++
	synctest.Wait() // a program acts on what it sees
	w.tellOld()
	n := w.nodes[o.N%uint64(len(w.nodes))]
	pick := o.N >> 4
	defer w.noteStep(o, n)
	switch o.What {
	case "emit":
		w.let(1 + int(pick%8))
	case "settle":
		n.settleWrites()
	case "pass":
		time.Sleep(time.Duration(pick%2500) * time.Millisecond)
	case "sync":
		w.barrier(n)
	case "split":
		w.regroup(func(i int) int { return int(pick>>i) & 1 })
		w.disconnect(nil)
		w.elect(false)
	case "heal":
		w.heal()
		w.elect(false)
	case "kill", "stop":
		if o.What == "kill" && !n.role.Lead {
			time.Sleep(2 * foreignDelay) // a removal on a standby that is killed within it is told by nothing
		}
		if err := n.stop(o.What == "stop"); err != nil {
			return err
		}
		time.Sleep(time.Duration(pick%500) * time.Millisecond)
		w.elect(false)
	case "restart":
		return w.restart()
	case "switch":
		if l := w.leader(n); l != nil && n.engine != nil && l != n {
			_ = w.flush(l, n.id)
			w.lead(n, w.alive()[n.group])
		}
	case "usurp":
		w.elect(true)
	case "join":
		return w.join(n, pick)
	case "cut":
		w.disconnect(n)
	case "cut-later":
		w.cutLater(n, 1+int(pick%30))
	default:
		w.program(o, n, pick)
	}
	return nil
}

// noteStep notes what happened to the nodes.
func (w *modelWorld) noteStep(o stormOp, n *modelNode) {
	switch o.What {
	case "sync", "split", "heal", "kill", "stop", "restart", "switch", "usurp", "cut", "cut-later", "join":
		line := fmt.Sprintf("step %d: %s %s:", w.steps, o.What, n.id)
		for _, m := range w.nodes {
			line += fmt.Sprintf(" %s%d", m.id, m.group)
			if m.engine == nil {
				line += "-"
			}
		}
		w.story = append(w.story, line)
	}
}

// program does what a program does on the node: mostly on the one that leads, sometimes on another, or on one whose agent does not run.
func (w *modelWorld) program(o stormOp, n *modelNode, pick uint64) {
	if l := w.leader(n); l != nil && pick%8 != 0 {
		n = l
	}
	if n.engine == nil && !slices.Contains([]string{"write", "big", "save", "mkdir"}, o.What) {
		return // what goes while nobody watches is told by nothing, and never carried out elsewhere (promise P6)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Contains([]string{"rename", "replace-dir", "exchange"}, o.What) && !w.dirs && (isDir(n.src.abs(o.A)) || isDir(n.src.abs(o.B))) {
		return
	}
	last := w.model.next
	defer func() { w.tellStory(o, n, last) }()
	a, b := n.src.abs(o.A), n.src.abs(o.B)
	m := &w.model
	switch o.What {
	case "write", "slow-write", "big", "save":
		words := 1 + int(pick%6)
		if o.What == "big" {
			words = wire.InlineMax/8 + 1 + int(pick%3)
		}
		name := a
		if o.What == "save" {
			name += "~"
		}
		gone := m.below(a, false)
		if o.What == "save" {
			for id := range m.below(name, false) {
				gone[id] = true
			}
		}
		if info, err := os.Lstat(a); err == nil && !info.Mode().IsRegular() {
			return
		}
		if os.WriteFile(name, m.fresh(n, o.A, words), 0o644) != nil {
			m.forget()
			return
		}
		m.end(gone)
		if o.What == "save" {
			n.src.written(o.A+"~", false)
			n.src.rename(o.A+"~", o.A)
		} else {
			n.src.written(o.A, o.What == "slow-write")
		}
	case "rename", "replace-dir":
		gone := m.below(b, false)
		if tree.Below(o.A, o.B) || tree.Below(o.B, o.A) {
			return
		}
		if n.src.change(o); !hasAny(m.below(b, false), gone) {
			m.end(gone)
		}
	case "remove", "rmtree":
		gone := m.below(a, false)
		n.src.change(o)
		for id := range m.below(a, false) {
			delete(gone, id)
		}
		m.end(gone)
	default:
		n.src.change(o)
	}
	if w.prompt {
		n.src.settle()
	}
	n.tell()
	if n.watch != nil && (w.prompt || !n.role.Lead) { // a standby's has nothing else to do
		n.watch.let(1 << 20)
	}
}

// tellStory notes what a program did.
func (w *modelWorld) tellStory(o stormOp, n *modelNode, last uint64) {
	line := fmt.Sprintf("step %d: %s %s %s on %s", w.steps, o.What, o.A, o.B, n.id)
	if w.model.next > last {
		line += fmt.Sprintf(": version %d", last)
	}
	switch {
	case n.engine == nil:
		line += ", whose agent does not run"
	case !n.role.Lead:
		line += ", which does not lead"
	}
	w.story = append(w.story, line)
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func hasAny(have, of map[uint64]bool) bool {
	for id := range of {
		if have[id] {
			return true
		}
	}
	return false
}

func (w *modelWorld) let(n int) {
	for _, m := range w.nodes {
		m.mu.Lock()
		if m.watch != nil {
			m.watch.let(n)
		}
		m.mu.Unlock()
	}
}

// toldAfter is how late notifications are, of the time that the bubble passes: package watch tells of what is written and not
// closed within 2 s, and what takes longer than tellWithin (package apply) is not recognized by what a standby knows.
const toldAfter = time.Second

// tellOld has everything read that nobody has read for that long.
func (w *modelWorld) tellOld() {
	if time.Since(w.told) < toldAfter {
		return
	}
	w.told = time.Now()
	for _, n := range w.nodes {
		n.settleWrites()
		n.mu.Lock()
		if n.watch != nil {
			n.watch.letAll()
		}
		n.mu.Unlock()
	}
	synctest.Wait()
}

func (w *modelWorld) heal() { w.regroup(func(int) int { return 0 }) }

func (w *modelWorld) regroup(group func(i int) int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, m := range w.nodes {
		m.group = group(i)
	}
}

func (w *modelWorld) restart() error {
	for _, m := range w.nodes {
		if m.engine == nil {
			if err := m.start(); err != nil {
				return err
			}
		}
	}
	w.elect(false)
	return nil
}

func (w *modelWorld) flush(l *modelNode, to cluster.NodeID) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return l.engine.Flush(ctx, to)
}

// barrier is `revolve sync --wait`: what it is kept for is acknowledged.
func (w *modelWorld) barrier(n *modelNode) {
	l := w.leader(n)
	if l == nil {
		return
	}
	ids := w.model.below(l.dir, false)
	if w.flush(l, "") != nil {
		return
	}
	w.model.synced++
	for id := range ids {
		w.model.versions[id].acked = true
	}
}

// finish heals everything, waits until all is quiet, and says what is wrong then.
func (w *modelWorld) finish() (string, error) {
	w.heal()
	if err := w.restart(); err != nil {
		return "", err
	}
	diff := "never quiet"
	for round := range 60 {
		for _, n := range w.nodes {
			n.settleWrites()
		}
		w.let(1 << 20)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if round%10 == 9 { // a person says that what was only not found may go
			_, _ = w.leader(w.nodes[0]).engine.Resume("v", Resuming{AcceptDeletions: true})
		}
		if round < 3 {
			continue // longer than anything waits before it begins
		}
		var err error
		if diff, err = w.differs(); err != nil || diff == "" {
			break
		}
	}
	if diff != "" {
		diff += w.problems()
	}
	var errs error
	for _, n := range w.nodes {
		errs = errors.Join(errs, n.stop(true))
	}
	return diff + w.lost(), errs
}

// differs compares every tree with the leader's.
func (w *modelWorld) differs() (diff string, err error) {
	l := w.leader(w.nodes[0])
	want, err := pictureOf(l.dir)
	if err != nil {
		return "", err
	}
	for _, n := range w.nodes {
		have, err := pictureOf(n.dir)
		if err != nil {
			return "", err
		}
		if d := cmp.Diff(want, have); d != "" {
			diff += fmt.Sprintf("%s differs from %s (-%s +%s):\n%s", n.id, l.id, l.id, n.id, d)
		}
		if n == l {
			continue
		}
		for _, r := range n.engine.Reports() {
			if r.Owed > 0 || r.Position != l.engine.Fresh() {
				diff += fmt.Sprintf("%s stands at %v of %v and owes %d\n", n.id, r.Position, l.engine.Fresh(), r.Owed)
			}
		}
	}
	return diff, nil
}

// runModel returns what is wrong at the end, "" if nothing.
func runModel(t *testing.T, base string, seed uint64, ops []stormOp) (result string, w *modelWorld) {
	dir, err := os.MkdirTemp(base, "model")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	now := time.Now().Round(0) // without its monotonic reading, which is not the bubble's
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock stands ahead of the kernel's, which stamps inodes.
		time.Sleep(time.Until(now.Add(time.Hour)))
		w, err = newModelWorld(dir, seed)
		for i := 0; err == nil && i < len(ops); i++ {
			err = w.step(ops[i])
		}
		if err == nil {
			result, err = w.finish()
		}
		if err != nil {
			result = "error: " + err.Error()
		}
	})
	return result, w
}

const (
	modelFirst = 1_000_000 // the seeds of every test run; the make target takes others
	modelSeeds = 12
	modelSteps = 150
	modelTries = 3
	// modelListed bounds the failures that a report lists.
	modelListed = 40
)

// askedSeeds are the storms that the environment asks for.
func askedSeeds() (first uint64, n int) {
	first, n = modelFirst, modelSeeds
	if v, err := strconv.Atoi(os.Getenv("REVOLVE_SEEDS")); err == nil {
		first, n = rand.Uint64N(1<<40), v
	}
	if v, err := strconv.ParseUint(os.Getenv("REVOLVE_SEED"), 10, 64); err == nil {
		first, n = v, 1
	}
	return first, n
}

// TestModel plays random operations of programs, kills, ends and restarts on three to
// five nodes against a model in memory; with REVOLVE_MODEL_SPLITS=1 partitions and reigns without a handover too,
// with REVOLVE_MODEL_DIRS=1 renames of directories, with REVOLVE_MODEL_LATE=1 notifications that come late. When all is healed and quiet, every tree must be the
// same, every version that no program ended must be somewhere, and every
// acknowledged one in a tree or among the divergent. REVOLVE_SEED=n repeats one
// seed, REVOLVE_SEEDS=n plays that many others, REVOLVE_REPORT=FILE goes on after failures and writes what was played.
func TestModel(t *testing.T) {
	base := memoryDir(t)
	first, n := askedSeeds()
	t.Logf("seeds %d to %d", first, first+uint64(n)-1)
	sum, report := modelSum{began: time.Now()}, os.Getenv("REVOLVE_REPORT")
	defer func() { t.Log(sum.String()) }()
	for seed := first; seed < first+uint64(n); seed++ {
		ops := newModelStorm(seed, modelSteps)
		diff, w := runModel(t, base, seed, ops)
		sum.add(w)
		switch {
		case diff == "":
		case report != "":
			sum.failed(seed, diff)
		default:
			t.Fatal(explainModel(t, base, seed, ops, diff, w))
		}
	}
	if report != "" {
		f, err := os.OpenFile(report, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		must(t, err)
		_, err = f.WriteString(sum.report(first))
		must(t, errors.Join(err, f.Close()))
	} else if len(sum.Failed) > 0 {
		t.Errorf("%d storms failed", len(sum.Failed))
	}
}

// explainModel shrinks a failure and tells its story.
func explainModel(t *testing.T, base string, seed uint64, ops []stormOp, diff string, w *modelWorld) string {
	story := w.story
	less := shrink(ops, func(less []stormOp) bool { // who runs first within a moment is not the seed's
		for range modelTries {
			if d, w := runModel(t, base, seed, less); d != "" {
				diff, story = d, w.story
				return true
			}
		}
		return false
	})
	return fmt.Sprintf("REVOLVE_SEED=%d:\n%s\n%s\nafter:\n%v", seed, diff, strings.Join(story, "\n"), less)
}
