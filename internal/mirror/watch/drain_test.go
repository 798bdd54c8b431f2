package watch

import (
	"os"
	"path/filepath"
	"testing"
)

// TestDrainKnowsOfRenames is what a stream builds on: the rename of a directory that was over before a drain is told before
// the drain is over, as a rename, as a change of its new name or of a tree around it, or as an overflow; and never as a rename
// afterwards. Other changes never let the queue be empty, and some of the directories are renamed before anybody could watch them.
func TestDrainKnowsOfRenames(t *testing.T) {
	const rounds = 200
	for _, b := range backends(t, t.TempDir()) {
		t.Run(string(b), func(t *testing.T) {
			vol := newVolume(t, t.TempDir(), "vol")
			told, late := map[string]bool{}, map[string]bool{} // by new name
			over := ""                                         // new names up to here are to be told no more
			r := watching(t, Options{Root: vol, Backend: b, KeepOwn: true})
			smallReads(r.w)
			r.start(func(e Event) {
				if e.Kind == Overflow {
					told["."] = true
				}
				told[e.Path] = true
				if e.Kind == Renamed && e.Path <= over && below(e.Path, "to") {
					late[e.Path] = true
				}
			})
			must(t, os.MkdirAll(filepath.Join(vol, "to"), 0o755))
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				noise(filepath.Join(vol, "noise"), stop)
			}()
			for i := range rounds {
				from, to := "from"+itoa(i), filepath.Join("to", itoa(100_000+i))
				must(t, os.MkdirAll(filepath.Join(vol, from, "new", "sub"), 0o755))
				must(t, os.Rename(filepath.Join(vol, from, "new"), filepath.Join(vol, from, "now")))
				must(t, os.Rename(filepath.Join(vol, from, "now"), filepath.Join(vol, to)))
				r.drained()
				r.mu.Lock()
				if !told[to] && !told["."] && !told["to"] {
					t.Errorf("round %d: the rename to %s is not told when the drain is over", i, to)
				}
				over = to
				clear(told)
				r.mu.Unlock()
			}
			close(stop)
			<-done
			r.drained()
			for path := range late {
				t.Errorf("the rename to %s was told after the drain", path)
			}
		})
	}
}

// smallReads has it take many readings to read what is queued.
func smallReads(w *Watcher) {
	switch s := w.source.(type) {
	case *fan:
		s.buf = s.buf[:1024]
	case *inotify:
		s.buf = s.buf[:1024]
	}
}

// noise makes and renames directories and files below dir.
func noise(dir string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		a, b := filepath.Join(dir, itoa(i%5)), filepath.Join(dir, itoa(i%7+10))
		_ = os.MkdirAll(filepath.Join(a, "x", "y"), 0o755)
		_ = os.WriteFile(filepath.Join(a, "x", "f"), []byte("f"), 0o600)
		_ = os.RemoveAll(b)
		_ = os.Rename(a, b)
	}
}
