package watch

import (
	"slices"
	"strings"
	"time"
)

// settling holds the files that are being written and were not closed yet. It
// decides when to report them; it is pure: time comes in as a value.
//
// A file waits for its close, for quiet, or at most for maxSettle since the
// first change that was not reported, whichever comes first. A rename carries a waiting file
// to its new name and a removal drops it, so what is reported later is still
// true at that place of the stream.
type settling struct {
	quiet   time.Duration
	waiting map[string]unsettled
	order   uint64    // of the next one to wait
	soonest time.Time // nothing is due before; may be early, never late
}

// unsettled is one waiting file.
type unsettled struct {
	order uint64 // reports keep the order of first changes
	first time.Time
	last  time.Time
}

const (
	// maxSettle bounds how stale a standby gets by a file that is written without a pause.
	maxSettle = 2 * time.Second
	// maxUnsettled bounds the files waiting (about 0.5 MiB of paths); more are
	// reported early, which costs a second look at each and nothing else.
	maxUnsettled = 4096
)

func newSettling(quiet time.Duration) *settling {
	return &settling{quiet: quiet, waiting: make(map[string]unsettled)}
}

// touch says that the path was written at now. It returns the paths to report
// right away because there is no room for more.
func (s *settling) touch(path string, now time.Time) (flushed []string) {
	u, known := s.waiting[path]
	if !known {
		if len(s.waiting) >= maxUnsettled {
			flushed = s.flush()
		}
		u = unsettled{order: s.order, first: now}
		s.order++
	}
	u.last = now
	s.waiting[path] = u
	if due := s.deadline(u); s.soonest.IsZero() || due.Before(s.soonest) {
		s.soonest = due
	}
	return flushed
}

// done says that the path was reported for another reason and has nothing left to wait for.
func (s *settling) done(path string) { delete(s.waiting, path) }

// drop forgets the path and, for a directory, all below it: they are gone.
func (s *settling) drop(path string, dir bool) {
	delete(s.waiting, path)
	if !dir || len(s.waiting) == 0 {
		return
	}
	for p := range s.waiting {
		if below(p, path) {
			delete(s.waiting, p)
		}
	}
}

// move carries what waits at old, and for a directory below it, over to path;
// what waited at path is gone.
func (s *settling) move(old, path string, dir bool) {
	s.drop(path, dir)
	if u, ok := s.waiting[old]; ok {
		delete(s.waiting, old)
		s.waiting[path] = u
	}
	if !dir || len(s.waiting) == 0 {
		return
	}
	moved := make(map[string]unsettled)
	for p, u := range s.waiting {
		if below(p, old) {
			delete(s.waiting, p)
			moved[path+p[len(old):]] = u
		}
	}
	for p, u := range moved {
		s.waiting[p] = u
	}
}

// due takes out the paths whose time has come, in the order of their first change.
func (s *settling) due(now time.Time) []string {
	if len(s.waiting) == 0 || now.Before(s.soonest) {
		return nil
	}
	s.soonest = time.Time{}
	return s.take(func(u unsettled) bool {
		at := s.deadline(u)
		if !at.After(now) {
			return true
		}
		if s.soonest.IsZero() || at.Before(s.soonest) {
			s.soonest = at
		}
		return false
	})
}

// flush takes out all paths, in the order of their first change.
func (s *settling) flush() []string {
	s.soonest = time.Time{}
	return s.take(func(unsettled) bool { return true })
}

// next is when due has to be asked again; false if nothing waits.
func (s *settling) next() (time.Time, bool) { return s.soonest, len(s.waiting) > 0 }

func (s *settling) deadline(u unsettled) time.Time {
	quiet, most := u.last.Add(s.quiet), u.first.Add(maxSettle)
	if most.Before(quiet) {
		return most
	}
	return quiet
}

func (s *settling) take(want func(unsettled) bool) []string {
	type item struct {
		path  string
		order uint64
	}
	var items []item
	for p, u := range s.waiting {
		if want(u) {
			items = append(items, item{p, u.order})
			delete(s.waiting, p)
		}
	}
	slices.SortFunc(items, func(a, b item) int { return int(int64(a.order - b.order)) })
	paths := make([]string, len(items))
	for i, it := range items {
		paths[i] = it.path
	}
	return paths
}

// below reports whether path lies under dir; both relative to the root, dir not ".".
func below(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && strings.HasPrefix(path, dir)
}
