package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"revolve/internal/mirror/tree"
)

const (
	joinsFilled = 40 // steps of programs on the master before a node joins
	joinsSteps  = 40 // and steps of every kind behind it
	joinsCuts   = 40 // frames: of these, the comparison breaks at one
)

// newJoinsStorm fills the master's tree, has a node join, and goes on as a storm.
func newJoinsStorm(seed uint64) []stormOp {
	rnd := rand.New(rand.NewPCG(seed, 17))
	ops := stormOf([]weight{{"write", 10}, {"big", 2}, {"mkdir", 8}, {"emit", 4}, {"pass", 2}}, rnd, joinsFilled)
	for i := range ops {
		ops[i].N |= 1 << 4 // on the master
	}
	ops = append(ops, stormOp{"join", "", "", rnd.Uint64N(1 << 20)})
	return append(ops, newModelStorm(seed, joinsSteps)...)
}

// join has a standby's machine replaced by another, on which programs wrote where the master has
// something, too, and elsewhere; it is killed in the middle of its first comparison.
func (w *modelWorld) join(n *modelNode, pick uint64) error {
	l := w.leader(n)
	if l == nil || l == n {
		return nil
	}
	if err := errors.Join(n.stop(false), os.RemoveAll(n.dir), os.RemoveAll(n.state), os.Mkdir(n.dir, 0o755), os.Mkdir(n.state, 0o755)); err != nil {
		return err
	}
	if err := w.fillAlike(n, l.dir); err != nil {
		return err
	}
	n.cutNext = 1 + int(pick%joinsCuts)
	if err := n.start(); err != nil {
		return err
	}
	w.elect(false)
	synctest.Wait()
	w.story = append(w.story, fmt.Sprintf("step %d: %s joins with files of its own", w.steps, n.id))
	return errors.Join(n.stop(false), w.restart())
}

// fillAlike writes versions on the node under the names that are in dir, and beside them.
func (w *modelWorld) fillAlike(n *modelNode, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || rel == ".":
			return err
		case rel == tree.Hidden:
			return fs.SkipDir
		case !d.IsDir():
			return w.fill(n, rel)
		}
		return errors.Join(os.Mkdir(filepath.Join(n.dir, rel), 0o755), w.fill(n, rel+"/own"))
	})
}

// fill writes a version that must be kept as an acknowledged one: it is nowhere else, and was there for long.
func (w *modelWorld) fill(n *modelNode, rel string) error {
	err := os.WriteFile(filepath.Join(n.dir, rel), w.model.fresh(n, rel, 1+len(rel)%6), 0o644)
	w.model.versions[w.model.next-1].acked = true
	return err
}

// TestModelJoins is TestModel with a node that joins with files of its own and is killed while they are compared with the master's.
func TestModelJoins(t *testing.T) {
	base := memoryDir(t)
	first, n := askedSeeds()
	sum := modelSum{}
	for seed := first; seed < first+uint64(n); seed++ {
		ops := newJoinsStorm(seed)
		diff, w := runModel(t, base, seed, ops)
		if sum.add(w); diff != "" {
			t.Fatal(explainModel(t, base, seed, ops, diff, w))
		}
	}
	t.Log(sum.String())
}
