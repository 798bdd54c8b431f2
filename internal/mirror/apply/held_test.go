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
