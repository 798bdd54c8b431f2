package mirror

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/watch"
)

// byHandPrefix begins what somebody writes on the follower. All of it is longer than small files of the source's: in a storm they are
// written in the same tick of the kernel's clock, and only the size tells one from the other.
const byHandPrefix = "by hand "

// newForeignStorm is a storm in which somebody writes on the follower, whose agent does not end: what
// nobody watched is found by a search of its own (TestUnwatchedComesFirst).
func newForeignStorm(seed uint64, steps int) (ops []stormOp) {
	rnd := rand.New(rand.NewPCG(seed, 11))
	for _, o := range newStorm(seed, steps) {
		if o.What == "crash" || o.What == "crash-in" || o.What == "leave" {
			o.What = "read"
		}
		ops = append(ops, o)
		switch rnd.IntN(8) {
		case 0:
			ops = append(ops, stormOp{"foreign", stormPath(rnd), "", rnd.Uint64N(1 << 20)})
		case 1:
			ops = append(ops, stormOp{"foreign", o.A, "", rnd.Uint64N(1 << 20)})
		case 2:
			ops = append(ops, stormOp{What: "read"})
		}
	}
	return ops
}

// byHandAt writes on the follower, if the path allows it and nobody's writing is there already.
func (w *world) byHandAt(rel, content string) bool {
	synctest.Wait() // between the last look at a file and the rename over it nobody writes here: microseconds
	p := filepath.Join(w.dir, rel)
	have, err := os.ReadFile(p)
	if err == nil && strings.HasPrefix(string(have), byHandPrefix) || os.WriteFile(p, []byte(content), 0o644) != nil {
		return false
	}
	w.unread = append(w.unread, watch.Event{Kind: watch.Dirty, Path: rel})
	return true
}

// runForeignStorm returns what differs at the end, and what was written and is not listed.
func runForeignStorm(t *testing.T, base string, seed uint64, ops []stormOp) (result string) {
	dir, err := os.MkdirTemp(base, "storm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(dir, seed)
		if err != nil {
			t.Fatal(err)
		}
		w.v.setFollow(func(f *followState) { f.foreign = make(chan struct{}, 1) })
		var written []string
		for i := 0; err == nil && i < len(ops); i++ {
			switch o := ops[i]; o.What {
			case "foreign":
				if content := fmt.Sprintf("%s%50d %d", byHandPrefix, i, o.N); w.byHandAt(o.A, content) {
					written = append(written, content)
				}
			case "read":
				synctest.Wait()
				_ = w.read(t.Context())
			default:
				err = w.step(o)
			}
		}
		_ = w.read(t.Context())
		for range 3 { // the connection may be broken, and be found so only then
			err = errors.Join(err, w.step(stormOp{What: "calm"}))
		}
		listed, lerr := w.listed()
		if err = errors.Join(err, lerr); err == nil {
			result, err = w.finish()
		}
		if err != nil {
			result = "error: " + err.Error() + "\n" + strings.Join(w.said, "\n")
		}
		for _, content := range written {
			if !listed[content] {
				result += fmt.Sprintf("%q is not listed\n", content)
			}
		}
	})
	return result
}

// listed are the contents that are listed as divergent, those in a directory that is listed as a whole included.
func (w *world) listed() (map[string]bool, error) {
	kept, err := apply.ListDivergent(w.o.root)
	contents := map[string]bool{}
	for _, k := range kept {
		if k.File == "" {
			continue
		}
		err = errors.Join(err, filepath.WalkDir(filepath.Join(w.dir, k.File), func(path string, d os.DirEntry, err error) error {
			if b, rerr := os.ReadFile(path); rerr == nil && err == nil {
				contents[string(b)] = true
			}
			return nil
		}))
	}
	return contents, err
}

// TestForeignStorm: whatever the master does meanwhile, and whenever the notifications are read, what others wrote on
// a standby is listed in the end, and the standby is as the master (P5). REVOLVE_SEED and REVOLVE_SEEDS as for TestStorm.
func TestForeignStorm(t *testing.T) {
	base := memoryDir(t)
	first, n := stormFirst(t)
	if n == stormSeeds {
		n /= 4 // the writes of others are looked for in every file
	}
	for seed := first; seed < first+uint64(n); seed++ {
		ops := newForeignStorm(seed, stormSteps+int(seed%3)*stormSteps)
		if diff := runForeignStorm(t, base, seed, ops); diff != "" {
			fails := func(less []stormOp) bool { return runForeignStorm(t, base, seed, less) != "" }
			if less := shrink(ops, fails); fails(less) {
				ops, diff = less, runForeignStorm(t, base, seed, less)
			}
			t.Fatalf("REVOLVE_SEED=%d: (-source +follower):\n%s\nafter:\n%v", seed, diff, ops)
		}
	}
}

// TestForeignFound: what the storm found.
func TestForeignFound(t *testing.T) {
	for name, ops := range map[string][]stormOp{
		"the master renames it twice": {{"save", "d", "a/a", 658921}, {"write", "b", "a/b/d", 77374}, {"calm", "", "", 0}, {"foreign", "b", "", 712804}, {"rename", "b", "c", 0},
			{"replace-dir", "c", "d", 0}, {"cut", "", "", 0}},
		"it is read after the master renamed it twice, and the stream breaks": {{"mkdir", "a", "b/d/a", 488869}, {"wait", "c", "d/b/a", 702386}, {"emit", "b/b", "c", 416166}, {"foreign", "a/d", "", 484121},
			{"rename", "a", "d", 1048161}, {"emit", "b/a", "b", 225619}, {"rename", "d", "b", 478201}, {"read", "", "", 0}, {"cut", "c/b", "c/d", 989977}},
		"the directory that it is in goes while nobody is followed, and is kept whole": {{"cut-later", "", "", 8}, {"mkdir", "d", "", 884179}, {"calm", "", "", 0}, {"rmtree", "d", "", 0}, {"foreign", "d/c", "", 633034}},
		"the stream breaks while it is asked for":                                      {{"wait", "", "", 0}, {"cut-later", "", "", 3}, {"mkdir", "c", "", 316369}, {"foreign", "c", "", 636138}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				if diff := runForeignStorm(t, memoryDir(t), seed, ops); diff != "" {
					t.Errorf("seed %d: %s", seed, diff)
				}
			}
		})
	}
}
