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
	paths map[string]echoed
}

type echoed struct {
	at   time.Time
	gone bool // what was done last took it away
}

func (e *echo) add(rel string, gone bool, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paths == nil {
		e.paths = map[string]echoed{}
	}
	if len(e.paths) >= echoMax {
		for p, was := range e.paths {
			if now.Sub(was.at) > echoLast {
				delete(e.paths, p)
			}
		}
		if len(e.paths) >= echoMax {
			clear(e.paths)
		}
	}
	e.paths[rel] = echoed{now, gone}
}

func (e *echo) has(rel string, now time.Time) (gone, changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	was, ok := e.paths[rel]
	return was.gone, ok && now.Sub(was.at) <= echoLast
}
