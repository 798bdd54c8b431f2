package send

import (
	"context"
	"slices"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// This file is about inodes with several names. Whatever happens through one of
// them is sent for all, in one operation, so that a follower's position never lies above a
// change that it has under one name only. A small file's content comes with it; the follower
// takes its own instead where that is the same, byte for byte. A large one is offered under one name,
// and the other names are owed until it is there.

const (
	// scanPatience is how long a stream waits for the names of a group before it owes the group and goes on with other files.
	scanPatience = 50 * time.Millisecond
	// maxSeen bounds the inodes with several names that one comparison counts (48 bytes each); groups beyond that reach out of its tree are linked by the next change.
	maxSeen = 1 << 20
)

// several reports whether the inode's other names have to be told as well.
func (s *Stream) several(m tree.Meta) bool {
	return m.Links > 1 && m.Kind != tree.Dir && m.Kind != tree.Other && s.o.Links != nil
}

// names are the other names under which the inode at path is to be read now.
// sure is false if they are still looked for.
func (s *Stream) names(path string, m tree.Meta) (names []string, sure bool) {
	scanned := s.o.Links.Scanned()
	all, sure := s.o.Links.Names(path, m)
	if !sure && !s.scanning() { // waited for once, not for each group
		late := time.NewTimer(scanPatience)
		defer late.Stop()
		select {
		case <-scanned:
			all, sure = s.o.Links.Names(path, m)
		case <-late.C:
			s.scan = scanned
		}
	}
	for _, name := range all {
		if name != path && !s.o.Excluded(name) && !s.later.renamed(name) {
			names = append(names, name)
		}
	}
	return names, sure
}

// scanning reports whether the search that a group waits for is still under way.
func (s *Stream) scanning() bool {
	select {
	case <-s.scan:
		s.scan = nil
	default:
	}
	return s.scan != nil
}

// unsure owes path until the names of its inode are known.
func (s *Stream) unsure(path string, seq uint64) error {
	s.looking[path] = true
	return s.missing(path, seq)
}

// group sends the state of an inode with several names, of which path is one; owed says that the follower lacks it under this name.
func (s *Stream) group(path string, seq uint64, m tree.Meta, owed bool) error {
	if was, known := s.recent.inodes[path]; known && was == m.Inode && seq != 0 && !owed && s.grouped[m.Inode] == m.CTime {
		// Sent in this batch, and not changed since: a change is told under each of the names.
		return s.op(wire.Op{Kind: wire.OpNone, Seq: seq, Path: path})
	}
	names, sure := s.names(path, m)
	if !sure {
		return s.unsure(path, seq)
	}
	o := wire.Op{Kind: wire.OpGroup, Seq: seq, Path: path, How: wire.GroupData, Meta: m}
	switch {
	case m.Kind == tree.File && m.Size > wire.InlineMax:
		if s.coming(names) {
			return s.missing(path, seq) // what comes is this; then all names are told
		}
		o.How, o.ID = wire.GroupOffer, s.offerID(path, names, m)
	case m.Kind == tree.File:
		now, data, err := s.readSmall(path)
		switch {
		case err != nil && !tree.IsGone(err):
			return err
		case err != nil || now.Kind != tree.File || now.Inode != m.Inode || int64(len(data)) > wire.InlineMax:
			return s.missing(path, seq) // another one, or it grew: looked at again soon
		}
		o.Meta, o.Data, o.Flag = now, data, now.Holes
		s.rests(path)
		s.removeBig(path)
		for _, name := range names {
			s.removeBig(name)
		}
	}
	s.grouped[m.Inode] = o.Meta.CTime
	return s.groupOps(o, names)
}

// groupOps sends the group in as many operations as its names need.
func (s *Stream) groupOps(o wire.Op, names []string) error {
	o.Meta.Group = o.Meta.Inode
	for first := true; first || len(names) > 0; first = false {
		n, bytes := 0, 0
		for n < len(names) && n < wire.GroupMax && bytes+len(names[n]) < wire.GroupBytes {
			bytes += len(names[n]) + 4
			n++
		}
		o.Names, names = names[:n], names[n:]
		s.recent.sent(o.Path, o.Meta.Inode)
		for _, name := range o.Names {
			s.recent.sent(name, o.Meta.Inode)
			s.absent.Pay(name, true)
		}
		s.bytes += bytes
		if err := s.op(o); err != nil {
			return err
		}
		o.Seq, o.Data, o.ID, o.Flag, o.How = 0, nil, 0, false, wire.GroupNames
	}
	return nil
}

// link says once more which names are one inode, without its content: a rename
// or a comparison moved one of them.
func (s *Stream) link(path string, m tree.Meta) error {
	names, sure := s.names(path, m)
	switch {
	case !sure:
		return s.unsure(path, 0)
	case len(names) == 0:
		return nil
	case s.coming([]string{path}):
		return s.missing(names[0], 0) // linked when it is there
	case s.coming(names):
		return s.missing(path, 0)
	}
	o := wire.Op{Kind: wire.OpGroup, Path: path, How: wire.GroupNames, Meta: m}
	if m.Kind == tree.File && s.mayWant(path, names) {
		o.How, o.ID = wire.GroupOffer, s.offerID(path, names, m)
	}
	return s.groupOps(o, names)
}

// offerID numbers an offer of the inode. One that the follower has not answered gives way
// to it: whether the follower has the content under one of the names is for the follower to say, and a
// name that is owed in the meantime would have the content sent again by whatever
// looks at it then.
func (s *Stream) offerID(path string, names []string, m tree.Meta) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.big.withdraw(name)
	}
	return s.big.offer(path, s.batch, m)
}

