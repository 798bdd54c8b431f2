package apply

import (
	"testing"

	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/wire"
)

// What was asked for and comes as one large file with several names is on its way: a comparison above it that ends
// meanwhile, and settles what was asked and is still missing, leaves it owed.
func TestALargeFileWithNamesOutlivesAComparison(t *testing.T) {
	for name, tree := range map[string]bool{"asked for as files": false, "as trees": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			if err := r.Owe([]reconcile.Debt{{Path: "a", Tree: tree}, {Path: "b", Tree: tree}}); err != nil {
				t.Fatal(err)
			}
			offer := groupOp(wire.GroupOffer, "large", "a", "b")
			offer.ID = 6
			r.do(offer)
			r.do(wire.Op{Kind: wire.OpTree}, wire.Op{Kind: wire.OpPaid})
			if n := r.o.Journal.OwedLen(); n != 2 {
				t.Errorf("%d names are owed after the comparison, want 2", n)
			}
			sealed := fileOp("a", "large")
			if err := r.Data(6, sealed.Data); err != nil {
				t.Fatal(err)
			}
			if err := r.Seal(6, sealed.Meta); err != nil {
				t.Fatal(err)
			}
			r.StageReady()
			if err := r.Commit(); err != nil {
				t.Fatal(err)
			}
			r.wants("a", "large")
			r.wants("b", "large")
			if n := r.o.Journal.OwedLen(); n != 0 {
				t.Errorf("%d names are owed at the end", n)
			}
		})
	}
}

// A debt that is void is not asked for any more, either: the next one at its path is another.
func TestWhatIsVoidIsNotAsked(t *testing.T) {
	r := newRig(t, t.TempDir())
	if err := r.Owe([]reconcile.Debt{{Path: "d/x"}}); err != nil {
		t.Fatal(err)
	}
	r.do(fileOp("d", "a file now"))
	if _, asked := r.asked.Get("d/x"); asked {
		t.Error("d/x is still asked for")
	}
}
