package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

// book notes what was ordered.
type book struct {
	mu     sync.Mutex
	list   []string
	master string        // "": as in three
	held   bool          // by an order
	slow   chan struct{} // what a switch waits for; nil: nothing
}

func (b *book) state() (master string, held bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.master, three().Status.Master), b.held
}

func (b *book) note(ctx context.Context, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, text+" by "+control.Caller(ctx))
}

func (b *book) orders() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.list, "; ")
}

func (b *book) Switch(ctx context.Context, to cluster.NodeID) (cluster.NodeID, error) {
	b.note(ctx, "switch "+string(to))
	if to == "c" {
		return "", &problem.Problem{Op: "switch", Kind: problem.Conflict, Subject: "c", Err: errors.New("it is not in-sync"), Hint: "wait for it"}
	}
	if b.slow != nil {
		select {
		case <-b.slow:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.master = cmp.Or(string(to), "b")
	return cluster.NodeID(b.master), nil
}

func (b *book) Hold(ctx context.Context, on bool) (control.Ordered, error) {
	b.note(ctx, fmt.Sprint("hold ", on))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = on
	return control.Ordered{On: on, Missed: []cluster.NodeID{"c"}}, nil
}

func (b *book) Silence(ctx context.Context, o control.SilenceOrder) error {
	b.note(ctx, fmt.Sprint("silence ", o.Kind, " ", o.Subject, " ", o.For))
	return nil
}

// journal is what was logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *journal) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *journal) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// office is a page that takes orders, on the loopback interface, and a browser's part of it.
type office struct {
	t     *testing.T
	book  *book
	state string
	site  *site
	log   journal
	*httptest.Server
	client *http.Client
}

func openOffice(t *testing.T) *office {
	t.Helper()
	return openOfficeOf(t, Options{})
}

func openOfficeOf(t *testing.T, with Options) *office {
	t.Helper()
	o := closedOffice(t, with)
	o.Server = httptest.NewServer(o.site)
	t.Cleanup(o.Close)
	o.client = o.browser()
	return o
}

// closedOffice is one that nobody can connect to.
func closedOffice(t *testing.T, with Options) *office {
	t.Helper()
	o := &office{t: t, book: &book{}, state: t.TempDir()}
	h, err := newHub(func() Snapshot {
		s := three()
		master, held := o.book.state()
		s.Status.Master = master
		for i := range s.Status.Nodes {
			s.Status.Nodes[i].Hold = control.Known(held)
		}
		s.Status.Alarms = control.Alarms{Open: []control.AlarmEntry{{Kind: "node-dead", Subject: "c", Severity: "warning", Text: "<b>c</b> is dead"}}}
		return s
	})
	if err != nil {
		t.Fatal(err)
	}
	with.Orders, with.State = o.book, o.state
	if with.Log == nil {
		with.Log = slog.New(slog.NewTextHandler(&o.log, nil))
	}
	o.site = newSite(h, with)
	return o
}

func (o *office) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		o.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return &http.Client{Jar: jar, Transport: transport}
}

func (o *office) token() string {
	o.t.Helper()
	text, _, err := MakeToken(o.state, time.Hour, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	return text
}

// inForce is the hash of the token that is good.
func inForce(state string, now time.Time) string {
	r, err := readToken(state)
	if err != nil {
		return err.Error()
	}
	return r.goodAt(now)
}

// ask sends a request, follows, and gives the status and the page.
func (o *office) ask(c *http.Client, method, path string, form url.Values, head map[string]string) (int, string) {
	o.t.Helper()
	r, err := http.NewRequest(method, o.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		o.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range head {
		r.Header[k] = strings.Split(v, ";")
	}
	got, err := c.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return got.StatusCode, string(b)
}

// signIn signs the client in, and gives the secret of its forms.
func (o *office) signIn(c *http.Client, token string) string {
	o.t.Helper()
	code, page := o.ask(c, "POST", "/orders/in", url.Values{"token": {token}}, nil)
	m := regexp.MustCompile(`name="form" value="([^"]+)"`).FindStringSubmatch(page)
	if code != 200 || m == nil {
		o.t.Fatalf("signing in: %d %s", code, page)
	}
	return m[1]
}

// Who is signed in gives orders; they are those of the commands, and say who gave them and what came of them.
func TestOrders(t *testing.T) {
	o := openOffice(t)
	form := o.signIn(o.client, "  "+o.token()+"\n")
	for _, tc := range []struct {
		path, want, says string
		form             url.Values
	}{
		{"switch", "switch b", "Done: b is master.", url.Values{"from": {"a"}, "to": {"b"}, "sure": {"yes"}}},
		{"switch", "", "the box that confirms it was not ticked", url.Values{"to": {"b"}}},
		{"switch", "switch c", "it is not in-sync", url.Values{"from": {"b"}, "to": {"c"}, "sure": {"yes"}}},
		{"hold", "hold true", "nothing moves by itself any more. Not told, since they do not answer: c.", url.Values{"on": {"yes"}}},
		{"hold", "", "hold is on or off", url.Values{"on": {"<script>"}}},
		{"silence", "silence node-dead c 8h0m0s", "nobody is told of node-dead c for 8h0m0s", url.Values{"kind": {"node-dead"}, "subject": {"c"}, "for": {"8h"}}},
		{"silence", "", "is no time", url.Values{"kind": {"node-dead"}, "for": {"<b>"}}},
		{"reboot", "", "there is no such order", url.Values{}},
	} {
		o.book.list = nil
		tc.form.Set("form", form)
		code, page := o.ask(o.client, "POST", "/orders/"+tc.path, tc.form, nil)
		want := tc.want
		if want != "" {
			want += " by signed in to the page"
		}
		if got := o.book.orders(); code != 200 || got != want || !strings.Contains(page, tc.says) || strings.Contains(page, "<b>") || strings.Contains(page, "<script") {
			t.Errorf("%s %v: %d, ordered %q, says %q in %s", tc.path, tc.form, code, got, tc.says, page)
		}
		if _, again := o.ask(o.client, "GET", "/orders", nil, nil); strings.Contains(again, tc.says) {
			t.Errorf("%q is said twice", tc.says)
		}
	}
}

// Whatever lacks something is refused, and nothing is ordered.
func TestOrdersAreRefused(t *testing.T) {
	o := openOffice(t)
	token := o.token()
	form := o.signIn(o.client, token)
	stranger := o.browser()
	with := func(f string) url.Values { return url.Values{"on": {"yes"}, "form": {f}} }
	for _, tc := range []struct {
		name   string
		client *http.Client
		form   url.Values
		head   map[string]string
		want   int
	}{
		{"without a cookie", stranger, with(form), nil, 403},
		{"without the form's secret", o.client, with(""), nil, 403},
		{"with another secret", o.client, with(form + "x"), nil, 403},
		{"from another site", o.client, with(form), map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"from another port of this host", o.client, with(form), map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"from another origin", o.client, with(form), map[string]string{"Origin": "http://evil.example.org"}, 403},
		{"through a proxy in the clear", o.client, with(form), map[string]string{"X-Forwarded-For": "10.0.0.9"}, 403},
		{"through a proxy that says http", o.client, with(form), map[string]string{"X-Forwarded-Proto": "http"}, 403},
		{"through a proxy that adds to what its client said", o.client, with(form), map[string]string{"X-Forwarded-Proto": "https;http"}, 403},
		{"by a name of the wide world", o.client, with(form), map[string]string{"Host": "evil.example.org"}, 421},
		{"too long", o.client, url.Values{"on": {"yes"}, "form": {form}, "x": {strings.Repeat("x", maxForm)}}, nil, 400},
	} {
		code, _ := 0, ""
		if host := tc.head["Host"]; host != "" {
			r := httptest.NewRequest("POST", "/orders/hold", strings.NewReader(tc.form.Encode()))
			r.Host = host
			w := httptest.NewRecorder()
			o.site.ServeHTTP(w, r)
			code = w.Code
		} else {
			code, _ = o.ask(tc.client, "POST", "/orders/hold", tc.form, tc.head)
		}
		if code != tc.want || o.book.orders() != "" {
			t.Errorf("%s: %d, ordered %q", tc.name, code, o.book.orders())
		}
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if code, _ := o.ask(o.client, method, "/orders/hold", with(form), nil); code != 405 {
			t.Errorf("%s: %d", method, code)
		}
	}
	if code, _ := o.ask(o.client, "POST", "/orders/hold", with(form), map[string]string{"Sec-Fetch-Site": "same-origin"}); code != 200 || o.book.orders() == "" {
		t.Errorf("an order that lacks nothing: %d, %q", code, o.book.orders())
	}
}

// What has ended does not come back: a token made anew or revoked, a session that was signed out of, one that is too old.
func TestSignedOut(t *testing.T) {
	o := openOffice(t)
	now := time.Now()
	for name, end := range map[string]func(form string){
		"signed out": func(form string) {
			o.ask(o.client, "POST", "/orders/out", url.Values{"form": {form}}, nil)
		},
		"revoked": func(string) {
			if was, err := RevokeToken(o.state); !was || err != nil {
				t.Error(was, err)
			}
		},
		"another token": func(string) { o.token() },
		"expired": func(string) {
			if err := putToken(o.state, []byte(fmt.Sprintf(`{"hash":%q,"expires":%q}`, inForce(o.state, now), now.Add(-time.Second).Format(time.RFC3339)))); err != nil {
				t.Fatal(err)
			}
		},
		"idle": func(string) { o.site.desk.sessions.open[0].used = now.Add(-sessionIdle) },
		"old":  func(string) { o.site.desk.sessions.open[0].opened = now.Add(-sessionLife) },
	} {
		o.site.desk.sessions.open = nil
		o.client = o.browser()
		form := o.signIn(o.client, o.token())
		at, _ := url.Parse(o.URL + "/orders")
		cookie := o.client.Jar.Cookies(at)[0]
		end(form)
		code, page := o.ask(o.browser(), "POST", "/orders/hold", url.Values{"on": {"yes"}, "form": {form}}, map[string]string{"Cookie": cookie.String()})
		if code != 403 || o.book.orders() != "" || !strings.Contains(page, "not signed in any more") {
			t.Errorf("%s: %d, ordered %q", name, code, o.book.orders())
		}
	}
}

// The cookie is of this page alone, and no script or other site gets it to see or to send.
func TestCookie(t *testing.T) {
	o := openOffice(t)
	token := o.token()
	o.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for proto, secure := range map[string]bool{"": false, "https": true} {
		r, _ := http.NewRequest("POST", o.URL+"/orders/in", strings.NewReader(url.Values{"token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if proto != "" {
			r.Header.Set("X-Forwarded-Proto", proto)
		}
		got, err := o.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = got.Body.Close()
		c := got.Cookies()
		if len(c) != 1 || !c[0].HttpOnly || c[0].SameSite != http.SameSiteStrictMode || c[0].Path != "/orders" || c[0].Secure != secure || len(c[0].Value) < 43 {
			t.Errorf("proto %q: %+v", proto, c)
		}
	}
}

// Guessing is bounded, and never keeps the right token out; those who are signed in are bounded, too.
func TestGuesses(t *testing.T) {
	o := openOffice(t)
	standStill(o.site.desk.wrong, o.site.desk.tells, o.site.asks)
	if code, page := o.ask(o.client, "POST", "/orders/in", url.Values{"token": {""}}, nil); code != 403 || !strings.Contains(page, "not a token of this node") {
		t.Errorf("no token there, none typed: %d", code)
	}
	token := o.token()
	codes := map[int]int{}
	for i := range 40 {
		code, _ := o.ask(o.client, "POST", "/orders/in", url.Values{"token": {fmt.Sprintf("%s%d", token, i)}}, nil)
		codes[code]++
	}
	if n := strings.Count(o.log.String(), "a wrong token"); n != wrongTold || strings.Contains(o.log.String(), token) {
		t.Errorf("%d lines about wrong tokens: %s", n, &o.log)
	}
	if codes[403] != wrongBurst-1 || codes[429] != 40-codes[403] { // one was the first, above
		t.Errorf("wrong tokens got %v", codes)
	}
	o.site.desk.asks = newBucket(1000, 1000)
	for range 3 * maxSessions {
		o.signIn(o.browser(), token)
	}
	if n := len(o.site.desk.sessions.open); n != maxSessions {
		t.Errorf("%d sessions are kept", n)
	}
	o.site.asks.level, o.site.asks.at = -1000, time.Now() // others flood the page
	o.signIn(o.browser(), token)
}

// The node keeps only a hash, that its user alone may read; nothing of the token is in the page or in an error.
func TestTokenFile(t *testing.T) {
	state := t.TempDir()
	text, expires, err := MakeToken(state, time.Hour, time.Now())
	if err != nil || !strings.HasPrefix(text, tokenPrefix) || time.Until(expires) > time.Hour {
		t.Fatal(text, expires, err)
	}
	path := filepath.Join(state, tokenFile)
	b, err := os.ReadFile(path)
	info, err2 := os.Stat(path)
	if err != nil || err2 != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(b), text[len(tokenPrefix):]) {
		t.Errorf("%v %v %v %s", err, err2, info, b)
	}
	if list, _ := os.ReadDir(state); len(list) != 1 {
		t.Errorf("more is left there: %v", list)
	}
	if inForce(state, time.Now()) != hashOf(text) || inForce(state, expires) != "" {
		t.Error("it is not good now, or it is for ever")
	}
	for _, life := range []time.Duration{0, -1, MaxTokenLife + 1} {
		if _, _, err := MakeToken(state, life, time.Now()); problem.KindOf(err) != problem.Invalid {
			t.Errorf("good for %v: %v", life, err)
		}
	}
	if was, err := RevokeToken(state); !was || err != nil || inForce(state, time.Now()) != "" {
		t.Error(was, err)
	}
	if was, err := RevokeToken(state); was || err != nil {
		t.Error("twice:", was, err)
	}
	nowhere := filepath.Join(state, "nowhere")
	if _, err := RevokeToken(nowhere); problem.KindOf(err) != problem.NotFound {
		t.Error(err)
	}
	if _, _, err := MakeToken(nowhere, time.Hour, time.Now()); problem.KindOf(err) != problem.NotFound {
		t.Error(err)
	}
}

// Who comes over a network is told where orders are taken, whatever it sends.
func TestOrdersAreNotTakenInTheClear(t *testing.T) {
	o := openOffice(t)
	token := o.token()
	for remote, local := range map[string]string{"10.77.0.90:4000": "10.77.0.11:8480", "10.77.0.90:4001": "127.0.0.1:8480", "127.0.0.1:4000": "10.77.0.11:8480", "[fe80::1%eth0]:4000": "[::1]:8480"} {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "http://10.77.0.11:8480/orders/in", strings.NewReader(url.Values{"token": {token}}.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.RemoteAddr = remote
			addr, _ := net.ResolveTCPAddr("tcp", local)
			w := httptest.NewRecorder()
			o.site.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(addr))))
			if w.Code != 403 || w.Header().Get("Set-Cookie") != "" || !strings.Contains(w.Body.String(), "ssh -L 8480:") || strings.Contains(w.Body.String(), "<form") {
				t.Errorf("%s from %s to %s: %d %s", method, remote, local, w.Code, w.Body)
			}
		}
	}
	// A node that asks its own address of a network stays at home.
	r := httptest.NewRequest("GET", "http://10.77.0.11:8480/orders", nil)
	r.RemoteAddr = "10.77.0.11:4000"
	addr, _ := net.ResolveTCPAddr("tcp", "10.77.0.11:8480")
	w := httptest.NewRecorder()
	o.site.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(addr))))
	if w.Code != 200 || !strings.Contains(w.Body.String(), `action="/orders/in"`) {
		t.Errorf("its own address: %d %s", w.Code, w.Body)
	}
}
