package web

import (
	"context"
	"log/slog"
	"net/http"
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

	maxForm     = 4 << 10
	orderWithin = 20 * time.Second // the commands give up sooner

	// Requests at the desk have paces of their own: one for each session, one for who is not signed in at the node, and one for
	// who is not and comes through a proxy. So whoever floods one of them takes nothing from those who are signed in.
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
	door     door
	cookie   string // its name: a browser keeps one jar for all nodes that it reaches through tunnels at one address
	sessions sessions
	cross    *http.CrossOriginProtection
	asks     *bucket         // of who is not signed in, at the node
	proxied  *bucket         // of who is not signed in, through a proxy: strangers
	wrong    *bucket         // tokens
	tells    *bucket         // log lines about them
	unread   *bucket         // log lines about the token's file
	agent    context.Context // an order ends with it, and not with the browser's connection
	moving   chan struct{}   // held by the one planned switch at a time
}

func newDesk(h *hub, o Options) *desk {
	return &desk{hub: h, orders: o.Orders, state: o.State, log: o.Log, door: door{vips: o.VIPs, listen: o.Listen}, cookie: "revolve-orders." + o.Cluster + "." + string(o.Node),
		cross: http.NewCrossOriginProtection(), asks: newBucket(deskPer, deskBurst), proxied: newBucket(deskPer, deskBurst), wrong: newBucket(wrongPer, wrongBurst),
		tells: &bucket{rate: wrongToldPer, burst: wrongTold, level: wrongTold}, unread: &bucket{rate: 1 / listenQuiet.Seconds(), burst: 1, level: 1},
		agent: context.Background(), moving: make(chan struct{}, 1)}
}

// mayAsk reports whether a request is within its pace. Nobody else's requests count against a session's. A token pays only after
// it was found to be wrong, in signIn: with a right one somebody comes in however many others try.
func (d *desk) mayAsk(r *http.Request, far *bucket, now time.Time) bool {
	pace := d.asks
	switch {
	case !d.door.near(r):
		pace = far
	case r.Method == http.MethodPost && r.URL.Path == deskPath+"/in":
		return true // what comes of it without a right token ends the connection, but for one answer a second
	default:
		if own := d.paceOf(r); own != nil {
			pace = own
		} else if isProxied(r) {
			pace = d.proxied
		}
	}
	_, ok := pace.take(now, 0)
	return ok
}

// paceOf is that of the request's session, nil without one.
func (d *desk) paceOf(r *http.Request) *bucket {
	c, err := r.Cookie(d.cookie)
	if err != nil {
		return nil
	}
	return d.sessions.pace(c.Value)
}

func isDesk(path string) bool { return path == deskPath || strings.HasPrefix(path, deskPath+"/") }

// serve answers below deskPath; the host was checked.
func (d *desk) serve(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", deskPolicy)
	head.Set("Referrer-Policy", "same-origin") // with no-referrer a form's Origin would be null (Fetch, "append a request Origin header")
	head.Set("Cache-Control", "no-store")
	post := r.Method == http.MethodPost
	switch {
	case !post && r.Method != http.MethodGet && r.Method != http.MethodHead:
		head.Set("Allow", "GET, HEAD, POST")
		refuse(w, http.StatusMethodNotAllowed, "orders are forms: GET and POST")
	case !d.door.near(r):
		if post {
			head.Set("Connection", "close") // what it sends is not looked at
		}
		d.show(w, http.StatusForbidden, &deskView{Far: true, Ask: d.door.whereToAsk(r)})
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

// token is the hash of the token in force, "" if none is.
func (d *desk) token(now time.Time) string {
	r, err := readToken(d.state)
	if err == nil {
		return r.goodAt(now)
	}
	if _, ok := d.unread.take(now, 0); ok {
		d.log.Error("the token of the status page cannot be read, so nobody signs in", "err", err, "hint", "make it anew: sudo revolve page token")
	}
	return ""
}

// signedIn is the session of a request.
func (d *desk) signedIn(r *http.Request) (session, bool) {
	c, err := r.Cookie(d.cookie)
	now := time.Now()
	if err != nil {
		return session{}, false
	}
	token := d.token(now)
	if token == "" {
		return session{}, false
	}
	return d.sessions.of(c.Value, token, overTLS(r), now)
}

func (d *desk) get(w http.ResponseWriter, r *http.Request) {
	s, ok := d.signedIn(r)
	if !ok {
		d.show(w, http.StatusOK, &deskView{})
		return
	}
	v := &deskView{SignedIn: true, Form: s.form, Said: s.said}
	if r.Method == http.MethodGet { // nobody sees what answers a HEAD
		v.Said = d.sessions.told(s.id)
	}
	d.show(w, http.StatusOK, v)
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
		// A second click closes the first one's connection, and must not leave its order half way.
		ctx, cancel := context.WithTimeout(control.AsCaller(context.WithoutCancel(r.Context()), "signed in to the page"), orderWithin)
		defer cancel()
		defer context.AfterFunc(d.agent, cancel)()
		d.sessions.tell(s.id, d.carryOut(ctx, strings.TrimPrefix(r.URL.Path, deskPath+"/"), r.PostForm))
		d.hub.forget() // else the answer shows what was before it
	}
	http.Redirect(w, r, deskPath, http.StatusSeeOther)
}

func (d *desk) signIn(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	typed, token := strings.TrimSpace(r.PostForm.Get("token")), d.token(now)
	if len(typed) <= maxToken && same(hashOf(typed), token) {
		d.setCookie(w, r, d.sessions.begin(token, overTLS(r), now), int(sessionLife.Seconds()))
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
	http.SetCookie(w, &http.Cookie{Name: d.cookie, Value: value, Path: deskPath, MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: overTLS(r)})
}
