package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/mirror/wire"
)

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
		if err := os.Truncate(r.abs("f"), tc.size); err != nil {
			t.Fatal(err)
		}
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
	r.do(fileOp("c", "1"))
	if got := r.trashed(); len(got) != 1 || !strings.HasSuffix(got[0], "/b") {
		t.Errorf("two hours behind the age of the first: %q", got)
	}
	if got := r.Stats().Trash.Bytes; got != 1 {
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
		if got := r.Stats().Trash.Alarm != ""; got != tc.alarm {
			t.Errorf("%d of %d removed: alarm %v", tc.removed, tc.removed+tc.left, got)
		}
		r.now = r.now.Add(r.o.TrashAge + time.Hour)
		r.do(fileOp("later", "x"))
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
	r.seq = r.o.Journal.Position().Seq
	r.do(fileOp("later", "x"))
	if got := len(r.trashed()); got != len(gone) {
		t.Errorf("%d of %d are in the trash after a restart", got, len(gone))
	}
}
