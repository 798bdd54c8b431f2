package send

import (
	"os"
	"path/filepath"
	"testing"

	"revolve/internal/mirror/tree"
)

// TestAListIsAnsweredInItsDirectory: the names of one list are as they were when its directory was opened, wherever that is by then;
// all others, and all afterwards, are looked for where their paths lead.
func TestAListIsAnsweredInItsDirectory(t *testing.T) {
	at := t.TempDir()
	for name, data := range map[string]string{"top": "0", "d/f": "in d", "d/g": "in d, too", "d/s/f": "below d", "ds/f": "in ds"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(at, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s := &Stream{o: Options{Root: root}}
	wants := func(path, data string) {
		t.Helper()
		m, gerr := s.glance(path)
		r, have, _, err := s.readOnce(path)
		if data == "" {
			if !tree.IsGone(gerr) || !tree.IsGone(err) {
				t.Errorf("%s: %v and %v, want that it is gone", path, gerr, err)
			}
			return
		}
		if gerr != nil || err != nil || string(have) != data || m.Inode != r.Inode || m.Kind != tree.File {
			t.Errorf("%s: %q (%v, %v), want %q", path, have, gerr, err, data)
		}
	}
	leave := s.within("d", 2)
	if err := os.Rename(filepath.Join(at, "d"), filepath.Join(at, "e")); err != nil {
		t.Fatal(err)
	}
	wants("d/f", "in d")
	wants("d/g", "in d, too")
	wants("d/s/f", "")
	wants("ds/f", "in ds")
	wants("top", "0")
	if err := os.Remove(filepath.Join(at, "e/g")); err != nil {
		t.Fatal(err)
	}
	wants("d/g", "")
	if err := os.Symlink("f", filepath.Join(at, "e/g")); err != nil {
		t.Fatal(err)
	}
	if _, data, _, err := s.readOnce("d/g"); !tree.IsGone(err) {
		t.Errorf("a link was followed: %q, %v", data, err)
	}
	leave()
	wants("d/f", "")
	wants("e/f", "in d")
	leave = s.within("", 2)
	wants("top", "0")
	wants("ds/f", "in ds")
	leave()
	s.within("nowhere", 2)()
	if s.dir != nil {
		t.Error("a directory is held open behind the answer")
	}
}
