package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOverlookedFilesCostNothing counts what the kernel queues when files are
// written aside and renamed into the volume, as a standby does for each change.
func TestOverlookedFilesCostNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: marks on the host's filesystem need root")
	}
	const files = 50
	vol := newVolume(t, t.TempDir(), "vol")
	aside := filepath.Join(vol, ownDir, "staging")
	must(t, os.MkdirAll(aside, 0o755))
	rec := watching(t, Options{Root: vol, Backend: Fanotify})
	if !rec.w.Overlook(aside) {
		t.Skip("SKIPPED PART: the kernel has no FAN_MARK_IGNORE (Linux 6.0)")
	}
	rec.start(nil)
	rec.drained()
	before := rec.w.Stats().Own // others use this filesystem, too
	for i := range files {
		from := filepath.Join(aside, fmt.Sprint(i))
		must(t, os.WriteFile(from, []byte("content"), 0o600))
		must(t, os.Chmod(from, 0o644))
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, from, []unix.Timespec{{}, {}}, 0))
		must(t, os.Rename(from, filepath.Join(vol, fmt.Sprint(i))))
	}
	rec.drained()
	// One each for the renames; five without. What else this process does on this filesystem may add a few.
	if n := rec.w.Stats().Own - before; n < files || n > files*3/2 {
		t.Errorf("the kernel queued %d notifications for %d files, want the renames only", n, files)
	}
	sh("echo x > .revolve/staging/other; mv .revolve/staging/other seen; echo y >> 1")(t, vol)
	events := rec.drained()
	for _, path := range []string{"seen", "1"} {
		if !slices.ContainsFunc(events, func(e Event) bool { return e.Path == path }) {
			t.Errorf("what another process did to %q is not told", path)
		}
	}
}
