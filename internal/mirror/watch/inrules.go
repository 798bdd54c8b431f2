package watch

import "golang.org/x/sys/unix"

// This file says what each inotify event means.

func (in *inotify) handle(ev inEvent, s *sink) error {
	switch {
	case ev.mask&unix.IN_Q_OVERFLOW != 0:
		return errMoved // new directories may have been missed: start over
	case ev.mask&unix.IN_UNMOUNT != 0:
		s.suspect = true
		return nil
	case ev.mask&unix.IN_IGNORED != 0:
		return nil
	}
	d := in.tree.lookup(ev.wd)
	if d == nil {
		return nil // the directory left the volume meanwhile
	}
	if ev.mask&(unix.IN_MOVE_SELF|unix.IN_DELETE_SELF) != 0 {
		s.suspect = s.suspect || d == in.tree.root
		return nil
	}
	name, isDir := ev.name, ev.mask&unix.IN_ISDIR != 0
	if name == "" {
		name = "."
	}
	if name != "." && isDir && ev.mask&unix.IN_ATTRIB != 0 {
		return nil // the directory's own watch tells it
	}
	path, ok := in.tree.visible(d, name)
	if !ok {
		in.stats.ignored.Add(1)
		return nil
	}
	switch {
	case ev.mask&unix.IN_MOVED_TO != 0:
		return in.arrived(d, name, path, isDir, s)
	case ev.mask&unix.IN_DELETE != 0:
		if n := d.kids[name]; n != nil {
			in.tree.drop(n)
		}
		in.removed(d, path, isDir, s)
	case isDir && ev.mask&unix.IN_CREATE != 0:
		return in.arrived(d, name, path, true, s)
	case ev.mask&unix.IN_CREATE != 0:
		in.created(path, s)
	case ev.mask&unix.IN_CLOSE_WRITE != 0:
		s.closed(path)
	case ev.mask&unix.IN_ATTRIB != 0:
		s.changed(path, isDir, false)
	default:
		s.written(path)
	}
	return nil
}

// sure reports whether the directory is where the tree has it as of this place
// in the stream: a young one, and all below it, may have been found ahead of it.
func (in *inotify) sure(n *dirNode[int32]) bool {
	if len(in.young) == 0 {
		return true
	}
	for ; n != nil; n = n.parent {
		if _, ok := in.young[n]; ok {
			return false
		}
	}
	return true
}

// removed tells of a removal; see fan.removed.
func (in *inotify) removed(d *dirNode[int32], path string, dir bool, s *sink) {
	if in.sure(d) {
		s.removed(path, dir)
	} else {
		s.changed(path, dir, dir)
	}
}

// created decides whether a close will follow (see fan.created). A link whose
// file has no other name (linkat of an O_TMPFILE) waits for quiet: nothing tells it from an open file here.
func (in *inotify) created(path string, s *sink) {
	var st unix.Stat_t
	err := unix.Lstat(in.absolute(path), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1) {
		s.linked(path, severalNames(&st))
		return
	}
	s.written(path)
}

// arrived handles a name that is new here and, if a directory, may be full.
func (in *inotify) arrived(d *dirNode[int32], name, path string, isDir bool, s *sink) error {
	s.waiting.drop(path, isDir)
	if !isDir {
		if n := d.kids[name]; n != nil {
			in.tree.drop(n)
		}
		s.closed(path)
		return nil
	}
	n, err := in.watch(d, name)
	if err != nil {
		return err
	}
	if n != nil {
		if err := in.watchBelow(n); err != nil {
			return err
		}
	}
	s.changed(path, true, true)
	return nil
}

// rename handles both halves; to.wd is -1 if the second one never came.
func (in *inotify) rename(from, to inEvent, s *sink) error {
	isDir := from.mask&unix.IN_ISDIR != 0
	src, dst := in.tree.lookup(from.wd), in.tree.lookup(to.wd)
	var old, path string
	var wasSeen, isSeen bool
	var moving *dirNode[int32]
	if src != nil {
		old, wasSeen = in.tree.visible(src, from.name)
		moving = src.kids[from.name]
	}
	if dst != nil {
		path, isSeen = in.tree.visible(dst, to.name)
	}
	sure := in.sure(src)
	if moving != nil && !isSeen {
		in.tree.drop(moving)
	}
	switch {
	case wasSeen && isSeen && sure && in.sure(dst):
		return in.renamed(moving, dst, to.name, inRename{old, path, isDir, s.now}, s)
	case wasSeen && isSeen: // see removed
		if moving != nil {
			in.tree.drop(moving)
		}
		in.removed(src, old, isDir, s)
		in.check[place{src, from.name}] = struct{}{}
		return in.arrived(dst, to.name, path, isDir, s)
	case wasSeen:
		return in.left(src, from.name, old, isDir, s)
	case isSeen:
		return in.arrived(dst, to.name, path, isDir, s)
	default:
		in.stats.ignored.Add(1)
	}
	return nil
}

// left handles what moved out of the stream. If it was exchanged, something came in its place, and was reported before.
func (in *inotify) left(d *dirNode[int32], name, path string, isDir bool, s *sink) error {
	in.removed(d, path, isDir, s)
	var st unix.Stat_t
	if err := unix.Lstat(in.absolute(path), &st); err != nil {
		// The directory may have another name by now, which a later event tells: look again then.
		in.check[place{d, name}] = struct{}{}
		return nil
	}
	return in.arrived(d, name, path, st.Mode&unix.S_IFMT == unix.S_IFDIR, s)
}

// renamed handles a rename within the stream.
func (in *inotify) renamed(moving, dst *dirNode[int32], name string, r inRename, s *sink) error {
	victim := dst.kids[name]
	if victim != nil && victim != moving {
		in.tree.drop(victim)
	}
	if moving != nil && in.tree.place(moving.key, dst, name) == nil {
		return errMoved
	}
	if _, ok := in.young[moving]; ok {
		in.check[place{dst, name}] = struct{}{}
	}
	s.renamed(r.old, r.path, r.dir)
	if r.dir && moving == nil {
		// It went before we could watch it.
		if err := in.arrived(dst, name, r.path, true, s); err != nil {
			return err
		}
	}
	last := in.last
	in.last[in.next%ringSize] = r
	in.next++
	for _, o := range last {
		if o.old == r.path && o.path == r.old && r.at.Sub(o.at) < exchangeWithin {
			if err := swapped(o, r, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// swapped handles what may be the two halves of an exchange, or a move there and
// back: the events do not tell which, and what is on the disk by now does not
// either. The halves of an exchange replace each other's watches in the tree, so
// with a directory among them it means to start over.
func swapped(first, second inRename, s *sink) error {
	if first.dir || second.dir {
		return errMoved
	}
	s.changed(second.old, false, false)
	s.changed(second.path, false, false)
	return nil
}
