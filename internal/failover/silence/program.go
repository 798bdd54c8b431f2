package silence

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// way says which address of a packet counts: where it goes to, or where it comes from.
// All are offsets from the start of the Ethernet header.
type way struct {
	arp, v4, v6 int32
	solicits    bool // a question for the neighbour, which goes to a group's address, counts by its target
}

// RFC 826, RFC 791 section 3.1, RFC 8200 section 3.
func arriving() way {
	return way{arp: ether + 24, v4: ether + 16, v6: ether + 24, solicits: true}
}
func leaving() way { return way{arp: ether + 14, v4: ether + 12, v6: ether + 8} }

const (
	ether    = 14
	typeAt   = 12         // of the Ethernet type
	nextAt   = ether + 6  // of the next header in IPv6
	icmpAt   = ether + 40 // of ICMPv6, where nothing is between: RFC 4861 has it so
	targetAt = icmpAt + 8 // RFC 4861 section 4.3
	solicit  = 135

	packetAt = 4  // of pkt_type in struct __sk_buff (linux/bpf.h)
	vlanAt   = 20 // of vlan_present
	others   = 3  // PACKET_OTHERHOST (linux/if_packet.h): for a guest behind the same card

	pass = -1 // TC_ACT_UNSPEC: whatever else is on the interface decides
	drop = 2  // TC_ACT_SHOT

	// spent is when a silence ends by itself. The longest that a kernel was seen to keep an address that nobody
	// refreshed is 3 s; who places it by hand on a node whose agent was killed is served again after this.
	spent = 20 * time.Second
)

// program drops packets of addrs once the moment in the map of descriptor moment is over.
// Before it, which is nearly always, it is one look at the map and at most one at the clock.
func program(moment int, addrs []netip.Addr, w way) asm.Instructions {
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), // loads from the packet want it there
		asm.LoadMapValue(asm.R7, moment, 0),
		asm.LoadMem(asm.R7, asm.R7, 0, asm.DWord),
		asm.JEq.Imm(asm.R7, -1, "pass"), // open
		asm.FnKtimeGetNs.Call(),
		asm.JLE.Reg(asm.R0, asm.R7, "pass"),
		asm.Sub.Reg(asm.R0, asm.R7),
		asm.LoadImm(asm.R1, int64(spent), asm.DWord),
		asm.JGT.Reg(asm.R0, asm.R1, "pass"),
		asm.LoadMem(asm.R0, asm.R6, packetAt, asm.Word),
		asm.JEq.Imm(asm.R0, others, "pass"),
		asm.LoadMem(asm.R0, asm.R6, vlanAt, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "pass"), // of another interface, on top of this one
		asm.LoadAbs(typeAt, asm.Half),
		asm.JEq.Imm(asm.R0, unix.ETH_P_ARP, "arp"),
		asm.JEq.Imm(asm.R0, unix.ETH_P_IP, "v4"),
		asm.JEq.Imm(asm.R0, unix.ETH_P_IPV6, "v6"),
		asm.Ja.Label("pass"),
	}
	v4, v6 := families(addrs)
	p = append(p, either(w.arp, v4, "arp")...)
	p = append(p, either(w.v4, v4, "v4")...)
	p = append(p, asm.LoadAbs(nextAt, asm.Byte).WithSymbol("v6"))
	for i, a := range v6 {
		p = append(p, same(w.v6, a, "v6."+strconv.Itoa(i))...)
	}
	if w.solicits {
		p = append(p, asm.LoadAbs(nextAt, asm.Byte), asm.JNE.Imm(asm.R0, unix.IPPROTO_ICMPV6, "pass"),
			asm.LoadAbs(icmpAt, asm.Byte), asm.JNE.Imm(asm.R0, solicit, "pass"))
		for i, a := range v6 {
			p = append(p, same(targetAt, a, "nd."+strconv.Itoa(i))...)
		}
	}
	return append(p, asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return(), asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"), asm.Return())
}

func families(addrs []netip.Addr) (v4 []uint32, v6 [][4]uint32) {
	for _, a := range addrs {
		if b := a.Unmap().AsSlice(); len(b) == 4 {
			v4 = append(v4, binary.BigEndian.Uint32(b))
		} else {
			v6 = append(v6, [4]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])})
		}
	}
	return v4, v6
}

// either drops if the word at offset is one of words, and passes else.
func either(offset int32, words []uint32, name string) (p asm.Instructions) {
	p = append(p, asm.LoadAbs(offset, asm.Word).WithSymbol(name))
	for _, w := range words {
		p = append(p, asm.JEq.Imm32(asm.R0, int32(w), "drop"))
	}
	return append(p, asm.Ja.Label("pass"))
}

// same drops if the four words at offset are those of a, and goes on behind itself else.
func same(offset int32, a [4]uint32, name string) (p asm.Instructions) {
	for k, w := range a {
		p = append(p, asm.LoadAbs(offset+int32(4*k), asm.Word), asm.JNE.Imm32(asm.R0, int32(w), name))
	}
	return append(p, asm.Ja.Label("drop"), asm.LoadAbs(typeAt, asm.Half).WithSymbol(name))
}
