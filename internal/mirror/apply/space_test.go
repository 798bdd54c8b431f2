package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/wire"
)

// tinyDisk is a tmpfs of one MiB.
func tinyDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED PART: a full disk: cannot mount a tmpfs: %v", err)
	}
	unmounted(t, dir)
	return dir
}

// inMemory is a tmpfs where one can be had: many files come and go quickly there.
func inMemory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256m") == nil {
		unmounted(t, dir)
	}
	return dir
}

func unmounted(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestFullDisk: no space is a clear error, publishes nothing of the batch, does
// not move the journal, and is over as soon as there is space again.
func TestFullDisk(t *testing.T) {
	dir := tinyDisk(t)
	r := newRig(t, dir)
	r.do(fileOp("doc", "old"), fileOp("ballast", strings.Repeat("b", 512<<10)))
	at := r.o.Journal.Position()
	batch := []wire.Op{fileOp("doc", "new"), fileOp("a", "a"), fileOp("large", strings.Repeat("l", 600<<10))}
	for range 2 { // again and again, as a stream that is opened anew does
		r.seq = at.Seq
		err := r.try(batch...)
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("a full disk: %v", err)
		}
		r.Abort()
		r.wants("doc", "old")
		r.gone("a")
		r.gone("large")
		if left, err := r.aside(); err != nil || len(left) > 0 {
			t.Errorf("left in the staging area: %v, %v", left, err)
		}
		if got := r.o.Journal.Position(); got != at {
			t.Errorf("the journal moved to %v", got)
		}
		r.reopen()
	}
	if err := os.Remove(r.abs("ballast")); err != nil {
		t.Fatal(err)
	}
	r.seq = at.Seq
	r.do(batch...)
	r.wants("doc", "new")
	r.wants("a", "a")
	if got := r.o.Journal.Position(); got.Seq != at.Seq+3 {
		t.Errorf("at %v", got)
	}
}

// TestSymlinkSwappedIn swaps a directory for a link to a directory outside and
// back, as fast as it can, while operations go below it: nothing outside may
// ever change.
func TestSymlinkSwappedIn(t *testing.T) {
	outside := t.TempDir()
	for _, name := range []string{"f", "victim", "old"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(outside, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), fileOp("d/f", "1"))
	if err := os.Symlink(outside, r.abs("trap")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, r.abs("d"), unix.AT_FDCWD, r.abs("trap"), unix.RENAME_EXCHANGE)
		}
	})
	const rounds = 150
	applied := 0
	for i := range rounds {
		ops := []wire.Op{fileOp("d/f", "inside"), fileOp("d/sub/deep", "inside"), dirOp("d"), dirOp("d/sub"), fileOp("d/old", "x"),
			renameOp("d/old", "d/new"), renameOp("d/victim", "d/taken"), removeOp("d/victim"), removeOp("d/f"), removeOp("d")}
		// Whoever is swapped in goes to the trash or is refused: errors are fine, following is not.
		if err := r.try(ops[i%len(ops)]); err != nil {
			r.Abort()
			r.seq = r.o.Journal.Position().Seq
		} else {
			applied++
		}
		if _, err := os.Lstat(r.abs("trap")); err != nil {
			_ = os.Symlink(outside, r.abs("trap"))
		}
		if _, err := os.Lstat(r.abs("d")); err != nil {
			_ = os.Mkdir(r.abs("d"), 0o755)
		}
	}
	cancel()
	wg.Wait()
	if applied == 0 {
		t.Error("nothing was applied: nothing was tested")
	}
	after, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
		t.Errorf("the directory outside was changed: %v, %v", before, after)
	}
	list, err := os.ReadDir(outside)
	if err != nil || len(list) != 4 {
		t.Errorf("outside there is now %v (%v)", list, err)
	}
	for _, name := range []string{"f", "victim", "old"} {
		if b, err := os.ReadFile(filepath.Join(outside, name)); err != nil || string(b) != "precious" {
			t.Errorf("%s outside holds %q (%v)", name, b, err)
		}
	}
}
