package apply

import (
	"io/fs"
	"slices"

	"revolve/internal/mirror/tree"
	"revolve/internal/syswait"
)

// openDirs bounds the directories that are held open at once: while a batch is published, and to be synced together.
const openDirs = 64

// openDirs is two at least: a removal needs both of its directories.
func (a *Applier) openDirs() int { return max(2, min(openDirs, a.few)) }

func (f *Flight) held() (n int) {
	for _, h := range f.dirs {
		if h != nil {
			n++
		}
	}
	return n
}

// hold opens a directory of a batch once; it stays open until what happened in it is durable, or too many are.
func (a *Applier) hold(dir string) (*tree.Held, error) {
	if h := a.held[dir]; h != nil {
		return h, nil
	}
	if len(a.held) >= a.openDirs() { // a batch goes directory by directory
		a.letGo()
	}
	h, err := a.o.Root.Hold(dir)
	if err != nil {
		return nil, err
	}
	a.held[dir] = h
	return h, nil
}

// letGo closes the directories that are held for a batch: they may not be where they were.
func (a *Applier) letGo() {
	for _, h := range a.held {
		h.Close()
	}
	clear(a.held)
}

// syncTogether makes files durable, and then the renames, removals and new names
// in dirs. A directory that is gone has no names.
func syncTogether(root *tree.Root, files []*tree.Draft, dirs map[string]*tree.Held) error {
	if len(dirs) > fewDirs {
		return root.SyncAll() // of files, too
	}
	t := together{files: files}
	defer t.close()
	for rel, held := range dirs {
		if held != nil {
			t.held = append(t.held, held)
			continue
		}
		dir, err := root.Hold(rel)
		if tree.IsGone(err) {
			continue
		}
		if err != nil {
			return err
		}
		if t.dirs = append(t.dirs, dir); len(t.dirs) == openDirs {
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	return t.flush()
}

// byPath are directories that are opened when they are synced.
func byPath(dirs map[string]bool) map[string]*tree.Held {
	opened := make(map[string]*tree.Held, len(dirs))
	for dir := range dirs {
		opened[dir] = nil
	}
	return opened
}

// together is what the next flush makes durable.
type together struct {
	files []*tree.Draft
	dirs  []*tree.Held // opened for it
	held  []*tree.Held // the caller's
}

func (t *together) flush() error {
	files, dirs := make([]int, len(t.files)), make([]int, 0, len(t.dirs)+len(t.held))
	for i, f := range t.files {
		files[i] = f.FD()
	}
	for _, d := range slices.Concat(t.dirs, t.held) {
		dirs = append(dirs, d.FD())
	}
	at, err := syswait.Flush(files, dirs)
	if err != nil {
		err = &fs.PathError{Op: "sync", Path: t.name(at), Err: err}
	}
	t.files, t.held = nil, nil
	t.close()
	return err
}

func (t *together) name(fd int) string {
	for _, f := range t.files {
		if f.FD() == fd {
			return f.Name()
		}
	}
	for _, d := range slices.Concat(t.dirs, t.held) {
		if d.FD() == fd {
			return d.Path()
		}
	}
	return ""
}

func (t *together) close() {
	for _, d := range t.dirs {
		d.Close()
	}
	t.dirs = nil
}
