package send

import (
	"context"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/wire"
)

// A comparison gives the follower the present, ahead of the records that tell of it. If the source dies before it
// has sent those, two followers that were compared at different moments differ at one position, and nothing would
// ever say so. So the follower owes the volume until it has the records of everything that the comparison may have
// seen: a reign that begins before compares it anew.

// holdRounds is how often everything is journaled and sent before a comparison counts as paid. What is read for the
// records of the first round may be ahead once more, for the follower was given something later than they are; those
// of the second are read once for all followers.
const holdRounds = 2

// unpaid is a comparison of the whole volume that has ended and is still owed.
type unpaid struct {
	until cluster.Position
	round int
}

// hold keeps what was compared owed, if it can be ahead of the records.
func (s *Stream) hold(ctx context.Context) error {
	s.unpaid = &unpaid{}
	return s.nextRound(ctx)
}

// nextRound has everything journaled that was changed up to now.
func (s *Stream) nextRound(ctx context.Context) error {
	if err := s.hear(ctx); err != nil {
		return err
	}
	s.unpaid.round++
	s.unpaid.until = s.o.Journal.Position()
	return nil
}

// hear has the source told of every change so far, and pings meanwhile.
func (s *Stream) hear(ctx context.Context) error {
	if err := s.conn.Flush(); err != nil {
		return err
	}
	ask := s.ask
	if !s.asked.IsZero() { // that was before now: its answer first
		ask = nil
	}
	late := time.NewTicker(pingEvery)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ask <- struct{}{}:
			ask = nil
		case err := <-s.heard:
			if s.asked.IsZero() {
				return err
			}
			s.caughtUp(err)
			ask = s.ask
		case <-late.C:
			if err := s.ping(); err != nil {
				return err
			}
		}
	}
}

// hearing does what hear waits for: frames and pings must not wait for the kernel.
func (s *Stream) hearing(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ask:
			err := s.o.Drain(ctx)
			select {
			case s.heard <- err:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// holds reports whether the next batch waits: the follower has the records, and may be about to ask for what a
// rename among them found missing. To be paid for that with the volume would forget the question.
func (s *Stream) holds() bool { return s.unpaid != nil && s.pos.Compare(s.unpaid.until) >= 0 }

// release pays the comparison once the follower has all that it was to wait for, and the answers to what it asked for.
func (s *Stream) release(ctx context.Context) error {
	if len(s.marks) > 0 || s.ops > 0 {
		return s.endBatch()
	}
	if s.unpaid.round < holdRounds {
		return s.nextRound(ctx)
	}
	s.unpaid = nil
	s.note(func(st *State) { st.Busy = false })
	if err := s.payTree(""); err != nil {
		return err
	}
	return s.endBatch()
}

// payTree says that the comparison of a tree is over.
func (s *Stream) payTree(path string) error {
	return s.op(wire.Op{Kind: wire.OpPaid, Path: path})
}
