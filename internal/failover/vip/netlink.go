package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// A netlink message is a header of 16 bytes (struct nlmsghdr), a fixed part that
// depends on its type, and attributes padded to 4 bytes (rtnetlink(7)). All
// numbers are in the byte order of the machine.
const (
	nlHeader   = 16
	addrHeader = 8  // struct ifaddrmsg
	linkHeader = 16 // struct ifinfomsg
	attrHeader = 4  // struct rtattr
	recvSize   = 32 << 10
	maxDump    = 4096 // messages of one dump; a machine with more addresses is not ours
)

//tidy:constant a name for the byte order of netlink messages
var native = binary.NativeEndian

// Conn is a netlink socket for requests. It is not safe for concurrent use.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// Dial opens a netlink socket in the network namespace of the calling thread.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, &problem.Problem{Op: "open netlink socket", Kind: problem.Unavailable, Err: err}
	}
	// The kernel answers a request before sendto returns; the limit is for the day when it does not.
	tv := unix.Timeval{Sec: 1}
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		unix.Close(fd)
		return nil, &problem.Problem{Op: "bind netlink socket", Kind: problem.Unavailable, Err: err}
	}
	return &Conn{fd: fd, buf: make([]byte, recvSize)}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Lease is one VIP on one interface, with its messages built in advance.
type Lease struct {
	Prefix   netip.Prefix
	Index    int
	add, del []byte
}

// NewLease prepares a lease. covered says that the interface already has a route
// to the VIP's subnet (see Covered).
func NewLease(p netip.Prefix, index int, covered bool) *Lease {
	flags := uint32(0)
	if covered {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	preferred := uint32(LifetimeSeconds)
	if p.Addr().Is6() {
		// No duplicate address detection: it would keep the address silent for a second
		// or more, and the old holder is known to be gone. Deprecated from the start, so
		// that the kernel does not choose the VIP as source of the node's own traffic (RFC 6724 rule 3).
		flags |= unix.IFA_F_NODAD
		preferred = 0
	}
	l := &Lease{Prefix: p, Index: index}
	l.add = addrMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, p, index, flags)
	l.add = appendAttr(l.add, unix.IFA_FLAGS, native.AppendUint32(nil, flags))
	info := native.AppendUint32(nil, preferred) // struct ifa_cacheinfo: preferred, valid, cstamp, tstamp
	info = native.AppendUint32(info, LifetimeSeconds)
	info = append(info, make([]byte, 8)...)
	l.add = appendAttr(l.add, unix.IFA_CACHEINFO, info)
	l.del = addrMessage(unix.RTM_DELADDR, 0, p, index, 0)
	native.PutUint32(l.add, uint32(len(l.add)))
	native.PutUint32(l.del, uint32(len(l.del)))
	return l
}

