package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/problem"
)

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// A file that others may read, that is no file, or that is no single line is no secret.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	good := write(t, "word\n", 0o600)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]problem.Kind{write(t, "word", 0o644): problem.Permission, write(t, "word", 0o620): problem.Permission, write(t, "two\nlines", 0o600): problem.Invalid, write(t, "\n", 0o600): problem.Invalid,
		write(t, strings.Repeat("x", maxSecret+1), 0o600): problem.Invalid, filepath.Join(dir, "none"): problem.NotFound, dir: problem.Invalid, link: problem.NotFound} {
		if text, err := Read(path); err == nil || problem.KindOf(err) != kind || problem.HintOf(err) == "" {
			t.Errorf("%s: %q %v", path, text, err)
		}
	}
	if text, err := Read(good); err != nil || text != "word" {
		t.Errorf("%q %v", text, err)
	}
}
