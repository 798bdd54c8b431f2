package send

import (
	"time"

	"revolve/internal/cluster"
)

// A follower that was given the present of a directory may have it under a name that a record to come tells of. So a
// directory's rename that may have happened before is compared behind its record, whatever is in it. Once the watcher
// has told of everything up to the giving, a rename is one record again.

// lookedAhead notes that the follower may have directories as they are now,
// under names that records to come will rename once more.
func (s *Stream) lookedAhead() {
	s.ahead = time.Now()
	s.given = s.o.Journal.Position()
	s.suspectTo(s.given)
}

func (s *Stream) suspectTo(p cluster.Position) {
	if p.Compare(s.suspect) > 0 {
		s.suspect = p
	}
}

// catchUp asks for what happened before the last look ahead to be journaled, once that has rested.
func (s *Stream) catchUp(now time.Time) {
	if s.o.Drain == nil || s.ahead.IsZero() || !s.asked.IsZero() || now.Sub(s.ahead) < aheadRests {
		return
	}
	s.asked = now
	s.ask <- struct{}{}
}

// caughtUp is told that what happened before catchUp asked is journaled. Where that failed it is asked again.
func (s *Stream) caughtUp(err error) {
	asked := s.asked
	s.asked = time.Time{}
	if err != nil || !s.ahead.Before(asked) { // or the follower was given something since
		return
	}
	s.ahead = time.Time{}
	s.suspectTo(s.o.Journal.Position())
}
