package peer

import (
	"sync"
	"time"
)

const (
	strangerPause = 10 * time.Second // one line per address in this time is enough to see it
	maxStrangers  = 64               // addresses remembered; beyond, nothing is logged until one is forgotten
)

// strangers bounds the log lines about refused connections: a scanner, or a node
// with an old identity that tries for ever, must not fill the disk.
type strangers struct {
	mu      sync.Mutex
	last    map[string]time.Time
	omitted int
}

func newStrangers() *strangers { return &strangers{last: map[string]time.Time{}} }

// say reports whether to log a refusal of host now, and how many were not logged since.
func (s *strangers) say(host string, now time.Time) (omitted int, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, t := range s.last {
		if now.Sub(t) >= strangerPause {
			delete(s.last, h)
		}
	}
	if _, recent := s.last[host]; recent || len(s.last) >= maxStrangers {
		s.omitted++
		return 0, false
	}
	s.last[host] = now
	omitted, s.omitted = s.omitted, 0
	return omitted, true
}
