package apply

import (
	"sync"
	"time"

	"revolve/internal/mirror/tree"
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

// touch remembers the directory whose names changed, and that it was us.
func (a *Applier) touch(rel string) { a.touchAs(rel, false) }

// touchGone is touch for a name that goes; it is called before it does.
func (a *Applier) touchGone(rel string) { a.touchAs(rel, true) }

func (a *Applier) touchAs(rel string, gone bool) {
	a.touched[tree.Parent(rel)] = true
	a.echo.add(rel, gone, a.o.Now())
	if a.o.Published != nil {
		a.o.Published(rel)
	}
}

// Applied reports whether what is at rel, or that nothing is there, is this applier's doing: what else
// a notification may be about that does not tell whose it is. It may be called from any goroutine.
func (a *Applier) Applied(rel string) bool {
	gone, changed := a.echo.has(rel, a.o.Now())
	m, err := a.o.Root.Glance(rel)
	switch {
	case tree.IsGone(err):
		return changed && gone
	case err != nil || m.Kind == tree.Dir || m.Kind == tree.Other:
		return changed
	}
	return a.own.of(m, a.o.stamp()) == ours
}
