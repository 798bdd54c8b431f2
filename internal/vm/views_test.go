package vm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/vm/transfer"
)

// Nodes that do not answer hold up nobody but who asks, and that no longer than one of them would.
func TestSilentNodesAreAskedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, &fakeHost{})
		e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b", "c", "d", "e", "f"} }
		refused := errors.New("refused")
		e.o.Dial = func(ctx context.Context, node cluster.NodeID, _ string) (transfer.Conn, error) {
			if node == "f" {
				return nil, refused // it answers, the last one of all
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		views, silent := e.Views(ctx, "")
		if took := time.Since(began); took != askWithin {
			t.Errorf("five nodes were asked for %v", took)
		}
		if len(views) != 1 || views[0].Node != "a" || len(silent) != 5 || !errors.Is(silent["f"], refused) {
			t.Errorf("got %+v, %v", views, silent)
		}
	})
}
