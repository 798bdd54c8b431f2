package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/web"
)

// The nodes are asked about machines while somebody looks at the page, not more often than there is reason to, and not afterwards.
func TestMachinesAreAskedForWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		l := newMachineLook(func(context.Context) *web.Machines {
			asked.Add(1)
			return &web.Machines{At: time.Now()}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n != 0 {
			t.Fatalf("nobody looks, and they are asked %d times", n)
		}
		if m := l.show(time.Now()); m == nil || !m.At.IsZero() {
			t.Errorf("before the first answer: %+v", m)
		}
		for range 120 {
			time.Sleep(time.Second)
			l.show(time.Now())
		}
		if n := asked.Load(); n < 4 || n > 5 || l.show(time.Now()).At.IsZero() {
			t.Errorf("in two minutes they are asked %d times", n)
		}
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n > 7 {
			t.Errorf("nobody looks any more, and they are asked %d times", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var none *machineLook
	if none.show(time.Now()) != nil {
		t.Error("a cluster without machines shows some")
	}
}
