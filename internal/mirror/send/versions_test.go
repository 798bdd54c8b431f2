package send

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"revolve/internal/block"
	"revolve/internal/mirror/tree"
)

// TestOneCloneServesAllStreams: who comes while an inode is being cloned waits for that clone; of another inode nobody waits.
func TestOneCloneServesAllStreams(t *testing.T) {
	vs := NewVersions(nil)
	end := vs.turn(7)
	vs.turn(8)()
	clones, done := 0, make(chan struct{})
	for range 2 {
		go func() {
			defer vs.turn(7)()
			vs.mu.Lock()
			if len(vs.of[7]) == 0 { // as take finds it
				clones++
				vs.of[7] = []*version{{}}
			}
			vs.mu.Unlock()
			done <- struct{}{}
		}()
	}
	select {
	case <-done:
		t.Error("it did not wait")
	case <-time.After(10 * time.Millisecond):
	}
	end()
	<-done
	<-done
	vs.turn(7)()
	if clones != 1 || len(vs.busy) != 0 {
		t.Errorf("%d clones, %d inodes count as busy", clones, len(vs.busy))
	}
}

// TestStreamsShareAClone: both get the same version where the filesystem can clone.
func TestStreamsShareAClone(t *testing.T) {
	dir := t.TempDir()
	root, err := tree.Open(dir)
	must(t, err)
	defer root.Close()
	must(t, root.MkdirAll(tree.Hidden))
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
	vs := NewVersions(root)
	defer vs.Close()
	got := make(chan *version)
	for range 3 {
		go func() {
			f, _, err := root.OpenFile("f")
			if err != nil {
				t.Error(err)
			}
			defer f.Close()
			v, err := vs.take(f, "f")
			if err != nil && !errors.Is(err, block.ErrUnsupported) {
				t.Error(err)
			}
			got <- v
		}()
	}
	first := <-got
	for range 2 {
		if v := <-got; v != first {
			t.Error("two versions of one moment")
		}
	}
	if first == nil {
		t.Skip("SKIPPED PART: this filesystem cannot share blocks")
	}
	if first.uses != 3 {
		t.Errorf("%d uses, want 3", first.uses)
	}
}

// TestMapsAreComparedOnce: what another stream found out is taken, and can not be written over by who appends to it.
func TestMapsAreComparedOnce(t *testing.T) {
	was := &version{f: os.Stdin}
	now := &version{with: was.f, changed: slices.Clip([]block.Range{{At: 4096, Length: 4096}})} // without a file: to ask would fail
	for range 2 {
		got, err := now.since(was)
		if err != nil || len(got) != 1 || got[0].At != 4096 {
			t.Fatalf("%v, %v", got, err)
		}
		_ = append(got, block.Range{At: 1})
	}
	if _, err := now.since(&version{f: os.Stderr}); err == nil {
		t.Error("the changes since another version were taken for these")
	}
}

// TestReadingAheadIsBounded: so many ranges ahead and no more; holes have nothing to be read.
func TestReadingAheadIsBounded(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	ranges := make([]block.Range, 100)
	for i := range ranges {
		ranges[i] = block.Range{At: int64(i) << 12, Length: 4096, Hole: i%2 == 0}
	}
	a := readAhead{f: f, left: ranges}
	for i := range 101 {
		a.upTo(i + aheadRanges)
		if want := min(len(ranges), i+aheadRanges); a.done != want || len(a.left) != len(ranges)-want {
			t.Fatalf("at %d: %d are begun and %d left, want %d begun", i, a.done, len(a.left), want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
