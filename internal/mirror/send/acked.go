package send

import (
	"fmt"
	"slices"
	"time"

	"revolve/internal/mirror/wire"
)

func (s *Stream) acked(ack wire.Ack) error {
	// One acknowledgement may cover several batches: a follower commits what it has.
	done := int(ack.Batches)
	if ack.Batches > uint64(len(s.marks)) {
		return fmt.Errorf("send: acknowledgement of %d batches when %d are under way", ack.Batches, len(s.marks))
	}
	if done > 0 {
		s.mu.Lock()
		s.big.forget(s.marks[done-1].batch)
		s.meter.acked(s.marks[:done])
		s.mu.Unlock()
		for _, m := range s.marks[:done] {
			s.flown -= m.bytes
		}
		s.marks = s.marks[done:]
	}
	if ack.Owed == 0 {
		s.mu.Lock()
		s.big.came()
		s.mu.Unlock()
	}
	pending := len(s.backlog) + s.underway()
	s.note(func(st *State) {
		st.Acked, st.Owed, st.LastAck, st.Pending = ack.Pos, ack.Owed, time.Now(), pending
	})
	s.settle()
	if s.o.Acked != nil {
		s.o.Acked(ack.Pos)
	}
	return nil
}

// settle notes how far everything has come if nothing besides the records is
// due: no comparison, no answer that is not acknowledged.
func (s *Stream) settle() {
	due := len(s.trees)+len(s.proof.due) > 0 || s.lists > 0 || s.ops > 0 || slices.ContainsFunc(s.marks, func(m mark) bool { return m.extra })
	s.note(func(st *State) {
		if !due && !st.Busy {
			st.Settled = st.Acked
		}
	})
}
