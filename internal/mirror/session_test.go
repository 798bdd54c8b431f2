package mirror

import (
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// A source cannot bring a reign into this node's history that is above its own.
func TestReignFromTheFuture(t *testing.T) {
	s := &session{o: &opened{}, reign: cluster.Reign{Term: 7, Owner: "a"}}
	begun := wire.Op{Kind: wire.OpBegun, ID: 8, Old: "a"}
	if err := s.frame(wire.FrameOp, begun.Append(nil)); problem.KindOf(err) != problem.Corrupt || s.partial {
		t.Errorf("a reign above the stream's own was taken: %v", err)
	}
}
