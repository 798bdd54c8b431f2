package send

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// sendBatch sends the beginning of the backlog as one batch.
func (s *Stream) sendBatch() error {
	n, most := min(len(s.backlog), batchRecords), s.batchMost()
	again := repeated(s.backlog[:n])
	sent := 0
	skipped := map[string]bool{} // left to a later record of this batch, which must therefore be in it
	for i, r := range s.backlog[:n] {
		if s.bytes > most && len(skipped) == 0 {
			break
		}
		s.later.pass(r)
		s.held -= pathBytes(r)
		sent = i + 1
		if r.Kind.IsChange() {
			s.pos = r.Pos
		} else if r.Kind == journal.Begun && s.pos.Term < r.Reign.Term {
			s.pos = cluster.Position{Term: r.Reign.Term} // a reign without changes is a position, too: a pull may end there
		}
		if again[i] {
			skipped[r.Path] = true
			continue
		}
		delete(skipped, r.Path)
		if r.Kind == journal.Tree && !s.later.renamed(r.Path) {
			s.trees = append(s.trees, treeJob{path: r.Path, extras: extrasOf(r), seq: r.Pos.Seq, ask: r.Below})
			break // what follows must come after the comparison
		}
		if err := s.record(r); err != nil {
			return err
		}
	}
	s.backlog = s.backlog[sent:]
	if len(s.backlog) == 0 {
		s.backlog = nil // let go of a large backlog's memory
	}
	return s.endBatchOf(sent)
}

func extrasOf(r journal.Record) wire.Extras {
	if r.Below {
		return wire.ExtrasAsk
	}
	return wire.ExtrasTrash
}

// repeated marks the records that a later one of the same batch makes needless:
// the same path dirty again with no rename or removal between.
func repeated(records []journal.Record) []bool {
	again := make([]bool, len(records))
	seen := map[string]bool{}
	for i := len(records) - 1; i >= 0; i-- {
		if records[i].Kind != journal.Dirty {
			clear(seen)
			continue
		}
		again[i] = seen[records[i].Path] && !records[i].Below
		seen[records[i].Path] = true
	}
	return again
}

// record sends what one journal record asks for.
func (s *Stream) record(r journal.Record) error {
	if r.Kind != journal.Dirty {
		clear(s.grouped) // a name of a group may go, or be another's
	}
	switch r.Kind {
	case journal.Begun:
		return s.op(wire.Op{Kind: wire.OpBegun, ID: uint64(r.Reign.Term), Old: string(r.Reign.Owner)})
	case journal.Tree: // what it was about will have another name: compared under that one
		s.lack(reconcile.Debt{Path: r.Path, Tree: true})
	case journal.Dirty:
		r.Below = r.Below && r.Path != "" // as versions before this one wrote
		if r.Below {
			if err := s.op(wire.Op{Kind: wire.OpDefer, Path: r.Path, Flag: true}); err != nil {
				return err
			}
		}
		if s.later.renamed(r.Path) {
			return s.missing(r.Path, r.Pos.Seq)
		}
		if r.Below {
			if _, err := s.o.Root.Glance(r.Path); tree.IsGone(err) { // as when the reign began, or a record says it: else nobody saw it go
				return s.op(wire.Op{Kind: wire.OpNone, Seq: r.Pos.Seq, Path: r.Path})
			}
		}
		return s.state1(r.Path, r.Pos.Seq)
	case journal.Removed:
		s.absent.Removed(r.Path)
		s.removeBig(r.Path)
		s.mu.Lock()
		s.big.gone(r.Path)
		s.mu.Unlock()
		s.recent.removed(r.Path)
		m, err := s.o.Root.Lstat(r.Path)
		s.proof.note(time.Now(), r.Path, "", err == nil && m.Kind == tree.Dir)
		if err == nil && m.Kind != tree.Dir {
			return s.state1(r.Path, r.Pos.Seq) // something else is there by now
		}
		if err := s.op(wire.Op{Kind: wire.OpRemove, Seq: r.Pos.Seq, Path: r.Path}); err != nil || m.Kind != tree.Dir || s.later.touched(r.Path) {
			return err
		}
		return s.wholeLater(r.Path) // another one is there, and no record says how it came: a survivor's, say
	case journal.Renamed:
		return s.rename(r)
	}
	return s.op(wire.Op{Kind: wire.OpNone, Seq: r.Pos.Seq, Path: r.Path})
}

