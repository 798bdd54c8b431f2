package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
)

// suspected has a change by others at every path wait to be set aside.
func (r *rig) suspected() {
	r.t.Helper()
	g := &Guard{Set: NewSet(r.o.Root, "b", 2, WhyForeign, r.now), Waits: func(string, tree.Meta) bool { return true }}
	if err := r.Guard(g); err != nil {
		r.t.Fatal(err)
	}
}

// What was kept aside as unreceived, and is taken for others' when the source's comes, is kept once; and if the source's
// is the same, it is listed no more.
func TestKeptTwice(t *testing.T) {
	for _, tc := range []struct {
		source string
		listed []string
	}{{"mine", []string{}}, {"yours", []string{"changed doc: mine"}}} {
		r := newRig(t, t.TempDir())
		r.do(fileOp("doc", "old"))
		from := r.o.Journal.Position()
		r.write("doc", "mine")
		r.local(journal.Dirty, "doc", "")
		r.setAside(from)
		r.suspected()
		r.answer(fileOp("doc", tc.source))
		r.wants("doc", tc.source)
		if diff := cmp.Diff(tc.listed, r.listed()); diff != "" {
			t.Errorf("the source has %q: %s", tc.source, diff)
		}
	}
}

// Two versions are kept of a path in two sets, of which the source turns out to have the older one.
func TestKeptInTwoSets(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("doc", "old"))
	from := r.o.Journal.Position()
	r.write("doc", "mine")
	r.local(journal.Dirty, "doc", "")
	r.setAside(from)
	r.write("doc.new", "others'")
	if err := r.o.Root.Rename("doc.new", "doc"); err != nil {
		t.Fatal(err)
	}
	r.suspected()
	r.answer(fileOp("doc", "mine"))
	r.wants("doc", "mine")
	if diff := cmp.Diff([]string{"changed doc: others'"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}

// The same by a notification that is acted upon before the source's version has come.
func TestKeptTwiceByANotification(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("doc", "old"))
	from := r.o.Journal.Position()
	r.write("doc", "mine")
	r.local(journal.Dirty, "doc", "")
	r.setAside(from)
	set := NewSet(r.o.Root, "b", 2, WhyForeign, r.now)
	if err := r.KeepForeign(set, "doc", false); err != nil {
		t.Fatal(err)
	}
	r.answer(fileOp("doc", "mine"))
	if diff := cmp.Diff([]string{}, r.listed()); diff != "" {
		t.Error(diff)
	}
}
