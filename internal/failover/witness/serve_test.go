package witness

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"revolve/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is where a witness writes to while a test reads.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve runs a witness on the loopback interface; stop waits for its end.
func serve(t *testing.T, keys ...Key) (at netip.AddrPort, said *log, stop func()) {
	t.Helper()
	said = &log{}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		done <- Serve(ctx, Options{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Keys: keys, Log: slog.New(slog.NewTextHandler(said, nil)),
			Ready: func(a netip.AddrPort) { ready <- a }})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	select {
	case at = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return at, said, stop
}

func TestServe(t *testing.T) {
	at, said, stop := serve(t, testKey)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	look, err := LookAt(ctx, at, testKey, Who{"lab", "a", time.Millisecond})
	if err != nil || look.Holder != "" {
		t.Errorf("%+v %v", look, err)
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a := newAsker(t, nil, "a", 11)
	codec, buf := NewCodec(testKey), make([]byte, 2*Size)
	for a.got.Kind != Granted {
		if _, err := conn.Write(a.sealed(Ask)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := codec.Open(buf[:n], &a.got); !ok {
			t.Fatal("an answer with another key")
		}
		a.q.Challenge = a.got.Challenge
	}
	if look, err = LookAt(ctx, at, testKey, Who{"lab", "b", time.Second}); err != nil || look.Holder != "a" || look.Free {
		t.Errorf("after the grant: %+v %v", look, err)
	}
	// A flood of strangers is not answered, is told of once, and does not keep others from being answered.
	for range 3000 {
		if _, err := conn.Write(make([]byte, Size)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = LookAt(ctx, at, testKey, Who{"lab", "b", time.Second}); err != nil {
		t.Errorf("after a flood: %v", err)
	}
	stop()
	text := said.String()
	if !strings.Contains(text, `msg="lets lead" cluster=lab node=a from=127.0.0.1 before=nobody`) || strings.Count(text, "packets not answered") != 1 || !strings.Contains(text, "witness ends") {
		t.Errorf("it said:\n%s", text)
	}
}

// A wrong key is met with silence, and no listener with a different error.
func TestLookAtNobody(t *testing.T) {
	at, _, stop := serve(t, testKey)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := LookAt(ctx, at, Key{2}, Who{"lab", "a", time.Second}); problem.KindOf(err) != problem.Timeout || problem.HintOf(err) == "" {
		t.Errorf("a wrong key: %v", err)
	}
	stop()
	ctx, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := LookAt(ctx, at, testKey, Who{"lab", "a", time.Second}); problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "" {
		t.Errorf("nobody listens: %v", err)
	}
}

// Two witnesses cannot share a port.
func TestPortTaken(t *testing.T) {
	at, _, _ := serve(t, testKey)
	err := Serve(context.Background(), Options{Listen: at, Keys: []Key{testKey}, Log: slog.New(slog.DiscardHandler)})
	if problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// Packets cost at most half of the time, whoever sends them.
func TestBudget(t *testing.T) {
	s := &server{start: time.Now()}
	ended, cancel := context.WithCancel(context.Background())
	cancel() // so that a pause does not wait
	for i := range 100 {
		s.spent = share * time.Duration(i%2)
		s.since = s.now()
		before := s.spent
		s.budget(ended, s.now())
		if s.spent < before {
			t.Fatal("time that was spent is forgotten within its window")
		}
	}
	s.since, s.spent = -2*window, share
	s.budget(ended, s.now())
	if s.spent >= share {
		t.Error("a new window begins with what the old one spent")
	}
}

// A flood of lines is counted instead.
func TestLines(t *testing.T) {
	said := &log{}
	s := &server{start: time.Now(), o: Options{Log: slog.New(slog.NewTextHandler(said, nil))}}
	for range 50 {
		s.say(slog.LevelInfo, "line")
	}
	if n := strings.Count(said.String(), "msg=line"); n > linesPer {
		t.Errorf("%d lines in a second", n)
	}
	s.second -= 2 * time.Second
	if s.say(slog.LevelInfo, "line"); !strings.Contains(said.String(), "count=40") {
		t.Errorf("what was left out is not counted:\n%s", said)
	}
}
