package vip

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// ChangeKind is the kind of a Change.
type ChangeKind uint8

// The kinds of changes.
const (
	Missed      ChangeKind = iota // the kernel dropped events: read everything again
	LinkChanged                   // Carrier of interface Index is now as said
	LinkGone                      // interface Index is gone
	AddrAdded                     // or refreshed
	AddrRemoved
)

// Change is one thing that happened to the interfaces.
type Change struct {
	Kind    ChangeKind
	Index   int
	Carrier bool
	Addr    netip.Addr
}

// Watch is a netlink socket that hears of changes of links and addresses.
type Watch struct {
	fd  int
	buf []byte
}

// NewWatch subscribes in the network namespace of the calling thread.
func NewWatch() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err == nil {
		const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, &problem.Problem{Op: "watch interfaces", Kind: problem.Unavailable, Err: err}
	}
	return &Watch{fd: fd, buf: make([]byte, recvSize)}, nil
}

// FD is the descriptor to poll.
func (w *Watch) FD() int { return w.fd }

// Close closes the socket.
func (w *Watch) Close() error { return unix.Close(w.fd) }

// Read appends what has happened to out, without waiting; one call reads one
// datagram, and more is false when there was none.
func (w *Watch) Read(out []Change) (changes []Change, more bool) {
	n, err := unix.Read(w.fd, w.buf)
	switch {
	case err == unix.ENOBUFS:
		return append(out, Change{Kind: Missed}), true
	case err != nil || n <= 0:
		return out, err == unix.EINTR
	}
	return parseChanges(out, w.buf[:n]), true
}

// parseChanges reads a datagram of the route groups.
func parseChanges(out []Change, b []byte) []Change {
	for {
		m, rest, ok := nextMessage(b)
		if !ok {
			return out
		}
		b = rest
		switch m.kind {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if len(m.body) < linkHeader || m.body[0] != unix.AF_UNSPEC { // AF_BRIDGE messages are about ports
				continue
			}
			c := Change{Kind: LinkChanged, Index: int(native.Uint32(m.body[4:])), Carrier: carrier(native.Uint32(m.body[8:]))}
			if m.kind == unix.RTM_DELLINK {
				c.Kind, c.Carrier = LinkGone, false
			}
			out = append(out, c)
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			h, ok := parseAddr(m.body)
			if !ok {
				continue
			}
			c := Change{Kind: AddrAdded, Index: h.Index, Addr: h.Prefix.Addr()}
			if m.kind == unix.RTM_DELADDR {
				c.Kind = AddrRemoved
			}
			out = append(out, c)
		}
	}
}
