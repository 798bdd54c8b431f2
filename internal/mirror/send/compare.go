package send

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/zeebo/blake3"

	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// runTree does one job between batches: the state of one path, or a comparison
// of everything below it.
func (s *Stream) runTree(ctx context.Context, job treeJob) error {
	if job.settles {
		if err := s.payTree(job.path); err != nil {
			return err
		}
		return s.endBatch()
	}
	if job.extras == 0 {
		if _, err := s.o.Root.Lstat(job.path); job.debt && tree.IsGone(err) {
			// The rename that explains it may lie in the backlog; if none does, tick tells what is there.
			s.lack(reconcile.Debt{Path: job.path})
			s.told[job.path] = time.Now()
			return nil
		}
		if err := s.answerTo(job); err != nil {
			return err
		}
		if len(s.trees) == 0 || s.ops >= batchRecords {
			return s.endBatch()
		}
		return nil
	}
	s.note(func(st *State) { st.Busy, st.Began = true, time.Now() })
	defer func() { s.note(func(st *State) { st.Busy = s.unpaid != nil }) }()
	if err := s.op(wire.Op{Kind: wire.OpTree, Seq: job.seq, Path: job.path, Flag: job.ask}); err != nil {
		return err
	}
	if err := s.endBatch(); err != nil {
		return err
	}
	var met seen // inodes with several names: those of the whole volume are all in it
	if job.path != "" {
		met = seen{}
	}
	if err := s.compare(ctx, job, met); err != nil {
		return err
	}
	s.lookedAhead()
	s.recent.touched(job.path) // the comparison sets the times of all directories but the one above
	if job.path == "" && s.o.Drain != nil {
		return s.hold(ctx)
	}
	return s.linkOut(ctx, job.path, s.reaching(met))
}

// compare walks the tree and lets the follower ask for what differs.
func (s *Stream) compare(ctx context.Context, job treeJob, met seen) error {
	m, err := s.o.Root.Lstat(job.path)
	if err != nil || m.Kind != tree.Dir {
		return s.answer(job.path)
	}
	s.jobs++
	id := s.jobs
	dirs := []string{job.path}
	for len(dirs) > 0 || s.lists > 0 {
		if len(dirs) > 0 && s.lists < windowLists {
			if err := s.pause(ctx); err != nil {
				return err
			}
			dir := dirs[len(dirs)-1]
			below, err := s.list(ctx, id, dir, job.extras, met)
			if err != nil {
				return err
			}
			dirs = append(dirs[:len(dirs)-1], below...)
			continue
		}
		if err := s.await(ctx); err != nil {
			return err
		}
	}
	if err := s.endBatch(); err != nil {
		return err
	}
	s.job, s.over = id, nil
	if err := s.conn.Write(wire.FrameTreeEnd, wire.AppendID(nil, id)); err != nil {
		return err
	}
	for {
		if s.over != nil {
			s.job, s.over = 0, nil
			return nil
		}
		if err := s.await(ctx); err != nil {
			return err
		}
	}
}

// await flushes and handles one frame of the follower's.
func (s *Stream) await(ctx context.Context) error {
	if err := s.conn.Flush(); err != nil {
		return err
	}
	late := time.NewTimer(pingEvery)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case f := <-s.in:
		return s.handle(ctx, f)
	case <-late.C:
		return s.ping()
	}
}

// list sends one directory and returns the directories in it.
func (s *Stream) list(ctx context.Context, job uint64, dir string, extras wire.Extras, met seen) (below []string, err error) {
	m, err := s.o.Root.Lstat(dir)
	if err != nil || m.Kind != tree.Dir {
		return nil, nil // it went meanwhile; a record will say so
	}
	names, err := s.o.Root.Names(dir)
	if tree.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	l, bytes := wire.List{Job: job, Dir: dir, Extras: extras, Meta: m}, 0
	for part := range slices.Chunk(names, wire.ListMax) { // a directory may have millions
		entries, err := s.o.Root.Entries(dir, part)
		if tree.IsGone(err) {
			return below, nil // nothing is said about the rest; a record will
		}
		if err != nil {
			return nil, fmt.Errorf("compare: %w", err)
		}
		for _, e := range entries {
			rel := tree.Join(dir, e.Name)
			if e.Meta.Kind == tree.Other || s.o.Excluded(rel) {
				continue
			}
			if e.Meta.Kind == tree.Dir {
				below = append(below, rel)
			}
			s.see(met, rel, &e.Meta)
			e.Meta.Origin = originOf(e.Meta)
			bytes += entryBytes(e)
			if n := len(l.Entries); n == wire.ListMax || n > 0 && bytes > wire.ListBytes {
				l.To = l.Entries[n-1].Name
				if err := s.sendPart(ctx, &l); err != nil {
					return nil, err
				}
				l.From, l.To, l.Entries, bytes = l.To, "", l.Entries[:0], entryBytes(e)
			}
			l.Entries = append(l.Entries, e)
		}
	}
	return below, s.sendPart(ctx, &l)
}

// sendPart sends a list to which more parts belong, once there is room for one more.
func (s *Stream) sendPart(ctx context.Context, l *wire.List) error {
	for s.lists >= windowLists {
		if err := s.await(ctx); err != nil {
			return err
		}
	}
	return s.sendList(l)
}

// entryBytes is about what an entry takes in a list.
func entryBytes(e tree.Entry) int { return len(e.Name) + len(e.Meta.Target) + len(e.Meta.Xattrs) + 64 }

func (s *Stream) sendList(l *wire.List) error {
	s.lists++
	s.given = s.o.Journal.Position()
	s.count(func(p *Progress) { p.Names += int64(len(l.Entries)) })
	s.scratch = l.Append(s.scratch[:0])
	return s.conn.Write(wire.FrameList, s.scratch)
}

// hasSum reports whether the small file at path holds what the follower's does, which looked the same.
func (s *Stream) hasSum(path string, sum []byte) bool {
	if len(sum) == 0 {
		return false
	}
	m, data, err := s.readSmall(path)
	if err != nil || m.Kind != tree.File || int64(len(data)) > wire.InlineMax {
		return false
	}
	have := blake3.Sum256(data)
	return bytes.Equal(have[:], sum)
}

// answerTo answers for one path that the follower owes.
func (s *Stream) answerTo(job treeJob) error {
	if len(job.sum) == 0 || s.o.Excluded(job.path) {
		return s.answer(job.path)
	}
	m, data, err := s.readSmall(job.path)
	if err != nil || m.Kind != tree.File || int64(len(data)) > wire.InlineMax || s.several(m) || !bytes.Equal(wire.SumOf(m, data), job.sum) {
		return s.answer(job.path)
	}
	s.absent.Pay(job.path, true)
	s.removeBig(job.path)
	s.rests(job.path)
	s.recent.sent(job.path, m.Inode)
	return s.op(wire.Op{Kind: wire.OpSame, Path: job.path, Meta: m})
}
