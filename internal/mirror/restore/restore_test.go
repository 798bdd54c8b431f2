package restore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// rig is a volume with things that were kept.
type rig struct {
	t   *testing.T
	dir string
	vol *tree.Root
	now time.Time
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	vol, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vol.Close() })
	return &rig{t, dir, vol, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) write(rel, content string) {
	r.t.Helper()
	path := filepath.Join(r.dir, rel)
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	r.must(os.WriteFile(path, []byte(content), 0o640))
}

// has wants the file to hold the content; empty means that nothing is there.
func (r *rig) has(rel, content string) {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, rel))
	if content == "" && os.IsNotExist(err) {
		return
	}
	if err != nil || string(b) != content {
		r.t.Errorf("%q holds %q (%v), want %q", rel, b, err, content)
	}
}

// keep keeps what is at the paths and puts the master's in its place.
func (r *rig) keep(paths ...string) *apply.Set {
	r.t.Helper()
	set := apply.NewSet(r.vol, "b", 3, apply.WhyForeign, r.now)
	for _, p := range paths {
		r.must(set.Keep(p))
		if m, err := r.vol.Lstat(p); err == nil && m.Kind == tree.File {
			r.must(r.vol.Remove(p))
			r.write(p, "the master's")
		}
	}
	return set
}

func (r *rig) into() *Restorer { return Into(r.vol, r.vol, func() time.Time { return r.now }) }

// inTrash looks for content anywhere in the trash.
func (r *rig) inTrash(content string) bool {
	list, err := apply.ListTrash(r.vol, "")
	r.must(err)
	for _, l := range list {
		if b, err := os.ReadFile(filepath.Join(r.dir, l.File)); err == nil && string(b) == content {
			return true
		}
	}
	return false
}

const odd = "odd \n\xff name"

func TestSetComesBack(t *testing.T) {
	r := newRig(t)
	r.write("d/a", "mine")
	r.write(odd, "mine, oddly named")
	r.write("other", "mine, too")
	r.must(os.Symlink("somewhere", filepath.Join(r.dir, "link")))
	set := r.keep("d", "d/a", odd, "other", "link", "gone")
	r.must(set.Note("renamed", "new", "old"))
	r.must(os.Remove(filepath.Join(r.dir, "link")))

	// Some of it first.
	got, err := r.into().Set(set.Name(), []string{"d"})
	r.must(err)
	if diff := cmp.Diff([]string{"d", "d/a"}, got.Restored); diff != "" {
		t.Error(diff)
	}
	r.has("d/a", "mine")
	r.has("other", "the master's")
	if !r.inTrash("the master's") {
		t.Error("what stood there is not in the trash")
	}
	got, err = r.into().Set(set.Name(), nil)
	r.must(err)
	if diff := cmp.Diff([]string{odd, "other", "link"}, got.Restored); diff != "" {
		t.Error(diff)
	}
	if len(got.Left) != 2 || got.Left[0].Path != "gone" || got.Left[1].Path != "new" {
		t.Errorf("left alone: %+v", got.Left)
	}
	r.has(odd, "mine, oddly named")
	if to, err := os.Readlink(filepath.Join(r.dir, "link")); to != "somewhere" {
		t.Errorf("the link leads to %q (%v)", to, err)
	}
	list, err := apply.ListDivergent(r.vol)
	r.must(err)
	if len(list) != 2 {
		t.Errorf("still listed: %+v", list)
	}
	// What a person has to decide goes when it is dropped, and the set with it.
	n, err := Drop(r.vol, set.Name(), nil)
	if n != 2 || err != nil {
		t.Errorf("dropped %d: %v", n, err)
	}
	if _, err := r.vol.Lstat(".revolve/divergent/" + set.Name()); !tree.IsGone(err) {
		t.Errorf("the set is still there: %v", err)
	}
}

// TestSetInterrupted: done again after every step, the end is the same.
func TestSetInterrupted(t *testing.T) {
	r := newRig(t)
	for _, f := range []string{"a", "b", "c"} {
		r.write(f, "mine "+f)
	}
	set := r.keep("a", "b", "c")
	// As after a crash: b was brought back, and its bytes are forgotten but not its entry.
	_, kept, err := apply.OpenSet(r.vol, set.Name())
	r.must(err)
	r.must(r.into().bring(kept[1].File, "b"))
	r.must(r.vol.Remove(kept[1].File))
	_, err = r.into().Set(set.Name(), nil)
	r.must(err)
	for _, f := range []string{"a", "b", "c"} {
		r.has(f, "mine "+f)
	}
	if list, err := apply.ListDivergent(r.vol); err != nil || len(list) != 0 {
		t.Errorf("still listed: %+v %v", list, err)
	}
}

