package mirror

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/mirror/tree"
)

// What changed while the agent did not run is found: files one by one, and the
// directories in which names came or went.
func TestUnwatched(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"calm", "busy", tree.Hidden} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"calm/old", "calm/written", "busy/removed"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m, err := root.Lstat("busy")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Unix(0, m.CTime)
	for later := since; !later.After(since); { // the clock of inodes is coarse
		if err := os.WriteFile(filepath.Join(dir, "calm/written"), []byte("2"), 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err = root.Lstat("calm/written"); err != nil {
			t.Fatal(err)
		}
		later = time.Unix(0, m.CTime)
	}
	if err := os.Remove(filepath.Join(dir, "busy/removed")); err != nil {
		t.Fatal(err)
	}
	v, err := newVolume(&Engine{o: Options{Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{root: root, since: since, until: time.Now().Add(time.Second), scanned: make(chan struct{})}
	if err := v.unwatched(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"busy"}, v.doubts); diff != "" {
		t.Error(diff)
	}
	o.since, o.scanned = time.Now().Add(time.Second), make(chan struct{})
	v.doubts = nil
	if err := v.unwatched(t.Context(), o); err != nil || v.doubts != nil {
		t.Errorf("nothing was written: %v, %v", err, v.doubts)
	}
}
