package apply

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// longest is a path as long as any that is mirrored.
func longest() string {
	p := strings.Repeat(strings.Repeat("x", 250)+"/", 15)
	return p + strings.Repeat("d/", (tree.MaxPath-2-len(p))/2) + "f"
}

// TestLongestPath: a path as long as the kernel takes is replaced, kept and
// removed as any other, although its places in trash and divergent are longer.
func TestLongestPath(t *testing.T) {
	r := newRig(t, inMemory(t))
	path := longest()
	if err := tree.Check(path); err != nil || tree.Check(path+"f") == nil && tree.Check(path+"ff") == nil {
		t.Fatalf("%d bytes: %v", len(path), err)
	}
	r.do(fileOp(path, "one"))
	r.do(fileOp(path, "two"))
	set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
	if err := set.Keep(path); err != nil {
		t.Fatal(err)
	}
	if !set.SameAs(path) {
		t.Error("what was kept is another")
	}
	r.do(removeOp(path))
	if _, err := r.o.Root.Lstat(path); !tree.IsGone(err) {
		t.Errorf("it is still there: %v", err)
	}
	kept, err := ListDivergent(r.o.Root)
	if err != nil || len(kept) != 1 || kept[0].Path != path {
		t.Errorf("%d are listed: %v", len(kept), err)
	}
	trashed, err := ListTrash(r.o.Root, "")
	if err != nil || len(trashed) != 1 || trashed[0].Path != path {
		t.Errorf("the trash has %d: %v", len(trashed), err)
	}
	r.unpin()
	r.now = r.now.Add(8 * 24 * time.Hour)
	r.prune()
	if trashed, err = ListTrash(r.o.Root, path); err != nil || len(trashed) != 0 {
		t.Errorf("the trash has %d after a week: %v", len(trashed), err)
	}
	r.reopen()
}

// unpin is a person who has read of the mass deletion.
func (r *rig) unpin() {
	r.t.Helper()
	pins, err := filepath.Glob(r.abs(trashDir + "/*" + pinSuffix))
	for _, p := range pins {
		err = errors.Join(err, os.Remove(p))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestStrangeNamesAreListed: the list of what was kept has lines of any length that a path may take.
func TestStrangeNamesAreListed(t *testing.T) {
	r := newRig(t, inMemory(t))
	path := strings.Repeat(strings.Repeat("\x01", 250)+"/", 16) + "\xff"
	r.do(fileOp(path, "one"))
	set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
	if err := set.Keep(path); err != nil {
		t.Fatal(err)
	}
	kept, err := ListDivergent(r.o.Root)
	if err != nil || len(kept) != 1 || kept[0].Path != path {
		t.Errorf("%d are listed: %v", len(kept), err)
	}
}

// TestTooDeepToName: a tree deeper than any path can say goes when its trash does.
func TestTooDeepToName(t *testing.T) {
	r := newRig(t, inMemory(t))
	r.do(dirOp("deep"))
	fd, err := unix.Open(r.abs("deep"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for i := 0; i < 2500 && err == nil; i++ { // 5,000 bytes of path, made step by step
		var next int
		if err = unix.Mkdirat(fd, "d", 0o755); err == nil {
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			unix.Close(fd)
			fd = next
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	r.do(removeOp("deep"))
	r.unpin()
	r.now = r.now.Add(8 * 24 * time.Hour)
	r.prune()
	if left, err := os.ReadDir(r.abs(trashDir)); err != nil || len(left) != 0 {
		t.Errorf("the trash still has %v, %v", left, err)
	}
	left, err := filepath.Glob(r.abs(tree.Hidden + "/*deep*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
