package mirror

import (
	"fmt"
	"os"
	"testing"

	"revolve/internal/mirror/journal"
)

// More names reach out of a tree than fit a batch: wherever the connection breaks, they are linked in the end.
func TestManyNamesReachOutOfATree(t *testing.T) {
	const files = 600
	for cut := 100; cut < 2200; cut += 150 {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.src.newDirs = journal.Tree
				w.steps(t, stormOp{"mkdir", "o", "", 0})
				for i := range files {
					w.steps(t, stormOp{"write", fmt.Sprint("o/", i), "", uint64(8 + i%8)})
				}
				must(t, w.emit(len(w.src.events)))
				w.steps(t, stormOp{What: "calm"})
				must(t, os.Mkdir(w.src.abs("n"), 0o755))
				for i := range files {
					must(t, os.Link(w.src.abs(fmt.Sprint("o/", i)), w.src.abs(fmt.Sprint("n/", i))))
				}
				w.src.event(journal.Tree, "n", "")
				w.link.cut.after(cut)
				must(t, w.emit(1))
				w.ends(t)
			})
		})
	}
}
