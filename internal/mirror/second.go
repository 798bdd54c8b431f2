package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// maxAsked is how many transfers one frame asks for.
const maxAsked = 4096

// errRest says that the source has sent all (pull), and that the second connection still brings some of it.
var errRest = errors.New("mirror: the source has sent all but what its second connection brings")

// bulk keeps the second connection, once a large file is announced.
func (s *session) bulk(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.offered:
	}
	again := false
	for wait := retryLeast; ctx.Err() == nil; wait = min(2*wait, retryMost) {
		connected, err := s.bulkOnce(ctx, again)
		again = again || connected
		if err != nil && fatal(err) {
			return err
		}
		if s.ending.Load() {
			return s.allCame(ctx, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			s.v.bulkEnded(err) // the stream goes on: it was not the master that went
		}
	}
	return nil
}

// bulkEnded tells that large files have to begin anew.
func (v *volume) bulkEnded(err error) {
	v.mu.Lock()
	say := v.bulk.due(time.Now(), fmt.Sprint(err))
	v.mu.Unlock()
	if say {
		v.log.Info("the connection for large files broke; what was on its way begins again", "err", err)
	}
}

// askLost asks once more for what has not come: the source may have sent all of it into the connection that broke. It does not any
// more when the first frame of the next one comes.
func (s *session) askLost() error {
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	for ids := s.o.applier.Unsealed(); len(ids) > 0; {
		n := min(len(ids), maxAsked)
		s.wants.IDs, ids = append(s.wants.IDs, ids[:n]...), ids[n:]
		if err := s.sendWants(); err != nil {
			return err
		}
	}
	return nil
}

// end ends a pull when the source has sent all. Its large files come over another connection, and perhaps later: to end
// before they are here would settle them as debts that nobody can pay. The lock is held.
func (s *session) end() error {
	if s.o.applier.Coming() == 0 {
		return errEnd
	}
	s.ending.Store(true)
	if len(s.o.applier.Unsealed()) == 0 {
		if err := s.commitRest(); err != nil {
			return err
		}
		return errRest
	}
	if s.second != nil { // all that is to come is on its way
		if err := s.second.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
	}
	return errRest
}

// commitRest publishes what came after the source had said that it has sent all; nobody hears answers any more.
func (s *session) commitRest() error {
	if err := s.commitStaged(); err != nil {
		return err
	}
	if n := len(s.wants.Trees) + len(s.wants.Names) + len(s.wants.IDs); n > 0 {
		return &problem.Problem{Op: "take changes", Kind: problem.Unavailable, Subject: string(s.conn.Peer()), Err: fmt.Errorf("%d questions are left", n)}
	}
	if s.o.applier.Coming() == 0 {
		return errEnd
	}
	return nil
}

// allCame ends the second connection of a pull; what is complete is published by whoever ends the session.
func (s *session) allCame(ctx context.Context, why error) error {
	if n := len(s.o.applier.Unsealed()); n > 0 && ctx.Err() == nil {
		return &problem.Problem{Op: "take changes", Kind: problem.Unavailable, Subject: string(s.conn.Peer()),
			Err: fmt.Errorf("%d large files did not come to their end: %w", n, why)}
	}
	return nil
}

// bulkOnce takes what one connection brings; again says that there was one before, which may have taken something along.
func (s *session) bulkOnce(ctx context.Context, again bool) (connected bool, err error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writeJSON(conn, wire.FrameHello, wire.Hello{Volume: s.v.c.Name, Reign: s.reign}); err != nil {
		return true, err
	}
	s.o.applier.Anew()
	s.hasSecond(conn)
	defer s.hasSecond(nil)
	for {
		if s.ending.Load() {
			if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
				return true, err
			}
		}
		kind, payload, err := conn.Read()
		if err != nil {
			return true, err
		}
		if again {
			if err := s.askLost(); err != nil {
				return true, err
			}
			again = false
		}
		if err := s.bulkFrame(kind, payload); err != nil {
			return true, err
		}
	}
}

func (s *session) hasSecond(conn Conn) {
	s.o.applying.Lock()
	defer s.o.applying.Unlock()
	s.second = conn
}

// bulkBase takes the frames of a transfer that tells only what changed.
func (s *session) bulkBase(kind byte, payload []byte) error {
	id, rest, err := wire.DecodeID(payload)
	n, rest, err2 := wire.DecodeID(rest)
	mtime := uint64(0)
	var err3 error
	if kind == wire.FrameBulkBase {
		mtime, rest, err3 = wire.DecodeID(rest)
	}
	if err = errors.Join(err, err2, err3); err != nil || len(rest) > 0 || n > math.MaxInt64 {
		return corrupt(fmt.Errorf("bulk base: %w", err))
	}
	if kind == wire.FrameBulkBase {
		return s.localOr(s.o.applier.Base(id, int64(n), int64(mtime)))
	}
	return s.localOr(s.o.applier.Keep(id, int64(n)))
}

func (s *session) bulkFrame(kind byte, payload []byte) error {
	switch kind {
	case wire.FrameBulkData:
		id, data, err := wire.DecodeID(payload)
		if err != nil {
			return corrupt(err)
		}
		return s.localOr(s.o.applier.Data(id, data))
	case wire.FrameBulkHole:
		id, rest, err := wire.DecodeID(payload)
		length, rest, err2 := wire.DecodeID(rest)
		if err = errors.Join(err, err2); err != nil || len(rest) > 0 || length > math.MaxInt64 {
			return corrupt(fmt.Errorf("bulk hole: %w", err))
		}
		return s.localOr(s.o.applier.Hole(id, int64(length)))
	case wire.FrameBulkBase, wire.FrameBulkKeep:
		return s.bulkBase(kind, payload)
	case wire.FrameBulkDone:
		op, err := wire.DecodeOp(payload)
		if err != nil {
			return corrupt(err)
		}
		if err := s.o.applier.Seal(op.ID, op.Meta); err != nil {
			return s.localOr(err)
		}
		select {
		case s.sealed <- struct{}{}:
		default:
		}
		return nil
	case wire.FrameBulkGone:
		id, _, err := wire.DecodeID(payload)
		if err != nil {
			return corrupt(err)
		}
		s.o.applier.Gone(id)
		return nil
	}
	return corrupt(fmt.Errorf("unexpected bulk frame %d", kind))
}
