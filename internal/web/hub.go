package web

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// renderEvery is how often the page is made anew while somebody looks.
const renderEvery = time.Second

// hub has the newest rendering, made once for everybody, and tells the followers of it.
type hub struct {
	source   func() Snapshot
	renderer *renderer
	renders  atomic.Int64

	making sync.Mutex // one is made at a time
	newest *frame
	made   time.Time

	mu        sync.Mutex
	followers map[*follower]struct{}
}

// follower is a client that is told of every new frame; one that is slow misses some.
type follower struct{ frames chan *frame }

func newHub(source func() Snapshot) (*hub, error) {
	r, err := newRenderer()
	return &hub{source: source, renderer: r, followers: map[*follower]struct{}{}}, err
}

// current is the newest rendering, not older than renderEvery.
func (h *hub) current() (*frame, error) {
	h.making.Lock()
	defer h.making.Unlock()
	// Half of it is left for the ticker that makes the next one: it may come a moment early.
	if h.newest != nil && time.Since(h.made) < renderEvery-renderEvery/20 {
		return h.newest, nil
	}
	f, err := h.renderer.render(h.source())
	if err != nil {
		return nil, err
	}
	h.renders.Add(1)
	h.newest, h.made = f, time.Now()
	return f, nil
}

// forget has the next rendering made anew.
func (h *hub) forget() {
	h.making.Lock()
	defer h.making.Unlock()
	h.newest = nil
}

// master is who leads now, as this node sees it.
func (h *hub) master() string {
	h.making.Lock()
	defer h.making.Unlock()
	return h.source().Status.Master
}

// follow is nil if there are too many.
func (h *hub) follow() *follower {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.followers) >= maxFollow {
		return nil
	}
	f := &follower{frames: make(chan *frame, 1)}
	h.followers[f] = struct{}{}
	return f
}

func (h *hub) leave(f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, f)
}

// run makes a rendering every second while somebody follows.
func (h *hub) run(ctx context.Context, log *slog.Logger) {
	var said time.Time
	tick := time.NewTicker(renderEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := h.spread(); err != nil && time.Since(said) > listenQuiet {
				said = time.Now()
				log.Error("the status page stands still", "err", err)
			}
		}
	}
}

func (h *hub) spread() error {
	h.mu.Lock()
	n := len(h.followers)
	h.mu.Unlock()
	if n == 0 {
		return nil
	}
	f, err := h.current()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.followers {
		select {
		case <-x.frames: // it has not fetched the one before: the newest is enough
		default:
		}
		x.frames <- f // only here is it filled, so there is room
	}
	return nil
}
