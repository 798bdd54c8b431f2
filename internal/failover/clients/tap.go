package clients

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Tap sees when the first packet of a client passes: to a VIP, or a service's
// answer from one. The kernel's filter lets nothing else through, so that it costs nobody anything.
type Tap struct{ file *os.File }

const (
	etherAll = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in the order of the network
	loopback = unix.ARPHRD_LOOPBACK
	adProto  = 0xfffff000 // SKF_AD_OFF + SKF_AD_PROTOCOL of linux/filter.h
	adHatype = adProto + 28
	flagSYN  = 0x02
)

// OpenTap opens a tap for what comes in for vips, or for the answers of services
// that go out: the first of a connection (SYN and ACK), or any of UDP. What goes
// over the loopback interface is no client's.
func OpenTap(vips []netip.Addr, answers bool) (*Tap, error) {
	fail := func(err error) (*Tap, error) {
		return nil, &problem.Problem{Op: "watch for the first client", Kind: problem.Unavailable, Err: err, Hint: "a packet socket needs CAP_NET_RAW in the network namespace"}
	}
	// Without the link's header (packet(7)): offsets count from the IP header. Protocol 0 receives nothing before the filter is in place.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, passing(vips, answers)),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherAll}))
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return &Tap{os.NewFile(uintptr(fd), "tap")}, nil
}

// Close closes it.
func (t *Tap) Close() { t.file.Close() }

// Wait waits until ctx ends; ok says that a packet has passed, at the kernel's time of day. No thread waits with it.
func (t *Tap) Wait(ctx context.Context) (at time.Time, ok bool) {
	defer context.AfterFunc(ctx, func() { _ = t.file.SetReadDeadline(time.Unix(1, 0)) })()
	conn, err := t.file.SyscallConn()
	if err != nil {
		return at, false
	}
	var b [1]byte
	oob, n := make([]byte, unix.CmsgSpace(16)), 0
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		for failed = unix.EINTR; failed == unix.EINTR || failed == unix.ENETDOWN; { // an interface that went down is told once
			_, n, _, _, failed = unix.Recvmsg(int(fd), b[:], oob, 0)
		}
		return failed != unix.EAGAIN
	})
	if err != nil || failed != nil {
		return at, false
	}
	list, err := unix.ParseSocketControlMessage(oob[:n])
	for _, m := range list {
		if err == nil && m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(native.Uint64(m.Data)), int64(native.Uint64(m.Data[8:]))), true
		}
	}
	return time.Now(), true
}

// part is the instructions of a classic BPF program (Documentation/networking/filter.rst)
// about one VIP: a packet that is not wanted goes on behind them.
type part struct {
	code  []unix.SockFilter
	fails []int // jumps to behind the part
}

func (p *part) load(size uint16, at uint32) {
	p.code = append(p.code, unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at})
}

// need goes on in the part only if what was loaded is k.
func (p *part) need(k uint32) {
	p.fails = append(p.fails, len(p.code))
	p.code = append(p.code, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k})
}

// done lets the packet pass, and says where the others go on.
func (p *part) done() []unix.SockFilter {
	p.code = append(p.code, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1})
	for _, i := range p.fails {
		p.code[i].Jf = uint8(len(p.code) - i - 1)
	}
	return p.code
}

// passing is the filter of OpenTap.
func passing(vips []netip.Addr, answers bool) *unix.SockFprog {
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: adHatype},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: loopback, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	for _, vip := range vips {
		code = append(code, partOf(vip, answers, true)...)
		code = append(code, partOf(vip, answers, false)...)
	}
	code = append(code, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
	return &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
}

// partOf is the part of one VIP, for UDP or TCP.
func partOf(vip netip.Addr, answers, udp bool) []unix.SockFilter {
	family, address, protocol := uint32(unix.ETH_P_IPV6), uint32(24), uint32(6) // RFC 8200 section 3
	if vip.Is4() {
		family, address, protocol = unix.ETH_P_IP, 16, 9 // RFC 791 section 3.1
	}
	if answers { // the source stands before the destination
		address -= uint32(vip.BitLen() / 8)
	}
	var p part
	p.load(unix.BPF_W, adProto)
	p.need(family)
	for i, b := 0, vip.AsSlice(); i < len(b); i += 4 {
		p.load(unix.BPF_W, address+uint32(i))
		p.need(binary.BigEndian.Uint32(b[i:]))
	}
	p.load(unix.BPF_B, protocol)
	if udp {
		p.need(unix.IPPROTO_UDP)
		return p.done()
	}
	p.need(unix.IPPROTO_TCP)
	if answers {
		flags := unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ip6Header + 13}
		if vip.Is4() {
			p.code = append(p.code, unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH}) // X = length of the IP header
			flags = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 13}
		}
		p.code = append(p.code, flags, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: flagSYN | flagACK})
		p.need(flagSYN | flagACK)
	}
	return p.done()
}