// coming reports whether one of the names is a large file that is being sent.
func (s *Stream) coming(names []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(names, s.big.coming)
}

// mayWant reports whether one of the names is a large file of which the follower has not said whether it wants it.
func (s *Stream) mayWant(path string, names []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.big.mayWant(path) || slices.ContainsFunc(names, s.big.mayWant)
}

// seen counts the names that a comparison came across, per inode.
type seen map[uint64]seenInode

type seenInode struct {
	names, links uint32
	path         string
	inode        uint64
}

func (s *Stream) see(in seen, rel string, m *tree.Meta) {
	if !s.several(*m) {
		return
	}
	m.Group = m.Inode
	s.o.Links.Note(rel, m.Inode)
	if in == nil {
		return
	}
	i, known := in[m.Inode]
	if !known && len(in) >= maxSeen {
		return
	}
	i.names++
	i.links, i.path = m.Links, rel
	in[m.Inode] = i
}

// reaching are the inodes of which a comparison did not see all names: the others are outside of the tree.
func (s *Stream) reaching(in seen) (out []seenInode) {
	for inode, i := range in {
		if i.names < i.links {
			i.inode = inode
			out = append(out, i)
		}
	}
	return out
}

// linksAtOnce is how many of them are linked in the batch that pays the tree.
const linksAtOnce = 256

// linkOut links them to their names outside of the tree at path, and pays that. The tree stays owed until the last is sent,
// and what the follower asked for because of them: if the connection breaks, it is compared anew.
func (s *Stream) linkOut(ctx context.Context, path string, out []seenInode) error {
	few := len(out) <= linksAtOnce
	if few { // first: it would pay for what is asked for because of the links, too
		if err := s.payTree(path); err != nil {
			return err
		}
	}
	for _, i := range out {
		m, err := s.o.Root.Lstat(i.path)
		if err != nil || m.Inode != i.inode || !s.several(m) {
			continue // a record will say it
		}
		if err := s.link(i.path, m); err != nil {
			return err
		}
		if few {
			continue
		}
		if err := s.endIfFull(); err != nil {
			return err
		}
	}
	if err := s.endBatch(); err != nil || few {
		return err
	}
	for len(s.marks) > 0 { // what it asks for comes before the acknowledgement
		if err := s.await(ctx); err != nil {
			return err
		}
	}
	s.trees = append(s.trees, treeJob{path: path, settles: true})
	return nil
}
