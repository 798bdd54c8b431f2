package apply

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// listed is what ListDivergent says, each entry with the bytes kept.
func (r *rig) listed() []string {
	r.t.Helper()
	kept, err := ListDivergent(r.o.Root)
	if err != nil {
		r.t.Fatal(err)
	}
	lines := []string{}
	for _, k := range kept {
		line := k.What + " " + k.Path
		if k.Old != "" {
			line += " from " + k.Old
		}
		if k.File != "" {
			b, err := os.ReadFile(r.abs(k.File))
			st, serr := os.Lstat(r.abs(k.File))
			switch {
			case serr == nil && st.IsDir():
				b, err = []byte("/"), nil
			case serr == nil && st.Mode()&os.ModeSymlink != 0:
				to, lerr := os.Readlink(r.abs(k.File))
				b, err = []byte("-> "+to), lerr
			}
			if err != nil {
				r.t.Errorf("%+v: %v", k, err)
			}
			line += ": " + string(b)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func (r *rig) setAside(from cluster.Position) *Set {
	r.t.Helper()
	tail, err := r.o.Journal.Tail(from, MaxTail)
	if err != nil {
		r.t.Fatal(err)
	}
	set, err := r.SetAside(from, tail, "b", WhyUnreceived)
	if err != nil {
		r.t.Fatal(err)
	}
	return set
}

// TestSavedAsideAsEditorsDo: the temporary name is unknown to the master; that
// it is gone in both places must not take what was saved with it.
func TestSavedAsideAsEditorsDo(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("doc", "old"))
	from := r.o.Journal.Position()
	r.write("doc", "new")
	r.local(journal.Dirty, "doc.tmp", "")
	r.local(journal.Renamed, "doc", "doc.tmp")
	r.setAside(from)
	r.seq = from.Seq
	answer := fileOp("doc", "old") // the master's answers to what is owed
	if err := r.Stage(removeOp("doc.tmp")); err != nil {
		t.Fatal(err)
	}
	if err := r.Stage(answer); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	r.wants("doc", "old")
	if diff := cmp.Diff([]string{"changed doc: new"}, r.listed()); diff != "" {
		t.Error(diff)
	}
	if owed := r.o.Journal.Owed(); owed.Len() != 0 {
		t.Errorf("still owed: %v", owed.List())
	}
}

// TestForeignTwice: every version that others write on a standby is kept.
func TestForeignTwice(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("f", "master's"))
	set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
	for _, version := range []string{"first", "second", "third"} {
		if err := os.Remove(r.abs("f")); err != nil {
			t.Fatal(err)
		}
		r.write("f", version)
		if err := r.KeepForeign(set, "f", false); err != nil {
			t.Fatal(err)
		}
		if err := r.KeepForeign(set, "f", false); err != nil { // two events of one write
			t.Fatal(err)
		}
		r.do(fileOp("f", "master's"))
	}
	r.wants("f", "master's")
	if diff := cmp.Diff([]string{"changed f: first", "changed f: second", "changed f: third"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}

// TestTakenBack: what turns out to be the master's own is not listed, and takes
// nothing else with it.
func TestTakenBack(t *testing.T) {
	r := newRig(t, t.TempDir())
	set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
	r.write("d/same", "same")
	r.write("d/other", "foreign")
	for _, p := range []string{"d", "d/same", "d/other", "never-was"} {
		if err := r.KeepForeign(set, p, false); err != nil {
			t.Fatal(err)
		}
	}
	r.do(dirOp("d"), fileOp("d/same", "same"), fileOp("d/other", "master's"), removeOp("never-was"))
	if diff := cmp.Diff([]string{"changed d/other: foreign"}, r.listed()); diff != "" {
		t.Error(diff)
	}
	r.wants("d/other", "master's")

	// A set of which nothing is left leaves no trace.
	all := NewSet(r.o.Root, "b", 2, WhyForeign, r.now)
	r.write("x", "x")
	if err := r.KeepForeign(all, "x", false); err != nil {
		t.Fatal(err)
	}
	r.do(fileOp("x", "x"))
	r.gone(divergentDir + "/" + all.Name())
}

// TestTwoSetsOfOneName: what is taken back from one leaves what the other keeps.
func TestTwoSetsOfOneName(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.write("f", "foreign")
	r.write("g", "the master's")
	for _, rel := range []string{"f", "g"} {
		if err := r.KeepForeign(NewSet(r.o.Root, "b", 1, WhyForeign, r.now), rel, false); err != nil {
			t.Fatal(err)
		}
	}
	r.do(fileOp("f", "newer"), fileOp("g", "the master's"))
	if diff := cmp.Diff([]string{"changed f: foreign"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}

// TestNotTakenBackByAFailure: when the master's could not be published, what is there is what was kept, under two
// names; it is not the master's for that.
func TestNotTakenBackByAFailure(t *testing.T) {
	for name, op := range map[string]wire.Op{
		"file":  fileOp("d/f", "newer"),
		"group": {Kind: wire.OpGroup, How: wire.GroupData, Path: "d/f", Names: []string{"d/g"}, Meta: fileOp("", "newer").Meta, Data: []byte("newer")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.do(dirOp("d"), fileOp("d/f", "old"))
			r.guard0()
			r.write("d/f", "foreign")
			r.o.Step = func(step string) {
				if step == "publish" { // the rename finds nothing
					staged, err := r.aside()
					for _, name := range staged {
						err = errors.Join(err, os.Remove(name))
					}
					if err != nil || len(staged) == 0 {
						t.Errorf("%d files are staged (%v)", len(staged), err)
					}
				}
			}
			if err := r.try(op); !tree.IsGone(err) {
				t.Fatalf("the operation ended with %v", err)
			}
			if diff := cmp.Diff([]string{"changed d/f: foreign"}, r.listed()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTakenBackWithItsOwner: a link that belongs to somebody, marked by the scan after
// an unclean stop, is the master's own all the same: its owner is kept with it.
func TestTakenBackWithItsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: only root can give a link to another owner")
	}
	r := newRig(t, t.TempDir())
	op := wire.Op{Kind: wire.OpSymlink, Path: "link", Meta: tree.Meta{Kind: tree.Symlink, Mode: 0o777, UID: 1234, GID: 4321, MTime: 1e18, Target: "to"}}
	r.do(op)
	from := r.o.Journal.Position()
	r.local(journal.Dirty, "link", "")
	r.setAside(from)
	r.seq = from.Seq
	r.do(op)
	if list := r.listed(); len(list) != 0 {
		t.Errorf("kept aside though the master has the same: %q", list)
	}
}

// TestKeptAcrossARename: a rename of the master's moves what was written here
// on; the entries of the set stay as they are.
func TestKeptAcrossARename(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), fileOp("d/a", "1"), fileOp("d/b", "2"))
	set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
	r.write("d/a", "foreign a")
	r.write("d/b", "foreign b")
	for _, p := range []string{"d/a", "d/b"} {
		if err := r.KeepForeign(set, p, false); err != nil {
			t.Fatal(err)
		}
	}
	r.do(renameOp("d", "e"), fileOp("e/a", "1"), fileOp("e/b", "2"), removeOp("d/a"), removeOp("d/b"))
	if diff := cmp.Diff([]string{"changed d/a: foreign a", "changed d/b: foreign b"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}

// tail makes a tree and a journal whose last changes nobody received.
func tail(r *rig) (from cluster.Position) {
	r.do(dirOp("dir"), fileOp("dir/in", "v1"), fileOp("mod", "v1"), fileOp("del", "v1"), fileOp("ren", "v1"), dirOp("gone"), fileOp("gone/x", "v1"))
	from = r.o.Journal.Position()
	r.write("mod", "v2")
	r.local(journal.Dirty, "mod", "")
	r.write("new", "v2")
	r.local(journal.Dirty, "new", "")
	must := func(err error) {
		if err != nil {
			r.t.Fatal(err)
		}
	}
	must(os.Remove(r.abs("del")))
	r.local(journal.Removed, "del", "")
	must(os.Rename(r.abs("ren"), r.abs("ren2")))
	r.local(journal.Renamed, "ren2", "ren")
	r.write("dir/in", "v2")
	r.local(journal.Dirty, "dir/in", "")
	must(os.Rename(r.abs("dir"), r.abs("dir2")))
	r.local(journal.Renamed, "dir2", "dir")
	r.write("dir2/after", "v2")
	r.local(journal.Dirty, "dir2/after", "")
	must(os.RemoveAll(r.abs("gone")))
	r.local(journal.Removed, "gone/x", "")
	r.local(journal.Removed, "gone", "")
	must(os.Symlink("to", r.abs("link")))
	r.local(journal.Dirty, "link", "")
	must(os.Mkdir(r.abs("fresh"), 0o755))
	r.local(journal.Tree, "fresh", "")
	must(r.o.Journal.Sync())
	return from
}

// TestSetAsideResumesAfterEveryStep stops the plan after each of its steps and
// starts again: the same is kept, the same is owed, and nothing is lost.
func TestSetAsideResumesAfterEveryStep(t *testing.T) {
	whole := newRig(t, t.TempDir())
	from := tail(whole)
	whole.setAside(from)
	want := whole.listed()
	owed := whole.o.Journal.Owed()
	for _, line := range []string{"changed mod: v2", "changed new: v2", "changed dir2/after: v2", "changed dir/in: v2", "removed del", "renamed dir2 from dir", "changed ren2: v1"} {
		if !slices.Contains(want, line) {
			t.Errorf("%q is not kept: %q", line, want)
		}
	}
	for steps := 0; ; steps++ {
		r := newRig(t, t.TempDir())
		from := tail(r)
		done := r.planUpTo(from, steps)
		r.reopen()
		if err := r.ResumePlan(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, r.listed()); diff != "" {
			t.Errorf("after a crash behind step %d: %s", steps, diff)
		}
		if r.o.Journal.Position() != from {
			t.Errorf("after a crash behind step %d: at %v", steps, r.o.Journal.Position())
		}
		got := r.o.Journal.Owed()
		if diff := cmp.Diff(owed.List(), got.List()); diff != "" {
			t.Errorf("owed after a crash behind step %d: %s", steps, diff)
		}
		r.gone(planName)
		if err := r.ResumePlan(); err != nil { // nothing to do any more
			t.Error(err)
		}
		if done {
			return
		}
	}
}

// planUpTo does the first steps of setting the tail aside and stops, as a crash
// would; done says that these were all, the journal included.
func (r *rig) planUpTo(from cluster.Position, steps int) (done bool) {
	r.t.Helper()
	records, err := r.o.Journal.Tail(from, MaxTail)
	if err != nil {
		r.t.Fatal(err)
	}
	set := NewSet(r.o.Root, "b", 1, WhyUnreceived, r.o.Now())
	plan := planOf(set, from, records)
	if err := r.writePlan(plan); err != nil {
		r.t.Fatal(err)
	}
	p := newSteps(set)
	for i, c := range slices.Backward(plan.Changes) {
		if len(plan.Changes)-1-i == steps {
			return false
		}
		if err := r.setAsideOne(p, c); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.o.Journal.Rewind(plan.To, p.owed.List()); err != nil {
		r.t.Fatal(err)
	}
	return true
}

func TestSetsHaveNamesOfTheirOwn(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	seen := map[string]bool{}
	for _, why := range []string{WhyForeign, WhyUnreceived} {
		for _, node := range []cluster.NodeID{"a", "b"} {
			seen[NewSet(nil, node, 1, why, at).Name()] = true
		}
	}
	if len(seen) != 4 {
		t.Error(fmt.Sprint(seen))
	}
}

// TestTreeKept: a directory that came as a whole is kept with everything in it,
// whether its maker was the master of a lost reign or wrote on a standby; what
// the new master has the same is not listed.
func TestTreeKept(t *testing.T) {
	want := []string{"changed moved/sub/y: two", "changed moved/sub: /", "changed moved/x: one", "changed moved: /"}
	for _, foreign := range []bool{false, true} {
		r := newRig(t, t.TempDir())
		from := r.o.Journal.Position()
		r.write("moved/x", "one")
		r.write("moved/sub/y", "two")
		if foreign {
			set := NewSet(r.o.Root, "b", 1, WhyForeign, r.now)
			if err := r.KeepForeign(set, "moved", true); err != nil {
				t.Fatal(err)
			}
		} else {
			r.local(journal.Tree, "moved", "")
			r.setAside(from)
		}
		if diff := cmp.Diff(want, r.listed()); diff != "" {
			t.Errorf("foreign %v: %s", foreign, diff)
		}
		r.do(removeOp("moved"))
		if diff := cmp.Diff(want, r.listed()); diff != "" {
			t.Errorf("foreign %v, after the removal: %s", foreign, diff)
		}
	}
}

// TestSetAsideTheRoot: a change of the volume's own directory, which a tail may hold, is no reason to stop.
func TestSetAsideTheRoot(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("f", "all"))
	from := r.o.Journal.Position()
	r.write("f", "mine")
	r.local(journal.Dirty, "f", "")
	r.local(journal.Dirty, "", "")
	r.setAside(from)
	if diff := cmp.Diff([]string{"changed f: mine"}, r.listed()); diff != "" {
		t.Error(diff)
	}
	owed := r.o.Journal.Owed()
	if _, root := owed.Get(""); !root {
		t.Errorf("the directory's own attributes are not asked for: %v", owed.List())
	}
}

// A directory that was moved out of the volume on the side that lost is told as removed, without what was in it. What comes for it is the
// directory alone; all that the master has in it is asked for, also if another one has its name by now.
func TestARemovedDirectoryComesBackWithWhatIsInIt(t *testing.T) {
	for name, then := range map[string]func(r *rig){
		"nothing is there now": func(*rig) {},
		"another is there":     func(r *rig) { must(t, os.Mkdir(r.abs("d"), 0o755)); r.local(journal.Dirty, "d", "") },
		"a file is there":      func(r *rig) { r.write("d", "file"); r.local(journal.Dirty, "d", "") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.do(dirOp("d"), fileOp("d/f", "in it"))
			from := r.o.Journal.Position()
			must(t, os.Rename(r.abs("d"), filepath.Join(t.TempDir(), "d")))
			r.local(journal.Removed, "d", "")
			then(r)
			r.setAside(from)
			r.seq = from.Seq
			must(t, r.Stage(dirOp("d"))) // the master's answer to what is owed
			must(t, r.Commit())
			owed := r.o.Journal.Owed()
			if d, ok := owed.Get("d"); !ok || !d.Tree {
				t.Errorf("owed: %+v", owed.List())
			}
		})
	}
}
