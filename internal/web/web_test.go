package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come; nothing is measured.
const patience = 30 * time.Second

func three() Snapshot {
	s := control.Status{AsOf: time.Now(), Cluster: "homelab", Node: "a", Term: 7, Master: "a", Verdict: control.OK, VIPs: []control.VIP{{Address: "10.77.0.200/24", Holder: "a"}}}
	v := control.Volume{Name: "home", State: "leading"}
	for _, n := range []cluster.NodeID{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, control.Node{Name: n, State: "alive", Role: "standby", InSync: control.Yes, Eligible: control.Yes, Links: []control.Link{{Name: "lan", Up: control.Yes}}})
		if n != "a" {
			v.Standbys = append(v.Standbys, control.Standby{Node: n, State: "in-sync", LagMS: 3})
		}
	}
	s.Volumes = []control.Volume{v}
	return Snapshot{Status: s}
}

// served is a page server on the loopback interface.
type served struct {
	addr  string
	asked atomic.Int64 // snapshots
	term  atomic.Int64
}

func serve(t *testing.T) *served {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{addr: l.Addr().String()}
	_ = l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(s.addr)}, Names: []string{"status.example.org"}, Log: slog.New(slog.DiscardHandler), Snapshot: func() Snapshot {
			x := three()
			x.Status.Term = cluster.Term(7 + s.term.Load())
			s.asked.Add(1)
			return x
		}})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("it does not end")
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp4", s.addr); err == nil {
			_ = c.Close()
			return s
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// ask sends a request as it stands, and gives the answer.
func (s *served) ask(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp4", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(b)
}

func get(path, host string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
}

// What a request must be, and what it gets.
func TestRequests(t *testing.T) {
	s := serve(t)
	for _, tc := range []struct {
		name, text string
		status     int
		body       string
	}{
		{"page", get("/", s.addr), 200, "All is well"},
		{"status", get("/status.json", s.addr), 200, `"verdict":"ok"`},
		{"bare name", get("/", "a:8480"), 200, "a is master; 2 of 2 standbys in-sync"},
		{"name of a house", get("/", "status.home.arpa"), 200, "<h1"},
		{"listed name", get("/", "Status.Example.org:80"), 200, "<h1"},
		{"IPv6", get("/", "[fd77::200]:8480"), 200, "<h1"},
		{"foreign name", get("/", "evil.example.com"), 421, "web: names:"},
		{"nothing there", get("/etc/passwd", s.addr), 404, ""},
		{"no metrics", get("/metrics", s.addr), 404, ""},
		{"order", "POST / HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n", 405, "only shows"},
		{"body", "GET / HTTP/1.1\r\nHost: " + s.addr + "\r\nContent-Length: 1000000\r\n\r\n", 413, "no body"},
		{"body without end", "GET / HTTP/1.1\r\nHost: " + s.addr + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 413, "no body"},
	} {
		r, body := s.ask(t, tc.text)
		if r.StatusCode != tc.status || !strings.Contains(body, tc.body) {
			t.Errorf("%s: got %d\n%.300s\nwant %d and %q", tc.name, r.StatusCode, body, tc.status, tc.body)
		}
		if got := r.Header.Get("Content-Security-Policy"); got != policy || r.Header.Get("Set-Cookie") != "" || r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: headers %v", tc.name, r.Header)
		}
		if (tc.name == "page" || tc.name == "status") && r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be kept: it would look like a new one", tc.name)
		}
	}
}

