package web

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// from has a request come from an address to one of this node.
func from(r *http.Request, remote, local string) *http.Request {
	addr, _ := net.ResolveTCPAddr("tcp", local)
	r.RemoteAddr = remote
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(addr)))
}

// Whoever floods the orders, through a proxy or at the node, keeps nobody out who is signed in or has the token.
func TestNobodyLocksTheOwnerOut(t *testing.T) {
	for name, head := range map[string]http.Header{"through a proxy": {"X-Forwarded-For": {"203.0.113.9"}, "X-Forwarded-Proto": {"https"}}, "at the node": {}} {
		o := openOffice(t)
		standStill(o.site.desk.asks, o.site.desk.proxied)
		token := o.token()
		form := o.signIn(o.client, token)
		refused := 0
		for range 2 * deskBurst {
			r := from(httptest.NewRequest("GET", "http://status.lan/orders", nil), "127.0.0.1:4000", "127.0.0.1:8480")
			r.Header = head.Clone()
			w := httptest.NewRecorder()
			o.site.ServeHTTP(w, r)
			if w.Code == http.StatusTooManyRequests {
				refused++
			}
		}
		if refused != deskBurst {
			t.Errorf("%s: of %d requests of strangers %d are refused", name, 2*deskBurst, refused)
		}
		if code, _ := o.ask(o.client, "POST", "/orders/hold", url.Values{"form": {form}, "on": {"yes"}}, nil); code != 200 || o.book.orders() == "" {
			t.Errorf("%s: who is signed in gets %d, ordered %q", name, code, o.book.orders())
		}
		o.signIn(o.browser(), token)
		if code, _ := o.ask(o.browser(), "GET", "/orders", nil, nil); (code == 200) != (len(head) > 0) {
			t.Errorf("%s: the form to sign in, at the node: %d", name, code)
		}
	}
}

// A session has a bound, too, and it is its own.
func TestASessionHasItsPace(t *testing.T) {
	o := openOffice(t)
	token := o.token()
	o.signIn(o.client, token)
	other := o.browser()
	o.signIn(other, token)
	o.site.desk.sessions.open[0].asks = newBucket(1, 1)
	standStill(o.site.desk.sessions.open[0].asks)
	o.ask(o.client, "GET", "/orders", nil, nil)
	if code, _ := o.ask(o.client, "GET", "/orders", nil, nil); code != 429 {
		t.Errorf("over its pace: %d", code)
	}
	if code, _ := o.ask(other, "GET", "/orders", nil, nil); code != 200 {
		t.Errorf("another session: %d", code)
	}
}

// A second click moves nothing again: neither after the first one's order, nor while it is carried out.
func TestSecondClick(t *testing.T) {
	o := openOffice(t)
	form := o.signIn(o.client, o.token())
	order := url.Values{"form": {form}, "from": {"a"}, "to": {""}, "sure": {"yes"}}
	_, page := o.ask(o.client, "GET", "/orders", nil, nil)
	if !strings.Contains(page, `name="from" value="a"`) {
		t.Error("the form does not say who is master")
	}
	o.ask(o.client, "POST", "/orders/switch", order, nil)
	if _, page := o.ask(o.client, "POST", "/orders/switch", order, nil); o.book.orders() != "switch  by signed in to the page" || !strings.Contains(page, "master is b now") {
		t.Errorf("ordered %q; %s", o.book.orders(), page)
	}
	order.Del("from")
	if o.ask(o.client, "POST", "/orders/switch", order, nil); strings.Count(o.book.orders(), "switch") != 1 {
		t.Errorf("an order that does not say from whom: %q", o.book.orders())
	}
}

