package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

func TestFramesBothFamilies(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	type proof struct {
		peer    cluster.NodeID
		service string
		link    cluster.LinkID
	}
	proofs := make(chan proof, 2)
	l, _ := start(t, ids["a"], all, func(ctx context.Context, c *Conn) {
		proofs <- proof{c.Peer(), c.Service(), c.Link()}
		echo(ctx, c)
	}, "127.0.0.1", "::1")
	for i := range l.Addrs() {
		c, err := Dial(t.Context(), ids["b"], "a", to(l, i), "mirror")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := <-proofs; got != (proof{"b", "mirror", "lan"}) {
			t.Errorf("the listener sees %+v", got)
		}
		if c.Peer() != "a" || c.Service() != "mirror" || c.Link() != "lan" {
			t.Errorf("the dialler sees %s %s %s", c.Peer(), c.Service(), c.Link())
		}
		big := bytes.Repeat([]byte("0123456789abcdef"), MaxFrame/16)
		for kind, payload := range [][]byte{nil, []byte("x"), big} {
			must(t, c.Write(byte(kind), payload[:len(payload)/2], payload[len(payload)/2:]))
			must(t, c.Flush())
			k, got, err := c.Read()
			if err != nil || k != byte(kind) || !bytes.Equal(got, payload) {
				t.Fatalf("frame %d of %d bytes came back as %d of %d bytes: %v", kind, len(payload), k, len(got), err)
			}
		}
		if err := c.Write(1, big, []byte("x")); problem.KindOf(err) != problem.Invalid {
			t.Errorf("a frame too long: %v", err)
		}
	}
}

func TestBuffered(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	l, _ := start(t, ids["a"], all, func(_ context.Context, c *Conn) {
		for _, text := range []string{"one", "two", "three"} {
			if c.Write(1, []byte(text)) != nil {
				return
			}
		}
		_ = c.Flush()
	}, "127.0.0.1")
	c, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	must(t, err)
	defer c.Close()
	_, _, err = c.Read()
	must(t, err)
	if got, want := c.Buffered(), 2*headerLen+len("two")+len("three"); got != want {
		t.Errorf("buffered %d, want %d", got, want)
	}
	for range 2 {
		_, _, err = c.Read()
		must(t, err)
	}
	if _, _, err = c.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A certificate of another cluster gets nothing, and both sides say why:
// whichever of the two is the stranger.
func TestForeignCertificate(t *testing.T) {
	ours := newCluster(t, "homelab", "a", "b")
	theirs := newCluster(t, "homelab", "b", "a") // the same names, another CA
	served := make(chan struct{}, 10)
	l, log := start(t, ours["a"], all, func(context.Context, *Conn) { served <- struct{}{} }, "127.0.0.1")

	t.Run("dialler notices", func(t *testing.T) {
		_, err := Dial(t.Context(), theirs["b"], "a", to(l, 0), "s")
		if problem.KindOf(err) != problem.Permission || !strings.Contains(err.Error(), "not of this cluster") || problem.HintOf(err) == "" {
			t.Errorf("the dialler says %v; %s", err, problem.HintOf(err))
		}
		log.eventually(t, "it does not accept our certificate")
	})
	t.Run("listener notices", func(t *testing.T) {
		l, log := start(t, ours["a"], all, func(context.Context, *Conn) { served <- struct{}{} }, "127.0.0.1")
		mixed := *theirs["b"] // trusts our CA, but proves itself with theirs
		mixed.roots, mixed.ca = ours["b"].roots, ours["b"].ca
		_, err := Dial(t.Context(), &mixed, "a", to(l, 0), "s")
		if problem.KindOf(err) != problem.Permission || !strings.Contains(problem.HintOf(err), "its log says why") {
			t.Errorf("the dialler says %v; %s", err, problem.HintOf(err))
		}
		log.eventually(t, "is not of this cluster")
	})
	select {
	case <-served:
		t.Error("a stranger was served")
	default:
	}
}

func TestNodeNotInConfiguration(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "d")
	l, log := start(t, ids["a"], func(n cluster.NodeID) bool { return n != "d" }, func(context.Context, *Conn) {
		t.Error("an unknown node was served")
	}, "127.0.0.1")
	_, err := Dial(t.Context(), ids["d"], "a", to(l, 0), "s")
	if problem.KindOf(err) != problem.Permission || !strings.Contains(err.Error(), "node d is not in the configuration here") || problem.HintOf(err) == "" {
		t.Errorf("%v; %s", err, problem.HintOf(err))
	}
	log.eventually(t, "node d is not in the configuration here")
}

func TestAnotherNodeAnswers(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b", "c")
	l, _ := start(t, ids["a"], all, echo, "127.0.0.1")
	_, err := Dial(t.Context(), ids["b"], "c", to(l, 0), "s")
	if problem.KindOf(err) != problem.Permission || !strings.Contains(err.Error(), "it is a, not c") {
		t.Errorf("%v", err)
	}
}

