package apply

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/wire"
)

func (r *rig) prune() {
	r.t.Helper()
	if r.pruner == nil {
		r.pruner = NewPruner(r.o)
	}
	if err := r.pruner.Round(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) pins() []Pin {
	r.t.Helper()
	pins, err := Pins(r.o.Root)
	if err != nil {
		r.t.Fatal(err)
	}
	return pins
}

// allocate gives a file blocks of its own.
func (r *rig) allocate(rel string, size int64) {
	r.t.Helper()
	f, err := os.OpenFile(r.abs(rel), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// trashed lists what is in the trash, slot by slot.
func (r *rig) trashed() (paths []string) {
	r.t.Helper()
	top := r.abs(trashDir)
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, pinSuffix) {
			rel, _ := filepath.Rel(top, path)
			paths = append(paths, rel)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return paths
}

func TestTrashKeepsOneVersionInTenMinutes(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), fileOp("d/f", "1"))
	r.do(fileOp("d/f", "2")) // 1 is kept
	r.do(fileOp("d/f", "3")) // 2 is not
	r.now = r.now.Add(10 * time.Minute)
	r.do(fileOp("d/f", "4")) // 3 is kept
	r.do(removeOp("d/f"))    // 4 is not: the slot has one
	r.wants(trashDir+"/20260501T1200/d/f", "1")
	r.wants(trashDir+"/20260501T1210/d/f", "3")
	if got := r.trashed(); len(got) != 2 {
		t.Errorf("trash: %q", got)
	}
	if s := r.Stats().Trash; s.Kept != 2 || s.Skipped != 2 {
		t.Errorf("kept %d, skipped %d; what was skipped must be counted", s.Kept, s.Skipped)
	}
}

func TestTrashTakesWholeTrees(t *testing.T) {
	r := newRig(t, t.TempDir())
	for round := range 3 { // the same directory again and again within one slot
		r.do(dirOp("d"), dirOp("d/e"), fileOp("d/e/f", fmt.Sprint(round)))
		r.do(removeOp("d"))
		r.gone("d")
	}
	var found string
	for _, p := range r.trashed() {
		b, err := os.ReadFile(r.abs(trashDir + "/" + p))
		if err != nil {
			t.Fatal(err)
		}
		found += string(b)
	}
	if found != "012" {
		t.Errorf("the trash holds versions %q of %q", found, r.trashed())
	}
}

func TestTrashPassesLargeFilesOver(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("f", "x"))
	for _, tc := range []struct {
		size int64
		kept int64
	}{{trashMaxFile, 1}, {trashMaxFile + 1, 1}} {
		r.allocate("f", tc.size)
		r.do(removeOp("f"))
		r.gone("f")
		if s := r.Stats().Trash; s.Kept != tc.kept {
			t.Errorf("a file of %d bytes: %d kept, want %d", tc.size, s.Kept, tc.kept)
		}
		r.do(fileOp("f", "x"))
	}
	if s := r.Stats().Trash; s.Skipped == 0 {
		t.Error("a file that was too large is not counted")
	}
}

func TestTrashAges(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("a", "1"), fileOp("b", "1"))
	r.do(removeOp("a"))
	r.now = r.now.Add(r.o.TrashAge - time.Hour)
	r.do(removeOp("b"))
	r.wants(trashDir+"/20260501T1200/a", "1")
	r.now = r.now.Add(2 * time.Hour)
	r.prune()
	if got := r.trashed(); len(got) != 1 || !strings.HasSuffix(got[0], "/b") {
		t.Errorf("two hours behind the age of the first: %q", got)
	}
	if got, _ := r.pruner.Held(); got != 1 {
		t.Errorf("%d bytes are said to be held", got)
	}
}

// TestTrashShare: the oldest go first when the trash takes more than its part of the filesystem.
func TestTrashShare(t *testing.T) {
	r := newRig(t, tinyDisk(t)) // 5 % of 1 MiB are 52 KiB
	for i := range 4 {
		r.do(fileOp("f", strings.Repeat(fmt.Sprint(i), 20<<10)))
		r.now = r.now.Add(10 * time.Minute)
	}
	r.now = r.now.Add(10 * time.Minute)
	r.prune()
	got := r.trashed()
	if len(got) != 2 || !strings.HasPrefix(got[0], "20260501T1220") || !strings.HasPrefix(got[1], "20260501T1230") {
		t.Errorf("of three versions of 20 KiB, trash holds %q", got)
	}
}

