package peer

import (
	"context"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// The time of the other node comes with how sure it is; nonsense is refused.
func TestTimeOfAnotherNode(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	l, _ := start(t, ids["b"], all, func(_ context.Context, c *Conn) {
		switch c.Service() {
		case ServiceClock:
			_ = TellTime(c) // what goes wrong is seen at the other end
		default:
			_ = c.Write(frameTime, []byte("noon"))
			_ = c.Flush()
			_, _, _ = c.Read() // until the other end has gone
			_, _, _ = c.Read()
		}
	}, "127.0.0.1")
	ask := func(service string) (time.Duration, time.Duration, error) {
		c, err := Dial(t.Context(), ids["a"], cluster.NodeID("b"), to(l, 0), service)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return AskTime(c)
	}
	ahead, within, err := ask(ServiceClock)
	if err != nil || within <= 0 || ahead.Abs() > within { // one machine has one clock
		t.Errorf("%v give or take %v, %v", ahead, within, err)
	}
	if _, _, err := ask("nonsense"); problem.KindOf(err) != problem.Corrupt {
		t.Errorf("nonsense: %v", err)
	}
}
