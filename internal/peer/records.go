package peer

import (
	"bufio"
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

const (
	recordHeader = 5       // type, version, and the length of what follows, 2 bytes big-endian (RFC 8446, 5.1)
	recordsAhead = 1 << 15 // of what came together, so much is taken at once
)

// records gives crypto/tls one record at a time. On its own it reads as far ahead as its buffer allows, and nobody
// can tell then that the next record is here: a follower with a slow disk would commit each change alone, and
// fall behind for ever, although hundreds wait.
type records struct {
	net.Conn
	r    *bufio.Reader
	left int // of the record that is being read
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
