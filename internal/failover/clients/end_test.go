package clients

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	flagRST    = 0x04
	waitsAtAll = 10 * time.Second
)

// ends are both ends of a connection.
type ends struct {
	server, client net.Conn
	listener       net.Listener
}

func (e *ends) close() { _, _, _ = e.server.Close(), e.client.Close(), e.listener.Close() }

// connect makes a connection to a server on listen.
func connect(t *testing.T, server, client *room, listen, to string) (e ends) {
	t.Helper()
	server.run(t, func() (err error) {
		var l net.ListenConfig
		l.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		}
		e.listener, err = l.Listen(t.Context(), "tcp", listen)
		return err
	})
	client.run(t, func() (err error) { e.client, err = net.Dial("tcp", to); return err })
	server.run(t, func() (err error) { e.server, err = e.listener.Accept(); return err })
	return e
}

// talks: what one end says comes to the other.
func (e *ends) talks() error {
	for _, way := range [][2]net.Conn{{e.server, e.client}, {e.client, e.server}} {
		b := make([]byte, 4)
		_, err := way[0].Write([]byte("word"))
		err = errors.Join(err, way[1].SetReadDeadline(time.Now().Add(waitsAtAll)))
		if err != nil {
			return err
		}
		if _, err := way[1].Read(b); err != nil || !bytes.Equal(b, []byte("word")) {
			return errors.Join(err, errors.New("it came differently: "+string(b)))
		}
	}
	return nil
}

// ending: a connection of a server whose address has gone ends there at once, the
// client hears nothing of it, and nothing else ends.
func ending(t *testing.T, server, client *room, listen string) {
	to := strings.Replace(listen, "[::]", "10.77.0.200", 1)
	vip := netip.MustParseAddrPort(to).Addr()
	own := strings.Replace(strings.Replace(to, "10.77.0.200", "10.77.0.11", 1), "fd77::200", "fd77::11", 1)
	own = own[:strings.LastIndexByte(own, ':')] + ":90"
	e, other := connect(t, server, client, listen, to), connect(t, server, client, own, own)
	defer e.close()
	defer other.close()
	for what, gone := range map[string]func() bool{"it is here": func() bool { return false }, "it comes back": firstOnly()} {
		if n := endOf(t, server, vip, gone); n != 0 {
			t.Fatalf("%d connections end although %s", n, what)
		}
	}
	if err := errors.Join(e.talks(), other.talks()); err != nil {
		t.Fatal(err)
	}
	sees := see(t, client, vip)
	server.run(t, func() error { return place(vip, netlink.AddrDel) })
	defer server.run(t, func() error { return place(vip, netlink.AddrReplace) })
	read := make(chan error, 1)
	go func() { _, err := e.server.Read(make([]byte, 1)); read <- err }()
	if _, err := e.server.Write([]byte("into the void")); err != nil { // over IPv6 it leaves, and the way is known to the socket again
		t.Fatal(err)
	}
	if n := endOf(t, server, vip, func() bool { return true }); n != 1 {
		t.Errorf("%d connections ended, not 1", n)
	}
	select {
	case err := <-read:
		if !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("the server's read ends with %v", err)
		}
	case <-time.After(waitsAtAll):
		t.Error("the server still waits")
	}
	if err := other.talks(); err != nil { // one cable: what left before this is seen now
		t.Errorf("a connection of another address: %v", err)
	}
	if resets := sees(); resets > 0 {
		t.Errorf("the client was sent %d resets in the name of an address that is another machine's", resets)
	}
	if n := endOf(t, server, vip, func() bool { return true }); n != 0 {
		t.Errorf("%d connections ended twice", n)
	}
	stillServes(t, server, client, e.listener, vip, to)
}

// stillServes: the server that listened on the address does so when it is back, and is heard.
func stillServes(t *testing.T, server, client *room, l net.Listener, vip netip.Addr, to string) {
	server.run(t, func() error { return place(vip, netlink.AddrReplace) })
	var again ends
	client.run(t, func() (err error) { again.client, err = net.Dial("tcp", to); return err })
	defer again.client.Close()
	server.run(t, func() (err error) { again.server, err = l.Accept(); return err })
	defer again.server.Close()
	if err := again.talks(); err != nil {
		t.Errorf("the server that listened: %v", err)
	}
	server.run(t, func() error { return mute(vip) })
	read := make(chan error, 1)
	go func() { read <- again.talks() }()
	select {
	case err := <-read:
		t.Errorf("a muted address speaks (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	server.run(t, func() error { return errors.Join(Unmute(vip), Unmute(vip)) }) // what a killed process left
	if err := <-read; err != nil {
		t.Errorf("after a process that was killed meanwhile: %v", err)
	}
}

// inRounds: connections end in rounds, each of no more than is read at once, and the last round is the last.
func inRounds(t *testing.T, server, client *room) {
	const to, most, many = "10.77.0.200:82", 2, 2*endRounds + 1
	vip := netip.MustParseAddrPort(to).Addr()
	e := connect(t, server, client, to, to)
	defer e.close()
	for range many - 1 {
		var c net.Conn
		client.run(t, func() (err error) { c, err = net.Dial("tcp", to); return err })
		defer c.Close()
	}
	server.run(t, func() error { return place(vip, netlink.AddrDel) })
	defer server.run(t, func() error { return place(vip, netlink.AddrReplace) })
	for _, want := range []int{most * endRounds, many - most*endRounds, 0} {
		var n int
		server.run(t, func() (err error) { n, err = endIn(vip, func() bool { return true }, most); return err })
		if n != want {
			t.Errorf("%d connections ended, not %d", n, want)
		}
	}
}

func endOf(t *testing.T, r *room, vip netip.Addr, gone func() bool) (n int) {
	t.Helper()
	r.run(t, func() (err error) { n, err = End(vip, gone); return err })
	return n
}

// firstOnly says yes once.
func firstOnly() func() bool {
	asked := 0
	return func() bool { asked++; return asked == 1 }
}

// place gives eth0 a VIP, or takes it.
func place(vip netip.Addr, do func(netlink.Link, *netlink.Addr) error) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	bits := 24
	a := &netlink.Addr{}
	if vip.Is6() {
		bits, a.Flags = 64, unix.IFA_F_NODAD
	}
	a.IPNet = &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(bits, vip.BitLen())}
	return do(link, a)
}

// see counts the resets in the name of vip that have come to a room since.
func see(t *testing.T, r *room, vip netip.Addr) (resets func() int) {
	var fd int
	r.run(t, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, etherAll)
		return err
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func() (n int) {
		b := make([]byte, 2048)
		for {
			size, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return n
			}
			l, ok := from.(*unix.SockaddrLinklayer)
			if !ok || l.Pkttype == unix.PACKET_OUTGOING || size < ip6Header {
				continue
			}
			tcp, source := ip6Header, b[8:24]
			if vip.Is4() {
				tcp, source = ip4Header, b[12:16]
			}
			if bytes.Equal(source, vip.AsSlice()) && size >= tcp+tcpHeader && b[tcp+13]&flagRST != 0 && binary.BigEndian.Uint16(b[tcp+2:]) != 0 {
				n++
			}
		}
	}
}
