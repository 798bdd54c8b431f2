package mirror

import (
	"context"
	"fmt"
	"time"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// settleEvery is the least time between the beginnings of two syncs of what was
// published ahead of its durability. A lone change is synced at once; a stream of
// them shares syncs, of which each costs a standby about 0.5 ms of CPU on three
// flushes (measured on ext4), so that 200 files a second cost 50 syncs.
const settleEvery = 20 * time.Millisecond

// publish shows what is staged, and leaves it to the settling to make it durable
// where promise P8 allows it.
func (s *session) publish() error {
	if s.pulling {
		return s.commit()
	}
	if s.o.applier.Sealed() { // between found a batch half staged and left it to the batch's end
		return s.commit()
	}
	if err := s.current(); err != nil {
		return err
	}
	flew, err := s.o.applier.Fly(s.batches)
	if err != nil {
		return s.localOr(err)
	}
	if !flew {
		return s.commit()
	}
	s.batches = 0
	if s.o.applier.Flying() > apply.MaxFlying {
		return s.commit() // the stream is faster than the disk: wait for it
	}
	select {
	case s.flown <- struct{}{}:
	default:
	}
	return nil
}

// current checks the term here, at the receiver, for everything that is published (promise P3).
func (s *session) current() error {
	if seen := s.v.e.o.Terms.Seen(); seen > s.reign.Term {
		return &problem.Problem{Op: "apply", Kind: problem.StaleTerm, Subject: string(s.conn.Peer()),
			Err: fmt.Errorf("reign %v is over: term %d has been seen", s.reign, seen)}
	}
	return nil
}

// settling makes durable what was published ahead, and acknowledges it.
func (s *session) settling(ctx context.Context) error {
	for last := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.flown:
		}
		if wait := settleEvery - time.Since(last); wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		last = time.Now()
		if err := s.settle(); err != nil {
			return err
		}
	}
}

// settle lands one flight. The lock is not held while the disk works.
func (s *session) settle() error {
	s.o.applying.Lock()
	f := s.o.applier.Depart()
	s.o.applying.Unlock()
	if f == nil {
		return nil // a commit came first
	}
	if err := f.Sync(s.o.root); err != nil {
		return s.localOr(err)
	}
	s.o.applying.Lock()
	err := s.o.applier.Land(f)
	s.o.applying.Unlock()
	if err != nil {
		return s.localOr(err)
	}
	if err := s.o.journal.Sync(); err != nil {
		return s.localOr(err)
	}
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	// Not s.batches: those are staged, and nothing of them is done.
	return s.acknowledge(s.o.applier.TakeLanded())
}

// acknowledge tells the source what is durable, and how many batches that answers.
// Everything journaled is durable: what is appended without a sync is appended and synced by
// settle itself.
func (s *session) acknowledge(batches uint64) error {
	if batches == 0 {
		return s.conn.Flush()
	}
	ack := wire.Ack{Pos: s.o.journal.Position(), Owed: uint64(s.o.journal.OwedLen()), Batches: batches}
	if err := s.conn.Write(wire.FrameAck, ack.Append(nil)); err != nil {
		return err
	}
	return s.conn.Flush()
}
