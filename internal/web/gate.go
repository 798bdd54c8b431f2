package web

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// bucket lets so many things happen in a second, and a few more at once. It is a value of time: nothing runs in it.
type bucket struct {
	mu    sync.Mutex
	rate  float64 // in a second
	burst float64
	level float64
	at    time.Time
}

func newBucket(rate, burst int) *bucket {
	return &bucket{rate: float64(rate), burst: float64(burst), level: float64(burst)}
}

// take is how long to wait before the thing may happen. If that is longer than patience, it may not, and nothing is taken.
func (b *bucket) take(now time.Time, patience time.Duration) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.at.IsZero() {
		b.level = min(b.burst, b.level+b.rate*max(0, now.Sub(b.at).Seconds()))
	}
	b.at = now
	if b.level < 1 {
		wait = time.Duration((1 - b.level) / b.rate * float64(time.Second))
	}
	if wait > patience {
		return 0, false
	}
	b.level--
	return wait, true
}

// together is a wait that ends with those of others: a process that is woken five times a second costs less than one that
// is woken for each of fifty requests. Who has not to wait is not delayed.
func together(now time.Time, wait time.Duration) time.Duration {
	at := now.Add(wait)
	if slot := at.Truncate(waitSlot); slot.Before(at) {
		at = slot.Add(waitSlot)
	}
	return at.Sub(now)
}

// gates are what all listeners share.
type gates struct {
	open chan struct{} // one for each connection
	pace *bucket
}

func newGates() *gates {
	return &gates{open: make(chan struct{}, maxConns), pace: newBucket(connsPer, connsBurst)}
}

func (g *gates) at(ctx context.Context, l net.Listener) net.Listener {
	return &gate{Listener: l, ctx: ctx, gates: g}
}

// gate is a listener that accepts at a pace, and closes what is too much.
type gate struct {
	net.Listener
	ctx context.Context
	*gates
}

// Accept waits for its turn first: what nobody has accepted costs no work of ours.
func (g *gate) Accept() (net.Conn, error) {
	for {
		wait, _ := g.pace.take(time.Now(), time.Hour)
		if wait > 0 {
			select {
			case <-g.ctx.Done():
				return nil, net.ErrClosed
			case <-time.After(together(time.Now(), wait)):
			}
		}
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case g.open <- struct{}{}:
		default:
			_ = c.Close() // nobody waits for it
			continue
		}
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetWriteBuffer(sendBuffer) // without it the kernel chooses
		}
		return &guest{Conn: c, gates: g.gates}, nil
	}
}

// guest is a connection that counts until it is closed.
type guest struct {
	net.Conn
	gates *gates
	once  sync.Once
}

// Close closes the connection, and lets another one in.
func (c *guest) Close() error {
	c.once.Do(func() { <-c.gates.open })
	return c.Conn.Close()
}

func portText(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }
