package beat

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A flood of packets to the heartbeat port must cost neither the node its role
// nor the machine its processors, although this process runs before all others.
// The kernel drops what no member can have sent, unread; and what only looks
// like a member's is read for at most half of the time.

const (
	// gateWindow and gateShare bound the time spent reading packets: at most half of every 20 ms, which is far
	// more than a cluster of 16 nodes needs, and leaves the agent the time to say its word even on one processor.
	gateWindow = 20 * time.Millisecond
	gateShare  = gateWindow / 2
	// socketBuffer holds what arrives meanwhile: about 800 heartbeats.
	socketBuffer = 1 << 20

	// strangerMask lets one packet in eight of unknown senders pass: a node that is about to become a member, or that
	// does not know yet that it is none any more, is answered within a few heartbeats (members.go), and a flood costs an eighth.
	strangerMask = 7

	udpHeader = 8
	// netOffset is SKF_NET_OFF of linux/filter.h: offsets from there count from the IP header.
	netOffset = 0xfff00000
	// randomOffset is SKF_AD_OFF + SKF_AD_RANDOM: a random word.
	randomOffset = 0xfffff000 + 56
)

// admit is a classic BPF program (Documentation/networking/filter.rst) that
// passes packets of our protocol and cluster from the peers' addresses and port,
// and a part of those from other addresses.
func admit(peers []netip.Addr, port uint16, clusterHash uint64) *unix.SockFprog {
	load := func(size uint16, at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
	}
	end := func(n uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: n} }
	is := func(k uint32, no uint8) unix.SockFilter { // goes on if equal, else over no instructions
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: no}
	}
	var code []unix.SockFilter
	must := func(l unix.SockFilter, k uint32) {
		code = append(code, l, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: 1}, end(0))
	}
	must(load(unix.BPF_H, 0), uint32(port))
	must(load(unix.BPF_W, udpHeader), magic)
	must(load(unix.BPF_W, udpHeader+8), uint32(clusterHash>>32))
	must(load(unix.BPF_W, udpHeader+12), uint32(clusterHash))
	for _, p := range peers {
		at, words := uint32(netOffset+12), p.AsSlice() // source address: RFC 791 section 3.1
		if p.Is6() {
			at = netOffset + 8 // RFC 8200 section 3
		}
		for i := 0; i < len(words); i += 4 {
			left := uint8((len(words)-i)/4-1)*2 + 1
			code = append(code, load(unix.BPF_W, at+uint32(i)), is(binary.BigEndian.Uint32(words[i:]), left))
		}
		code = append(code, end(maxPacket+udpHeader+1))
	}
	code = append(code, load(unix.BPF_W, randomOffset),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: strangerMask, Jf: 1}, end(0), end(maxPacket+udpHeader+1))
	return &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
}

// shield lets only possible heartbeats of link k into the socket. Where the
// kernel refuses, the packets are refused here, one by one.
func (l *loop) shield(k, fd int) {
	n := &l.lanes[k]
	peers := slices.DeleteFunc(append(slices.Clone(n.peers[:]), n.former[:]...), func(a netip.Addr) bool { return !a.IsValid() || a.Is4() != n.addr.Is4() })
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, admit(peers, l.cfg.Port, l.codec.names.cluster))
	if err != nil {
		l.tell.line("heartbeats are not filtered by the kernel: " + err.Error())
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer) // up to the system's limit, which will do
	}
}

// unread is how many packets the kernel has dropped on the socket: filtered, or
// without room in the buffer (SO_MEMINFO, SK_MEMINFO_DROPS of linux/sock_diag.h).
func unread(fd int) (drops uint32, ok bool) {
	const soMeminfo, fields, dropsAt = 55, 9, 8
	var info [fields]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, soMeminfo, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return info[dropsAt], errno == 0 && size == uint32(unsafe.Sizeof(info))
}

// gate bounds the time spent on packets. It is pure: time comes in as a value.
type gate struct{ since, spent time.Duration }

// open reports whether packets may be read now.
func (g *gate) open(now time.Duration) bool {
	if now-g.since >= gateWindow {
		g.since, g.spent = now, 0
	}
	return g.spent < gateShare
}

func (g *gate) spend(d time.Duration) { g.spent += d }

// until is when a gate that is shut opens again.
func (g *gate) until() time.Duration { return g.since + gateWindow }
