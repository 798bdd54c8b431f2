package watch

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// replica is the simplest consumer that keeps a picture of the volume right, by
// the rules of the package comment. That it ends equal to the disk is what
// the stream promises.
type replica struct {
	root    string
	ignored func(string) bool
	have    map[string]string // path -> what was seen there
	looked  map[string]bool   // looked at since the last Drain; true: with all below
}

func newReplica(root string) *replica {
	r := &replica{root: root, looked: map[string]bool{}, ignored: ignoreTmp}
	r.have = r.scan(".")
	return r
}

// fingerprint is what a standby would have to reproduce. A directory's times
// are left out: they change with its entries, without events.
func (r *replica) fingerprint(rel string) (string, error) {
	path := filepath.Join(r.root, rel)
	st, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	switch {
	case st.IsDir():
		return st.Mode().String(), nil
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		return "-> " + to, err
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("%v %v %x", st.Mode(), st.ModTime().UnixNano(), sha256.Sum256(content)), err
}

func (r *replica) scan(top string) map[string]string {
	found := map[string]string{}
	_ = filepath.WalkDir(filepath.Join(r.root, top), func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.root, path)
		if err != nil {
			return nil // gone meanwhile
		}
		if rel == ownDir || rel != "." && r.ignored(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if fp, err := r.fingerprint(rel); err == nil {
			found[rel] = fp
		}
		return nil
	})
	return found
}

func within(path, top string) bool { return top == "." || path == top || below(path, top) }

func (r *replica) apply(e Event) {
	switch e.Kind {
	case Overflow:
		r.have, r.looked = r.scan("."), map[string]bool{".": true}
	case Removed:
		r.forget(e.Path)
	case Renamed:
		r.rename(e)
	case Dirty:
		r.look(e.Path, e.Tree)
	}
}

func (r *replica) forget(top string) {
	for p := range r.have {
		if within(p, top) {
			delete(r.have, p)
		}
	}
	for p := range r.looked {
		if within(p, top) {
			delete(r.looked, p)
		}
	}
}

func (r *replica) rename(e Event) {
	if e.Old == e.Path {
		panic("rename onto itself")
	}
	_, known := r.have[e.Old]
	again := map[string]bool{}
	for p, tree := range r.looked {
		switch {
		case within(p, e.Old):
			again[e.Path+p[len(e.Old):]] = tree
		case tree && within(e.Old, p):
			known = false
		}
	}
	moved := map[string]string{}
	for p, fp := range r.have {
		if within(p, e.Old) {
			moved[e.Path+p[len(e.Old):]] = fp
		}
	}
	r.forget(e.Path)
	r.forget(e.Old)
	maps.Copy(r.have, moved)
	if !known {
		again[e.Path] = true
	}
	for p, tree := range again {
		r.look(p, tree)
	}
}

func (r *replica) look(path string, tree bool) {
	fp, err := r.fingerprint(path)
	for range 100 {
		if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
			break // else it became something else between two of our calls
		}
		fp, err = r.fingerprint(path)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			panic(err)
		}
		r.looked[path] = r.looked[path] || tree
		return
	}
	if !strings.HasPrefix(fp, "d") { // a standby would lose what is below here
		for p := range r.have {
			tree = tree || below(p, path)
		}
	}
	tree = tree || r.looked[path]
	if tree {
		r.forget(path)
		for p, fp := range r.scan(path) {
			r.have[p] = fp
		}
	}
	r.looked[path] = tree
	r.have[path] = fp
}

// drained ends the doubts: what was looked at before the Drain is right, and what was not there is gone.
func (r *replica) drained() {
	for p := range r.looked {
		if _, err := r.fingerprint(p); err != nil {
			r.forget(p)
		}
	}
	clear(r.looked)
}

func (r *replica) differs() string {
	var diff []string
	now := r.scan(".")
	for p, fp := range now {
		if r.have[p] != fp {
			diff = append(diff, fmt.Sprintf("%s is %s, have %q", p, fp, r.have[p]))
		}
	}
	for p := range r.have {
		if _, ok := now[p]; !ok {
			diff = append(diff, p+" is gone")
		}
	}
	slices.Sort(diff)
	return strings.Join(diff, "\n")
}

// storm makes random changes with names that collide often.
type storm struct {
	rnd *rand.Rand
	vol string
	log []string
}

func (s *storm) name() string {
	return []string{"a", "b", "c", "d", "e.tmp", "f"}[s.rnd.IntN(6)]
}

