package links

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"revolve/internal/mirror/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// finder is a Finder at work on a directory, with what it told.
type finder struct {
	*Finder
	t    *testing.T
	dir  string
	mu   sync.Mutex
	told []string
}

func newFinder(t *testing.T) *finder {
	t.Helper()
	f := &finder{t: t, dir: t.TempDir()}
	root, err := tree.Open(f.dir)
	must(t, err)
	f.Finder = New(root, func(rel string) bool { return tree.IsHidden(rel) || strings.HasSuffix(rel, ".tmp") })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, f.tell) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
		root.Close()
	})
	return f
}

func (f *finder) tell(names []string, lost bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lost {
		return errors.New("lost")
	}
	f.told = append(f.told, names...)
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *finder) at(rel string) string { return filepath.Join(f.dir, rel) }

func (f *finder) make(names ...string) {
	f.t.Helper()
	for i, name := range names {
		must(f.t, os.MkdirAll(filepath.Dir(f.at(name)), 0o755))
		if i == 0 {
			must(f.t, os.WriteFile(f.at(name), nil, 0o600))
		} else {
			must(f.t, os.Link(f.at(names[0]), f.at(name)))
		}
	}
}

func (f *finder) meta(rel string) tree.Meta {
	f.t.Helper()
	m, err := f.root.Lstat(rel)
	must(f.t, err)
	return m
}

// wants waits until the other names of what is at path are these.
func (f *finder) wants(path string, names ...string) {
	f.t.Helper()
	f.until(func() error {
		have, sure := f.Names(path, f.meta(path))
		if !sure || !slices.Equal(have, names) {
			return fmt.Errorf("other names of %s: %q (sure: %v), want %q", path, have, sure, names)
		}
		return nil
	})
}

func (f *finder) until(ok func() error) {
	f.t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	f.t.Fatal(err)
}

// TestFindsNames that were there before, that came, and that moved with their
// directories; not those that are not mirrored or not in the volume.
func TestFindsNames(t *testing.T) {
	f := newFinder(t)
	f.make("a", "d/b", "d/e/odd \n\xff", ".revolve/trash/a", "x.tmp")
	must(t, os.Link(f.at("a"), filepath.Join(t.TempDir(), "elsewhere")))
	f.wants("a", "d/b", "d/e/odd \n\xff")
	scans := f.Stats().Scans
	f.wants("d/b", "a", "d/e/odd \n\xff") // a name that is elsewhere is looked for once
	if n := f.Stats().Scans; n != scans {
		t.Errorf("%d scans for a name that is known to be elsewhere", n-scans)
	}
	must(t, os.Rename(f.at("d"), f.at("c")))
	f.Renamed("d", "c", true)
	f.wants("a", "c/b", "c/e/odd \n\xff")
	must(t, os.Rename(f.at("c"), f.at("untold")))
	f.wants("a", "untold/b", "untold/e/odd \n\xff")
	must(t, os.Remove(f.at("untold/b")))
	f.wants("a", "untold/e/odd \n\xff")
	f.make("single")
	must(t, os.Link(f.at("single"), f.at("late"))) // nobody told, and it was no inode of several when it was scanned
	f.wants("late", "single")
}

// TestTellsTheOtherNames of what was changed under one, also when that one is gone.
func TestTellsTheOtherNames(t *testing.T) {
	f := newFinder(t)
	f.make("old", "used")
	f.make("other")
	inode := f.meta("old").Inode
	must(t, os.Remove(f.at("used")))
	f.Changed("used", inode)
	f.Removed("used", false)
	told := func(names ...string) func() error {
		return func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			slices.Sort(f.told)
			if have := slices.Compact(slices.Clone(f.told)); !slices.Equal(have, names) {
				return fmt.Errorf("told %q, want %q", have, names)
			}
			return nil
		}
	}
	f.until(told("old"))
	f.make("p", "d/q")
	f.Look()
	f.until(func() error {
		f.Finder.mu.Lock()
		defer f.Finder.mu.Unlock()
		if len(f.paths) < 2 {
			return errors.New("the scan has not found the two")
		}
		return nil
	})
	f.Changed("other", 0) // has one name: nothing to do
	f.Changed("p", 0)
	f.until(told("d/q", "old"))
}

