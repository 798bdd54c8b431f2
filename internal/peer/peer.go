// Package peer is how nodes of one cluster talk: identities, mutual TLS 1.3 on
// one port, and framed streams over it.
//
// Both sides of a connection prove with a certificate of the cluster's own CA
// who they are; a stranger gets nothing, and both sides learn why. The package
// never decides what is said: a connection carries a service name and frames
// (a kind byte and a payload), their meaning belongs to the services. It never
// reconnects by itself and never uses the system's trusted roots.
//
//	id, err := peer.LoadIdentity(state)
//	l, err := peer.Listen(ctx, id, known, peer.ListenAddrs(cfg, "a"), log)
//	err = l.Serve(ctx, func(ctx context.Context, c *peer.Conn) { ... })
//
//	c, err := peer.Dial(ctx, id, "b", peer.Paths(cfg, "a", "b"), "mirror")
//	err = c.Write(kind, payload)
//	err = c.Flush()
package peer

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
)

// MaxFrame is the largest payload of a frame in bytes: one MiB of file content
// and what describes it.
const MaxFrame = 1<<20 + 1<<16

const (
	// connectTimeout bounds one path: on a local network an answer takes less
	// than a millisecond, and one lost SYN is repeated after a second.
	connectTimeout = time.Second
	// handshakeTimeout bounds handshake and hello, on both sides. A small
	// machine under load needs tens of milliseconds.
	handshakeTimeout = 5 * time.Second
	// deadAfter is when data that the other kernel did not acknowledge ends the
	// connection (TCP_USER_TIMEOUT, tcp(7)). A frozen process still
	// acknowledges; noticing that is the services' work.
	deadAfter = 3 * time.Second
)

// Path is one way to a peer: from this node's address on a link to the peer's.
type Path struct {
	Link   cluster.LinkID
	Local  netip.Addr // invalid: the kernel chooses
	Remote netip.AddrPort
}

// Paths are the ways from one node to another, over every link that both have an
// address of the same family on, in the file order of from's links.
func Paths(cfg *config.Config, from, to cluster.NodeID) []Path {
	a, okA := cfg.Node(from)
	b, okB := cfg.Node(to)
	if !okA || !okB {
		return nil
	}
	var paths []Path
	for _, l := range a.Links {
		if remote, ok := b.Addr(l.Name); ok && remote.Is4() == l.Addr.Is4() {
			paths = append(paths, Path{Link: l.Name, Local: l.Addr, Remote: netip.AddrPortFrom(remote, cfg.Port)})
		}
	}
	return paths
}

// ListenAddrs are the addresses that a node listens on: one per link.
func ListenAddrs(cfg *config.Config, self cluster.NodeID) []netip.AddrPort {
	n, ok := cfg.Node(self)
	if !ok {
		return nil
	}
	addrs := make([]netip.AddrPort, 0, len(n.Links))
	for _, l := range n.Links {
		addrs = append(addrs, netip.AddrPortFrom(l.Addr, cfg.Port))
	}
	return addrs
}

// keepAlive notices a peer that vanished while nothing was being sent.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: int(deadAfter / time.Second)}
}

// setDeadAfter sets TCP_USER_TIMEOUT on a socket; with it, keepalive gives up
// after the same time (Linux net/ipv4/tcp_timer.c, tcp_keepalive_timer).
func setDeadAfter(raw syscall.RawConn) error { return setUserTimeout(raw, deadAfter) }

func setUserTimeout(raw syscall.RawConn, d time.Duration) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond))
	}); e != nil {
		return e
	}
	return err
}

// freeBind lets a socket bind an address that does not exist yet: at boot the
// agent may be up before the link is (ip(7), IP_FREEBIND). Unlike
// ip_nonlocal_bind it needs no privilege.
func freeBind(_ context.Context, network, _ string, raw syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network == "tcp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); e != nil {
		return e
	}
	return err
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
