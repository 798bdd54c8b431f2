package web

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// policy lets a browser load nothing but our own files, and run nothing that came with data
// (Content Security Policy Level 3): what a peer says cannot become a script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// site answers requests.
type site struct {
	hub   *hub
	names []string
	mux   *http.ServeMux
	asks  *bucket
	desk  *desk // nil: no orders are taken
}

func newSite(h *hub, o Options) *site {
	s := &site{hub: h, names: o.Names, mux: http.NewServeMux(), asks: newBucket(asksPer, asksBurst)}
	s.mux.HandleFunc("GET /{$}", s.page)
	s.mux.HandleFunc("GET /events", s.events)
	s.mux.HandleFunc("GET /status.json", s.json)
	for _, a := range h.renderer.assets {
		s.mux.HandleFunc("GET "+a.path, a.serve)
	}
	s.mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, h.renderer.icon(""), http.StatusFound)
	})
	if o.Metrics != nil {
		s.mux.Handle("GET /metrics", o.Metrics)
	}
	if o.Orders != nil {
		s.desk = newDesk(h, o)
	}
	return s
}

// ServeHTTP checks what every request must fulfil.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerWithin)) // what it sends must end, also if nobody reads it
		defer hearOut(w, r)
	}
	if s.desk != nil && isDesk(r.URL.Path) {
		s.atDesk(w, r)
		return
	}
	now := time.Now()
	wait, ok := s.asks.take(now, askPatience)
	switch {
	case !ok:
		refuse(w, http.StatusTooManyRequests, "too many requests; try again in a moment")
		return
	case r.ContentLength != 0:
		refuse(w, http.StatusRequestEntityTooLarge, "a request has no body here: the page only shows")
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		head.Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "the page only shows; orders are given with the command revolve, on a node, or at "+deskPath)
		return
	case !s.isHome(r.Host):
		refuse(w, http.StatusMisdirectedRequest, notHome)
		return
	}
	if wait > 0 {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(together(now, wait)):
		}
	}
	s.mux.ServeHTTP(w, r)
}

// atDesk is a request about orders.
func (s *site) atDesk(w http.ResponseWriter, r *http.Request) {
	if !s.desk.mayAsk(r, s.asks, time.Now()) {
		refuse(w, http.StatusTooManyRequests, "too many requests; try again in a moment")
		return
	}
	if !s.isHome(r.Host) {
		refuse(w, http.StatusMisdirectedRequest, notHome)
		return
	}
	s.desk.serve(w, r)
}

const notHome = "the configuration does not know the name you ask by: use the address, or list the name under web: names:"

// hearOut reads what is left of a request's body to the bin, after the answer. A connection that is closed with something unread
// in it is reset, and may take the answer with it (RFC 9112, 9.6). net/http does the same, but not for who asked with
// "Connection: close".
func hearOut(w http.ResponseWriter, r *http.Request) {
	if !r.Close || r.Header.Get("Expect") != "" { // who expects to be told to go on sends nothing after an answer
		return
	}
	_ = http.NewResponseController(w).Flush()
	_, _ = io.CopyN(io.Discard, r.Body, maxUnread) // it may have been read already, or never end
}

// refuse answers in words, and ends the connection: what else is in it means nothing.
func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Retry-After", "10")
	http.Error(w, why, status)
}

// isHome reports whether a request asks for us. A page of the wide world can make its own name
// point here (DNS rebinding) and would then read the answers; it cannot make such a name.
func (s *site) isHome(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") && host != "" {
		return true
	}
	for _, suffix := range []string{".lan", ".local", ".internal", ".home.arpa"} { // RFC 6762, RFC 8375; nobody can register them
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return slices.Contains(s.names, host)
}

func (s *site) page(w http.ResponseWriter, r *http.Request) {
	f, err := s.hub.current()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "the page cannot be made: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store") // an old page must not look like a new one
	body := f.page
	w.Header().Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		body = f.packed
	}
	_, _ = w.Write(body) // the client has gone if this fails
}

func (s *site) json(w http.ResponseWriter, _ *http.Request) {
	f, err := s.hub.current()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "the status cannot be made: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(f.json) // the client has gone if this fails
}

// events sends what has changed, every second, and that nothing has.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	me := s.hub.follow()
	if me == nil {
		refuse(w, http.StatusServiceUnavailable, "too many follow this page already; it can be reloaded")
		return
	}
	defer s.hub.leave(me)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that keeps events back makes the page stale (nginx, ngx_http_proxy_module)
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	last, err := s.hub.current()
	if err != nil || r.Method == http.MethodHead {
		return
	}
	for f, before := last, (*frame)(nil); ; {
		if out.SetWriteDeadline(time.Now().Add(writeWithin)) != nil {
			return
		}
		if f.since(before, w) != nil || out.Flush() != nil {
			return
		}
		before = f
		select {
		case <-r.Context().Done():
			return
		case f = <-me.frames:
		}
	}
}
