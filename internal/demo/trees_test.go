package demo

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func write(t *testing.T, dir, rel, content string) string {
	t.Helper()
	p := filepath.Join(dir, rel)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 123456789)
	if err := os.Chtimes(p, at, at); err != nil {
		t.Fatal(err)
	}
	return p
}

func plant(t *testing.T) string {
	dir := t.TempDir()
	write(t, dir, "x/one", "1")
	write(t, dir, "x/y/two", "22")
	write(t, dir, hidden+"/journal", "never looked at")
	if err := os.Symlink("one", filepath.Join(dir, "x/link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string
	}{
		"equal":   {func(t *testing.T, dir string) { write(t, dir, hidden+"/more", "x") }, ""},
		"content": {func(t *testing.T, dir string) { write(t, dir, "x/one", "2") }, "x/one: other content"},
		"size":    {func(t *testing.T, dir string) { write(t, dir, "x/one", "") }, "x/one: 0 bytes instead of 1"},
		"missing": {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "x/y/two")) }, "x/y/two: missing"},
		"more":    {func(t *testing.T, dir string) { write(t, dir, "x/three", "3") }, "x/three: too much"},
		"mode":    {func(t *testing.T, dir string) { _ = os.Chmod(filepath.Join(dir, "x/y"), 0o700) }, "x/y: mode 40700 instead of 40755"},
		"time": {func(t *testing.T, dir string) {
			at := time.Unix(1700000000, 123456790)
			_ = os.Chtimes(filepath.Join(dir, "x/one"), at, at)
		}, "x/one: time off by 1 ns"},
		"link": {func(t *testing.T, dir string) {
			p := filepath.Join(dir, "x/link")
			_ = os.Remove(p)
			_ = os.Symlink("two", p)
		}, `x/link: points to "two" instead of "one"`},
		"kind": {func(t *testing.T, dir string) {
			p := filepath.Join(dir, "x/one")
			_ = os.Remove(p)
			_ = os.Mkdir(p, 0o755)
		}, "x/one: mode 40755 instead of 100644"},
	} {
		t.Run(name, func(t *testing.T) {
			from := plant(t)
			to := filepath.Join(t.TempDir(), "copy")
			done, err := copyTree(t.Context(), from, to)
			if err != nil || done.files != 3 {
				t.Fatalf("%+v, %v", done, err)
			}
			a, err := newScanner().scan(from)
			if err != nil {
				t.Fatal(err)
			}
			s := newScanner()
			b, err := s.scan(to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := compare(a, b); len(diff) > 0 {
				t.Fatalf("a copy differs: %v", diff)
			}
			c.change(t, to)
			if b, err = s.scan(to); err != nil { // with remembered sums
				t.Fatal(err)
			}
			var got string
			for _, d := range compare(a, b) {
				got += d.path + ": " + d.how
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSample(t *testing.T) {
	if got := sample([]string{"d", "c", "b", "a"}); got != "a; b; c; 4 in all" {
		t.Errorf("got %q", got)
	}
	if got := sample([]string{"b", "a"}); got != "a; b" {
		t.Errorf("got %q", got)
	}
}

func TestMadeTree(t *testing.T) {
	dir := t.TempDir()
	if err := makeTree(t.Context(), dir, 1); err != nil {
		t.Fatal(err)
	}
	tree, err := newScanner().scan(dir)
	if err != nil {
		t.Fatal(err)
	}
	if tree.files != madeDirs*madeFiles {
		t.Errorf("%d files", tree.files)
	}
	if got, err := findTree(t.Context(), dir); err != nil || got != dir {
		t.Errorf("found %q, %v", got, err)
	}
	if _, err := findTree(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("found a tree that is not there")
	}
}

func TestStamps(t *testing.T) {
	dir := t.TempDir()
	s := stamp{node: "a", run: 1001, n: 5}
	write(t, dir, writerDir+"/a-1001/000005.txt", string(s.content(writeMin)))
	write(t, dir, writerDir+"/a-1001/000006.txt", "half")
	write(t, dir, "other", "not ours")
	got, err := writerFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := got[runID{"a", 1001}]
	if len(files) != 2 || files[writerDir+"/a-1001/000005.txt"] != 5 || files[writerDir+"/a-1001/000006.txt"] != broken {
		t.Errorf("read %v", files)
	}
	kept := map[stamp]bool{}
	if err := stamps(dir, kept); err != nil || len(kept) != 1 || !kept[s] {
		t.Errorf("read %v, %v", kept, err)
	}
	if err := stamps(filepath.Join(dir, "none"), kept); err != nil {
		t.Errorf("no directory: %v", err)
	}
}