// A port that another program has is no reason to end: it is had later.
func TestPortThatIsTaken(t *testing.T) {
	t.Parallel() // it waits for listenAgain
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	said := make(chan string, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}, Snapshot: three, Log: slog.New(slog.NewTextHandler(lines(said), nil))})
	}()
	if line := <-said; !strings.Contains(line, "level=WARN") || !strings.Contains(line, "address already in use") || !strings.Contains(line, "stop what holds the port") {
		t.Errorf("said %q", line)
	}
	addr := l.Addr().String()
	_ = l.Close()
	if line := <-said; !strings.Contains(line, "the status page is served") {
		t.Errorf("said %q", line)
	}
	r, _ := (&served{addr: addr}).ask(t, get("/", addr))
	if r.StatusCode != 200 {
		t.Errorf("status %d", r.StatusCode)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// lines hands on what is logged.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// A header that does not end is not read to its end.
func TestLongHeader(t *testing.T) {
	s := serve(t)
	c, err := net.Dial("tcp4", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	sent := 0
	for _, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nX: "); err == nil && sent < 64<<20; sent += 64 << 10 {
		_, err = io.WriteString(c, strings.Repeat("x", 64<<10))
	}
	if err == nil {
		t.Errorf("%d bytes of a header are taken", sent)
	}
	if r, _ := s.ask(t, get("/", s.addr)); r.StatusCode != 200 {
		t.Errorf("afterwards: status %d", r.StatusCode)
	}
}

// All that the page needs is here, under names that change with the content; nothing is written into it that the policy forbids.
func TestEverythingIsServedFromHere(t *testing.T) {
	s := serve(t)
	_, page := s.ask(t, get("/", s.addr))
	for _, no := range []string{"://", "<style", " style=", " onload=", " onclick=", "javascript:"} {
		if strings.Contains(strings.ReplaceAll(page, "http://www.w3.org", ""), no) {
			t.Errorf("the page has %q", no)
		}
	}
	n := 0
	for _, part := range strings.Split(page, `"`) {
		if strings.HasPrefix(part, "/assets/") {
			n++
			r, body := s.ask(t, get(part, s.addr))
			if r.StatusCode != 200 || body == "" || !strings.Contains(r.Header.Get("Cache-Control"), "immutable") {
				t.Errorf("%s: %d %v", part, r.StatusCode, r.Header)
			}
		}
	}
	if n != 4 {
		t.Errorf("%d files, want the icon, that for unknown, the style and the script", n)
	}
}

// follow reads the events; it ends with the test, or when the server ends it.
func (s *served) follow(t *testing.T, ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}

// However many look and follow, the page is made once a second, and not at all when nobody does.
func TestOneRenderingForAll(t *testing.T) {
	var asked atomic.Int64
	h, err := newHub(func() Snapshot { asked.Add(1); return three() })
	if err != nil {
		t.Fatal(err)
	}
	site := newSite(h, Options{})
	site.asks = newBucket(1e6, 1e6) // the pace of requests has a test of its own
	began := time.Now()
	var all sync.WaitGroup
	for range 50 {
		all.Add(1)
		go func() {
			defer all.Done()
			for range 20 {
				w := httptest.NewRecorder()
				site.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/", nil))
				if w.Code != 200 {
					t.Errorf("status %d", w.Code)
				}
			}
		}()
	}
	all.Wait()
	bound := int64(time.Since(began)/(renderEvery-renderEvery/20)) + 1
	if n := asked.Load(); n > bound || n == 0 || n != h.renders.Load() {
		t.Errorf("1,000 requests: %d snapshots, %d renderings; want at most %d", n, h.renders.Load(), bound)
	}
	n := asked.Load()
	for range 5 {
		if err := h.spread(); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != n {
		t.Error("nobody follows, and it was rendered")
	}
}

// Events bring every part at first, then only what differs; a change reaches a follower.
func TestEvents(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := s.follow(t, ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if got := r.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %s", got)
	}
	in := bufio.NewScanner(r.Body)
	in.Buffer(nil, 1<<20)
	seen, stamps := map[string]int{}, 0
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		var m map[string]string
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			t.Fatal(err)
		}
		if id := m["id"]; id != "" {
			seen[id]++
			if id == "ring" && strings.Contains(m["html"], "term 8") {
				break
			}
			continue
		}
		if stamps++; stamps == 3 {
			s.term.Store(1)
		}
		if m["verdict"] != control.OK || m["as_of"] == "" || !strings.Contains(m["icon"], "icon-ok") {
			t.Errorf("stamp %v", m)
		}
	}
	for _, p := range parts() {
		if want := map[bool]int{true: 2, false: 1}[p == "ring"]; seen[p] != want {
			t.Errorf("part %s came %d times, want %d", p, seen[p], want)
		}
	}
}

// What peers say is text, wherever it stands.
func TestMarkupIsText(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)>'{{.}}`
	s := three()
	st := &s.Status
	st.Cluster, st.Master, st.Reasons, st.Verdict = evil, evil, []string{evil + " `" + evil + "`"}, control.Warning
	for i := range st.Nodes {
		st.Nodes[i].Name, st.Nodes[i].State, st.Nodes[i].Role, st.Nodes[i].WhyNot = cluster.NodeID(fmt.Sprint(evil, i)), evil, evil, evil
		st.Nodes[i].Links[0].Name, st.Nodes[i].Links[0].Up = evil, control.No
	}
	v := &st.Volumes[0]
	v.Name, v.Path, v.State, v.Problem, v.Alarm = evil, evil, evil, evil, evil
	v.Standbys[0].Node, v.Standbys[0].State = evil, evil
	st.VIPs = []control.VIP{{Address: evil, Holder: evil}}
	st.Services = []control.Service{{Name: evil, State: evil, How: evil, LastError: evil}}
	st.Pairs = []control.Pair{{A: evil, B: evil, Links: []control.PairLink{{Name: evil, WhyNot: evil}}}}
	r, err := newRenderer()
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.render(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"<script>alert", "<img", `"><script`} {
		if strings.Contains(string(f.page), no) {
			t.Errorf("the page has %q", no)
		}
		for p, e := range f.events {
			var m map[string]string
			_, data, _ := strings.Cut(string(e), "data: ")
			if err := json.Unmarshal([]byte(data), &m); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(m["html"], no) {
				t.Errorf("the event of %s has %q", p, no)
			}
		}
	}
	if !strings.Contains(string(f.page), "&lt;script&gt;alert(1)") {
		t.Error("what a peer said is not shown at all")
	}
}