// TestMassDeletion: more than half of a volume within a minute raises an alarm,
// and what went is pinned: it stays although it is old.
func TestMassDeletion(t *testing.T) {
	for _, tc := range []struct {
		removed, left int
		alarm         bool
	}{{massLeast + 20, 50, true}, {massLeast + 20, massLeast + 40, false}, {massLeast - 20, 0, false}} {
		r := newRig(t, t.TempDir())
		var ops, gone []wire.Op
		for i := range tc.removed + tc.left {
			ops = append(ops, fileOp(fmt.Sprint("f", i), "x"))
			if i < tc.removed {
				gone = append(gone, removeOp(fmt.Sprint("f", i)))
			}
		}
		r.do(ops...)
		r.do(gone...)
		if got := len(r.pins()) > 0; got != tc.alarm {
			t.Errorf("%d of %d removed: alarm %v", tc.removed, tc.removed+tc.left, got)
		}
		r.now = r.now.Add(r.o.TrashAge + time.Hour)
		r.prune()
		if got := len(r.trashed()); tc.alarm && got != tc.removed || !tc.alarm && got != 0 {
			t.Errorf("%d of %d removed, long after: %d in the trash", tc.removed, tc.removed+tc.left, got)
		}
	}
}

// TestPinSurvivesARestart: the alarm of a mass deletion is worth nothing if the
// next start of the agent lets its trash go.
func TestPinSurvivesARestart(t *testing.T) {
	r := newRig(t, t.TempDir())
	var ops, gone []wire.Op
	for i := range massLeast + 20 {
		ops = append(ops, fileOp(fmt.Sprint("f", i), "x"))
		gone = append(gone, removeOp(fmt.Sprint("f", i)))
	}
	r.do(ops...)
	r.do(gone...)
	r.reopen()
	r.now = r.now.Add(r.o.TrashAge + time.Hour)
	r.prune()
	if got := len(r.trashed()); got != len(gone) {
		t.Errorf("%d of %d are in the trash after a restart", got, len(gone))
	}
}

// TestUnpin: the alarm ends, and the trash goes by age again, when a person says so.
func TestUnpin(t *testing.T) {
	r := newRig(t, t.TempDir())
	var ops, gone []wire.Op
	for i := range massLeast + 20 {
		ops = append(ops, fileOp(fmt.Sprint("f", i), "x"))
		gone = append(gone, removeOp(fmt.Sprint("f", i)))
	}
	r.do(ops...)
	r.do(gone...)
	pins := r.pins()
	if len(pins) != 1 || pins[0].Removed != len(gone) || pins[0].Left != 0 {
		t.Fatalf("pins: %+v", pins)
	}
	if left, err := Unpin(r.o.Root, "20200101T0000"); err != nil || len(left) > 0 || len(r.pins()) != 1 {
		t.Errorf("another slot was named: %v, %v", left, err)
	}
	if done, err := Unpin(r.o.Root, ""); err != nil || len(done) != 1 || len(r.pins()) != 0 {
		t.Errorf("unpinned %v, %v", done, err)
	}
	r.prune()
	if got := len(r.trashed()); got != len(gone) {
		t.Errorf("young, and only %d of %d are left", got, len(gone))
	}
	r.now = r.now.Add(r.o.TrashAge + time.Hour)
	r.prune()
	if got := r.trashed(); len(got) != 0 {
		t.Errorf("unpinned and old, and still there: %q", got)
	}
}

