package send

import (
	"context"
	"sync"
	"time"

	"revolve/internal/mirror/pace"
)

// Pacer keeps everything that this node sends over one link below a rate: the
// streams of all volumes to all standbys share it. It counts what is written to
// connections; what TLS, TCP and IP add, some 5 %, comes on top. A nil Pacer has
// no limit. Its methods may be called concurrently.
type Pacer struct {
	rate func(now time.Time) int64 // in force at a time, bytes a second; 0: no limit

	mu     sync.Mutex
	bucket pace.Bucket
}

// lookAgain is how soon a rate that changed with the time of day is in force for who waits.
const lookAgain = time.Second

// NewPacer keeps the rate that is in force at each time, in bytes a second; 0 is no limit.
func NewPacer(rate func(now time.Time) int64) *Pacer { return &Pacer{rate: rate} }

// Rate is the one in force now, 0 if there is no limit.
func (p *Pacer) Rate() int64 {
	if p == nil {
		return 0
	}
	return p.rate(time.Now())
}

// now brings the bucket up to the time; the lock is held.
func (p *Pacer) now() time.Time {
	now := time.Now()
	p.bucket.Set(now, p.rate(now))
	return now
}

// wait is how long a sender of the class has to wait that waits since waited.
func (p *Pacer) wait(class pace.Class, waited time.Duration) time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(p.bucket.Wait(p.now(), class, waited), lookAgain)
}

// piece is how much may be sent at once of what has most bytes.
func (p *Pacer) piece(most int) int {
	if p == nil {
		return most
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now(); p.bucket.Rate() == 0 {
		return most
	}
	return min(most, p.bucket.Piece())
}

func (p *Pacer) sent(bytes int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bucket.Sent(p.now(), bytes)
}

// bulk waits until a piece of a large file may go, and says how large it may be at most.
func (p *Pacer) bulk(ctx context.Context, most int) (int, error) {
	began := time.Now()
	for wait := p.wait(pace.Bulk, 0); wait > 0; wait = p.wait(pace.Bulk, time.Since(began)) {
		late := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			late.Stop()
			return 0, ctx.Err()
		case <-late.C:
		}
	}
	return p.piece(most), nil
}

// paced is a connection whose writing a Pacer counts.
type paced struct {
	Conn
	p *Pacer
}

// Paced counts for p what is written to conn.
func Paced(conn Conn, p *Pacer) Conn {
	if p == nil {
		return conn
	}
	return paced{conn, p}
}

// pacerOf is the one that counts for conn, nil if none does.
func pacerOf(conn Conn) *Pacer {
	c, _ := conn.(paced)
	return c.p
}

// frameHead is what a connection puts in front of a frame: its length and kind.
const frameHead = 5

func (c paced) Write(kind byte, parts ...[]byte) error {
	n := frameHead
	for _, b := range parts {
		n += len(b)
	}
	c.p.sent(n)
	return c.Conn.Write(kind, parts...)
}

// pause waits until the stream may send more, and lets the follower hear meanwhile that it lives.
func (s *Stream) pause(ctx context.Context) error {
	for wait := s.o.Pacer.wait(pace.Small, 0); wait > 0; wait = s.o.Pacer.wait(pace.Small, 0) {
		if err := s.conn.Flush(); err != nil {
			return err
		}
		late := time.NewTimer(min(wait, pingEvery))
		select {
		case <-ctx.Done():
			late.Stop()
			return ctx.Err()
		case <-late.C:
		}
		if wait >= pingEvery {
			if err := s.ping(); err != nil {
				return err
			}
		}
	}
	return nil
}

// pacedBatches: under a limit a batch is about so many pieces: it goes at once, and others wait meanwhile.
const pacedBatches = 4

// batchMost is how large a batch may get.
func (s *Stream) batchMost() int {
	if s.o.Pacer.Rate() == 0 {
		return batchBytes
	}
	return min(batchBytes, pacedBatches*s.o.Pacer.piece(batchBytes))
}
