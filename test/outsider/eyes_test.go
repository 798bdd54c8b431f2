package outsider

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eyes look at the addresses of a node's interface all the time, from a thread
// in its network namespace.
type eyes struct {
	name string
	card card
	quit chan struct{}
	done chan struct{}

	mu        sync.Mutex
	have      int       // VIPs seen last
	looked    time.Time // when the last look began
	lastSeen  time.Time // begin of the last look that saw any VIP
	lastNone  time.Time // begin of the last look that did not see all
	allSince  time.Time // end of the first look since then that saw all
	connected time.Time // since when the node is on the network; zero if it is not
}

// lookEvery is short against every bound that is judged, and cheap (about 0.1 ms a look).
const lookEvery = 5 * time.Millisecond

func watchAddresses(t *testing.T, n *node) *eyes {
	e := &eyes{name: n.name, quit: make(chan struct{}), done: make(chan struct{}), connected: time.Now()}
	ready := make(chan error)
	go func() {
		defer close(e.done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := enter(n.ns)
		if err == nil {
			var dev *net.Interface
			if dev, err = net.InterfaceByName(device); err == nil {
				e.card = card(dev.HardwareAddr)
			}
		}
		ready <- err
		if err == nil {
			e.look()
		}
	}()
	must(t, <-ready)
	return e
}

// enter moves the calling thread to a network namespace of ip(8).
func enter(ns string) error {
	fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		_ = unix.Close(fd)
	}
	return err
}

func (e *eyes) look() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		have := 0
		if dev, err := net.InterfaceByName(device); err == nil {
			addrs, _ := dev.Addrs()
			for _, a := range addrs {
				if ip, ok := a.(*net.IPNet); ok && (ip.IP.String() == vip4 || ip.IP.String() == vip6) {
					have++
				}
			}
		}
		e.mu.Lock()
		e.have, e.looked = have, began
		if have > 0 {
			e.lastSeen = began
		}
		if have < 2 {
			e.lastNone, e.allSince = began, time.Time{}
		} else if e.allSince.IsZero() {
			e.allSince = time.Now()
		}
		e.mu.Unlock()
		select {
		case <-e.quit:
			return
		case <-tick.C:
		}
	}
}

func (e *eyes) stop() {
	close(e.quit)
	<-e.done
}

func (e *eyes) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.have
}

func (e *eyes) connect(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.connected = time.Time{}
	if on {
		e.connected = time.Now()
	}
}

// gone waits until no VIP is seen and answers how long after since one was there for certain.
func (l *lab) gone(n *node, since time.Time) time.Duration {
	l.t.Helper()
	var last time.Time
	l.eventually("the VIPs leave "+n.name, func() error {
		n.eyes.mu.Lock()
		defer n.eyes.mu.Unlock()
		last = n.eyes.lastSeen
		if n.eyes.have > 0 || !n.eyes.looked.After(since) {
			return fmt.Errorf("%d VIPs", n.eyes.have)
		}
		return nil
	})
	return max(0, last.Sub(since))
}

// moved waits until one of the nodes has all VIPs and answers which, and how
// long after since it had not for certain.
func (l *lab) moved(among []*node, since time.Time) (*node, time.Duration) {
	l.t.Helper()
	var to *node
	l.eventually("the VIPs are on another node", func() (err error) {
		to, err = holder(among)
		return err
	})
	to.eyes.mu.Lock()
	defer to.eyes.mu.Unlock()
	return to, max(0, to.eyes.lastNone.Sub(since))
}

// lookNow waits until all nodes have been looked at anew.
func (l *lab) lookNow() {
	l.t.Helper()
	from := time.Now()
	l.eventually("a look at every node", func() error {
		for _, n := range l.nodes {
			n.eyes.mu.Lock()
			at := n.eyes.looked
			n.eyes.mu.Unlock()
			if !at.After(from) {
				return fmt.Errorf("%s was looked at %v ago", n.name, time.Since(at))
			}
		}
		return nil
	})
}

// between is how long nobody had the VIPs for certain, in a move that is over.
func between(from, to *node) time.Duration {
	from.eyes.mu.Lock()
	first := from.eyes.lastSeen.Add(lookEvery)
	from.eyes.mu.Unlock()
	to.eyes.mu.Lock()
	defer to.eyes.mu.Unlock()
	return max(0, to.eyes.lastNone.Sub(first)).Round(time.Millisecond)
}

// referee looks for two holders among connected nodes, and has an onlooker for those that answer, connected or not. P1 allows T_dead and two heartbeats
// (200 + 2 * 50 ms) after they have a path; grace is that and a look.
type referee struct {
	quit, done chan struct{}
	found      []string
}

const grace = 300*time.Millisecond + 2*lookEvery

func (l *lab) referee() *referee {
	r := &referee{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-r.quit:
				return
			case <-tick.C:
				r.judge(l.nodes)
			}
		}
	}()
	return r
}

func (r *referee) judge(nodes []*node) {
	var all []holding
	for _, n := range nodes {
		n.eyes.mu.Lock()
		if c := n.eyes.connected; !n.eyes.allSince.IsZero() && !c.IsZero() {
			h := holding{who: n.name, from: n.eyes.allSince, to: n.eyes.lastSeen}
			if c = c.Add(grace); c.After(h.from) {
				h.from = c
			}
			all = append(all, h)
		}
		n.eyes.mu.Unlock()
	}
	if a, b, ok := together(all); ok && len(r.found) < 100 {
		r.found = append(r.found, fmt.Sprintf("%s: %s and %s", time.Now().Format("15:04:05.000"), a, b))
	}
}

// holding is the time in which a node had all VIPs for certain: from the end of the first look that saw them to the begin
// of the last one. A look may wait for the kernel's lock; what it will see is not known meanwhile.
type holding struct {
	who      string
	from, to time.Time
}

// together finds two that had them at the same time, for longer than a claim that gives way at once.
func together(all []holding) (a, b string, ok bool) {
	for i, x := range all {
		for _, y := range all[i+1:] {
			from, to := x.from, x.to
			if y.from.After(from) {
				from = y.from
			}
			if y.to.Before(to) {
				to = y.to
			}
			if to.Sub(from) > 4*lookEvery {
				return x.who, y.who, true
			}
		}
	}
	return "", "", false
}

func TestTogether(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	for name, c := range map[string]struct {
		all  []holding
		want bool
	}{
		"one":                         {[]holding{{"a", at(0), at(900)}}, false},
		"both":                        {[]holding{{"a", at(0), at(900)}, {"b", at(850), at(900)}}, true},
		"a claim that gives way":      {[]holding{{"a", at(0), at(900)}, {"b", at(850), at(860)}}, false},
		"the first is looked at late": {[]holding{{"a", at(0), at(500)}, {"b", at(510), at(900)}}, false},
		"the third and the second":    {[]holding{{"a", at(0), at(500)}, {"b", at(510), at(900)}, {"c", at(600), at(880)}}, true},
	} {
		if _, _, ok := together(c.all); ok != c.want {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

func (r *referee) stop(t *testing.T) {
	close(r.quit)
	<-r.done
	if len(r.found) > 0 {
		t.Errorf("two holders among connected nodes, seen %d times, first %s", len(r.found), r.found[0])
	}
}