func (s *Stream) removeBig(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.big.removed(path)
}

// rename sends a rename, and what the follower cannot have under the new name.
func (s *Stream) rename(r journal.Record) error {
	_, fresh := s.absent.Get(r.Old) // never sent: the follower need not look for it
	moved := s.absent.Renamed(r.Old, r.Path)
	s.mu.Lock()
	s.big.renamed(r.Old, r.Path)
	s.mu.Unlock()
	now, err := s.o.Root.Lstat(r.Path)
	there := err == nil && !s.later.renamed(r.Path)
	s.proof.renamed(r.Old, r.Path)
	s.proof.note(time.Now(), r.Path, r.Old, err == nil && now.Kind == tree.Dir)
	op := wire.Op{Kind: wire.OpRename, Seq: r.Pos.Seq, Path: r.Path, Old: r.Old, Flag: fresh}
	if there && now.Kind != tree.Other && !s.later.touched(r.Path) {
		op.Meta = now
	}
	if err := s.op(op); err != nil {
		return err
	}
	// Where another directory stands than the one that was sent, everything below may be another, too.
	whole := map[string]bool{}
	resend := s.recent.renamed(r.Old, r.Path, there && now.Kind == tree.Dir, func(path string) uint64 {
		m, err := s.o.Root.Lstat(path)
		if err != nil {
			return 0
		}
		whole[path] = m.Kind == tree.Dir
		return m.Inode
	})
	if there && s.several(now) && !slices.Contains(resend, r.Path) {
		if err := s.link(r.Path, now); err != nil {
			return err
		}
	}
	if there && now.Kind == tree.Dir && r.Pos.Compare(s.suspect) <= 0 {
		resend = append(resend, r.Path)
		whole[r.Path] = true
	}
	for _, d := range moved {
		if !slices.Contains(resend, d.Path) {
			resend = append(resend, d.Path)
		}
		whole[d.Path] = whole[d.Path] || d.Tree
	}
	for _, path := range resend {
		s.absent.Pay(path, true)
		if err := s.again(path, whole[path]); err != nil {
			return err
		}
	}
	// The old name is taken again: an exchange, or a new file. A later record will say it, or it has been folded away.
	if old, err := s.o.Root.Lstat(r.Old); err == nil && !s.later.touched(r.Old) {
		if old.Kind == tree.Dir {
			return s.wholeLater(r.Old)
		}
		return s.state1(r.Old, 0)
	}
	return nil
}

// again sends a path's state, or that of a whole tree, outside of the sequence,
// if it is to be read under this name.
func (s *Stream) again(path string, whole bool) error {
	switch {
	case s.later.renamed(path):
		s.lack(reconcile.Debt{Path: path, Tree: whole})
		return nil
	case whole:
		return s.wholeLater(path)
	}
	return s.state1(path, 0)
}

// wholeLater compares everything at path behind this batch. The follower owes it
// from this batch on: the connection may break between the two.
func (s *Stream) wholeLater(path string) error {
	s.trees = append(s.trees, treeJob{path: path, extras: wire.ExtrasTrash})
	return s.op(wire.Op{Kind: wire.OpTree, Path: path})
}

// missing notes that path cannot be read under this name now.
func (s *Stream) missing(path string, seq uint64) error {
	s.lack(reconcile.Debt{Path: path})
	if seq == 0 {
		return nil
	}
	return s.op(wire.Op{Kind: wire.OpNone, Seq: seq, Path: path})
}

