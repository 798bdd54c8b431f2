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
			e.lastNone = began
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
	var holders []string
	var at []time.Time
	for _, n := range nodes {
		n.eyes.mu.Lock()
		c := n.eyes.connected
		if n.eyes.have > 0 && !c.IsZero() && time.Since(c) > grace {
			holders = append(holders, n.name)
			at = append(at, n.eyes.lastNone)
		}
		n.eyes.mu.Unlock()
	}
	// Looks are taken one after the other: count two only if both have it for longer than that takes.
	steady := 0
	for _, t := range at {
		if time.Since(t) > 4*lookEvery {
			steady++
		}
	}
	if steady > 1 && len(r.found) < 100 {
		r.found = append(r.found, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), holders))
	}
}

func (r *referee) stop(t *testing.T) {
	close(r.quit)
	<-r.done
	if len(r.found) > 0 {
		t.Errorf("two holders among connected nodes, seen %d times, first %s", len(r.found), r.found[0])
	}
}
