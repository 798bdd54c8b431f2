package apply

import (
	"bytes"
	"os"
	"testing"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// large is a file that is here already, and the transfer that will replace it.
func large(t *testing.T, r *rig) (old []byte, was tree.Meta, have []wire.Have) {
	t.Helper()
	old = bytes.Repeat([]byte("0123456789abcdef"), wire.DeltaLeast/16)
	r.write("big", string(old))
	must(t, os.Chtimes(r.abs("big"), time.Time{}, time.Unix(1000, 5)))
	was, err := r.o.Root.Lstat("big")
	must(t, err)
	m := was
	m.MTime++
	r.do(wire.Op{Kind: wire.OpDefer, Path: "big", ID: 7, Meta: m})
	_, ids, have := r.TakeMissed()
	if len(ids) != 1 || len(have) != 1 || have[0] != (wire.Have{ID: 7, Size: was.Size, MTime: was.MTime}) {
		t.Fatalf("asked for %v, has %v; want transfer 7 and what is here", ids, have)
	}
	return old, was, have
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOnlyWhatChangedOfALargeFile(t *testing.T) {
	r := newRig(t, t.TempDir())
	old, was, _ := large(t, r)
	must(t, r.Base(7, was.Size, was.MTime))
	must(t, r.Keep(7, 100_000))
	must(t, r.Data(7, []byte("changed")))
	must(t, r.Keep(7, 1_000_000))
	must(t, r.Hole(7, 8192))
	must(t, r.Data(7, []byte("the end")))
	want := append([]byte(nil), old[:1_100_007]...)
	copy(want[100_000:], "changed")
	want = append(append(want, make([]byte, 8192)...), "the end"...)
	m := was
	m.Size, m.MTime = int64(len(want)), was.MTime+1
	if b, err := os.ReadFile(r.abs("big")); err != nil || !bytes.Equal(b, old) {
		t.Fatalf("the file changed before the transfer was whole (%v)", err)
	}
	must(t, r.Seal(7, m))
	if n := r.StageReady(); n != 1 {
		t.Fatalf("%d transfers are ready", n)
	}
	must(t, r.Commit())
	if b, err := os.ReadFile(r.abs("big")); err != nil || !bytes.Equal(b, want) {
		t.Fatalf("other bytes (%d of %d, %v)", len(b), len(want), err)
	}
	if r.o.Journal.OwedLen() != 0 {
		t.Error("it is still owed")
	}
}

// A file that was written here meanwhile is no base: nothing may be published on
// top of it, and the path is asked for again.
func TestChangesAgainstAnotherFileAreVoid(t *testing.T) {
	r := newRig(t, t.TempDir())
	_, was, _ := large(t, r)
	r.write("big", "written by a stranger")
	must(t, r.Base(7, was.Size, was.MTime))
	must(t, r.Keep(7, 100_000))
	must(t, r.Data(7, []byte("changed")))
	must(t, r.Seal(7, was))
	if n := r.StageReady(); n != 0 {
		t.Fatalf("%d transfers are ready", n)
	}
	if !r.Sealed() {
		t.Error("nothing is to be asked for: a batch's end would leave it")
	}
	must(t, r.Commit())
	r.wants("big", "written by a stranger")
	if trees, _, _ := r.TakeMissed(); len(trees) != 1 || string(trees[0]) != "big" {
		t.Errorf("asked for %q, want big", trees)
	}
	if r.o.Journal.OwedLen() != 1 {
		t.Error("it is not owed any more")
	}
}
