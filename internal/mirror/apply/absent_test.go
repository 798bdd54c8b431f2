package apply

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// scanned compares the volume with a source that has only these names in its root; what is missing was not seen going.
func (r *rig) scanned(names ...string) {
	r.t.Helper()
	l := wire.List{Job: 1, Extras: wire.ExtrasAsk, Meta: dirOp("").Meta}
	for _, name := range names {
		l.Entries = append(l.Entries, r.entry(name, "1"))
	}
	c := r.Compare(1)
	if _, err := c.List(l); err != nil {
		r.t.Fatal(err)
	}
	if _, err := c.End(); err != nil {
		r.t.Fatal(err)
	}
}

// wantsAbsent looks at them as pings do, after a while.
func (r *rig) wantsAbsent(names int, sample ...string) {
	r.t.Helper()
	r.now = r.now.Add(absentEvery)
	if err := r.Idle(); err != nil {
		r.t.Fatal(err)
	}
	absent := r.Absent()
	var got []string
	for _, name := range absent.Sample {
		got = append(got, string(name))
	}
	if diff := cmp.Diff(sample, got); absent.Names != names || diff != "" || r.Stats().Absent != names {
		r.t.Errorf("%d names are to be decided about, %d counted, want %d: %s", absent.Names, r.Stats().Absent, names, diff)
	}
}

// A scan beside many changes does not find what they have removed, renamed or not made yet: once the master has told of
// that, no person is asked about it. What nobody explains stays, over a restart, too.
func TestAbsentUntilExplained(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("same", "1"), fileOp("removed", "1"), fileOp("renamed", "1"), fileOp("comes", "1"), fileOp("over", "1"), fileOp("stays", "1"),
		dirOp("tree"), fileOp("tree/f", "1"), dirOp("moved"), fileOp("moved/f", "1"), dirOp("dir"), fileOp("dir/f", "1"))
	r.scanned("same")
	r.wantsAbsent(11, "comes", "dir", "moved", "over", "removed")
	if err := r.try(removeOp("removed"), renameOp("renamed", "anew"), removeOp("tree"), renameOp("moved", "elsewhere"), fileOp("comes", "2"), renameOp("same", "over"), dirOp("dir")); err != nil {
		t.Fatal(err)
	}
	r.wantsAbsent(2, "dir", "stays")
	r.reopen()
	r.wantsAbsent(2, "dir", "stays")
	r.wants("stays", "1")
	r.do(removeOp("dir"), removeOp("stays"))
	r.wantsAbsent(0)
	r.reopen()
	r.wantsAbsent(0)
}

// A name that comes ahead of its durability is there as well.
func TestAbsentUntilItFlies(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("f", "1"))
	r.scanned()
	r.wantsAbsent(1, "f")
	if err := r.o.Root.Remove("f"); err != nil {
		t.Fatal(err)
	}
	r.seq++
	op := fileOp("f", "2")
	op.Seq = r.seq
	if err := r.Stage(op); err != nil {
		t.Fatal(err)
	}
	if flew, err := r.Fly(1); err != nil || !flew {
		t.Fatalf("it did not fly: %v", err)
	}
	r.wantsAbsent(0)
}

// The names follow a directory that is renamed.
func TestAbsentBelowWhatIsRenamed(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), fileOp("d/f", "1"))
	c := r.Compare(1)
	for _, l := range []wire.List{
		{Job: 1, Extras: wire.ExtrasAsk, Meta: dirOp("").Meta, Entries: []tree.Entry{{Name: "d", Meta: dirOp("d").Meta}}},
		{Job: 1, Dir: "d", Extras: wire.ExtrasAsk, Meta: dirOp("d").Meta},
	} {
		if _, err := c.List(l); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.End(); err != nil {
		t.Fatal(err)
	}
	r.wantsAbsent(1, "d/f")
	r.do(renameOp("d", "e"))
	r.wantsAbsent(1, "e/f")
	r.wants("e/f", "1")
}

// Beyond the bound only the number is known, as it is of what an earlier version wrote: it goes down by what is known.
func TestAbsentIsBounded(t *testing.T) {
	r := newRig(t, t.TempDir())
	var x absences
	for i := range maxAbsent + 10 {
		x.add(fmt.Sprint("n", i), 1)
	}
	if len(x.left) != maxAbsent {
		t.Fatalf("%d names are remembered", len(x.left))
	}
	long := absences{}
	for i := range maxAbsent {
		long.add(fmt.Sprint(i, strings.Repeat("\xff", 1000)), 1)
	}
	b, err := json.Marshal(Absent{Names: len(long.left), Left: long.left})
	if err != nil || len(long.left) < 200 || len(b) > maxAbsentFile {
		t.Errorf("%d names in %d bytes: %v", len(long.left), len(b), err)
	}
	if err := r.noteAbsent(Absent{Names: maxAbsent + 10, Left: x.left}); err != nil {
		t.Fatal(err)
	}
	r.wantsAbsent(10)
	r.reopen()
	r.wantsAbsent(10)
}