// listed is answer for a name that a list told: the follower links it to the others of its inode itself.
func (s *Stream) listed(path string) error { return s.answerBy(path, false) }

// answer sends a path's state because the follower asked; nothing there means that it is removed.
func (s *Stream) answer(path string) error { return s.answerBy(path, true) }

func (s *Stream) answerBy(path string, all bool) error {
	m, err := s.glance(path)
	if tree.IsGone(err) || err == nil && m.Kind == tree.Other || s.o.Excluded(path) {
		if path == "" {
			return nil
		}
		s.recent.removed(path)
		if s.lacks(path) {
			return s.op(wire.Op{Kind: wire.OpDefer, Path: path}) // that it has not come yet does not say that it is gone
		}
		s.lookedAhead() // a rename of a directory above may still be to come: then it is there under another name
		return s.op(wire.Op{Kind: wire.OpRemove, Path: path})
	}
	found, small, err := s.lookNow(path, all, m, err)
	return s.tellState(path, 0, all, found, small, err)
}

// state1 sends the state of one path as it is now, for all names of its inode.
func (s *Stream) state1(path string, seq uint64) error { return s.stateOf(path, seq, true) }

// stateOf does that; all is false where it goes as if its inode had no other name.
func (s *Stream) stateOf(path string, seq uint64, all bool) error {
	found, small, err := s.look(path, seq, all)
	return s.tellState(path, seq, all, found, small, err)
}

// tellState sends what a look at the path has found. What the source itself owes there is not what the position says: the follower
// owes it as well.
func (s *Stream) tellState(path string, seq uint64, all bool, found look, small bool, err error) error {
	if err := s.tellFound(path, seq, all, found, small, err); err != nil || !s.lacks(path) {
		return err
	}
	return s.op(wire.Op{Kind: wire.OpDefer, Path: path})
}

// lacks reports whether the source itself owes what is at path.
func (s *Stream) lacks(path string) bool {
	_, owed := s.o.Owed.Get(path)
	return owed
}

func (s *Stream) tellFound(path string, seq uint64, all bool, found look, small bool, err error) error {
	if tree.IsGone(err) {
		return s.missing(path, seq)
	}
	if err != nil {
		return err
	}
	m := found.meta
	if small || m.Kind != tree.File {
		s.rests(path)
	}
	_, owed := s.absent.Get(path)
	s.absent.Pay(path, true)
	if all && s.several(m) && !small {
		return s.group(path, seq, m, owed)
	}
	s.recent.sent(path, m.Inode)
	switch {
	case m.Kind == tree.Dir:
		return s.op(wire.Op{Kind: wire.OpDir, Seq: seq, Path: path, Meta: m})
	case m.Kind == tree.Symlink:
		return s.op(wire.Op{Kind: wire.OpSymlink, Seq: seq, Path: path, Meta: m})
	case m.Kind.Special():
		return s.op(wire.Op{Kind: wire.OpNode, Seq: seq, Path: path, Meta: m})
	case m.Kind != tree.File:
		return s.op(wire.Op{Kind: wire.OpNone, Seq: seq, Path: path})
	case !small:
		return s.offer(path, seq, m)
	}
	s.removeBig(path)
	s.count(func(p *Progress) { p.Files++; p.Bytes += int64(len(found.data)) })
	return s.op(wire.Op{Kind: wire.OpFile, Seq: seq, Path: path, Flag: m.Holes, Meta: m, Data: found.data})
}

// look finds out what is at path; small says that it is a file whose content is
// there, too. For a record one stream does it for all, unless this one has given the follower something later.
func (s *Stream) look(path string, seq uint64, all bool) (found look, small bool, err error) {
	read := func() (look, bool, error) {
		m, err := s.glance(path)
		return s.lookNow(path, all, m, err)
	}
	if seq == 0 || s.pos.Compare(s.given) <= 0 {
		s.o.Reads.pass(s.taker, s.pos)
		return read()
	}
	return s.o.Reads.get(s.taker, s.pos, path, read)
}

