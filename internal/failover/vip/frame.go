package vip

import (
	"encoding/binary"
	"net/netip"
)

// MAC is a hardware address of Ethernet.
type MAC [6]byte

var (
	//tidy:constant an array, never written
	broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	//tidy:constant an array, never written; RFC 2464 section 7, of ff02::1
	allNodes6 = MAC{0x33, 0x33, 0, 0, 0, 1}
)

const (
	ethHeader   = 14
	etherARP    = 0x0806
	etherIPv6   = 0x86dd
	arpRequest  = 1
	arpReply    = 2
	ip6Header   = 40
	protoICMP6  = 58
	icmpNS      = 135
	icmpNA      = 136
	optSource   = 1
	optTarget   = 2
	neighbour   = 32 // NS or NA with one link-layer option: 4 + 4 + 16 + 8
	naOverride  = 0x20
	arpFrame    = 42
	neighFrame  = ethHeader + ip6Header + neighbour
	allNodes6IP = "ff02::1"
)

// Announcement is the frames that tell a link that addr is now at mac: for IPv4
// an ARP request and an ARP reply, because some equipment heeds only one form
// (RFC 5227 section 3; metallb/metallb#172); for IPv6 an unsolicited neighbour
// advertisement with the override flag (RFC 4861 section 7.2.6).
func Announcement(addr netip.Addr, mac MAC) [][]byte {
	if addr.Is4() {
		return [][]byte{
			arp(broadcast, mac, arpRequest, addr, MAC{}, addr),
			arp(broadcast, mac, arpReply, addr, mac, addr),
		}
	}
	return [][]byte{neigh(allNodes6, mac, addr, netip.MustParseAddr(allNodes6IP), icmpNA, addr, optTarget)}
}

// Probe is the frame that asks the card old, and nobody else, whether it answers
// for addr. source is an address of the asking interface; an invalid one makes an
// ARP probe without a sender (RFC 5227 section 2.1.1), and for IPv6, which cannot
// ask without one, nil.
func Probe(addr, source netip.Addr, own, old MAC) []byte {
	if addr.Is4() {
		if !source.Is4() {
			source = netip.IPv4Unspecified()
		}
		return arp(old, own, arpRequest, source, MAC{}, addr)
	}
	if !source.Is6() {
		return nil
	}
	return neigh(old, own, source, addr, icmpNS, addr, optSource)
}

// Ask is the frame that asks every card of a link whether it answers for addr, and
// teaches none of them anything: for IPv4 an ARP probe without a sender (RFC 5227
// section 2.1.1); for IPv6 a solicitation to the address's solicited-node group
// (RFC 4291 section 2.7.1), nil without an address of the asking interface.
func Ask(addr, source netip.Addr, own MAC) []byte {
	if addr.Is4() {
		return arp(broadcast, own, arpRequest, netip.IPv4Unspecified(), MAC{}, addr)
	}
	if !source.Is6() {
		return nil
	}
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	a := addr.As16()
	copy(group[13:], a[13:])
	return neigh(MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}, own, source, netip.AddrFrom16(group), icmpNS, addr, optSource)
}

// Question asks every card as Ask does, with an address to answer to, which every
// machine heeds.
func Question(addr, source netip.Addr, own MAC) []byte {
	if addr.Is4() {
		return Probe(addr, source, own, broadcast)
	}
	return Ask(addr, source, own)
}

// AnswersTo reports whether a frame that ParseHolder has read is an answer to a
// question of the card own, and no question or announcement.
func AnswersTo(f []byte, own MAC) bool {
	return MAC(f[:6]) == own && (binary.BigEndian.Uint16(f[12:]) != etherARP || binary.BigEndian.Uint16(f[20:]) == arpReply)
}

func ethernet(to, from MAC, kind uint16, size int) []byte {
	b := make([]byte, 0, size)
	b = append(b, to[:]...)
	b = append(b, from[:]...)
	return binary.BigEndian.AppendUint16(b, kind)
}