// A browser that goes away for a second click's sake does not end the first one's order, and the second one waits for it.
func TestSecondClickMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := closedOffice(t, Options{})
		o.book.slow = make(chan struct{})
		cookie := o.site.desk.sessions.begin(hashOf(o.token()), false, time.Now())
		order := url.Values{"form": {o.site.desk.sessions.open[0].form}, "from": {"a"}, "to": {"b"}, "sure": {"yes"}}
		click := func(ctx context.Context) {
			r := httptest.NewRequestWithContext(ctx, "POST", "http://127.0.0.1:8480/orders/switch", strings.NewReader(order.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.AddCookie(&http.Cookie{Name: o.site.desk.cookie, Value: cookie})
			o.site.ServeHTTP(httptest.NewRecorder(), from(r, "127.0.0.1:4000", "127.0.0.1:8480"))
		}
		first, goAway := context.WithCancel(t.Context())
		go click(first)
		synctest.Wait()
		goAway()
		go click(t.Context())
		synctest.Wait()
		close(o.book.slow)
		synctest.Wait()
		if master, _ := o.book.state(); o.book.orders() != "switch b by signed in to the page" || master != "b" {
			t.Errorf("ordered %q, master is %s", o.book.orders(), master)
		}
	})
}

// An order that hangs ends with the agent.
func TestAnOrderEndsWithTheAgent(t *testing.T) {
	o := openOffice(t)
	o.book.slow = make(chan struct{}) // never closed
	agent, end := context.WithCancel(t.Context())
	o.site.desk.agent = agent
	end()
	form := o.signIn(o.client, o.token())
	if _, page := o.ask(o.client, "POST", "/orders/switch", url.Values{"form": {form}, "from": {"a"}, "to": {"b"}, "sure": {"yes"}}, nil); !strings.Contains(page, context.Canceled.Error()) {
		t.Error(page)
	}
}

// An order is done when this node sees it, too: a standby that does not yet would take the same one again.
func TestAnOrderWaitsForThisNodesSight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := closedOffice(t, Options{})
		began := time.Now()
		see := o.site.hub.source
		o.site.hub.source = func() Snapshot {
			s := see()
			if time.Since(began) < time.Second {
				s.Status.Master = "a"
			}
			return s
		}
		order := url.Values{"from": {"a"}, "to": {"b"}, "sure": {"yes"}}
		if _, err := o.site.desk.orderSwitch(t.Context(), order); err != nil || o.site.hub.master() != "b" {
			t.Errorf("%v, master is %s here", err, o.site.hub.master())
		}
		o.site.hub.source = three // it never sees it
		if _, err := o.site.desk.orderSwitch(t.Context(), order); err != nil {
			t.Error(err)
		}
	})
}

// A tunnel to a floating address ends at another node when it moves. Orders are not taken by it, and nobody is told of it.
func TestFloatingAddressesAreNotNear(t *testing.T) {
	ports := func(list ...string) (out []netip.AddrPort) {
		for _, l := range list {
			out = append(out, netip.MustParseAddrPort(l))
		}
		return out
	}
	vips := []netip.Addr{netip.MustParseAddr("10.77.0.200"), netip.MustParseAddr("fd77::200")}
	for _, tc := range []struct {
		listen              []netip.AddrPort
		remote, local, want string
	}{
		{ports("[::]:8480"), "10.77.0.200:4000", "10.77.0.200:8480", "ssh -L 8480:127.0.0.1:8480"},
		{ports("[::]:8480"), "[::ffff:10.77.0.200]:4000", "[::ffff:10.77.0.200]:8480", "ssh -L 8480:127.0.0.1:8480"},
		{ports("[fd77::200]:8480", "[::1]:8481"), "[fd77::200]:4000", "[fd77::200]:8480", "ssh -L 8480:[::1]:8481"},
		{ports("10.77.0.200:8480"), "10.77.0.90:4000", "10.77.0.200:8480", "at floating addresses only"},
		{ports("[::]:8480"), "10.77.0.90:4000", "10.77.0.11:8480", "ssh -L 8480:10.77.0.11:8480"},
		{ports("[::]:8480"), "10.77.0.11:4000", "10.77.0.11:8480", "<form"},
	} {
		o := openOfficeOf(t, Options{VIPs: vips, Listen: tc.listen})
		w := httptest.NewRecorder()
		o.site.ServeHTTP(w, from(httptest.NewRequest("GET", "http://10.77.0.200:8480/orders", nil), tc.remote, tc.local))
		if got := w.Body.String(); !strings.Contains(got, tc.want) || strings.Contains(got, "<form") != (tc.want == "<form") || strings.Contains(got, "10.77.0.200") {
			t.Errorf("from %s to %s: %d %s", tc.remote, tc.local, w.Code, got)
		}
	}
}

