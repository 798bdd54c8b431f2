package clients

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

const (
	ip4Header  = 20
	ip6Header  = 40
	tcpHeader  = 20
	hopLimit   = 64
	flagACK    = 0x10
	fullWindow = 0xffff
	// roundStep spreads the sequence numbers of the rounds over their space: one that
	// happened to lie in the client's window, which answers nothing, does not the next time.
	roundStep = 0x40000001
)

// Packet is a segment of the connection c, from the VIP to the client, that says
// nothing true: a client that has the connection answers it with what it expects
// (RFC 9293 section 3.10.7.4, first step), one that has not resets it.
func Packet(c Conn, round int) []byte {
	be := binary.BigEndian
	src, dst := c.VIP.Addr(), c.Client.Addr()
	tcp := make([]byte, tcpHeader)
	be.PutUint16(tcp, c.VIP.Port())
	be.PutUint16(tcp[2:], c.Client.Port())
	number := uint32(round) * roundStep
	be.PutUint32(tcp[4:], number)
	be.PutUint32(tcp[8:], number)
	tcp[12], tcp[13] = tcpHeader/4<<4, flagACK
	be.PutUint16(tcp[14:], fullWindow)
	be.PutUint16(tcp[16:], checksum(src, dst, tcp))
	if src.Is6() {
		b := make([]byte, ip6Header, ip6Header+tcpHeader) // RFC 8200 section 3
		b[0] = 0x60
		be.PutUint16(b[4:], tcpHeader)
		b[6], b[7] = unix.IPPROTO_TCP, hopLimit
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return append(b, tcp...)
	}
	b := make([]byte, ip4Header, ip4Header+tcpHeader) // RFC 791 section 3.1; the kernel fills its checksum (raw(7))
	b[0] = 0x45
	be.PutUint16(b[2:], ip4Header+tcpHeader)
	b[8], b[9] = hopLimit, unix.IPPROTO_TCP
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, tcp...)
}

// checksum is that of RFC 9293 section 3.1, over the pseudo header and a segment whose own field is 0.
func checksum(src, dst netip.Addr, tcp []byte) uint16 {
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
	for _, part := range [][]byte{src.AsSlice(), dst.AsSlice(), tcp} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// Teller sends packets to clients. It needs CAP_NET_RAW.
type Teller struct{ fd4, fd6 int }

// NewTeller opens its sockets in the network namespace of the calling thread.
func NewTeller() (*Teller, error) {
	fail := func(err error) (*Teller, error) {
		return nil, &problem.Problem{Op: "open raw sockets", Kind: problem.Permission, Err: err, Hint: "telling clients that the addresses moved needs CAP_NET_RAW in the network namespace"}
	}
	fd4, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW) // with our own IP header: raw(7)
	if err != nil {
		return fail(err)
	}
	fd6, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil { // a machine without IPv6 has no such VIPs either
		fd6 = -1
	}
	return &Teller{fd4, fd6}, nil
}

// Close closes the sockets.
func (t *Teller) Close() {
	unix.Close(t.fd4)
	if t.fd6 >= 0 {
		unix.Close(t.fd6)
	}
}

// Tell sends one packet; round counts from 0. It never waits: the error is the kernel's errno.
func (t *Teller) Tell(c Conn, round int) error {
	if !askable(c) {
		return unix.EINVAL
	}
	if c.Client.Addr().Is6() {
		return unix.Sendto(t.fd6, Packet(c, round), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrInet6{Addr: c.Client.Addr().As16()})
	}
	return unix.Sendto(t.fd4, Packet(c, round), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrInet4{Addr: c.Client.Addr().As4()})
}
