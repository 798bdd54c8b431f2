package apply

import (
	"sync"
	"time"
)

const (
	// echoLast is how long the notification of an own change may take to come
	// back through a backend that does not tell whose it is (inotify).
	echoLast = 2 * time.Second
	// echoMax bounds the paths remembered.
	echoMax = 16384
)

// echo remembers what was changed here lately.
type echo struct {
	mu    sync.Mutex
	paths map[string]time.Time
}

func (e *echo) add(rel string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paths == nil {
		e.paths = map[string]time.Time{}
	}
	if len(e.paths) >= echoMax {
		for p, at := range e.paths {
			if now.Sub(at) > echoLast {
				delete(e.paths, p)
			}
		}
		if len(e.paths) >= echoMax {
			clear(e.paths)
		}
	}
	e.paths[rel] = now
}

func (e *echo) has(rel string, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, ok := e.paths[rel]
	return ok && now.Sub(at) <= echoLast
}
