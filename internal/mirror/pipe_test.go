package mirror

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// pipe is one end of a connection in memory with the manners of peer.Conn:
// writes are buffered until Flush, reads have a deadline, and the far end sees
// what was flushed before a Close. It works inside a synctest bubble.
type pipe struct {
	peer    cluster.NodeID
	service string
	in      *lane
	out     *lane

	mu       sync.Mutex
	deadline time.Time
	queued   []pipeFrame
}

type pipeFrame struct {
	kind    byte
	payload []byte
}

// lane carries frames one way. cut, when positive, is how many more frames pass
// before the connection breaks.
type lane struct {
	ch   chan pipeFrame
	down chan struct{}
	once sync.Once
	cut  *cutter
}

type cutter struct {
	mu   sync.Mutex
	left int // 0: never
	stop func()
}

func (c *cutter) pass() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return true
	}
	if c.left--; c.left > 0 {
		return true
	}
	c.left = 1
	c.stop()
	return false
}

func (c *cutter) after(frames int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = frames
}

// laneFrames is what fits into a socket's buffers; a writer then waits.
const laneFrames = 256

// late is an end that hears everything after a while.
type late struct {
	*pipe
	by time.Duration
}

func (l late) Read() (byte, []byte, error) {
	kind, payload, err := l.pipe.Read()
	time.Sleep(l.by)
	return kind, payload, err
}

func newPipe(a, b cluster.NodeID) (*pipe, *pipe, *cutter) {
	cut := &cutter{}
	ab := &lane{ch: make(chan pipeFrame, laneFrames), down: make(chan struct{}), cut: cut}
	ba := &lane{ch: make(chan pipeFrame, laneFrames), down: make(chan struct{}), cut: cut}
	cut.stop = func() { ab.close(); ba.close() }
	return &pipe{peer: b, in: ba, out: ab}, &pipe{peer: a, in: ab, out: ba}, cut
}

// Patient: nothing between the ends gives up.
func (p *pipe) Patient(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (l *lane) close() { l.once.Do(func() { close(l.down) }) }

func (p *pipe) Peer() cluster.NodeID { return p.peer }

func (p *pipe) Service() string { return p.service }

func (p *pipe) Link() cluster.LinkID { return "lan" }

func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

func (p *pipe) Read() (byte, []byte, error) {
	p.mu.Lock()
	deadline := p.deadline
	p.mu.Unlock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select { // what has arrived is read before the break is seen
	case f := <-p.in.ch:
		return f.kind, f.payload, nil
	default:
	}
	select {
	case f := <-p.in.ch:
		return f.kind, f.payload, nil
	case <-p.in.down:
		return 0, nil, io.EOF
	case <-late:
		return 0, nil, &problem.Problem{Op: "read", Kind: problem.Timeout}
	}
}

func (p *pipe) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	return nil
}

func (p *pipe) Buffered() int { return len(p.in.ch) }

func (p *pipe) Write(kind byte, parts ...[]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued = append(p.queued, pipeFrame{kind, bytes.Join(parts, nil)})
	return nil
}

func (p *pipe) Flush() error {
	p.mu.Lock()
	frames := p.queued
	p.queued = nil
	p.mu.Unlock()
	for _, f := range frames {
		if !p.out.cut.pass() {
			return io.ErrClosedPipe
		}
		select {
		case p.out.ch <- f:
		case <-p.out.down:
			return io.ErrClosedPipe
		}
	}
	return nil
}

func (p *pipe) Close() error {
	p.in.close()
	p.out.close()
	return nil
}
