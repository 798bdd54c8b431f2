package watch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestSettling plays scripts of "<ms> <verb> <args>" with a quiet time of 50 ms.
func TestSettling(t *testing.T) {
	for name, script := range map[string][]string{
		"quiet":             {"0 touch a", "49 due:", "50 due: a", "51 due:"},
		"touched again":     {"0 touch a", "40 touch a", "89 due:", "90 due: a"},
		"never quiet":       {"0 touch a", "1990 touch a", "1999 due:", "2000 due: a", "2001 touch a", "2050 due:", "2051 due: a"},
		"closed":            {"0 touch a", "10 done a", "100 due:"},
		"removed":           {"0 touch d/a", "0 touch da", "10 drop d/", "100 due: da"},
		"removed file":      {"0 touch a", "10 drop a", "100 due:"},
		"renamed":           {"0 touch a", "10 move a b", "49 due:", "50 due: b"},
		"renamed over":      {"0 touch a", "10 touch b", "20 move a b", "50 due: b", "100 due:"},
		"directory renamed": {"0 touch d/a", "1 touch d/e/b", "2 touch dd", "3 move d/ c/", "60 due: c/a c/e/b dd"},
		"into the replaced": {"0 touch c/x", "1 touch d/a", "2 move d/ c/", "60 due: c/a"},
		"order of first":    {"0 touch b", "1 touch a", "2 touch b", "60 due: b a"},
		"flush":             {"0 touch b", "1 touch a", "2 flush: b a", "60 due:"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSettling(50 * time.Millisecond)
			for _, line := range script {
				playSettling(t, s, line)
			}
		})
	}
}

func playSettling(t *testing.T, s *settling, line string) {
	t.Helper()
	var ms int
	var verb string
	if _, err := fmt.Sscan(line, &ms, &verb); err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(int64(ms))
	args := strings.Fields(line)[2:]
	path := func(i int) (string, bool) { return strings.CutSuffix(args[i], "/") }
	switch verb {
	case "touch":
		s.touch(args[0], now)
	case "done":
		s.done(args[0])
	case "drop":
		p, dir := path(0)
		s.drop(p, dir)
	case "move":
		old, dir := path(0)
		p, _ := path(1)
		s.move(old, p, dir)
	case "due:", "flush:":
		next, waits := s.next()
		got := s.flush
		if verb == "due:" {
			got = func() []string { return s.due(now) }
		}
		if paths := got(); !slices.Equal(paths, args) {
			t.Fatalf("%s: got %v", line, paths)
		} else if verb == "due:" && len(paths) > 0 && (!waits || next.After(now)) {
			t.Fatalf("%s: next said %v %v", line, next.UnixMilli(), waits)
		}
	}
}

func TestSettlingIsBounded(t *testing.T) {
	s := newSettling(time.Hour)
	var flushed []string
	for i := range maxUnsettled + 1 {
		flushed = append(flushed, s.touch(itoa(i), time.UnixMilli(int64(i)))...)
	}
	if len(flushed) != maxUnsettled || flushed[0] != "0" || len(s.waiting) != 1 {
		t.Errorf("flushed %d, %d waiting", len(flushed), len(s.waiting))
	}
}

// TestDirTree compares the tree with a map of paths under random operations.
func TestDirTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := newDirTree("root", 0, nil)
		model := map[string]string{"root": "."} // key -> path
		keys := rapid.SampledFrom([]string{"k1", "k2", "k3", "k4", "k5", "k6"})
		names := rapid.SampledFrom([]string{"a", "b"})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			key := keys.Draw(t, "key")
			if rapid.Bool().Draw(t, "drop") {
				if n := tree.byKey[key]; n != nil {
					tree.drop(n)
					dropModel(model, model[key])
				}
			} else if into := rapid.SampledFrom(append([]string{"root"}, "k1", "k2", "k3")).Draw(t, "into"); model[into] != "" {
				name := names.Draw(t, "name")
				placed := tree.place(key, tree.byKey[into], name) != nil
				if placed != placeModel(model, key, into, name) {
					t.Fatalf("place %s in %s: %v", key, into, placed)
				}
			}
			for k, n := range tree.byKey {
				if model[k] != tree.path(n) {
					t.Fatalf("%s is at %q, want %q", k, tree.path(n), model[k])
				}
			}
			if len(model) != len(tree.byKey) {
				t.Fatalf("%d directories, want %d", len(tree.byKey), len(model))
			}
		}
	})
}

func dropModel(model map[string]string, top string) {
	for k, p := range model {
		if within(p, top) {
			delete(model, k)
		}
	}
}

func placeModel(model map[string]string, key, into, name string) bool {
	to, old := name, model[key]
	if p := model[into]; p != "." {
		to = p + "/" + name
	}
	if old == to {
		return true
	}
	if old != "" && (within(model[into], old)) {
		return false
	}
	moving := map[string]string{}
	for k, p := range model {
		if old != "" && within(p, old) {
			moving[k] = to + p[len(old):]
			delete(model, k)
		}
	}
	dropModel(model, to)
	for k, p := range moving {
		model[k] = p
	}
	model[key] = to
	return true
}

// TestDirTreeForgetsTheLeastUsed keeps what is above a used directory.
func TestDirTreeForgetsTheLeastUsed(t *testing.T) {
	tree := newDirTree("root", 4, nil)
	a := tree.place("a", tree.root, "a")
	tree.place("b", a, "b")
	tree.place("x", tree.root, "x")
	if tree.forgot || tree.lookup("b") == nil {
		t.Fatal("forgotten too early")
	}
	tree.place("y", tree.root, "y")
	if !tree.forgot || tree.byKey["x"] != nil || tree.byKey["a"] == nil || tree.byKey["b"] == nil {
		t.Errorf("kept %v", tree.byKey)
	}
}

func TestIgnoredIsAskedAgainAfterAMove(t *testing.T) {
	tree := newDirTree("root", 0, ignoreTmp)
	d := tree.place("d", tree.root, "d.tmp")
	e := tree.place("e", d, "e")
	if _, ok := tree.visible(e, "f"); ok {
		t.Error("visible below an ignored directory")
	}
	tree.place("d", tree.root, "d")
	if path, ok := tree.visible(e, "f"); !ok || path != "d/e/f" {
		t.Errorf("after the move: %q %v", path, ok)
	}
	if _, ok := tree.visible(tree.root, ownDir); ok {
		t.Error("own directory is visible")
	}
}

func TestDoubts(t *testing.T) {
	var d doubts
	looked := func(end bool) string {
		var s []string
		d.settle(end, func(e entry, there, own bool) {
			s = append(s, fmt.Sprint(e.dir, "/", e.name, " ", there, map[bool]string{true: " own"}[own]))
		})
		slices.Sort(s)
		return strings.Join(s, ", ")
	}
	dir := []byte("d")
	d.touch(dir, "once", true, false, false)
	d.touch(dir, "made and removed", true, true, false)
	d.touch(dir, "made and removed", false, true, false)
	d.touch(dir, "risky", true, false, false)
	d.touch(dir, "risky", false, true, false)
	d.touch(dir, "own", true, false, true)
	d.touch(dir, "own", false, false, true)
	d.touch(dir, "shared", true, false, true)
	d.touch(dir, "shared", false, false, false)
	const want = "d/own false own, d/risky false, d/shared false"
	if got := looked(false); got != want {
		t.Errorf("in the pass: %s", got)
	}
	if !d.gone(dir, "risky") || d.gone(dir, "once") || d.gone(dir, "other") {
		t.Error("gone is wrong")
	}
	if got := looked(true); got != want {
		t.Errorf("at its end: %s", got)
	}
	if got := looked(true); got != "" || d.gone(dir, "risky") {
		t.Errorf("after it: %s", got)
	}
	// A name is remembered for at least one more generation.
	d.touch(dir, "first", true, false, false)
	for i := range maxTouched {
		d.touch(dir, itoa(i), true, false, false)
	}
	d.touch(dir, "first", false, false, false)
	if got := looked(true); got != "d/first false" {
		t.Errorf("over generations: %.60s", got)
	}
}

func TestKeySet(t *testing.T) {
	k := newKeySet(4)
	for i := range 100 {
		k.add(itoa(i))
		if !k.has([]byte("0")) {
			t.Fatalf("a used key was lost at %d", i)
		}
		if n := len(k.cur) + len(k.prev); n > 4 {
			t.Fatalf("%d keys", n)
		}
	}
	if k.has([]byte("50")) {
		t.Error("an unused key was kept")
	}
}
