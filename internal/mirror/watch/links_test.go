package watch

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNamesOfSeveral: the watcher tells the inode of a name that is one of several, also of one
// that was made, written through and removed before anybody read of it; and of no other name.
func TestNamesOfSeveral(t *testing.T) {
	base := t.TempDir()
	for _, b := range backends(t, base) {
		t.Run(string(b), func(t *testing.T) {
			d := newVolume(t, base, "several-"+string(b))
			write(t, filepath.Join(d, "f"), "x")
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(d, "f"), &st))
			rec := watching(t, Options{Root: d, Backend: b, KeepOwn: true})
			must(t, os.Link(filepath.Join(d, "f"), filepath.Join(d, "g")))
			must(t, os.Link(filepath.Join(d, "f"), filepath.Join(d, "short")))
			write(t, filepath.Join(d, "short"), "through it")
			must(t, os.Remove(filepath.Join(d, "short")))
			write(t, filepath.Join(d, "ordinary"), "x")
			write(t, filepath.Join(d, "ordinary too"), "x")
			must(t, os.Remove(filepath.Join(d, "ordinary too")))
			told := map[string]bool{}
			for _, e := range rec.start(nil).drained() {
				switch {
				case e.Inode == 0:
				case e.Inode != st.Ino || e.Path != "g" && e.Path != "short":
					t.Errorf("%v is said to be a name of inode %d", e, e.Inode)
				default:
					told[e.Path] = true
				}
			}
			if !told["g"] || !told["short"] && b == Fanotify { // inotify tells no object: what is gone is not known
				t.Errorf("told of %v", told)
			}
		})
	}
}
