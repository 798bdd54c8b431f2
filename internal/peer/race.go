package peer

import (
	"context"
	"net"
	"time"
)

// nextPathAfter is how long a path is tried alone: a link that just died swallows what is sent, and a second lost over it
// is a second in which a new master cannot begin (RFC 8305, 5: 100 ms at least, 250 are recommended for the internet).
const nextPathAfter = 150 * time.Millisecond

// race connects over several paths in their order, the next one when the one before it has failed or keeps waiting.
type race struct {
	ctx     context.Context
	cancel  context.CancelFunc
	connect func(ctx context.Context, i int) (net.Conn, error)
	results chan raced // holds one of each
	paths   int
	begun   int
	told    int
	failed  bool // the last one that was begun
}

type raced struct {
	i    int
	conn net.Conn
	err  error
}

func newRace(ctx context.Context, paths int, connect func(ctx context.Context, i int) (net.Conn, error)) *race {
	r := &race{connect: connect, results: make(chan raced, paths), paths: paths}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// next returns what came of a path, in the order in which they end; more is false if all have been told. The connection is the caller's.
func (r *race) next() (i int, conn net.Conn, err error, more bool) {
	if r.told == r.paths {
		return 0, nil, nil, false
	}
	if r.begun < r.paths && (r.begun == r.told || r.failed) {
		r.begin()
	}
	late := time.NewTimer(nextPathAfter)
	defer late.Stop()
	for {
		select {
		case got := <-r.results:
			r.told++
			r.failed = got.i == r.begun-1
			return got.i, got.conn, got.err, true
		case <-late.C:
			if r.begun < r.paths {
				r.begin()
				late.Reset(nextPathAfter)
			}
		}
	}
}

func (r *race) begin() {
	i := r.begun
	r.begun, r.failed = i+1, false
	go func() {
		conn, err := r.connect(r.ctx, i)
		r.results <- raced{i, conn, err}
	}()
}

// end ends what is under way, and returns when it has ended.
func (r *race) end() {
	r.cancel()
	for ; r.told < r.begun; r.told++ {
		if got := <-r.results; got.conn != nil {
			got.conn.Close()
		}
	}
}
