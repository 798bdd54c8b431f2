package testbed

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// AddressChange says that an address appeared on, or disappeared from, a node.
// An address whose lifetime is refreshed "appears" again each time.
type AddressChange struct {
	At   time.Time // when it was read here, with the monotonic clock; well under a millisecond late on an idle machine
	Addr netip.Addr
	Gone bool
}

// AddressWatch hears of every change of a node's addresses from the kernel.
type AddressWatch struct {
	f *os.File
}

// watchBuffer is the receive buffer in bytes; a VIP that is refreshed 5 times a
// second makes messages of about 100 bytes, so this is minutes of them.
const watchBuffer = 1 << 20

// WatchAddresses starts watching; changes after its return are not missed. The
// watch ends by itself when the node's power goes off.
func (n *Node) WatchAddresses() (*AddressWatch, error) {
	var fd int
	err := n.inside(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, netProblem("open netlink socket", string(n.ID), err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer)
	if err == nil {
		groups := uint32(1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1))
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
	if err != nil {
		unix.Close(fd)
		return nil, netProblem("watch addresses", string(n.ID), err)
	}
	return &AddressWatch{f: os.NewFile(uintptr(fd), "netlink")}, nil
}

// Close ends the watch.
func (w *AddressWatch) Close() error { return w.f.Close() }

// Run calls emit for every change until ctx ends or the watch is closed (nil).
// When the kernel had to drop messages it returns a problem of Kind Unavailable.
func (w *AddressWatch) Run(ctx context.Context, emit func(AddressChange)) error {
	stop := context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		at := time.Now()
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return netProblem("watch addresses", "", err)
		}
		changes, err := parseChanges(buf[:n])
		if err != nil {
			return err
		}
		for _, c := range changes {
			c.At = at
			emit(c)
		}
	}
}

// parseChanges decodes RTM_NEWADDR and RTM_DELADDR (rtnetlink(7)): struct
// ifaddrmsg, then attributes. For IPv4 the address is IFA_LOCAL, for IPv6 IFA_ADDRESS.
func parseChanges(b []byte) ([]AddressChange, error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, &problem.Problem{Op: "read netlink message", Kind: problem.Corrupt, Err: err}
	}
	var out []AddressChange
	for i := range msgs {
		m := &msgs[i]
		if m.Header.Type != unix.RTM_NEWADDR && m.Header.Type != unix.RTM_DELADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return nil, &problem.Problem{Op: "read netlink message", Kind: problem.Corrupt, Err: err}
		}
		var addr netip.Addr
		for _, a := range attrs {
			ip, ok := netip.AddrFromSlice(a.Value)
			if ok && (a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !addr.IsValid()) {
				addr = ip
			}
		}
		if addr.IsValid() {
			out = append(out, AddressChange{Addr: addr, Gone: m.Header.Type == unix.RTM_DELADDR})
		}
	}
	return out, nil
}
