package beat

import (
	"time"

	"revolve/internal/failover/vip"
)

// refreshPatience is how long one refresh may be under way while the loop goes on
// as if nothing were wrong. Then the loop waits for it, is late, and the others
// judge: an address has a second from its last refresh, and without these 200 ms
// a master whose kernel takes no address any more would go on saying that it serves.
const refreshPatience = 600 * time.Millisecond

// holder is the part of vip.Conn that adds addresses.
type holder interface {
	Hold(*vip.Lease) error
	Close() error
}

// refresher renews the lifetime of held addresses beside the loop. The kernel has
// one lock for all changes of addresses and interfaces of all network namespaces
// (rtnl_mutex, net/core/rtnetlink.c): while containers start and end elsewhere on
// the machine a refresh waited for up to 186 ms (measured, Linux 6.18; 4 ms
// without them), and a master that waits with its heartbeats is taken for dead.
//
// Only one refresh is under way at a time, and whoever adds or removes addresses
// waits for its end first: a refresh that came after a removal would bring the
// address back.
type refresher struct {
	conn   holder
	leases []*vip.Lease // of the refresh under way; nil where there was none
	errs   []error
	since  time.Duration
	busy   bool          // as the loop knows; it has not taken the results yet
	work   chan struct{} // to Run; closed at the end
	done   chan struct{} // from Run
	ended  chan struct{} // closed when Run returns
}

func newRefresher(conn holder, addresses int) *refresher {
	return &refresher{conn: conn, leases: make([]*vip.Lease, addresses), errs: make([]error, addresses),
		work: make(chan struct{}, 1), done: make(chan struct{}, 1), ended: make(chan struct{})}
}

// Run refreshes on demand until the loop closes work; what is between two
// messages belongs to one side only.
func (r *refresher) Run() {
	defer close(r.ended)
	for range r.work {
		for k, lease := range r.leases {
			r.errs[k] = nil
			if lease != nil {
				r.errs[k] = r.conn.Hold(lease)
			}
		}
		r.done <- struct{}{}
	}
}

// close ends Run, which the loop has started, and waits for it.
func (r *refresher) close() {
	close(r.work)
	<-r.ended
	r.conn.Close()
}

// refresh begins a refresh of the addresses, all of which are held, and reports whether there are any.
func (l *loop) refresh() (any bool) {
	r := l.fresh
	for k := range l.addrs {
		r.leases[k] = l.addrs[k].lease
		any = any || r.leases[k] != nil
	}
	r.busy, r.since = true, time.Duration(l.now())
	r.work <- struct{}{}
	return any
}

// refreshed takes the results of the refresh under way, and waits for them if
// told to. It says whether none is under way any more.
func (l *loop) refreshed(wait bool) bool {
	r := l.fresh
	switch {
	case !r.busy:
		return true
	case wait:
		<-r.done
	default:
		select {
		case <-r.done:
		default:
			return false
		}
	}
	r.busy = false
	for k := range l.addrs {
		if a := &l.addrs[k]; a.lease != nil && a.lease == r.leases[k] {
			a.held = r.errs[k] == nil
			l.tell.fault(&a.err, r.errs[k])
		}
	}
	return true
}