func TestExpiredAfterLoading(t *testing.T) {
	states := newStates(t, "homelab", "a", "b")
	a, err := LoadIdentity(states["a"])
	must(t, err)
	b, err := LoadIdentity(states["b"])
	must(t, err)
	forge(t, states["a"]+"/"+dirName, "a", "homelab", -48*time.Hour, -24*time.Hour)
	expired := *a
	expired.certificate, err = tls.LoadX509KeyPair(states["a"]+"/"+dirName+"/"+nodeCertFile, states["a"]+"/"+dirName+"/"+nodeKeyFile)
	must(t, err)
	l, log := start(t, b, all, echo, "127.0.0.1")
	if _, err := Dial(t.Context(), &expired, "b", to(l, 0), "s"); problem.KindOf(err) != problem.Permission {
		t.Errorf("an expired certificate: %v", err)
	}
	log.eventually(t, "expired")
}

func TestSecondPath(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	l, _ := start(t, ids["a"], all, echo, "127.0.0.1")
	closed, err := net.Listen("tcp", "127.0.0.2:0")
	must(t, err)
	dead := closed.Addr().(*net.TCPAddr).AddrPort()
	must(t, closed.Close())
	paths := append([]Path{{Link: "fast", Remote: dead}}, to(l, 0)...)
	c, err := Dial(t.Context(), ids["b"], "a", paths, "s")
	must(t, err)
	defer c.Close()
	if c.Link() != "lan" {
		t.Errorf("connected over %s", c.Link())
	}
	_, err = Dial(t.Context(), ids["b"], "a", paths[:1], "s")
	if problem.KindOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "fast") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
	if _, err = Dial(t.Context(), ids["b"], "a", nil, "s"); problem.KindOf(err) != problem.Invalid {
		t.Errorf("no path: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	id := newCluster(t, "homelab", "a")["a"]
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	addr := taken.Addr().(*net.TCPAddr).AddrPort()
	_, err = Listen(t.Context(), id, all, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), addr}, (&notes{}).log())
	if problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), addr.String()) || problem.HintOf(err) == "" {
		t.Fatalf("%v; %s", err, problem.HintOf(err))
	}
	if want := fmt.Sprintf("(pid %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not name its holder %s", err, want)
	}
}

func TestAddressThatIsNotThereYet(t *testing.T) {
	id := newCluster(t, "homelab", "a")["a"]
	// Addresses for documentation (RFC 5737, RFC 3849): no machine has them.
	for _, host := range []string{"192.0.2.77:0", "[2001:db8::77]:0"} {
		l, err := Listen(t.Context(), id, all, []netip.AddrPort{netip.MustParseAddrPort(host)}, (&notes{}).log())
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		must(t, l.Close())
	}
}

func TestStrangersTalk(t *testing.T) {
	id := newCluster(t, "homelab", "a")["a"]
	l, log := start(t, id, all, func(context.Context, *Conn) { t.Error("served") }, "127.0.0.1")
	raw, err := net.Dial("tcp", l.Addrs()[0].String())
	must(t, err)
	defer raw.Close()
	_, err = io.WriteString(raw, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	must(t, err)
	log.eventually(t, "connection refused")
	must(t, raw.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := io.ReadAll(raw); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
}

// Silent sockets occupy a bounded number of places, and a line each 10 seconds.
func TestManySilentStrangers(t *testing.T) {
	id := newCluster(t, "homelab", "a")["a"]
	l, log := start(t, id, all, echo, "127.0.0.1")
	for range maxUnproven + 8 {
		raw, err := net.Dial("tcp", l.Addrs()[0].String())
		must(t, err)
		defer raw.Close()
	}
	log.eventually(t, "too many connections that have not proved themselves")
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log)
	}
}

func TestServeEndsWithOpenConnections(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	l, err := Listen(t.Context(), ids["a"], all, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, (&notes{}).log())
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	go func() {
		done <- l.Serve(ctx, func(ctx context.Context, c *Conn) {
			began <- struct{}{}
			echo(ctx, c)
			ended <- struct{}{}
		})
	}()
	c, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	must(t, err)
	defer c.Close()
	idle, err := net.Dial("tcp", l.Addrs()[0].String()) // in its handshake for ever
	must(t, err)
	defer idle.Close()
	<-began // Dial returns before the listener's side has come to the handler
	cancel()
	must(t, <-done)
	select {
	case <-ended:
	default:
		t.Error("Serve returned before its handler")
	}
	if _, _, err := c.Read(); err == nil {
		t.Error("the connection outlived Serve")
	}
	if _, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s"); err == nil {
		t.Error("the listener outlived Serve")
	}
}

// A peer that accepts and then says nothing costs the dialler no more than its patience.
func TestDialIsCancelled(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, ids["b"], "a", []Path{{Link: "lan", Remote: silent.Addr().(*net.TCPAddr).AddrPort()}}, "s")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestOversizeFrame(t *testing.T) {
	a, b := tcp(t)
	c := newConn(a, a)
	_, err := b.Write([]byte{0xff, 0xff, 0xff, 0xff, 9})
	must(t, err)
	if _, _, err := c.Read(); problem.KindOf(err) != problem.Corrupt {
		t.Errorf("%v", err)
	}
	if err := c.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is still open: %v", err)
	}
}

