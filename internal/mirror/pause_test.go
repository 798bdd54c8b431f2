package mirror

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// rooted is a volume that is never run: only its root is looked at.
func rooted(t *testing.T) *volume {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "home"), 0o755); err != nil {
		t.Fatal(err)
	}
	e, err := New(Options{Node: "a", State: filepath.Join(dir, "state"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Volumes: []VolumeConfig{{Name: "home", Path: filepath.Join(dir, "home")}}})
	if err != nil {
		t.Fatal(err)
	}
	return e.volumes[0]
}

// look identifies the root as opening the volume does.
func (v *volume) look(t *testing.T) error {
	t.Helper()
	root, err := tree.Open(v.c.Path)
	if err != nil {
		return v.noRoot(err)
	}
	defer root.Close()
	return v.identify(root)
}

func mounted(t *testing.T, path string) (unmount func()) {
	t.Helper()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED PART: an unmounted root: cannot mount a tmpfs: %v", err)
	}
	on := true
	unmount = func() {
		if on {
			on = false
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// A disk that was unmounted is never taken for an emptied volume, not even by a
// person's word, unless they say that nothing is to be mounted there any more.
func TestUnmountedRootIsNotResumed(t *testing.T) {
	v := rooted(t)
	unmount := mounted(t, v.c.Path)
	if err := v.look(t); err != nil {
		t.Fatal(err)
	}
	unmount()
	if err := v.look(t); problem.KindOf(err) != problem.Conflict || v.paused == nil || !strings.Contains(v.paused.Why, "nothing is mounted") {
		t.Fatalf("unmounted: %v, pause %+v", err, v.paused)
	}
	for _, r := range []Resuming{{}, {AcceptDeletions: true}} {
		if said, err := v.e.Resume("home", r); problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), "still holds") {
			t.Errorf("resumed with %+v: %q, %v", r, said, err)
		}
	}
	if _, err := v.e.Resume("home", Resuming{NotMounted: true}); err != nil {
		t.Errorf("a plain directory from now on: %v", err)
	}
	if err := v.look(t); err != nil || v.unmounted() {
		t.Errorf("after that: %v", err)
	}
}

// A fresh disk is mounted where the old one was: the reason is another, and a person may go on.
func TestFreshDiskIsResumed(t *testing.T) {
	v := rooted(t)
	unmount := mounted(t, v.c.Path)
	if err := v.look(t); err != nil {
		t.Fatal(err)
	}
	journal := v.e.journalDir("home")
	if err := errors.Join(os.MkdirAll(journal, 0o700), os.WriteFile(filepath.Join(journal, "old"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	unmount()
	mounted(t, v.c.Path)
	if err := v.look(t); problem.KindOf(err) != problem.Conflict || v.paused == nil || !strings.Contains(v.paused.Why, "fresh") {
		t.Fatalf("a fresh disk: %v, pause %+v", err, v.paused)
	}
	if _, err := v.e.Resume("home", Resuming{}); err != nil {
		t.Fatal(err)
	}
	if err := v.look(t); err != nil || v.replica {
		t.Errorf("after that: %v, replica %v: what is in it is nobody's and must be kept", err, v.replica)
	}
	if _, err := os.Stat(journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal of files that are not there is still in use: %v", err)
	}
}

// The right directory comes back while a person types: nothing is thrown away.
func TestResumeWhenTheRightRootIsBack(t *testing.T) {
	v := rooted(t)
	if err := v.look(t); err != nil {
		t.Fatal(err)
	}
	aside := v.c.Path + ".aside"
	if err := os.Rename(v.c.Path, aside); err != nil {
		t.Fatal(err)
	}
	if err := v.look(t); problem.KindOf(err) != problem.Conflict || v.paused == nil {
		t.Fatalf("gone: %v", err)
	}
	if _, err := v.e.Resume("home", Resuming{}); problem.KindOf(err) != problem.Conflict {
		t.Errorf("resumed without a directory: %v", err)
	}
	journal := v.e.journalDir("home")
	if err := errors.Join(os.Rename(aside, v.c.Path), os.MkdirAll(journal, 0o700)); err != nil {
		t.Fatal(err)
	}
	if said, err := v.e.Resume("home", Resuming{}); err != nil || !strings.Contains(said, "goes on by itself") {
		t.Errorf("%q, %v", said, err)
	}
	if _, err := os.Stat(journal); err != nil {
		t.Errorf("the journal was put aside for nothing: %v", err)
	}
}
