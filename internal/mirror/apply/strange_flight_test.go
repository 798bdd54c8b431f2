package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/mirror/wire"
)

// TestStrangersNewNamesFly: where nothing of a tree was there before, nothing can be lost by showing it before it is durable;
// while copies of what was there wait to be compared, and wherever a name is taken, it is as before.
func TestStrangersNewNamesFly(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.Strange()
	if wants := r.compareRoot(wire.ExtrasDivergent, r.entry("one", "1"), r.entry("two", "2")); len(wants) != 2 {
		t.Fatalf("asked for %v", wants)
	}
	r.mustFly(fileOp("one", "1"))
	r.wants("one", "1")
	must(t, r.Settle())
	r.write("differs", "mine")
	r.compareRoot(wire.ExtrasDivergent, r.entry("one", "1"), r.entry("two", "2"), r.entry("differs", "theirs"))
	if flew, err := r.fly(fileOp("two", "2"), fileOp("differs", "theirs")); err != nil || flew {
		t.Fatalf("flew %v (%v), and a copy waits to be compared", flew, err)
	}
	must(t, r.Commit())
	r.wants("differs", "theirs")
	if diff := cmp.Diff([]string{"changed differs: mine"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}

// TestStrangersFlightAfterACrash: what flew in a tree without common history is this node's own when it is compared again:
// nothing of it is kept aside, and what was there before is.
func TestStrangersFlightAfterACrash(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.Strange()
	r.compareRoot(wire.ExtrasDivergent, r.entry("torn", "theirs"))
	r.mustFly(fileOp("torn", "theirs"))
	r.reopen()
	r.write("torn", "") // as a power cut leaves it
	r.write("mine", "mine")
	r.Strange()
	wants := r.compareRoot(wire.ExtrasDivergent, r.entry("torn", "theirs"), r.entry("mine", "theirs, too"))
	if diff := cmp.Diff([]string{"torn", "mine"}, wants); diff != "" {
		t.Error(diff)
	}
	r.answer(fileOp("torn", "theirs"), fileOp("mine", "theirs, too"))
	r.wants("torn", "theirs")
	r.wants("mine", "theirs, too")
	if diff := cmp.Diff([]string{"changed mine: mine"}, r.listed()); diff != "" {
		t.Error(diff)
	}
}