// A deadline may pass at any byte of a frame; nothing is lost.
func TestDeadlineWithinFrame(t *testing.T) {
	a, b := tcp(t)
	c := newConn(a, a)
	for _, part := range [][]byte{{0, 0}, {0, 6, 42}, []byte("abc"), {}} {
		_, err := b.Write(part)
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if _, _, err := c.Read(); problem.KindOf(err) != problem.Timeout || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v", err)
		}
	}
	_, err := b.Write([]byte("def"))
	must(t, err)
	must(t, c.SetReadDeadline(time.Time{}))
	kind, payload, err := c.Read()
	if err != nil || kind != 42 || string(payload) != "abcdef" {
		t.Errorf("%d %q %v", kind, payload, err)
	}
}

func TestTornFrame(t *testing.T) {
	for _, part := range [][]byte{{0, 0, 0}, {0, 0, 0, 3, 1, 'x'}} {
		a, b := tcp(t)
		_, err := b.Write(part)
		must(t, err)
		must(t, b.Close())
		if _, _, err := newConn(a, a).Read(); !errors.Is(err, io.ErrUnexpectedEOF) || problem.KindOf(err) != problem.Unavailable {
			t.Errorf("%v: %v", part, err)
		}
	}
}

func TestPathsAndListenAddrs(t *testing.T) {
	cfg, err := config.Parse("f", []byte(`cluster: x
nodes:
  a: { links: { lan: 10.0.0.1, fast: 10.1.0.1, six: "fd00::1" } }
  b: { links: { fast: 10.1.0.2, lan: 10.0.0.2, six: 10.2.0.2 } }
`))
	must(t, err)
	want := []string{"lan 10.0.0.1 10.0.0.2:7373", "fast 10.1.0.1 10.1.0.2:7373"}
	var got []string
	for _, p := range Paths(cfg, "a", "b") {
		got = append(got, fmt.Sprint(p.Link, " ", p.Local, " ", p.Remote))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := fmt.Sprint(ListenAddrs(cfg, "a")); got != "[10.0.0.1:7373 10.1.0.1:7373 [fd00::1]:7373]" {
		t.Error(got)
	}
	if Paths(cfg, "a", "z") != nil || ListenAddrs(cfg, "z") != nil {
		t.Error("an unknown node has paths")
	}
}

func TestStrangersAreBounded(t *testing.T) {
	s, now := newStrangers(), time.Unix(0, 0)
	if _, yes := s.say("x", now); !yes {
		t.Error("the first line is missing")
	}
	for range 5 {
		if _, yes := s.say("x", now.Add(time.Second)); yes {
			t.Error("a second line within the pause")
		}
	}
	if omitted, yes := s.say("x", now.Add(strangerPause)); !yes || omitted != 5 {
		t.Errorf("after the pause: %d omitted, %v", omitted, yes)
	}
	for i := range 10 * maxStrangers {
		s.say(fmt.Sprint(i), now.Add(strangerPause))
	}
	if len(s.last) > maxStrangers {
		t.Errorf("%d addresses remembered", len(s.last))
	}
}

func TestProcAddr(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:1CCD":                         "127.0.0.1:7373",
		"00000000000000000000000001000000:1CCD": "[::1]:7373",
		"0000000000000000FFFF00000100007F:0016": "127.0.0.1:22",
	} {
		if got, ok := procAddr(text); !ok || got.String() != want {
			t.Errorf("%s: %v %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "xx:1", "0100007F", "0100007F:1", "01:0016"} {
		if got, ok := procAddr(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 7, 'x'}, 1)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 'a', 'b', 0}, 3)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0}, 2)
	f.Add([]byte{0, 0x11, 0, 0, 1}, 5)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		r := newFrameReader(&chunks{data: data, size: 1 + chunk&0xff})
		var again []byte
		for {
			kind, payload, err := r.next()
			if err != nil {
				break
			}
			if len(payload) > MaxFrame {
				t.Fatalf("a payload of %d bytes", len(payload))
			}
			n := len(payload)
			again = append(again, byte(n>>24), byte(n>>16), byte(n>>8), byte(n), kind)
			again = append(again, payload...)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatalf("%x was read as %x", data, again)
		}
	})
}

// chunks gives its data out in small reads.
type chunks struct {
	data []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(c.size, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

func FuzzHello(f *testing.F) {
	f.Add(hello{"mirror", "lan"}.encode())
	f.Add(hello{}.encode())
	f.Add([]byte{1, 200, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := decodeHello(data); err == nil && !bytes.Equal(h.encode(), data) {
			t.Fatalf("%x was read as %+v", data, h)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(answer{}.encode())
	f.Add(answer{refused: true, kind: problem.Permission, reason: "no"}.encode())
	f.Add(answer{refused: true, reason: strings.Repeat("x", 1000)}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := decodeAnswer(data); err == nil && !bytes.Equal(a.encode(), data) {
			t.Fatalf("%x was read as %+v", data, a)
		}
	})
}