// arp is a frame of RFC 826 for Ethernet and IPv4.
func arp(to, from MAC, op byte, spa netip.Addr, tha MAC, tpa netip.Addr) []byte {
	b := ethernet(to, from, etherARP, arpFrame)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, op)
	b = append(b, from[:]...)
	b = append(b, spa.AsSlice()...)
	b = append(b, tha[:]...)
	return append(b, tpa.AsSlice()...)
}

// neigh is a neighbour solicitation or advertisement (RFC 4861 section 4.3, 4.4)
// with the sender's link-layer address as its option.
func neigh(to, from MAC, src, dst netip.Addr, kind byte, target netip.Addr, opt byte) []byte {
	b := ethernet(to, from, etherIPv6, neighFrame)
	b = append(b, 0x60, 0, 0, 0, 0, neighbour, protoICMP6, 255) // hop limit 255 proves that no router forwarded it
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	flags := byte(0)
	if kind == icmpNA {
		flags = naOverride
	}
	b = append(b, kind, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	b = append(b, opt, 1)
	b = append(b, from[:]...)
	sum := checksum6(b[ethHeader:])
	binary.BigEndian.PutUint16(b[ethHeader+ip6Header+2:], sum)
	return b
}

// checksum6 is the ICMPv6 checksum of an IPv6 packet without extension headers
// (RFC 4443 section 2.3, RFC 8200 section 8.1); the checksum field counts as it stands.
func checksum6(p []byte) uint16 {
	body := p[ip6Header:]
	sum := uint32(len(body)) + protoICMP6
	for i := 8; i < ip6Header; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for i := 0; i+1 < len(body); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(body[i:]))
	}
	if len(body)%2 == 1 {
		sum += uint32(body[len(body)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// Holder is what a frame says: the card MAC answers for Addr.
type Holder struct {
	Addr netip.Addr
	MAC  MAC
}

// ParseHolder reads an ARP frame (any form: its sender holds its sender address)
// or a neighbour advertisement. ok is false for everything else, for damaged
// frames, and for ARP probes, whose sender has no address yet.
func ParseHolder(f []byte) (h Holder, ok bool) {
	if len(f) < ethHeader {
		return h, false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherARP:
		return parseARP(f)
	case etherIPv6:
		return parseNA(f)
	}
	return h, false
}

func parseARP(f []byte) (h Holder, ok bool) {
	if len(f) < arpFrame || [6]byte(f[14:20]) != [6]byte{0, 1, 8, 0, 6, 4} {
		return h, false
	}
	if op := binary.BigEndian.Uint16(f[20:]); op != arpRequest && op != arpReply {
		return h, false
	}
	h.MAC = MAC(f[22:28])
	h.Addr = netip.AddrFrom4([4]byte(f[28:32]))
	return h, !h.Addr.IsUnspecified()
}

func parseNA(f []byte) (h Holder, ok bool) {
	if len(f) < ethHeader+ip6Header+24 {
		return h, false
	}
	p := f[ethHeader:]
	size := int(binary.BigEndian.Uint16(p[4:]))
	if p[0]>>4 != 6 || p[6] != protoICMP6 || p[7] != 255 || size < 24 || len(p) < ip6Header+size {
		return h, false
	}
	p = p[:ip6Header+size]
	body := p[ip6Header:]
	if body[0] != icmpNA || body[1] != 0 || checksum6(p) != 0 {
		return h, false
	}
	h.Addr, h.MAC = netip.AddrFrom16([16]byte(body[8:24])), MAC(f[6:12])
	// The option may be missing in an answer to a unicast solicitation (RFC 4861
	// section 7.2.4; Linux leaves it out): then the frame's own source counts.
	for o := body[24:]; len(o) >= 8 && o[1] != 0 && int(o[1])*8 <= len(o); o = o[int(o[1])*8:] {
		if o[0] == optTarget {
			h.MAC = MAC(o[2:8])
		}
	}
	return h, !h.Addr.IsMulticast()
}
