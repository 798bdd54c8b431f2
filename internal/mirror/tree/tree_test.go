package tree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/mirror/tree"
)

func open(t *testing.T, dir string) *tree.Root {
	t.Helper()
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, p := range []string{"", "a", "a/b", "...", "..a", "a..", ".revolved", "new\nline", "\xff\xfe", long + "/" + long, " ", "-rf", "*"} {
		if err := tree.Check(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{"/", "/a", ".", "..", "a/..", "../a", "a/./b", "a//b", "a/", "a\x00", long + "n", strings.Repeat("d/", 2048)} {
		if tree.Check(p) == nil {
			t.Errorf("%q was accepted", p)
		}
	}
}

func TestWords(t *testing.T) {
	for _, tc := range []struct {
		p, dir string
		want   bool
	}{{"a", "a", true}, {"a/b", "a", true}, {"ab", "a", false}, {"a", "a/b", false}, {"anything", "", true}, {"", "", true}, {"", "a", false}} {
		if got := tree.Below(tc.p, tc.dir); got != tc.want {
			t.Errorf("Below(%q, %q) is %v", tc.p, tc.dir, got)
		}
	}
	for p, want := range map[string]bool{".revolve": true, ".revolve/x": true, ".revolved": false, "a/.revolve": false, "": false} {
		if got := tree.IsHidden(p); got != want {
			t.Errorf("IsHidden(%q) is %v", p, got)
		}
	}
	if got := tree.Moved("a/b/c", "a", "x/y"); got != "x/y/b/c" {
		t.Errorf("Moved: %q", got)
	}
}

// TestNamesAreBytes: every name that Linux allows goes in and comes out again.
func TestNamesAreBytes(t *testing.T) {
	root := open(t, t.TempDir())
	names := []string{"new\nline", "\xff\xfe", strings.Repeat("n", 255), "...", "tab\t", `back\slash`, " "}
	must(t, root.Mkdir("d", 0o755))
	for _, name := range names {
		f, err := root.Create("d/" + name)
		must(t, err)
		must(t, f.Close())
		must(t, root.Rename("d/"+name, name))
		must(t, root.Link(name, "d/"+name))
	}
	list, err := root.List("d")
	must(t, err)
	if len(list) != len(names) {
		t.Fatalf("%d names of %d", len(list), len(names))
	}
	for i, e := range list {
		if i > 0 && list[i-1].Name >= e.Name {
			t.Errorf("%q stands behind %q", e.Name, list[i-1].Name)
		}
		if m, err := root.Lstat("d/" + e.Name); err != nil || m.Links != 2 {
			t.Errorf("%q: %+v, %v", e.Name, m, err)
		}
	}
	must(t, root.RemoveAll("d"))
}

// TestNeverThroughALink: every method refuses a path with a symbolic link in
// the middle, wherever it leads, and says that nothing is there.
func TestNeverThroughALink(t *testing.T) {
	base := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(base, "outside/dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(base, "outside/f"), []byte("precious"), 0o644))
	must(t, os.MkdirAll(filepath.Join(base, "vol/inside"), 0o755))
	must(t, os.WriteFile(filepath.Join(base, "vol/inside/f"), []byte("precious"), 0o644))
	must(t, os.WriteFile(filepath.Join(base, "vol/file"), []byte("x"), 0o644))
	root := open(t, filepath.Join(base, "vol"))
	for name, target := range map[string]string{"relative": "../outside", "absolute": filepath.Join(base, "outside"), "within": "inside", "proc": "/proc/self/cwd"} {
		must(t, root.Symlink(target, name))
		try := map[string]func() error{
			"Lstat":    func() error { _, err := root.Lstat(name + "/f"); return err },
			"OpenFile": func() error { _, _, err := root.OpenFile(name + "/f"); return err },
			"ReadFile": func() error { _, err := root.ReadFile(name+"/f", 9); return err },
			"List":     func() error { _, err := root.List(name); return err },
			"List dir": func() error { _, err := root.List(name + "/dir"); return err },
			"Create":   func() error { _, err := root.Create(name + "/new"); return err },
			"Append":   func() error { _, err := root.OpenAppend(name + "/f"); return err },
			"Write":    func() error { return root.WriteFile(name+"/f", nil) },
			"Mkdir":    func() error { return root.Mkdir(name+"/new", 0o755) },
			"Symlink":  func() error { return root.Symlink("x", name+"/new") },
			"Link":     func() error { return root.Link("file", name+"/new") },
			"Link out": func() error { return root.Link(name+"/f", "stolen") },
			"Rename":   func() error { return root.Rename("file", name+"/f") },
			"Out":      func() error { return root.Rename(name+"/f", "stolen") },
			"New":      func() error { return root.RenameNew("file", name+"/new") },
			"Remove":   func() error { return root.Remove(name + "/f") },
			"SyncDir":  func() error { return root.SyncDir(name) },
			"SetMeta":  func() error { _, err := root.SetMetaAt(name, tree.Meta{Kind: tree.Dir, Mode: 0o777}); return err },
			"SetMeta2": func() error {
				_, err := root.SetMetaAt(name+"/f", tree.Meta{Kind: tree.Symlink, MTime: 1})
				return err
			},
		}
		for what, f := range try {
			if err := f(); !tree.IsGone(err) {
				t.Errorf("%s through %s: %v", what, name, err)
			}
		}
		if err := root.RemoveAll(name + "/dir"); err != nil {
			t.Errorf("RemoveAll of what is not there: %v", err)
		}
		if err := root.RemoveAll(name); err != nil { // the link goes, not what it leads to
			t.Error(err)
		}
	}
	for _, p := range []string{"outside/f", "vol/inside/f"} {
		if b, err := os.ReadFile(filepath.Join(base, p)); err != nil || string(b) != "precious" {
			t.Errorf("%s holds %q, %v", p, b, err)
		}
	}
	if list, err := os.ReadDir(filepath.Join(base, "outside")); err != nil || len(list) != 2 {
		t.Errorf("outside: %v, %v", list, err)
	}
}

// TestNeverOutside: no method takes a path that leaves the root.
func TestNeverOutside(t *testing.T) {
	root := open(t, t.TempDir())
	for _, p := range []string{"..", "../x", "a/../../x", "/etc/passwd", "a/.."} {
		if _, err := root.Lstat(p); err == nil || tree.IsGone(err) {
			t.Errorf("Lstat(%q): %v", p, err)
		}
		if err := root.Remove(p); err == nil {
			t.Errorf("Remove(%q) was allowed", p)
		}
		if f, err := root.Create(p); err == nil {
			f.Close()
			t.Errorf("Create(%q) was allowed", p)
		}
	}
	for _, f := range []func() error{
		func() error { return root.Remove("") },
		func() error { return root.Rename("", "x") },
		func() error { return root.RemoveAll("") },
	} {
		if f() == nil {
			t.Error("the root itself was taken")
		}
	}
}

// TestMetaComesBack: what SetMeta gives is what Lstat says, for every kind.
func TestMetaComesBack(t *testing.T) {
	root := open(t, t.TempDir())
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	must(t, root.Mkdir("d", 0o700))
	must(t, root.Symlink("nowhere", "l"))
	f, err := root.Create("f")
	must(t, err)
	defer f.Close()
	for name, m := range map[string]tree.Meta{
		"f": {Kind: tree.File, Mode: 0o6755, UID: uid, GID: gid, MTime: 1_234_567_890_123_456_789},
		"d": {Kind: tree.Dir, Mode: 0o1777, UID: uid, GID: gid, MTime: 1},
		"l": {Kind: tree.Symlink, UID: uid, GID: gid, MTime: 999_999_999, Target: "nowhere"},
	} {
		if m.Kind == tree.File {
			_, err = tree.SetMeta(f, m)
		} else {
			_, err = root.SetMetaAt(name, m)
		}
		must(t, err)
		got, err := root.Lstat(name)
		must(t, err)
		if !got.Same(m, tree.Refused{}) || got.MTime != m.MTime {
			t.Errorf("%s: set %+v, got %+v", name, m, got)
		}
	}
}

func TestReplacedRootIsNoticed(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "v")
	must(t, os.Mkdir(dir, 0o755))
	root := open(t, dir)
	if !root.StillThere() {
		t.Error("the root is said to be gone")
	}
	must(t, os.Rename(dir, dir+".old"))
	if root.StillThere() {
		t.Error("a root that was moved away is said to be there")
	}
	must(t, os.Mkdir(dir, 0o755))
	if root.StillThere() {
		t.Error("another directory is said to be the root")
	}
}