// TestTrashQuota: the newest fill the quota first, and only what does not fit goes; a pinned slot counts for nothing.
func TestTrashQuota(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.o.TrashQuota = Quota{Bytes: 50 << 10}
	names := []string{"a", "b", "c"}
	for range 2 {
		for _, f := range names {
			r.do(fileOp(f, strings.Repeat(f, 20<<10)))
		}
		r.do(removeOp("a"), removeOp("b"), removeOp("c"))
		r.now = r.now.Add(10 * time.Minute)
	}
	r.now = r.now.Add(10 * time.Minute)
	r.prune()
	if got := r.trashed(); len(got) != 2 || got[0] != "20260501T1210/a" || got[1] != "20260501T1210/b" {
		t.Errorf("50 KiB of 20 KiB files: %q", got)
	}
	if held, dropped := r.pruner.Held(); held != 40<<10 || dropped != 4 {
		t.Errorf("holds %d bytes, dropped %d", held, dropped)
	}
	if err := pin(r.o.Root, Pin{Slot: "20260501T1210"}); err != nil {
		t.Fatal(err)
	}
	r.pruner = nil
	r.o.TrashQuota = Quota{Bytes: 1}
	r.prune()
	if got := r.trashed(); len(got) != 2 {
		t.Errorf("a pinned slot lost what the quota does not hold: %q", got)
	}
}

// TestTrashMakesRoom: on a full disk the trash goes before the volume stops for good, but never what is pinned.
func TestTrashMakesRoom(t *testing.T) {
	r := newRig(t, tinyDisk(t))
	for _, f := range []string{"pinned", "old", "new"} {
		r.do(fileOp(f, strings.Repeat("x", 250<<10)))
		r.do(removeOp(f))
		if f == "pinned" {
			if err := pin(r.o.Root, Pin{Slot: slotAt(r.now, DefaultEvery)}); err != nil {
				t.Fatal(err)
			}
		}
		r.now = r.now.Add(10 * time.Minute)
	}
	if err := r.try(fileOp("f", strings.Repeat("f", 400<<10))); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	r.Abort()
	p := NewPruner(r.o)
	if found, err := p.MakeRoom(450 << 10); err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	if got := r.trashed(); len(got) != 2 || !strings.HasSuffix(got[0], "/pinned") || !strings.HasSuffix(got[1], "/new") {
		t.Errorf("left: %q", got)
	}
	if found, err := p.MakeRoom(1 << 30); err != nil || !found {
		t.Errorf("found %v, %v", found, err)
	}
	if found, err := p.MakeRoom(1 << 30); err != nil || found {
		t.Errorf("found %v in what is pinned, %v", found, err)
	}
	if got := r.trashed(); len(got) != 1 || !strings.HasSuffix(got[0], "/pinned") {
		t.Errorf("left: %q", got)
	}
	r.seq = r.o.Journal.Position().Seq
	r.do(fileOp("f", strings.Repeat("f", 400<<10)))
	r.wants("f", strings.Repeat("f", 400<<10))
}

// TestTrashKeepsSharedLargeFiles: a file over 64 MiB is kept where reflink makes
// that free: its blocks are another file's as well.
func TestTrashKeepsSharedLargeFiles(t *testing.T) {
	r := newRig(t, newLoopDisk(t, "xfs").at)
	for _, shared := range []bool{false, true} {
		r.do(fileOp("f", "x"))
		b := make([]byte, trashMaxFile+(4<<20))
		for i := range b {
			b[i] = byte(i % 251)
		}
		r.write("f", string(b))
		if shared {
			r.clone("f", "twin")
		}
		before := r.Stats().Trash
		r.do(removeOp("f"))
		if s := r.Stats().Trash; (s.Kept-before.Kept == 1) != shared || (s.Skipped-before.Skipped == 1) == shared {
			t.Errorf("shared %v: kept %d, skipped %d", shared, s.Kept-before.Kept, s.Skipped-before.Skipped)
		}
	}
}

// clone makes a second file on the same blocks.
func (r *rig) clone(from, to string) {
	r.t.Helper()
	src, err := os.Open(r.abs(from))
	if err != nil {
		r.t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(r.abs(to))
	if err != nil {
		r.t.Fatal(err)
	}
	defer dst.Close()
	if err := errors.Join(src.Sync(), unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Sync()); err != nil {
		r.t.Skipf("SKIPPED PART: shared blocks on XFS: %v", err)
	}
}
