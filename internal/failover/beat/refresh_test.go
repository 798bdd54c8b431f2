package beat

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/vip"
)

// slowKernel takes addresses when it is told to, as a kernel whose lock another program holds.
type slowKernel struct {
	asked chan *vip.Lease
	take  chan error
	taken atomic.Int32
}

func (k *slowKernel) Hold(l *vip.Lease) error {
	k.asked <- l
	err := <-k.take
	k.taken.Add(1)
	return err
}

func (k *slowKernel) Close() error { return nil }

// TestARefreshHoldsNothingUp: while the kernel does not come to a refresh, the
// loop goes on, asks for no second one, and removes nothing behind its back.
func TestARefreshHoldsNothingUp(t *testing.T) {
	kernel := &slowKernel{asked: make(chan *vip.Lease, 8), take: make(chan error)}
	l := &loop{cfg: &Config{}, start: time.Now(), fresh: newRefresher(kernel, 1)}
	lease := vip.NewLease(netip.MustParsePrefix("10.77.0.200/24"), 1, true)
	l.tell.l = l
	l.addrs = []address{{lease: lease, held: true}}
	go l.fresh.Run()
	defer l.fresh.close()
	l.hold()
	if got := <-kernel.asked; got != lease {
		t.Fatalf("asked for %v", got)
	}
	for range 100 { // the loop's work goes on
		l.hold()
	}
	if n := len(kernel.asked); n != 0 || l.refreshed(false) {
		t.Fatalf("%d more refreshes began beside the one under way", n)
	}
	go func() { kernel.take <- nil }()
	if !l.refreshed(true) || kernel.taken.Load() != 1 || !l.addrs[0].held { // what drop waits for first
		t.Fatalf("a removal would overtake the refresh (%d taken)", kernel.taken.Load())
	}
	l.hold()
	<-kernel.asked
	go func() { kernel.take <- unix.EPERM }()
	l.refreshed(true)
	if l.addrs[0].held {
		t.Error("what the kernel refused counts as held")
	}
}

// TestARefreshIsNotWaitedForWithoutEnd: behind refreshPatience the loop waits.
func TestARefreshIsNotWaitedForWithoutEnd(t *testing.T) {
	kernel := &slowKernel{asked: make(chan *vip.Lease, 8), take: make(chan error)}
	l := &loop{cfg: &Config{}, start: time.Now().Add(-2 * refreshPatience), fresh: newRefresher(kernel, 1)}
	l.tell.l = l
	l.addrs = []address{{lease: vip.NewLease(netip.MustParsePrefix("10.77.0.200/24"), 1, true), held: true}}
	go l.fresh.Run()
	defer l.fresh.close()
	l.hold()
	<-kernel.asked
	l.fresh.since = 0
	go func() {
		kernel.take <- nil
		<-kernel.asked // the next one begins once the loop has waited
		kernel.take <- nil
	}()
	l.hold()
	if kernel.taken.Load() < 1 {
		t.Error("the loop went on")
	}
	l.refreshed(true)
}
