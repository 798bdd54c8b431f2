package vip

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

const neighHeader = 12 // struct ndmsg: family, 3 pad, ifindex, state (u16), flags, type

// Unresolve forgets a neighbour whose address resolution is under way or has
// failed, so that the next packet to it asks at once. Linux repeats a lost
// question only after a second (retrans_time_ms, ip-sysctl), and the first one
// after a carrier's return is easily lost while the switch port still wakes up
// (measured: heartbeats one-way for 1.0 s). A neighbour that is known stays.
func (c *Conn) Unresolve(index int, addr netip.Addr) {
	get := neighMessage(unix.RTM_GETNEIGH, 0, index, addr)
	c.seq++
	native.PutUint32(get[8:], c.seq)
	if _, err := unix.Write(c.fd, get); err != nil {
		return
	}
	n, err := unix.Read(c.fd, c.buf)
	if err != nil {
		return
	}
	m, _, ok := nextMessage(c.buf[:n])
	if !ok || m.seq != c.seq || m.kind != unix.RTM_NEWNEIGH || len(m.body) < neighHeader {
		return // no such neighbour: the next packet asks anyway
	}
	if native.Uint16(m.body[8:])&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) != 0 {
		c.do(neighMessage(unix.RTM_DELNEIGH, unix.NLM_F_ACK, index, addr))
	}
}

func neighMessage(kind, flags uint16, index int, addr netip.Addr) []byte {
	b := make([]byte, nlHeader+neighHeader)
	native.PutUint16(b[4:], kind)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	b[nlHeader] = unix.AF_INET
	if addr.Is6() {
		b[nlHeader] = unix.AF_INET6
	}
	native.PutUint32(b[nlHeader+4:], uint32(index))
	b = appendAttr(b, unix.NDA_DST, addr.AsSlice())
	native.PutUint32(b, uint32(len(b)))
	return b
}
