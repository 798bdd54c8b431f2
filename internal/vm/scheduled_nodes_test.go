package vm

import (
	"context"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/schedule"
	"revolve/internal/vm/transfer"
)

// A node that is never reached does not keep the others from new points: the rest of the point before is tried
// once more for it, and then every run takes one.
func TestScheduledWithoutOneNode(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 1h", 0)
		e := l.engine()
		e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b", "c"} }
		reached := e.o.Dial
		e.o.Dial = func(ctx context.Context, n cluster.NodeID, service string) (transfer.Conn, error) {
			if n == "c" {
				return nil, &problem.Problem{Op: "connect to", Kind: problem.Timeout, Subject: "c"}
			}
			return reached(ctx, n, service)
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(119 * time.Minute)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		time.Sleep(3*time.Hour - 30*time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if p, got := l.past(e), l.points(); len(got) != 3 || p.Result != schedule.Failed || p.Behind != 2 {
			t.Errorf("%v came in three runs; %+v", got, p)
		}
	})
}