// lookNow looks closer at what a glance has found.
func (s *Stream) lookNow(path string, all bool, m tree.Meta, err error) (look, bool, error) {
	if err == nil && (m.Kind != tree.File || m.Size > wire.InlineMax || all && s.several(m)) { // a small file's attributes are read with it
		m, err = s.o.Root.Lstat(path)
		return look{meta: m}, false, err
	}
	if err != nil {
		return look{}, false, err
	}
	m, data, err := s.readSmall(path)
	switch {
	case err != nil:
		return look{}, false, err
	case m.Kind != tree.File: // it does not stand still
		return look{}, false, fs.ErrNotExist
	case int64(len(data)) > wire.InlineMax:
		return look{meta: m}, false, nil
	}
	return look{m, data}, true, nil
}

// lookDir describes a directory in which something happened; fs.ErrNotExist if it is none now.
func (s *Stream) lookDir(dir string) (tree.Meta, error) {
	read := func() (look, bool, error) {
		m, err := s.o.Root.LookDir(dir)
		return look{meta: m}, err == nil, err
	}
	var found look
	var err error
	if s.pos.Compare(s.given) <= 0 {
		s.o.Reads.pass(s.taker, s.pos)
		found, _, err = read()
	} else {
		found, _, err = s.o.Reads.get(s.taker, s.pos, dir+"/", read)
	}
	return found.meta, err
}

// offer announces a large file; its content follows on the second connection if the follower wants it.
func (s *Stream) offer(path string, seq uint64, m tree.Meta) error {
	s.mu.Lock()
	id := s.big.offer(path, s.batch, m)
	s.mu.Unlock()
	return s.op(wire.Op{Kind: wire.OpDefer, Seq: seq, Path: path, ID: id, Meta: m})
}

// op writes one operation.
func (s *Stream) op(o wire.Op) error {
	o.Meta.Origin = originOf(o.Meta)
	if o.Seq == 0 && o.Kind != wire.OpDirTime && o.Kind != wire.OpTree {
		s.given = s.o.Journal.Position()
	}
	s.ops++
	s.bytes += len(o.Data) + len(o.Path) + len(o.Meta.Xattrs) + 64
	s.scratch = o.Append(s.scratch[:0])
	return s.conn.Write(wire.FrameOp, s.scratch, o.Data)
}

func (s *Stream) endIfFull() error {
	if s.ops < batchRecords && s.bytes < batchBytes {
		return nil
	}
	return s.endBatch()
}

func (s *Stream) endBatch() error { return s.endBatchOf(0) }

// endBatchOf closes the batch: tells the follower what it still cannot have,
// sets the times of the directories that were touched, and marks the position.
func (s *Stream) endBatchOf(records int) error {
	if err := errors.Join(s.tell(), s.owe()); err != nil {
		return err
	}
	if s.ops == 0 && records == 0 {
		return nil
	}
	for dir := range s.recent.takeDirs() {
		if s.later.renamed(dir) { // set under its last name
			s.recent.dirs[dir] = true
			continue
		}
		m, err := s.lookDir(dir)
		switch {
		case err == nil:
			if dir != "" {
				s.recent.noted(dir, m.Inode)
			}
			if err := s.op(wire.Op{Kind: wire.OpDirTime, Path: dir, Meta: m}); err != nil {
				return err
			}
		case tree.IsGone(err): // or no directory any more
			s.recent.went(dir)
		}
	}
	s.scratch = wire.Batch{Term: s.o.Reign.Term, Pos: s.pos}.Append(s.scratch[:0])
	s.marks = append(s.marks, mark{s.batch, s.pos, records, s.bytes, records == 0})
	s.flown += s.bytes
	s.batch++
	s.ops, s.bytes = 0, 0
	clear(s.grouped)
	if err := s.conn.Write(wire.FrameBatch, s.scratch); err != nil {
		return err
	}
	return s.conn.Flush()
}