func addrMessage(kind, flags uint16, p netip.Prefix, index int, ifa uint32) []byte {
	b := make([]byte, nlHeader+addrHeader)
	native.PutUint16(b[4:], kind)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	b[16] = unix.AF_INET
	if p.Addr().Is6() {
		b[16] = unix.AF_INET6
	}
	b[17] = byte(p.Bits())
	b[18] = byte(ifa) // the low 8 flags; IFA_FLAGS has all of them
	native.PutUint32(b[20:], uint32(index))
	b = appendAttr(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	return appendAttr(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

func appendAttr(b []byte, kind uint16, v []byte) []byte {
	b = native.AppendUint16(b, uint16(attrHeader+len(v)))
	b = native.AppendUint16(b, kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Hold adds the address or refreshes its lifetime. The error wraps the kernel's errno.
func (c *Conn) Hold(l *Lease) error {
	if errno := c.do(l.add); errno != 0 {
		kind := problem.Unavailable
		if errno == unix.EPERM || errno == unix.EACCES {
			kind = problem.Permission
		}
		return &problem.Problem{Op: "hold address", Kind: kind, Subject: l.Prefix.String(), Err: errno,
			Hint: "adding addresses needs CAP_NET_ADMIN in the network namespace"}
	}
	return nil
}

// Drop removes the address; it is no error that it was not there.
func (c *Conn) Drop(l *Lease) error {
	errno := c.do(l.del)
	if errno == 0 || errno == unix.EADDRNOTAVAIL || errno == unix.ENODEV {
		return nil
	}
	return &problem.Problem{Op: "drop address", Kind: problem.Unavailable, Subject: l.Prefix.String(), Err: errno}
}

// do sends one prepared request and reads its acknowledgement.
func (c *Conn) do(msg []byte) unix.Errno {
	c.seq++
	native.PutUint32(msg[8:], c.seq)
	if _, err := unix.Write(c.fd, msg); err != nil {
		return errnoOf(err)
	}
	for range maxDump {
		n, err := unix.Read(c.fd, c.buf)
		if err != nil {
			return errnoOf(err)
		}
		for rest := c.buf[:n]; ; {
			m, tail, ok := nextMessage(rest)
			if !ok {
				break
			}
			rest = tail
			if m.seq == c.seq && m.kind == unix.NLMSG_ERROR {
				return m.errno()
			}
		}
	}
	return unix.EPROTO
}

func errnoOf(err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return unix.EIO
}

// message is one netlink message; body is the part after the header.
type message struct {
	kind uint16
	seq  uint32
	body []byte
}

func (m message) errno() unix.Errno {
	if len(m.body) < 4 {
		return unix.EPROTO
	}
	return unix.Errno(-int32(native.Uint32(m.body)))
}

// nextMessage cuts the first message off b; ok is false if there is no whole one.
func nextMessage(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < nlHeader {
		return m, nil, false
	}
	n := int(native.Uint32(b))
	if n < nlHeader || n > len(b) {
		return m, nil, false
	}
	m = message{native.Uint16(b[4:]), native.Uint32(b[8:]), b[nlHeader:n]}
	return m, b[min((n+3)&^3, len(b)):], true
}

// attr finds an attribute of a message body behind a fixed part of skip bytes.
func attr(body []byte, skip int, kind uint16) []byte {
	if len(body) < skip {
		return nil
	}
	for b := body[skip:]; len(b) >= attrHeader; {
		n := int(native.Uint16(b))
		if n < attrHeader || n > len(b) {
			return nil
		}
		if native.Uint16(b[2:])&^unix.NLA_F_NESTED == kind {
			return b[attrHeader:n]
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// Addrs lists the addresses of the network namespace.
func (c *Conn) Addrs() (held []Held, err error) {
	err = c.dump(unix.RTM_GETADDR, func(m message) {
		if m.kind != unix.RTM_NEWADDR {
			return
		}
		if h, ok := parseAddr(m.body); ok {
			held = append(held, h)
		}
	})
	return held, err
}

// Card is an interface.
type Card struct {
	Name    string
	MAC     [6]byte
	Carrier bool // up, and the other end is there

	Loopback bool

	signal     bool   // what the driver says of the carrier
	downs, ups uint32 // how often it went and came
}

// Card reads interface index.
func (c *Conn) Card(index int) (Card, error) {
	var card Card
	found := false
	err := c.dump(unix.RTM_GETLINK, func(m message) {
		if m.kind != unix.RTM_NEWLINK || len(m.body) < linkHeader || int(native.Uint32(m.body[4:])) != index {
			return
		}
		found = true
		flags := native.Uint32(m.body[8:])
		card.Carrier, card.Loopback = carrier(flags), flags&unix.IFF_LOOPBACK != 0
		copy(card.MAC[:], attr(m.body, linkHeader, unix.IFLA_ADDRESS))
		name := attr(m.body, linkHeader, unix.IFLA_IFNAME)
		card.Name = string(name[:max(0, len(name)-1)])
		if b := attr(m.body, linkHeader, unix.IFLA_CARRIER); len(b) == 1 {
			card.signal = b[0] != 0
		}
		card.downs, card.ups = count32(m.body, unix.IFLA_CARRIER_DOWN_COUNT), count32(m.body, unix.IFLA_CARRIER_UP_COUNT)
	})
	if err == nil && !found {
		err = &problem.Problem{Op: "read interface", Kind: problem.NotFound, Subject: fmt.Sprint(index)}
	}
	return card, err
}

func count32(body []byte, kind uint16) uint32 {
	if b := attr(body, linkHeader, kind); len(b) == 4 {
		return native.Uint32(b)
	}
	return 0
}

// carrier reads ifi_flags: IFF_LOWER_UP is the driver's signal, IFF_RUNNING RFC 2863's (netdevice(7)).
func carrier(flags uint32) bool {
	const want = unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_RUNNING
	return flags&want == want
}

func (c *Conn) dump(kind uint16, each func(message)) error {
	c.seq++
	b := make([]byte, nlHeader+linkHeader)
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], kind)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(b[8:], c.seq)
	if _, err := unix.Write(c.fd, b); err != nil {
		return &problem.Problem{Op: "ask netlink", Kind: problem.Unavailable, Err: err}
	}
	for range maxDump {
		n, err := unix.Read(c.fd, c.buf)
		if err != nil {
			return &problem.Problem{Op: "read netlink", Kind: problem.Unavailable, Err: err}
		}
		for rest := c.buf[:n]; ; {
			m, tail, ok := nextMessage(rest)
			if !ok {
				break
			}
			rest = tail
			switch {
			case m.seq != c.seq:
			case m.kind == unix.NLMSG_DONE:
				return nil
			case m.kind == unix.NLMSG_ERROR:
				return &problem.Problem{Op: "read netlink", Kind: problem.Unavailable, Err: m.errno()}
			default:
				each(m)
			}
		}
	}
	return &problem.Problem{Op: "read netlink", Kind: problem.Internal, Err: errors.New("endless dump")}
}

func parseAddr(body []byte) (Held, bool) {
	if len(body) < addrHeader {
		return Held{}, false
	}
	raw := attr(body, addrHeader, unix.IFA_LOCAL)
	if raw == nil {
		raw = attr(body, addrHeader, unix.IFA_ADDRESS) // IPv6 has no IFA_LOCAL on ordinary interfaces
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok || int(body[1]) > addr.BitLen() {
		return Held{}, false
	}
	flags := uint32(body[2])
	if f := attr(body, addrHeader, unix.IFA_FLAGS); len(f) == 4 {
		flags = native.Uint32(f)
	}
	return Held{Prefix: netip.PrefixFrom(addr, int(body[1])), Index: int(native.Uint32(body[4:])),
		Usable: flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0}, true
}
