package send

import (
	"fmt"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// TestReadsAhead: a stream that is some thousands of files ahead reads for the one behind it. What a stream behind all others
// reads is kept for nobody.
func TestReadsAhead(t *testing.T) {
	const ahead = 4000
	r := NewReads()
	r.join()
	r.join()
	get := func(seq uint64) {
		found, ok, err := r.get(cluster.Position{Term: 1, Seq: seq}, fmt.Sprint(seq), func() (look, bool, error) {
			return look{tree.Meta{Size: int64(seq)}, make([]byte, 1024)}, true, nil
		})
		if err != nil || !ok || found.meta.Size != int64(seq) {
			t.Fatalf("%d: %+v, %v, %v", seq, found.meta, ok, err)
		}
	}
	for seq := range uint64(2 * ahead) {
		get(seq)
		if seq >= ahead {
			get(seq - ahead)
		}
	}
	if made, shared := r.Counts(); made != 2*ahead || shared != ahead {
		t.Errorf("%d readings made and %d shared, want %d and %d", made, shared, 2*ahead, ahead)
	}
	for seq := uint64(2 * ahead); seq < 2*ahead+2*maxReads; seq++ {
		get(seq)
	}
	if len(r.of) > maxReads || r.bytes > maxReadBytes {
		t.Errorf("%d readings of %d bytes are kept, most %d and %d", len(r.of), r.bytes, maxReads, maxReadBytes)
	}
	kept := len(r.of)
	for seq := uint64(ahead); seq < ahead+100; seq++ { // forgotten, or taken
		get(seq)
	}
	if len(r.of) > kept {
		t.Errorf("%d readings are kept behind both streams", len(r.of)-kept)
	}
}