// A session is good only the way that it was opened by: a cookie of the loopback interface is not Secure.
func TestASessionKeepsItsWay(t *testing.T) {
	o := openOffice(t)
	form := o.signIn(o.client, o.token())
	at, _ := url.Parse(o.URL + "/orders")
	order := url.Values{"form": {form}, "on": {"yes"}}
	head := map[string]string{"Cookie": o.client.Jar.Cookies(at)[0].String(), "X-Forwarded-Proto": "https"}
	if code, _ := o.ask(o.browser(), "POST", "/orders/hold", order, head); code != 403 || o.book.orders() != "" {
		t.Errorf("from the loopback interface through the proxy: %d, %q", code, o.book.orders())
	}
	delete(head, "X-Forwarded-Proto")
	if code, _ := o.ask(o.browser(), "POST", "/orders/hold", order, head); code != 200 || o.book.orders() == "" {
		t.Errorf("the way that it came: %d, %q", code, o.book.orders())
	}
}

// Two nodes, each through a tunnel to 127.0.0.1, do not sign out of each other: a browser knows no ports of cookies.
func TestTwoNodesInOneBrowser(t *testing.T) {
	a := openOfficeOf(t, Options{Cluster: "home", Node: "a"})
	b := openOfficeOf(t, Options{Cluster: "home", Node: "b"})
	form := a.signIn(a.client, a.token())
	b.signIn(a.client, b.token())
	if code, _ := a.ask(a.client, "POST", "/orders/hold", url.Values{"form": {form}, "on": {"yes"}}, nil); code != 200 || a.book.orders() == "" {
		t.Errorf("at a after signing in at b: %d, %q", code, a.book.orders())
	}
}