// path is somewhere in the volume, or outside of it.
func (s *storm) path() string {
	top := s.vol
	switch s.rnd.IntN(12) {
	case 0:
		top = filepath.Join(filepath.Dir(s.vol), "out")
	case 1:
		top = filepath.Join(s.vol, ownDir)
	}
	parts := []string{top}
	for range 1 + s.rnd.IntN(3) {
		parts = append(parts, s.name())
	}
	return filepath.Join(parts...)
}

// step does one change; most fail, as their names collide, and that is fine.
func (s *storm) step() {
	a, b := s.path(), s.path()
	var op string
	var err error
	switch n := s.rnd.IntN(100); {
	case n < 25:
		op, err = "write "+a, os.WriteFile(a, []byte(fmt.Sprint(s.rnd.Uint64())), 0o644)
	case n < 30:
		op, err = "truncate "+a, os.Truncate(a, int64(s.rnd.IntN(100)))
	case n < 35:
		op, err = "chmod "+a, os.Chmod(a, 0o700+os.FileMode(s.rnd.IntN(64)))
	case n < 50:
		op, err = "mkdir "+a, os.MkdirAll(a, 0o755)
	case n < 75:
		op, err = "rename "+a+" "+b, os.Rename(a, b)
	case n < 78:
		op, err = "exchange "+a+" "+b, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	case n < 82:
		op, err = "symlink "+a, os.Symlink("nowhere", a)
	case n < 94:
		op, err = "remove "+a, os.Remove(a)
	case n < 97:
		op, err = "remove all "+a, os.RemoveAll(a)
	default:
		op = "aside " + a
		if err = os.WriteFile(a+".tmp", []byte(fmt.Sprint(s.rnd.Uint64())), 0o600); err == nil {
			err = os.Rename(a+".tmp", a)
		}
	}
	if err == nil {
		s.log = append(s.log, strings.ReplaceAll(op, filepath.Dir(s.vol), ""))
	}
}

// rounds keeps the storms short by default: two processors, many packages.
const (
	stormRounds = 10
	stormSteps  = 120
)

// storms compares the replica with the disk after each round, in the ways that the reader and
// the writers can overlap.
func storms(t *testing.T, base string, b Backend) {
	for _, mode := range []string{"queued", "live", "live, read late", "two writers"} {
		t.Run(mode, func(t *testing.T) {
			seed := rand.Uint64()
			if again, err := strconv.ParseUint(os.Getenv("STORM_SEED"), 10, 64); err == nil {
				seed = again
			}
			t.Logf("seed %d", seed)
			rounds := stormRounds
			if n, err := strconv.Atoi(os.Getenv("STORM_ROUNDS")); err == nil {
				rounds = n
			}
			for i := range rounds {
				if !stormRound(t, base, b, mode, seed+uint64(i)) {
					t.Fatalf("seed %d, round %d", seed, i)
				}
			}
		})
	}
}

func stormRound(t *testing.T, base string, b Backend, mode string, seed uint64) bool {
	vol := newVolume(t, base, fmt.Sprintf("storm-%s-%d", b, seed))
	defer func() { must(t, os.RemoveAll(filepath.Dir(vol))) }()
	must(t, os.Mkdir(filepath.Join(vol, ownDir), 0o755))
	s := &storm{rnd: rand.New(rand.NewPCG(seed, 1)), vol: vol}
	for range stormSteps {
		s.step()
	}
	s.log = nil
	rec := watching(t, Options{Root: vol, Backend: b, KeepOwn: true, Ignore: ignoreTmp})
	rep := newReplica(vol)
	var all []Event
	eager := func(e Event) {
		all = append(all, e)
		if mode != "live, read late" {
			rep.apply(e)
		}
	}
	if mode != "queued" {
		rec.start(eager)
	}
	run := func(s *storm) {
		for range stormSteps {
			s.step()
		}
	}
	if mode == "two writers" {
		other := &storm{rnd: rand.New(rand.NewPCG(seed, 2)), vol: vol}
		var wg sync.WaitGroup
		wg.Go(func() { run(other) })
		run(s)
		wg.Wait()
	} else {
		run(s)
	}
	if mode == "queued" {
		rec.start(eager)
	}
	rec.drained()
	rec.close() // from here on the replica is ours
	if mode == "live, read late" {
		for _, e := range all {
			rep.apply(e)
		}
	}
	rep.drained()
	diff := rep.differs()
	if diff == "" {
		return true
	}
	t.Errorf("replica differs:\n%s\noperations:\n%s\nevents:\n%s", diff,
		strings.Join(s.log, "\n"), strings.ReplaceAll(lines(all), "; ", "\n"))
	return false
}
