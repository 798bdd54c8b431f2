package mirror

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/wire"
)

// own are files of a node's own, which no other one ever had: by name, and whether the source has another in its place.
func own() map[string]bool {
	files := map[string]bool{"top": true, "only": false, "a/big": true}
	for _, dir := range []string{"a", "b", "c", "d"} {
		files[dir+"/same-name"], files[dir+"/only"] = true, false
	}
	return files
}

func ownText(name string) string { return "written on the joining node: " + name }

// joining is a world in which the follower has files of its own and no history.
func joining(base string) (*world, error) {
	w, err := newWorld(base, 3) // nobody reads along
	if err != nil {
		return nil, err
	}
	for name, there := range own() {
		if err := putFile(filepath.Join(w.dir, name), ownText(name)); err != nil {
			return nil, err
		}
		text := "the source's"
		if name == "a/big" {
			text = string(make([]byte, wire.InlineMax+1))
		}
		if !there {
			continue
		}
		if err := putFile(filepath.Join(w.src.dir, name), text); err != nil {
			return nil, err
		}
	}
	return w, w.journal([]journal.Record{{Kind: journal.Dirty, Path: "top"}})
}

func putFile(path, text string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
}

// discarded are the files of its own that the node has neither in place nor among what it kept.
func discarded(w *world) (missing []string, err error) {
	kept, err := apply.ListDivergent(w.o.root)
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	note := func(path string) {
		if b, err := os.ReadFile(filepath.Join(w.dir, path)); err == nil {
			have[string(b)] = true
		}
	}
	for _, k := range kept {
		note(k.File)
		for name := range own() { // a directory is kept as a whole
			note(filepath.Join(k.File, filepath.Base(name)))
		}
	}
	for name := range own() {
		if note(name); !have[ownText(name)] {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// TestAStrangerIsKilledWhileItCompares: a node that joins with files of its own keeps each that the master's takes the
// place of, wherever it is killed on the way, and whether or not the master's journal still reaches back to where it began.
func TestAStrangerIsKilledWhileItCompares(t *testing.T) {
	for name, trimmed := range map[string]bool{"and goes on": false, "and compares anew": true} {
		t.Run(name, func(t *testing.T) {
			killed := 0
			for fuse := int64(1); killed == int(fuse)-1; fuse++ {
				base := memoryDir(t)
				synctest.Test(t, func(t *testing.T) {
					w, err := joining(base)
					if err != nil {
						t.Fatal(err)
					}
					w.fuse.Store(fuse)
					if err := w.wait(0); err != nil { // it dies, and starts again
						t.Fatal(err)
					}
					if w.link == nil {
						killed++
					}
					w.compare = trimmed
					w.settled(t, fmt.Sprintf("killed at name %d", fuse))
				})
			}
			if killed < len(own()) {
				t.Errorf("killed at %d places only", killed)
			}
		})
	}
}

// settled lets the follower get everything, and wants its own files kept.
func (w *world) settled(t *testing.T, when string) {
	t.Helper()
	if err := w.wait(time.Minute); err != nil {
		t.Fatal(err)
	}
	missing, err := discarded(w)
	if len(missing) > 0 || err != nil {
		t.Errorf("%s: %v of its own are kept nowhere (%v)", when, missing, err)
	}
	if diff, err := w.finish(); diff != "" || err != nil {
		t.Errorf("%s: %s (%v)", when, diff, err)
	}
}
