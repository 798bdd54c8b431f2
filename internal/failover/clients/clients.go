// Package clients knows which clients have TCP connections to the VIPs, so that
// they can be told when the addresses have moved: a client that waits for an
// answer, and sends nothing, would otherwise wait for its own timeouts.
//
// It decides nothing and starts no goroutine. A list comes from the kernel of the
// master (List), travels to the standbys (Append, Parse), and whoever takes over
// sends every client a packet of its old connection (Teller). The client's kernel
// answers it, as RFC 9293 section 3.10.7.4 has it, and the new master's kernel,
// which has no such connection, resets it. That is what CTDB calls a tickle.
//
// End is the other side: the machine that has lost an address ends what clients had open
// with it there, in silence, so that its daemons do not keep it.
//
//	list, more, err := clients.List(vips)
//	b := clients.Append(nil, term, list)
//	term, list, err := clients.Parse(b, vips)
//	t, err := clients.NewTeller()
//	err = t.Tell(list[0], round)
//	n, err := clients.End(vip, gone)
package clients

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Max is how many connections are remembered: more than a cluster of this size
// serves, and the list still fits into one frame four times over.
const Max = 4096

// Conn is one connection of a client to a VIP.
type Conn struct {
	VIP    netip.AddrPort // this side
	Client netip.AddrPort
}

const (
	headSize = 8 + 2 // term, count
	family4  = 4
	family6  = 6
)

// Append writes a list as Parse reads it; what goes beyond Max is left out.
func Append(b []byte, term cluster.Term, list []Conn) []byte {
	list = list[:min(len(list), Max)]
	b = binary.BigEndian.AppendUint64(b, uint64(term))
	b = binary.BigEndian.AppendUint16(b, uint16(len(list)))
	for _, c := range list {
		family := byte(family4)
		if c.VIP.Addr().Is6() {
			family = family6
		}
		b = append(b, family)
		for _, p := range [...]netip.AddrPort{c.VIP, c.Client} {
			b = append(b, p.Addr().AsSlice()...)
			b = binary.BigEndian.AppendUint16(b, p.Port())
		}
	}
	return b
}

// Parse reads what Append wrote. Whatever a master tells, no packet goes to an
// address that is no client's, nor in the name of one that is no VIP: such a list is refused as a whole.
func Parse(b []byte, vips []netip.Addr) (term cluster.Term, list []Conn, err error) {
	wrong := func(why string) (cluster.Term, []Conn, error) {
		return 0, nil, &problem.Problem{Op: "read clients", Kind: problem.Corrupt, Err: errors.New(why), Hint: "run the same version of revolve on all nodes"}
	}
	if len(b) < headSize {
		return wrong("too short")
	}
	term = cluster.Term(binary.BigEndian.Uint64(b))
	n := int(binary.BigEndian.Uint16(b[8:]))
	if n > Max {
		return wrong("too many")
	}
	b = b[headSize:]
	list = make([]Conn, 0, n)
	for range n {
		size := netip.IPv4Unspecified().BitLen() / 8
		switch {
		case len(b) == 0:
			return wrong("too short")
		case b[0] == family6:
			size = netip.IPv6Unspecified().BitLen() / 8
		case b[0] != family4:
			return wrong("unknown kind of address")
		}
		if len(b) < 1+2*(size+2) {
			return wrong("too short")
		}
		c := Conn{endpoint(b[1:], size), endpoint(b[1+size+2:], size)}
		if !slices.Contains(vips, c.VIP.Addr()) || !askable(c) {
			return wrong(fmt.Sprintf("%v and %v have no connection with a floating address", c.VIP, c.Client))
		}
		list, b = append(list, c), b[1+2*(size+2):]
	}
	if len(b) > 0 {
		return wrong("too long")
	}
	return term, list, nil
}

func endpoint(b []byte, size int) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(b[:size]) // 4 or 16 bytes
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[size:]))
}

// askable reports whether a packet may be sent for c. A link-local client would
// need the interface, which is another one on every node; it waits for its timeouts.
func askable(c Conn) bool {
	a := c.Client.Addr()
	return c.VIP.Port() != 0 && c.Client.Port() != 0 && a.Is4() == c.VIP.Addr().Is4() && !a.Is4In6() && a.IsValid() && a != c.VIP.Addr() &&
		!a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
