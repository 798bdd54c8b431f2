package beat

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAdmit: the kernel lets packets of our cluster pass from the peers' addresses and port, and nothing else.
func TestAdmit(t *testing.T) {
	const hash = 0x0102030405060708
	good := make([]byte, 300)
	copy(good, []byte{'R', 'V', 'B', 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	bad := func(i int) []byte { b := append([]byte(nil), good...); b[i]++; return b }
	v4, other4, v6 := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("::1")
	near6 := netip.MustParseAddr("::2")
	for _, tc := range []struct {
		what   string
		from   netip.Addr
		peers  []netip.Addr
		packet []byte
		pass   bool
	}{
		{"a peer", v4, []netip.Addr{other4, v4}, good, true},
		{"other magic", v4, []netip.Addr{v4}, bad(3), false},
		{"other cluster", v4, []netip.Addr{v4}, bad(8), false},
		{"other cluster's end", v4, []netip.Addr{v4}, bad(15), false},
		{"short", v4, []netip.Addr{v4}, good[:10], false},
		{"a peer by IPv6", v6, []netip.Addr{near6, v6}, good, true},
	} {
		t.Run(tc.what, func(t *testing.T) {
			own := netip.MustParseAddr("127.0.0.1")
			if tc.from.Is6() {
				own = v6
			}
			in, inAddr := bound(t, own)
			out, outAddr := bound(t, tc.from)
			if err := unix.SetsockoptSockFprog(in, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, admit(tc.peers, outAddr.Port(), hash)); err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendto(out, tc.packet, 0, sockaddr(own, inAddr.Port())); err != nil {
				t.Fatal(err)
			}
			var r receiver
			b, ok := r.read(in) // loopback delivers within the sending call
			if ok != tc.pass || ok && string(b) != string(tc.packet) {
				t.Errorf("passed: %v, %d bytes", ok, len(b))
			}
			if drops, known := unread(in); known && (drops > 0) == tc.pass {
				t.Errorf("%d are counted as dropped", drops)
			}
			stranger, _ := bound(t, tc.from) // the same address, another port
			if err := unix.Sendto(stranger, good, 0, sockaddr(own, inAddr.Port())); err != nil {
				t.Fatal(err)
			}
			if _, ok := r.read(in); ok {
				t.Error("another port of a peer passes")
			}
		})
	}
}

// TestAdmitStrangers: of what looks like ours but comes from elsewhere, a part passes.
func TestAdmitStrangers(t *testing.T) {
	const hash, packets = 0x0102030405060708, 4000
	good := make([]byte, 300)
	copy(good, []byte{'R', 'V', 'B', 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	for _, own := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")} {
		in, inAddr := bound(t, own)
		out, outAddr := bound(t, own)
		peers := []netip.Addr{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("::9")}
		if err := unix.SetsockoptSockFprog(in, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, admit(peers, outAddr.Port(), hash)); err != nil {
			t.Fatal(err)
		}
		var r receiver
		passed := 0
		for range packets {
			if err := unix.Sendto(out, good, 0, sockaddr(own, inAddr.Port())); err != nil {
				t.Fatal(err)
			}
			if b, ok := r.read(in); ok && string(b) == string(good) {
				passed++
			}
		}
		if share := packets / (strangerMask + 1); passed < share/2 || passed > share*2 {
			t.Errorf("%v: %d of %d passed, %d are wanted", own, passed, packets, share)
		}
	}
}

func bound(t *testing.T, addr netip.Addr) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := bindUDP(addr, 0)
	if err != nil {
		t.Skipf("SKIPPED PART: the kernel's filter for %v: %v", addr, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return fd, netip.AddrPortFrom(addr, uint16(sa.Port))
	case *unix.SockaddrInet6:
		return fd, netip.AddrPortFrom(addr, uint16(sa.Port))
	}
	t.Fatal("no address")
	return 0, at
}

// TestGate: whoever sends as fast as can be is read for half of the time.
func TestGate(t *testing.T) {
	var g gate
	now, busy := time.Second, time.Duration(0)
	for now < 3*time.Second {
		if !g.open(now) {
			if g.until() <= now {
				t.Fatalf("shut at %v until %v", now, g.until())
			}
			now = g.until()
			continue
		}
		const round = 300 * time.Microsecond
		now += round
		busy += round
		g.spend(round)
	}
	if busy > time.Second+time.Second/20 || busy < time.Second-time.Second/20 {
		t.Errorf("read for %v of 2 s", busy)
	}
}

// TestCountingAllocatesNothing: a flood is counted packet by packet, and this process collects no garbage.
func TestCountingAllocatesNothing(t *testing.T) {
	l := &loop{start: time.Now()}
	l.tell.init(l)
	l.tell.refusedT = time.Hour
	var r receiver
	n := testing.AllocsPerRun(1000, func() {
		for v := range verdicts {
			l.tell.count(v, 1, &r)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
