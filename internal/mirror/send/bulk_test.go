package send

import (
	"fmt"
	"testing"

	"revolve/internal/mirror/tree"
)

func (b *bulk) sendOne(path string) uint64 {
	id := b.offer(path, 0, tree.Meta{Kind: tree.File, Size: 300_000, Inode: 5})
	b.want([]uint64{id}, nil)
	b.take()
	b.active--
	b.sent(id, 300_000)
	return id
}

// What was sent is sent again if it did not come, under the name of now; not if it was overtaken, or is known to have come.
func TestWhatWasSentMayBeAskedForAgain(t *testing.T) {
	b := newBulk()
	id, gone, newer := b.sendOne("d/k"), b.sendOne("d/gone"), b.sendOne("d/newer")
	b.renamed("d", "e")
	b.removed("e/gone")
	b.offer("e/newer", 0, tree.Meta{Kind: tree.File, Size: 9})
	b.want([]uint64{id}, nil)
	if _, path, ok := b.take(); ok {
		t.Errorf("sends %q, which is on its way", path)
	}
	b.turn++
	b.want([]uint64{id, gone, newer, 99}, nil)
	if got, path, ok := b.take(); !ok || got != id || path != "e/k" || b.left[id] != 300_000 {
		t.Errorf("sends %d %q (%v)", got, path, ok)
	}
	if _, path, ok := b.take(); ok {
		t.Errorf("sends %q in vain", path)
	}
	b.sent(id, 300_000)
	b.turn++
	b.came()
	b.want([]uint64{id}, nil)
	if _, path, ok := b.take(); ok {
		t.Errorf("sends %q, which has come", path)
	}
}

func TestDoneIsBounded(t *testing.T) {
	b := newBulk()
	var last uint64
	for i := range 2 * maxDone {
		last = b.sendOne(fmt.Sprint("f", i))
	}
	if len(b.done) != maxDone || len(b.dones) != maxDone {
		t.Errorf("%d and %d are remembered", len(b.done), len(b.dones))
	}
	if _, known := b.done[last]; !known {
		t.Error("the last one is not")
	}
}
