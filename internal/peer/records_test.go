package peer

import (
	"context"
	"testing"
	"time"
)

// TestBufferedTellsOfEveryRecord: a follower that was busy has to see that more came meanwhile, else it commits each change
// alone. crypto/tls must not hide records that it read ahead.
func TestBufferedTellsOfEveryRecord(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	const frames = 50
	sent := make(chan error, 1)
	hold := make(chan struct{})
	l, _ := start(t, ids["a"], all, func(_ context.Context, c *Conn) {
		for i := range frames {
			if err := c.Write(byte(i+1), make([]byte, 10+i)); err != nil {
				sent <- err
				return
			}
			if err := c.Flush(); err != nil { // a record of its own for each
				sent <- err
				return
			}
		}
		sent <- nil
		<-hold
	}, "127.0.0.1")
	defer close(hold)
	c, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	must(t, err)
	defer c.Close()
	must(t, <-sent)
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	for i := range frames {
		kind, payload, err := c.Read()
		must(t, err)
		if int(kind) != i+1 || len(payload) != 10+i {
			t.Fatalf("frame %d of %d bytes", kind, len(payload))
		}
		if more := c.Buffered() > 0; more != (i < frames-1) {
			t.Fatalf("after frame %d of %d: more is here: %v", i+1, frames, more)
		}
	}
}