// TestTellsANameBelowARenamedDirectory: a directory that moves under a scan is not read by it, and what is in it is told as changed once the
// rename is, for every stream that reads the journal.
func TestTellsANameBelowARenamedDirectory(t *testing.T) {
	f := newFinder(t)
	f.make("p", "d/q")
	moving := filepath.Join(t.TempDir(), "moving")
	must(t, os.Rename(f.at("d"), moving))
	f.wants("p")
	must(t, os.Rename(moving, f.at("e")))
	f.Renamed("d", "e", true)
	f.until(func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !slices.Equal(f.told, []string{"e/q"}) {
			return fmt.Errorf("told %q, want the name below the directory", f.told)
		}
		return nil
	})
}

// TestARenameToldDuringAScan: the rename was told before anybody knew that a name is missing.
func TestARenameToldDuringAScan(t *testing.T) {
	f := &finder{t: t, dir: t.TempDir()}
	root, err := tree.Open(f.dir)
	must(t, err)
	defer root.Close()
	f.Finder = New(root, tree.IsHidden)
	f.make("p", "d/q")
	moving := filepath.Join(t.TempDir(), "moving")
	must(t, os.Rename(f.at("d"), moving))
	if _, sure := f.Names("p", f.meta("p")); sure {
		t.Fatal("sure of a name that was not looked for")
	}
	must(t, f.scan(t.Context()))
	f.Renamed("d", "e", true)
	must(t, os.Rename(moving, f.at("e")))
	f.Names("p", f.meta("p"))
	must(t, f.follow(f.tell)) // before there was time for another scan
	for range 3 {
		must(t, f.scan(t.Context()))
		must(t, f.follow(f.tell))
	}
	if !slices.Equal(f.told, []string{"e/q"}) {
		t.Errorf("told %q, want the name below the directory", f.told)
	}
	scans := f.Stats().Scans
	if must(t, f.follow(f.tell)); len(f.queue) > 0 || f.wanted || f.Stats().Scans != scans {
		t.Error("it goes on looking")
	}
}

// TestOneNameCostsNothing: what has one name is never looked at and never kept.
func TestOneNameCostsNothing(t *testing.T) {
	f := newFinder(t)
	for i := range 100 {
		name := fmt.Sprint("f", i)
		f.make(name)
		f.Changed(name, 0)
		f.Removed(name, false)
		f.Renamed(name, name+"x", false)
	}
	if s := f.Stats(); s != (Stats{}) {
		t.Errorf("ordinary files cost %+v", s)
	}
	if len(f.paths)+len(f.known)+len(f.queue) > 0 {
		t.Errorf("ordinary files are remembered: %v %v %v", f.paths, f.known, f.queue)
	}
}

// TestFind finds all names at once.
func TestFind(t *testing.T) {
	f := newFinder(t)
	f.make("a", "d/b", ".revolve/x")
	f.make("c", "d/c")
	in := f.meta("a").Inode
	found, err := Find(t.Context(), f.root, map[uint64]bool{in: true})
	must(t, err)
	slices.Sort(found[in])
	if len(found) != 1 || !slices.Equal(found[in], []string{"a", "d/b"}) {
		t.Errorf("found %v", found)
	}
}

// BenchmarkRead is what a scan costs, beside looking at each inode as well.
func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	for d := range 1000 {
		sub := filepath.Join(dir, fmt.Sprint("d", d))
		if err := os.Mkdir(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file", f)), nil, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	root, err := tree.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	b.Run("names", func(b *testing.B) {
		for b.Loop() {
			if table, _, err := read(context.Background(), root); err != nil || len(table) != 100_000 {
				b.Fatal(len(table), err)
			}
		}
	})
	b.Run("inodes", func(b *testing.B) {
		for b.Loop() {
			for d := range 1000 {
				if _, err := root.List(fmt.Sprint("d", d)); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
