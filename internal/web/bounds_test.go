package web

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// There is room for so many followers; one more is told so, and room is made when one leaves.
func TestFollowersAreBounded(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var open []*http.Response
	defer func() {
		for _, r := range open {
			_ = r.Body.Close()
		}
	}()
	for range maxFollow {
		r, err := s.follow(t, ctx)
		if err != nil || r.StatusCode != 200 {
			t.Fatal(r, err)
		}
		open = append(open, r)
	}
	r, err := s.follow(t, ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d %v", r.StatusCode, r.Header)
	}
	_ = open[0].Body.Close()
	open = open[1:]
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		r, err := s.follow(t, ctx)
		if err == nil && r.StatusCode == 200 {
			open = append(open, r)
			return
		}
		if err == nil {
			_ = r.Body.Close()
		}
		if time.Now().After(end) {
			t.Fatal("one left, and there is no room")
		}
	}
}

// A follower that does not read misses frames; it holds up nobody, and at most one frame is kept for it.
func TestSlowFollower(t *testing.T) {
	h, err := newHub(three)
	if err != nil {
		t.Fatal(err)
	}
	slow := h.follow()
	for range 10 {
		h.made = time.Time{} // the next one is due
		if err := h.spread(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(slow.frames); n != 1 {
		t.Errorf("%d frames wait", n)
	}
	if f := <-slow.frames; f != h.newest {
		t.Error("an old frame was kept, not the newest")
	}
}

// standStill has buckets keep what they have for as long as a test runs. Their clock is the real one: on a busy machine they would
// fill up again between two of its requests.
func standStill(buckets ...*bucket) {
	for _, b := range buckets {
		b.rate = 1e-6 // one in eleven days
	}
}

func TestBucket(t *testing.T) {
	b, at := newBucket(10, 5), time.Unix(1000, 0)
	for i := range 5 {
		if wait, ok := b.take(at, 0); wait != 0 || !ok {
			t.Fatalf("%d: %v %v", i, wait, ok)
		}
	}
	if _, ok := b.take(at, 0); ok {
		t.Error("a sixth at once, without patience")
	}
	if wait, ok := b.take(at, time.Second); !ok || wait != 100*time.Millisecond {
		t.Errorf("a sixth waits %v, %v", wait, ok)
	}
	if wait, ok := b.take(at, time.Second); !ok || wait != 200*time.Millisecond {
		t.Errorf("a seventh waits %v, %v", wait, ok)
	}
	if _, ok := b.take(at, 250*time.Millisecond); ok {
		t.Error("an eighth, with less patience than it needs")
	}
	if wait, ok := b.take(at.Add(time.Hour), 0); wait != 0 || !ok {
		t.Error("after an hour there is none")
	}
	if b.level > 5 {
		t.Errorf("level %v above the burst", b.level)
	}
	if _, ok := b.take(at, 0); !ok { // the clock went back
		t.Error("time that runs backwards takes something away")
	}
}

// More requests than their pace are refused, after the burst.
func TestRequestsAreBounded(t *testing.T) {
	h, err := newHub(three)
	if err != nil {
		t.Fatal(err)
	}
	site := newSite(h, Options{})
	site.asks = newBucket(1, 3)
	standStill(site.asks)
	codes := map[int]int{}
	for range 3 {
		w := httptest.NewRecorder()
		site.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/", nil))
		codes[w.Code]++
	}
	site.asks.level = -10 // ten wait already
	w := httptest.NewRecorder()
	site.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/", nil))
	if codes[200] != 3 || w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || w.Header().Get("Connection") != "close" {
		t.Errorf("got %v, then %d %v", codes, w.Code, w.Header())
	}
}

// Connections are bounded: one too many is closed, and one that ends makes room.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := &gates{open: make(chan struct{}, 2), pace: newBucket(1e6, 1e6)}
	gate := g.at(context.Background(), l)
	in := make(chan net.Conn, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := gate.Accept()
			if err != nil {
				return
			}
			in <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		return c
	}
	one, two, three := dial(), dial(), dial()
	first, second := <-in, <-in
	if _, err := three.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the third connection: %v", err)
	}
	_ = first.Close()
	_ = first.Close() // twice counts once
	four := dial()
	fourth := <-in
	for _, c := range []net.Conn{one, two, three, four, second, fourth} {
		_ = c.Close()
	}
	_ = l.Close()
	<-done
	if len(g.open) != 0 {
		t.Errorf("%d connections are counted, none is open", len(g.open))
	}
}

// Those that have to wait go on together, none before its time, and none much later.
func TestWaitersGoOnTogether(t *testing.T) {
	now := time.Unix(1_800_000_000, 17)
	ends := map[time.Time]int{}
	for i := range 50 {
		wait := time.Duration(i+1) * 20 * time.Millisecond
		got := together(now, wait)
		if got < wait || got >= wait+waitSlot {
			t.Errorf("it waits %v instead of %v", got, wait)
		}
		ends[now.Add(got)]++
	}
	if len(ends) > 6 {
		t.Errorf("they go on at %d times", len(ends))
	}
}

// An answer that comes before the whole question was heard arrives, and the connection ends in order: not with a reset, which may
// take the answer with it.
func TestARefusalIsHeard(t *testing.T) {
	h, err := newHub(three)
	if err != nil {
		t.Fatal(err)
	}
	asked, goOn := make(chan struct{}), make(chan struct{})
	site := newSite(h, Options{Orders: &book{}, State: t.TempDir()})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-goOn
		site.ServeHTTP(w, r)
	}))
	defer s.Close()
	for _, head := range []string{
		"POST /orders/in HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\nContent-Length: 46\r\n\r\n",
		"POST /orders/in HTTP/1.1\r\nHost: evil.example.com\r\nContent-Length: 46\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		c, err := net.Dial("tcp4", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		for _, part := range []string{head, "23\r\n" + strings.Repeat("x", 0x23) + "\r\n0\r\n\r\n"} { // 46 bytes
			if _, err := io.WriteString(c, part); err != nil {
				t.Fatal(err)
			}
			if part == head {
				<-asked // the head was read alone
			}
		}
		goOn <- struct{}{}
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 4") {
			t.Errorf("%q: %v after %.60q", head, err, b)
		}
		_ = c.Close()
	}
}

// Who announces a body and sends none holds a place for headerWithin, whatever it is answered.
func TestABodyThatNeverComes(t *testing.T) {
	for _, head := range []string{"Host: evil.example.com\r\n", "Host: evil.example.com\r\nConnection: close\r\n", "Host: a\r\nExpect: 100-continue\r\n", "Host: a\r\nExpect: 100-continue\r\nConnection: close\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			h, err := newHub(three)
			if err != nil {
				t.Fatal(err)
			}
			there, here := net.Pipe()
			l := &oneConn{c: here, end: make(chan struct{})}
			srv := &http.Server{Handler: newSite(h, Options{Orders: &book{}, State: t.TempDir()})}
			go func() { _ = srv.Serve(l) }()
			began := time.Now()
			go func() { _, _ = io.WriteString(there, "POST /orders/in HTTP/1.1\r\n"+head+"Content-Length: 40\r\n\r\n") }()
			if b, err := io.ReadAll(there); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 4") || time.Since(began) > headerWithin {
				t.Errorf("%q: ended after %v, %v: %.50s", head, time.Since(began), err, b)
			}
			_ = srv.Close()
		})
	}
}

// oneConn is a listener to which one has connected.
type oneConn struct {
	c   net.Conn
	end chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.c; c != nil {
		l.c = nil
		return c, nil
	}
	<-l.end
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	close(l.end)
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.c.LocalAddr() }