// TestNewestVersionComesBack: of two versions in one set the later one.
func TestNewestVersionComesBack(t *testing.T) {
	r := newRig(t)
	r.write("f", "first")
	set := r.keep("f")
	r.must(os.Remove(filepath.Join(r.dir, "f")))
	r.write("f", "second")
	r.must(set.Keep("f"))
	got, err := r.into().Set(set.Name(), nil)
	r.must(err)
	r.has("f", "second")
	if len(got.Restored) != 1 || len(got.Left) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestElsewhere(t *testing.T) {
	r := newRig(t)
	r.write("d/a", "mine")
	set := r.keep("d/a")
	other := t.TempDir()
	to, err := tree.Open(other)
	r.must(err)
	defer to.Close()
	_, err = Into(r.vol, to, time.Now).Set(set.Name(), nil)
	r.must(err)
	if b, err := os.ReadFile(filepath.Join(other, "d/a")); string(b) != "mine" {
		t.Errorf("%q %v", b, err)
	}
	if list, _ := os.ReadDir(other); len(list) != 1 {
		t.Errorf("left in the directory: %v", list)
	}
	r.has("d/a", "the master's")
	if list, err := apply.ListDivergent(r.vol); err != nil || len(list) != 1 {
		t.Errorf("a copy took it out of the set: %+v %v", list, err)
	}
	if _, err := Into(r.vol, to, time.Now).Set(set.Name(), nil); problem.KindOf(err) != problem.Conflict {
		t.Errorf("over what is there: %v", err)
	}
}

func TestTrashComesBack(t *testing.T) {
	r := newRig(t)
	r.write("d/sub/a", "old")
	r.write("d/b", "old b")
	r.must(apply.PutInTrash(r.vol, "d", r.now))
	r.now = r.now.Add(time.Hour)
	r.write("d/b", "newer b")
	r.must(apply.PutInTrash(r.vol, "d/b", r.now))
	r.must(os.Remove(filepath.Join(r.dir, "d/b")))
	r.write("d/b", "now")

	got, err := r.into().Trash("d", "")
	r.must(err)
	if diff := cmp.Diff([]string{"d/b", "d/sub/a"}, got.Restored); diff != "" {
		t.Error(diff)
	}
	r.has("d/b", "newer b")
	r.has("d/sub/a", "old")
	if !r.inTrash("now") {
		t.Error("what stood there is not in the trash")
	}
	_, err = r.into().Trash("d/b", "20260501T1200")
	r.must(err)
	r.has("d/b", "old b")

	for _, bad := range []string{"", "../x", "never-was"} {
		if _, err := r.into().Trash(bad, ""); problem.KindOf(err) != problem.NotFound && problem.KindOf(err) != problem.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNoSuchSet(t *testing.T) {
	r := newRig(t)
	r.write("f", "x")
	set := r.keep("f")
	for _, name := range []string{"", "..", "../trash", "never-was", strings.Repeat("x", 300)} {
		if _, err := r.into().Set(name, nil); problem.KindOf(err) != problem.NotFound {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := Drop(r.vol, name, nil); problem.KindOf(err) != problem.NotFound {
			t.Errorf("drop %q: %v", name, err)
		}
	}
	if _, err := r.into().Set(set.Name(), []string{"g"}); problem.KindOf(err) != problem.NotFound {
		t.Errorf("a path that it has not: %v", err)
	}
	if _, err := Drop(r.vol, set.Name(), []string{"g"}); !errors.As(err, new(*problem.Problem)) {
		t.Errorf("drop of a path that it has not: %v", err)
	}
}

// TestNamesOfOneFile: what was one file with two names when it was kept is one again.
func TestNamesOfOneFile(t *testing.T) {
	r := newRig(t)
	r.write("a", "mine")
	r.must(os.Link(filepath.Join(r.dir, "a"), filepath.Join(r.dir, "b")))
	set := r.keep("a", "b")
	if _, err := r.into().Set(set.Name(), nil); err != nil {
		t.Fatal(err)
	}
	r.has("a", "mine")
	a, err := r.vol.Lstat("a")
	r.must(err)
	b, err := r.vol.Lstat("b")
	r.must(err)
	if a.Inode != b.Inode {
		t.Error("a and b are two files")
	}
}
