package mirror

import (
	"os"
	"testing"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// TestTreeIsOwedBeforeItComes: a source compares a tree by itself (a proof), and all of it is here at once. Wherever
// the follower dies, it owes the tree if something of it was published: no record brings it again, and the time of the
// directory above would stay that of the moment.
func TestTreeIsOwedBeforeItComes(t *testing.T) {
	half := 0
	for at := int64(1); at <= 4; at++ {
		bubble(t, func(t *testing.T, w *world) {
			h := w.byHand(t)
			top := tree.Meta{Kind: tree.Dir, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: stampBase}
			h.file("a")
			h.op(wire.Op{Kind: wire.OpDirTime, Meta: top})
			h.batch()
			h.settle()
			h.acked(1, 1)

			w.fuse.Store(at)
			died := make(chan struct{})
			go func() {
				defer close(died)
				h.proofOf("a", top)
			}()
			<-died
			if err := w.crash(); err != nil {
				t.Fatal(err)
			}
			owed := w.o.journal.Owed()
			m, err := w.o.root.Lstat("")
			if err != nil {
				t.Fatal(err)
			}
			if m.MTime == top.MTime {
				return // before anything was published, or behind all of it
			}
			half++
			if d, is := owed.Get("a"); !is || !d.Tree {
				t.Errorf("died before step %d: the time of the directory is %v, and nothing is owed", at, time.Unix(0, m.MTime))
			}
		})
	}
	if half == 0 {
		t.Error("it never died half way")
	}
}

// proofOf sends a file anew, unasked: a comparison, its answer and its end, of which more is here while one is taken.
func (h *hand) proofOf(name string, top tree.Meta) {
	if err := h.mine.Write(wire.FramePing, []byte("{}")); err != nil {
		h.t.Error(err)
	}
	if err := h.mine.Flush(); err != nil {
		h.t.Error(err)
	}
	h.op(wire.Op{Kind: wire.OpTree, Path: name})
	h.batch()
	if _, _, err := h.sess.conn.Read(); err != nil {
		h.t.Error(err)
	}
	h.op(wire.Op{Kind: wire.OpFile, Path: name, Meta: tree.Meta{Kind: tree.File, Mode: 0o644, Size: 7}, Data: []byte("another")})
	h.op(wire.Op{Kind: wire.OpPaid, Path: name})
	h.op(wire.Op{Kind: wire.OpDirTime, Meta: top})
	h.batch()
}