// What was revoked stays so after a power cut: that it is gone is durable before it is said. So is what was left half written.
func TestRevocationIsDurable(t *testing.T) {
	state := t.TempDir()
	for _, there := range []bool{true, false} { // the second time: what removed it may have been cut off
		if there {
			if _, _, err := MakeToken(state, time.Hour, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		left := filepath.Join(state, asidePrefix+"123")
		if err := os.WriteFile(left, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		settled := ""
		was, err := revokeToken(state, func(dir string) error {
			if list, err := os.ReadDir(dir); len(list) != 0 || err != nil {
				t.Errorf("made durable too early: %v %v", list, err)
			}
			settled = dir
			return nil
		})
		if was != there || err != nil || settled != state {
			t.Errorf("there %v: %v %v, made durable: %q", there, was, err, settled)
		}
	}
	if _, err := revokeToken(state, func(string) error { return fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("what is not durable is said to be: %v", err)
	}
}

// What half a record a power cut leaves goes when the next one is written.
func TestLeftoversGo(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, asidePrefix+"123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := MakeToken(state, time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(state); len(list) != 1 || err != nil {
		t.Errorf("%v %v", list, err)
	}
}

// What a page says after an order is not older than the order.
func TestAfterAnOrderThePageIsNew(t *testing.T) {
	o := openOffice(t)
	form := o.signIn(o.client, o.token())
	o.site.hub.made = time.Now().Add(time.Hour) // never too old by itself
	if _, page := o.ask(o.client, "POST", "/orders/hold", url.Values{"form": {form}, "on": {"yes"}}, nil); !strings.Contains(page, "Automatic moves are off.") {
		t.Error(page)
	}
}

// A proxy says in many words that it is one; each of them counts, also an empty one, and all that stand there.
func TestProxies(t *testing.T) {
	for _, tc := range []struct {
		head http.Header
		near bool
	}{
		{http.Header{}, true},
		{http.Header{"X-Forwarded-Port": {"80"}}, false},
		{http.Header{"X-Forwarded-Ssl": {"on"}}, false},
		{http.Header{"X-Forwarded-Server": {"x"}}, false},
		{http.Header{"X-Client-Ip": {"10.0.0.9"}}, false},
		{http.Header{"Cf-Connecting-Ip": {"10.0.0.9"}}, false},
		{http.Header{"Forwarded": {""}}, false},
		{http.Header{"X-Forwarded-For": {"", "10.0.0.9"}}, false},
		{http.Header{"X-Forwarded-For": {"", "10.0.0.9"}, "X-Forwarded-Proto": {"https"}}, true},
		{http.Header{"X-Forwarded-Proto": {"https", "http"}}, false},
		{http.Header{"X-Forwarded-Proto": {"https, http"}}, false},
		{http.Header{"X-Forwarded-Proto": {"https", "https"}}, false},
	} {
		r := from(httptest.NewRequest("GET", "/orders", nil), "127.0.0.1:4000", "127.0.0.1:8480")
		r.Header = tc.head
		if got := new(door).near(r); got != tc.near {
			t.Errorf("%v: near %v", tc.head, got)
		}
	}
}

// A request that read the token's file before it was made anew does not end a session of the new one.
func TestAnOldRequestEndsNoNewSession(t *testing.T) {
	var s sessions
	now := time.Now()
	cookie := s.begin("new", false, now)
	if _, ok := s.of(cookie, "old", false, now); ok {
		t.Error("a session is good with another token")
	}
	if _, ok := s.of(cookie, "new", false, now); !ok {
		t.Error("the session has ended")
	}
}

// What an order came to is said to who sees it, and not to a request without a body or with another session's form.
func TestWhatAnOrderCameToIsNotSwallowed(t *testing.T) {
	o := openOffice(t)
	form := o.signIn(o.client, o.token())
	stop := *o.client
	stop.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.ask(&stop, "POST", "/orders/hold", url.Values{"form": {form}, "on": {"yes"}}, nil)
	o.ask(&stop, "HEAD", "/orders", nil, nil)
	o.ask(&stop, "POST", "/orders/hold", url.Values{"form": {"x"}, "on": {"yes"}}, nil)
	if _, page := o.ask(o.client, "GET", "/orders", nil, nil); !strings.Contains(page, "nothing moves by itself any more") {
		t.Error(page)
	}
}

// A file that cannot be read is told in the log, once for many requests; nobody is signed in by it.
func TestUnreadableTokenIsLogged(t *testing.T) {
	var log bytes.Buffer
	o := openOfficeOf(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, text := range []string{`{"hash":"`, `{"hash":"00","expires":"2999-01-01T00:00:00Z"}`} {
		log.Reset()
		o.site.desk.unread.level = 1
		standStill(o.site.desk.unread)
		if err := os.WriteFile(filepath.Join(o.state, tokenFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r := from(httptest.NewRequest("POST", "/orders/in", strings.NewReader("token=")), "127.0.0.1:4000", "127.0.0.1:8480")
			r.Host = "127.0.0.1"
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			o.site.desk.wrong = newBucket(wrongPer, wrongBurst)
			if o.site.ServeHTTP(w, r); w.Code != 403 || w.Header().Get("Set-Cookie") != "" {
				t.Errorf("%s: %d", text, w.Code)
			}
		}
		if got := log.String(); strings.Count(got, "cannot be read") != 1 || !strings.Contains(got, tokenFile) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// What somebody sends over a network is not looked at.
func TestAFarOrderEndsItsConnection(t *testing.T) {
	o := openOffice(t)
	for method, want := range map[string]string{"POST": "close", "GET": ""} {
		w := httptest.NewRecorder()
		o.site.ServeHTTP(w, from(httptest.NewRequest(method, "http://10.77.0.11:8480/orders/in", strings.NewReader("token=x")), "10.77.0.90:4000", "10.77.0.11:8480"))
		if got := w.Header().Get("Connection"); w.Code != 403 || got != want {
			t.Errorf("%s: %d, Connection %q", method, w.Code, got)
		}
	}
}
