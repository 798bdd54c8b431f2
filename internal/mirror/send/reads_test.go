package send

import (
	"fmt"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// TestReadsAhead: a stream that is some thousands of files ahead reads for the one behind it. What nobody will come to any more
// is not kept, and of what a stream that stands still may want only so much.
func TestReadsAhead(t *testing.T) {
	const ahead = 4000
	r := NewReads()
	first, second := r.join(), r.join()
	get := func(taker *taker, seq uint64) {
		found, ok, err := r.get(taker, cluster.Position{Term: 1, Seq: seq}, fmt.Sprint(seq), func() (look, bool, error) {
			return look{tree.Meta{Size: int64(seq)}, make([]byte, 1024)}, true, nil
		})
		if err != nil || !ok || found.meta.Size != int64(seq) {
			t.Fatalf("%d: %+v, %v, %v", seq, found.meta, ok, err)
		}
	}
	for seq := range uint64(2 * ahead) {
		get(first, seq)
		if seq >= ahead {
			get(second, seq-ahead)
		}
	}
	if made, shared := r.Counts(); made != 2*ahead || shared != ahead {
		t.Errorf("%d readings made and %d shared, want %d and %d", made, shared, 2*ahead, ahead)
	}
	for seq := uint64(2 * ahead); seq < 2*ahead+2*maxReads; seq++ {
		get(first, seq)
	}
	if len(r.of) > maxReads || r.bytes > maxReadBytes {
		t.Errorf("%d readings of %d bytes are kept, most %d and %d", len(r.of), r.bytes, maxReads, maxReadBytes)
	}
	get(second, 2*ahead+2*maxReads-1) // it has taken another way to there
	if len(r.of) > 1 || r.bytes > 1024 {
		t.Errorf("%d readings of %d bytes are kept behind both streams", len(r.of), r.bytes)
	}
	r.leave(second)
	get(first, 2*ahead+2*maxReads)
	if len(r.of) > 0 || len(r.order) > 0 || r.bytes > 0 {
		t.Errorf("%d readings of %d bytes are kept for nobody", len(r.of), r.bytes)
	}
}
