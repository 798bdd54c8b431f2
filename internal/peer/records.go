package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	recordHeader = 5       // type, version, and the length of what follows, 2 bytes big-endian (RFC 8446, 5.1)
	recordsAhead = 1 << 16 // of what came together, so much is taken at once
	recordsOut   = 1 << 16 // so much of what is written at once is given to the kernel together
)

// records gives crypto/tls one record at a time. On its own it reads as far ahead as its buffer allows, and nobody
// can tell then that the next record is here: a follower with a slow disk would commit each change alone, and
// fall behind for ever, although hundreds wait.
type records struct {
	net.Conn
	r    *bufio.Reader
	left int // of the record that is being read

	mu      sync.Mutex // guards what follows
	holding bool
	held    []byte // records to be written
}

func newRecords(raw net.Conn) *records {
	return &records{Conn: raw, r: bufio.NewReaderSize(raw, recordsAhead)}
}

func (r *records) Read(p []byte) (int, error) {
	if r.left == 0 {
		header, err := r.r.Peek(recordHeader)
		if err != nil {
			return 0, err // what came of a header stays for the next call
		}
		r.left = recordHeader + int(binary.BigEndian.Uint16(header[3:]))
	}
	n, err := r.r.Read(p[:min(r.left, len(p))])
	r.left -= n
	return n, err
}

// together writes b to the TLS connection above, and gives its records to the kernel some at a time: crypto/tls writes each, of 16 KiB at
// most, by a call of its own, and for each the other end may be woken.
func (r *records) together(above io.Writer, b []byte) (int, error) {
	r.hold(true)
	n, err := above.Write(b)
	return n, errors.Join(err, r.hold(false))
}

// hold begins to keep records back, or ends it.
func (r *records) hold(on bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = on
	return r.flush()
}

// Write is called by crypto/tls for each record, from one goroutine at a time.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.holding {
		return r.Conn.Write(p)
	}
	if len(r.held)+len(p) > recordsOut {
		if err := r.flush(); err != nil {
			return 0, err
		}
	}
	r.held = append(r.held, p...)
	return len(p), nil
}

// flush writes what is held; the lock is held.
func (r *records) flush() error {
	if len(r.held) == 0 {
		return nil
	}
	_, err := r.Conn.Write(r.held)
	r.held = r.held[:0]
	return err
}

// here is the number of bytes that came and were not asked for yet.
func (r *records) here() int {
	if n := r.r.Buffered(); n > 0 {
		return n
	}
	tcp, ok := r.Conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	sc, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if err := sc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
		return 0
	}
	return n
}
