// Package metrics tells Prometheus how the cluster is, as this node sees it.
//
// A page of metrics is a function of one status (control.Status) and of what the
// kernel says of this process; the package measures nothing and decides nothing.
// What is not known has no sample, and is never shown as well. Labels are names of the
// configuration and words of fixed lists, so the number of series is bounded by the
// configuration; no text of another machine becomes a label.
//
//	mux.Handle("/metrics", metrics.Handler(snapshot))
package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"revolve/internal/control"
)

const (
	// freshFor is how long a page serves everybody: however many clients ask, a status is taken once in this time.
	freshFor = time.Second
	// perFresh is how many answers go out in that time; fifty scrapers that ask every second fit twice.
	perFresh = 100
)

// Handler answers GET with the metrics of snapshot. The page is made at most once a
// second, and after a hundred answers in that second the others are refused (429),
// so that a client cannot make it cost more.
func Handler(snapshot func() control.Status) http.Handler {
	return newHandler(snapshot, time.Now, lookAtProcess)
}

type handler struct {
	snapshot func() control.Status
	now      func() time.Time
	process  func() process

	mu    sync.Mutex // held while the page is made: who asks meanwhile waits for that one
	made  time.Time
	page  []byte
	given int // answers since it was made
}

func newHandler(snapshot func() control.Status, now func() time.Time, look func() process) *handler {
	return &handler{snapshot: snapshot, now: now, process: look}
}

// ServeHTTP answers one request. It reads nothing of it but the method.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "metrics are read with GET", http.StatusMethodNotAllowed)
		return
	}
	body, ok := h.take()
	if !ok {
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close") // who asks again at once has to connect first
		http.Error(w, "too many scrapes in this second", http.StatusTooManyRequests)
		return
	}
	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // the client has gone if this fails
	}
}

// take is the page of now, and whether it may go out once more.
func (h *handler) take() ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if age := h.now().Sub(h.made); h.page == nil || age >= freshFor || age < 0 {
		h.page, h.given = Render(h.snapshot(), h.process()), 0
		h.made = h.now()
	}
	h.given++
	return h.page, h.given <= perFresh
}
