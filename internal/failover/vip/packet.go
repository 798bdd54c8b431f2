package vip

import (
	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Wire is a raw socket on one interface that receives either ARP frames or IPv6
// neighbour advertisements, and sends any frame.
type Wire struct{ fd int }

// OpenWire opens interface index for ARP, or for neighbour advertisements if v6.
// It needs CAP_NET_RAW in the network namespace.
func OpenWire(index int, v6 bool) (*Wire, error) {
	proto := uint16(etherARP)
	if v6 {
		proto = etherIPv6
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, &problem.Problem{Op: "open packet socket", Kind: problem.Permission, Err: err,
			Hint: "announcing addresses needs CAP_NET_RAW in the network namespace"}
	}
	if v6 {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, advertisements())
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto>>8 | proto<<8, Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, &problem.Problem{Op: "bind packet socket", Kind: problem.Unavailable, Err: err}
	}
	return &Wire{fd}, nil
}

// advertisements is a classic BPF program (bpf(4) of the BSDs, Documentation/networking/filter.rst)
// that passes neighbour advertisements only, so that mirrored bulk data costs the real-time process nothing.
func advertisements() *unix.SockFprog {
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethHeader + 6},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protoICMP6, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethHeader + ip6Header},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpNA, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 256},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
}

// FD is the descriptor to poll.
func (w *Wire) FD() int { return w.fd }

// Close closes the socket.
func (w *Wire) Close() error { return unix.Close(w.fd) }

// Send sends one frame; the error is the kernel's errno (ENETDOWN, ENOBUFS...).
func (w *Wire) Send(frame []byte) error {
	_, err := unix.Write(w.fd, frame)
	return err
}

// Read reads one frame into buf without waiting; ok is false when there is none.
func (w *Wire) Read(buf []byte) (frame []byte, ok bool) {
	n, err := unix.Read(w.fd, buf)
	if err != nil || n <= 0 {
		return nil, false
	}
	return buf[:n], true
}
