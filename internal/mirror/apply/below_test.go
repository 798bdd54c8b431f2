package apply

import (
	"fmt"
	"testing"

	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// What was owed below a directory is void once a file takes the directory's name:
// nobody can ever pay it, and a barrier would wait for it for ever.
func TestNothingIsOwedBelowAFile(t *testing.T) {
	deferOp := fileOp("d", "large")
	deferOp.Kind, deferOp.Data, deferOp.ID = wire.OpDefer, nil, 8
	groupOp := fileOp("d", "1")
	groupOp.Kind, groupOp.How, groupOp.Names = wire.OpGroup, wire.GroupData, []string{"other"}
	link := wire.Op{Kind: wire.OpSymlink, Path: "d", Meta: tree.Meta{Kind: tree.Symlink, Target: "x"}}
	for _, op := range []wire.Op{fileOp("d", "1"), deferOp, groupOp, link} {
		t.Run(fmt.Sprint("kind ", op.Kind), func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.do(dirOp("d"))
			if err := r.Owe([]reconcile.Debt{{Path: "d/one"}, {Path: "d/sub", Tree: true}, {Path: "d/large", ID: 7}, {Path: "e"}}); err != nil {
				t.Fatal(err)
			}
			if flew, err := r.fly(op); err != nil || flew {
				t.Fatalf("flew %v, %v", flew, err)
			}
			if err := r.Commit(); err != nil {
				t.Fatal(err)
			}
			r.reopen()
			owed := r.o.Journal.Owed()
			for _, d := range owed.List() {
				if d.Path != "e" && d.Path != "d" {
					t.Errorf("%q is owed below a file", d.Path)
				}
			}
		})
	}
}
