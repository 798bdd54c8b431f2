package web

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

// Orders is what somebody who is signed in may order: what the commands of the same names do, with their checks.
type Orders interface {
	Switch(ctx context.Context, to cluster.NodeID) (cluster.NodeID, error)
	Hold(ctx context.Context, on bool) (control.Ordered, error)
	Silence(ctx context.Context, o control.SilenceOrder) error
}

const (
	deskPath = "/orders"
	// deskPolicy is policy, but for forms to ourselves, and without a script.
	deskPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	cookieName = "revolve-orders"

	maxForm     = 4 << 10
	orderWithin = 20 * time.Second // the commands give up sooner

	// Requests over the loopback are counted apart: whoever floods the page from elsewhere takes nothing from them.
	deskPer, deskBurst = 20, 100
	// Wrong tokens that are looked at in words; a right one never waits, so nobody can lock its owner out.
	wrongPer, wrongBurst = 1, 5
	// Of them a log line is written for the first three, and then one in a minute.
	wrongTold, wrongToldPer = 3, 1.0 / 60
)

// desk is where orders are taken, apart from the page that everybody sees.
type desk struct {
	hub      *hub
	orders   Orders
	state    string
	log      *slog.Logger
	sessions sessions
	cross    *http.CrossOriginProtection
	asks     *bucket
	wrong    *bucket
	tells    *bucket // log lines about wrong tokens
}

func newDesk(h *hub, o Options) *desk {
	return &desk{hub: h, orders: o.Orders, state: o.State, log: o.Log, cross: http.NewCrossOriginProtection(),
		asks: newBucket(deskPer, deskBurst), wrong: newBucket(wrongPer, wrongBurst), tells: &bucket{rate: wrongToldPer, burst: wrongTold, level: wrongTold}}
}

func isDesk(path string) bool { return path == deskPath || strings.HasPrefix(path, deskPath+"/") }

// near reports whether what is said in this request stays on this machine, or came over TLS to a proxy on it.
// Both ends have the same address then: what has another machine's never comes in under one's own (ip-sysctl: martians).
func near(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	here, err := netip.ParseAddrPort(local.String())
	there, err2 := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || err2 != nil {
		return false
	}
	a, b := here.Addr().Unmap().WithZone(""), there.Addr().Unmap().WithZone("")
	if a != b && !(a.IsLoopback() && b.IsLoopback()) {
		return false
	}
	proxied := false
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via"} {
		proxied = proxied || r.Header.Get(h) != ""
	}
	return !proxied || overTLS(r)
}

// overTLS is what a proxy on this machine says of its client; what was said twice was said by two.
func overTLS(r *http.Request) bool {
	said := r.Header["X-Forwarded-Proto"]
	return len(said) == 1 && said[0] == "https"
}

// serve answers below deskPath; the host was checked.
func (d *desk) serve(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", deskPolicy)
	head.Set("Referrer-Policy", "same-origin") // with no-referrer a form's Origin would be null (Fetch, "append a request Origin header")
	head.Set("Cache-Control", "no-store")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerWithin))
	post := r.Method == http.MethodPost
	switch {
	case !post && r.Method != http.MethodGet && r.Method != http.MethodHead:
		head.Set("Allow", "GET, HEAD, POST")
		refuse(w, http.StatusMethodNotAllowed, "orders are forms: GET and POST")
	case !near(r):
		d.show(w, http.StatusForbidden, &deskView{Far: true, Ask: whereToAsk(r)})
	case post:
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		d.post(w, r)
	case r.ContentLength != 0:
		refuse(w, http.StatusRequestEntityTooLarge, "a question has no body")
	case r.URL.Path != deskPath:
		http.Redirect(w, r, deskPath, http.StatusSeeOther)
	default:
		d.get(w, r)
	}
}

// whereToAsk is the address that was asked, as a tunnel to this node names it.
func whereToAsk(r *http.Request) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if at, err := netip.ParseAddrPort(local.String()); err == nil {
			return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
		}
	}
	return "127.0.0.1:8480"
}

// signedIn is the session of a request.
func (d *desk) signedIn(r *http.Request) (session, bool) {
	c, err := r.Cookie(cookieName)
	now := time.Now()
	token := inForce(d.state, now)
	if err != nil || token == "" {
		return session{}, false
	}
	return d.sessions.of(c.Value, token, now)
}

func (d *desk) get(w http.ResponseWriter, r *http.Request) {
	s, ok := d.signedIn(r)
	if !ok {
		d.show(w, http.StatusOK, &deskView{})
		return
	}
	d.show(w, http.StatusOK, &deskView{SignedIn: true, Form: s.form, Said: s.said})
}

// post is a form. What a browser sends for another site's page is refused three times: by where it says that it comes from, by a
// cookie that it does not send along (SameSite), and by the form's secret that the other site does not know.
func (d *desk) post(w http.ResponseWriter, r *http.Request) {
	if err := d.cross.Check(r); err != nil {
		refuse(w, http.StatusForbidden, "this order came from a page of another site, and is not carried out")
		return
	}
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "that is no form, or it is too long")
		return
	}
	if r.URL.Path == deskPath+"/in" {
		d.signIn(w, r)
		return
	}
	s, ok := d.signedIn(r)
	if !ok {
		d.show(w, http.StatusForbidden, &deskView{Wrong: "You are not signed in any more. Nothing was done."})
		return
	}
	if !same(r.PostForm.Get("form"), s.form) {
		refuse(w, http.StatusForbidden, "this form is not of this session, and is not carried out; load "+deskPath+" again")
		return
	}
	if r.URL.Path == deskPath+"/out" {
		d.sessions.end(s.id)
		d.setCookie(w, r, "", -1)
	} else {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(orderWithin + writeWithin))
		ctx, cancel := context.WithTimeout(control.AsCaller(r.Context(), "signed in to the page"), orderWithin)
		defer cancel()
		d.sessions.tell(s.id, d.carryOut(ctx, strings.TrimPrefix(r.URL.Path, deskPath+"/"), r.PostForm))
	}
	http.Redirect(w, r, deskPath, http.StatusSeeOther)
}

func (d *desk) signIn(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	typed, token := strings.TrimSpace(r.PostForm.Get("token")), inForce(d.state, now)
	if len(typed) <= maxToken && same(hashOf(typed), token) {
		d.setCookie(w, r, d.sessions.begin(token, now), int(sessionLife.Seconds()))
		d.log.Info("signed in to the status page", "from", r.RemoteAddr)
		http.Redirect(w, r, deskPath, http.StatusSeeOther)
		return
	}
	if _, ok := d.wrong.take(now, 0); !ok {
		refuse(w, http.StatusTooManyRequests, "too many wrong tokens; a right one is taken at any time")
		return
	}
	if _, ok := d.tells.take(now, 0); ok {
		d.log.Warn("a wrong token for the status page", "from", r.RemoteAddr)
	}
	d.show(w, http.StatusForbidden, &deskView{Wrong: "That is not a token of this node, or it is not good any more."})
}

func (d *desk) setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: value, Path: deskPath, MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: overTLS(r)})
}
