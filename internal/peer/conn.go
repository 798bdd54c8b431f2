package peer

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

const (
	headerLen  = 5       // length of the payload, 4 bytes big-endian; kind, 1 byte
	bufferSize = 1 << 16 // of what is written: four TLS records; a frame of small files fits, a bulk frame passes through
	oneRecord  = 1 << 14 // the most that a TLS record holds (RFC 8446, 5.1), and all that is deciphered at once
)

// Conn is a proven connection. One goroutine may read while another writes;
// Close and the deadlines may be used from anywhere. A frame is a length, a kind
// byte and a payload of at most MaxFrame bytes.
type Conn struct {
	peer    cluster.NodeID
	service string
	link    cluster.LinkID
	cert    *x509.Certificate // of the peer
	leave   func()            // forgets the connection; may be nil
	raw     net.Conn          // the TCP connection under the TLS one
	stream  net.Conn
	ahead   *records // what came and is not deciphered yet; nil without TLS
	in      *frameReader
	out     *bufio.Writer
}

func newConn(raw, stream net.Conn) *Conn {
	c := &Conn{raw: raw, stream: stream, in: newFrameReader(stream)}
	if t, ok := stream.(*tls.Conn); ok {
		c.ahead, _ = t.NetConn().(*records)
	}
	c.out = bufio.NewWriterSize(outgoing{c}, bufferSize)
	return c
}

// outgoing is what leaves a connection's buffer.
type outgoing struct{ c *Conn }

func (o outgoing) Write(b []byte) (int, error) {
	if o.c.ahead == nil || len(b) <= oneRecord {
		return o.c.stream.Write(b)
	}
	return o.c.ahead.together(o.c.stream, b)
}

// Peer is the node at the other end, as its certificate says.
func (c *Conn) Peer() cluster.NodeID { return c.peer }

// Service is what the dialler asked for.
func (c *Conn) Service() string { return c.service }

// Link is the path's link as the dialler named it.
func (c *Conn) Link() cluster.LinkID { return c.link }

// RemoteAddr is the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// Read returns the next frame; payload is valid until the next Read. io.EOF: the
// peer closed between two frames. problem.Timeout: the read deadline passed, and
// Read may be called again, even if it passed within a frame. problem.Corrupt:
// not our framing, the connection is closed. Else problem.Unavailable.
func (c *Conn) Read() (kind byte, payload []byte, err error) {
	kind, payload, err = c.in.next()
	if err == nil || err == io.EOF {
		return kind, payload, err
	}
	err = c.problem("read from", err)
	if problem.KindOf(err) == problem.Corrupt {
		c.Close()
	}
	return 0, nil, err
}

// Write queues one frame whose payload is the parts in order; Flush sends what is
// queued (a frame that does not fit the buffer is sent at once). The parts are
// not kept. After an error other than problem.Invalid the connection is of no use.
func (c *Conn) Write(kind byte, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > MaxFrame {
		return &problem.Problem{Op: "write to", Kind: problem.Invalid, Subject: string(c.peer),
			Err: fmt.Errorf("a frame of %d bytes, at most %d", n, MaxFrame)}
	}
	var header [headerLen]byte
	binary.BigEndian.PutUint32(header[:], uint32(n))
	header[4] = kind
	if _, err := c.out.Write(header[:]); err != nil {
		return c.problem("write to", err)
	}
	for _, p := range parts {
		if _, err := c.out.Write(p); err != nil {
			return c.problem("write to", err)
		}
	}
	return nil
}

// Flush sends what Write queued.
func (c *Conn) Flush() error {
	if err := c.out.Flush(); err != nil {
		return c.problem("write to", err)
	}
	return nil
}

// Buffered tells whether there is more to read, in bytes, deciphered or not: Read does not wait for the network then, or only
// for the rest of a record. It belongs to who reads.
func (c *Conn) Buffered() int {
	n := c.in.r.Buffered()
	if n == 0 && c.ahead != nil {
		n = c.ahead.here()
	}
	return n
}

// SetReadDeadline is as net.Conn's.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline is as net.Conn's. A write that it ends leaves half a record
// behind: the connection must be closed (crypto/tls, Conn.SetWriteDeadline).
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// Close ends the connection at once; what was not flushed is lost. It closes the
// TCP connection without a TLS farewell, because sending one can block for five
// seconds behind a peer that does not read (crypto/tls, Conn.closeNotify), and a
// reign must end sooner. The peer's Read says io.EOF all the same.
func (c *Conn) Close() error {
	if c.leave != nil {
		c.leave()
	}
	return c.raw.Close()
}

// Certificate is the one that the peer proved itself with.
func (c *Conn) Certificate() *x509.Certificate { return c.cert }

func (c *Conn) problem(op string, err error) error {
	kind := problem.Unavailable
	switch {
	case errors.Is(err, errOversize):
		kind = problem.Corrupt
	case errors.Is(err, os.ErrDeadlineExceeded):
		kind = problem.Timeout
	}
	return &problem.Problem{Op: op, Kind: kind, Subject: string(c.peer), Err: err}
}

// errOversize marks a length that no sender of ours would write.
var errOversize = errors.New("frame longer than allowed")

// frameReader takes frames from a stream. A deadline that passes in the middle of
// a frame loses nothing: the next call goes on where this one stopped.
type frameReader struct {
	r      *bufio.Reader
	buf    []byte
	kind   byte
	length int  // of the payload
	got    int  // bytes of the payload that are in buf
	inside bool // the header was read, the payload not yet
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, oneRecord)}
}

func (f *frameReader) next() (byte, []byte, error) {
	if !f.inside {
		header, err := f.r.Peek(headerLen)
		if err != nil {
			if err == io.EOF && len(header) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		n := binary.BigEndian.Uint32(header)
		if n > MaxFrame {
			return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", errOversize, n, MaxFrame)
		}
		f.kind, f.length, f.got, f.inside = header[4], int(n), 0, true
		if _, err := f.r.Discard(headerLen); err != nil {
			return 0, nil, err
		}
		if cap(f.buf) < f.length {
			f.buf = make([]byte, max(f.length, min(2*cap(f.buf), MaxFrame)))
		}
	}
	for f.got < f.length {
		n, err := f.r.Read(f.buf[f.got:f.length])
		f.got += n
		if err != nil && f.got < f.length {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	f.inside = false
	return f.kind, f.buf[:f.length:f.length], nil
}
