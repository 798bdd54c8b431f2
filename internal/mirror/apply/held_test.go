package apply

import "testing"

// Directories are held open while a commit is published; what moves within it must
// not take later names of the same commit along.
func TestACommitFollowsItsOwnRenames(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), dirOp("gone"), fileOp("gone/old", "o"), fileOp("there", "1"))
	r.do(
		fileOp("d/x", "x"),
		renameOp("d", "e"),
		dirOp("d"),
		fileOp("d/y", "y"),
		fileOp("gone/new", "n"), // holds the directory, which gives way to a file
		fileOp("gone", "file"),
		fileOp("there", "2"),
		removeOp("d/y"),
		fileOp("d/z", "z"),
	)
	r.wants("e/x", "x")
	r.gone("e/y")
	r.gone("e/z")
	r.gone("d/y")
	r.wants("d/z", "z")
	r.wants("gone", "file")
	r.wants("there", "2")
	if held := len(r.held); held > 0 {
		t.Errorf("%d directories are still held open after the commit", held)
	}
}

// What is removed goes through directories that are held open, too: never through one that has gone, moved or given way since.
func TestRemovalsFollowTheirDirectories(t *testing.T) {
	for _, few := range []int{0, fewFiles} { // as many directories are held as descriptors allow
		r := newRig(t, t.TempDir())
		r.few = few
		r.do(dirOp("p"), fileOp("p/x", "1"), fileOp("p/y", "2"), dirOp("q"), fileOp("q/x", "3"), dirOp("m"), fileOp("m/x", "4"), fileOp("m/y", "5"), fileOp("f", "6"))
		r.do(
			removeOp("p/x"),
			removeOp("q/x"),
			removeOp("p/y"),
			removeOp("p"),
			dirOp("p"),
			fileOp("p/x", "again"),
			removeOp("m/x"), // holds m
			renameOp("m", "n"),
			removeOp("n/y"),
			removeOp("q"),
			fileOp("q", "a file"),
			removeOp("f"),
			dirOp("f"),
			fileOp("f/x", "7"),
			removeOp("f/x"),
		)
		for _, gone := range []string{"p/y", "m", "n/y", "n/x", "f/x"} {
			r.gone(gone)
		}
		r.wants("p/x", "again")
		r.wants("q", "a file")
		slot := r.trash.slot()
		for path, want := range map[string]string{"p/x": "1", "p/y": "2", "q/x": "3", "m/x": "4", "n/y": "5", "f": "6", ".~1~/f/x": "7"} {
			r.wants(slot+"/"+path, want)
		}
		must(t, r.o.Root.RemoveAll(slot)) // old slots go while a batch is applied
		r.do(dirOp("s"), fileOp("s/x", "8"), fileOp("s/y", "9"))
		for i, path := range []string{"s/x", "s/y"} {
			r.seq++
			must(t, r.Stage(removeOp(path)))
			if i == 0 {
				must(t, r.Commit())
				must(t, r.o.Root.RemoveAll(slot))
			}
		}
		must(t, r.Commit())
		r.wants(slot+"/s/y", "9")
		if held := len(r.held); held > 0 {
			t.Errorf("%d directories are still held open after the commit", held)
		}
	}
}
