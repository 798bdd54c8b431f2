package mirror

import (
	"context"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// hand is a source that a test plays by hand: it has frames taken one by one, in an order that
// goroutines would leave to chance.
type hand struct {
	t    *testing.T
	w    *world
	sess *session
	mine *pipe
	seq  uint64
}

func (w *world) byHand(t *testing.T) *hand {
	mine, theirs, _ := newPipe("a", "b")
	h := &hand{t: t, w: w, mine: mine}
	h.follow(theirs)
	h.op(wire.Op{Kind: wire.OpBegun, ID: uint64(w.reign.Term), Old: string(w.reign.Owner)})
	h.batch()
	h.acked(1, 0)
	return h
}

// follow begins a session at the far end.
func (h *hand) follow(theirs *pipe) {
	h.sess = h.w.v.newSession(theirs, h.w.o, h.w.reign)
	h.sess.drain = h.w.read
	if h.w.watches != nil {
		h.sess.drain = h.w.watches
	}
	if err := h.sess.guard(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	kernelTicks()
}

// again begins the next session.
func (h *hand) again() {
	mine, theirs, _ := newPipe("a", "b")
	h.mine = mine
	h.follow(theirs)
}

func (h *hand) frame(kind byte, payload []byte) {
	h.t.Helper()
	if err := h.sess.frame(kind, payload); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hand) op(o wire.Op) {
	h.t.Helper()
	h.frame(wire.FrameOp, append(o.Append(nil), o.Data...))
}

// file sends a small file.
func (h *hand) file(name string) {
	h.t.Helper()
	h.seq++
	h.op(wire.Op{Kind: wire.OpFile, Seq: h.seq, Path: name, Meta: tree.Meta{Kind: tree.File, Mode: 0o644, Size: 5}, Data: []byte("small")})
}

func (h *hand) batch() {
	h.t.Helper()
	h.frame(wire.FrameBatch, wire.Batch{Term: h.w.reign.Term, Pos: cluster.Position{Term: h.w.reign.Term, Seq: h.seq}}.Append(nil))
}

func (h *hand) settle() {
	h.t.Helper()
	if err := h.sess.settle(); err != nil {
		h.t.Fatal(err)
	}
}

// acked wants one acknowledgement: of so many batches, up to the position.
func (h *hand) acked(batches, seq uint64) {
	h.t.Helper()
	for h.mine.Buffered() > 0 {
		kind, payload, err := h.mine.Read()
		if err != nil {
			h.t.Fatal(err)
		}
		if kind != wire.FrameAck {
			continue
		}
		ack, err := wire.DecodeAck(payload)
		if want := (wire.Ack{Pos: cluster.Position{Term: h.w.reign.Term, Seq: seq}, Owed: ack.Owed, Batches: batches}); err != nil || ack != want {
			h.t.Errorf("acknowledged %+v (%v), want %+v", ack, err, want)
		}
		return
	}
	h.t.Errorf("nothing is acknowledged, want %d batches up to %d", batches, seq)
}

// TestStagedIsNotAcknowledged: what flies is made durable while the next batch is
// staged and not yet done. It must not be answered for: the source would forget the large
// files that it offers, and its end would never be acknowledged.
func TestStagedIsNotAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.byHand(t)
		h.file("a")
		h.batch() // flies
		if err := h.mine.Write(wire.FramePing, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := h.mine.Flush(); err != nil { // more has come: what is staged waits for it
			t.Fatal(err)
		}
		h.file("b")
		h.batch()
		h.settle()
		h.acked(1, 1)
		if _, _, err := h.sess.conn.Read(); err != nil {
			t.Fatal(err)
		}
		h.file("c")
		h.batch()
		h.settle()
		h.acked(2, 3)
	})
}

// TestSealedWithinABatch: a large file that is complete while a batch is half
// staged is published by that batch's end, even if that has nothing but what may fly.
func TestSealedWithinABatch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.byHand(t)
		large := tree.Meta{Kind: tree.File, Mode: 0o644, Size: wire.InlineMax + 1}
		h.seq++
		h.op(wire.Op{Kind: wire.OpDefer, Seq: h.seq, Path: "large", ID: 1, Meta: large})
		h.batch()
		h.acked(1, 1)
		h.file("small")
		for _, piece := range slices.Collect(slices.Chunk(make([]byte, large.Size), wire.BulkChunk)) {
			if err := h.sess.bulkFrame(wire.FrameBulkData, append(wire.AppendID(nil, 1), piece...)); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.sess.bulkFrame(wire.FrameBulkDone, (&wire.Op{Kind: wire.OpFile, Path: "large", ID: 1, Meta: large}).Append(nil)); err != nil {
			t.Fatal(err)
		}
		<-h.sess.sealed
		if err := h.sess.betweenOnce(false); err != nil {
			t.Fatal(err)
		}
		h.batch()
		h.settle()
		if n := w.o.journal.OwedLen(); n != 0 {
			t.Errorf("%d paths are still owed, and nothing is to come", n)
		}
		if m, err := w.o.root.Lstat("large"); err != nil || m.Size != large.Size {
			t.Errorf("the large file is %+v (%v)", m, err)
		}
	})
}

// kernelTicks lets the kernel's clock of inodes go on: the bubble's stands still for it.
func kernelTicks() {
	tick := unix.NsecToTimespec(int64(11 * time.Millisecond))
	_ = unix.Nanosleep(&tick, nil)
}
