package watch

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file says what each fanotify event means. What the kernel reports for
// which operation was measured on ext4, xfs and tmpfs (6.18).

// handle turns one event into changes.
func (f *fan) handle(ev fanEvent, s *sink) {
	isDir := ev.mask&unix.FAN_ONDIR != 0
	linked := f.linked
	f.linked = ""
	switch {
	case ev.mask&unix.FAN_Q_OVERFLOW != 0:
		f.reset(s)
		return
	case f.pid != 0 && ev.pid == f.pid:
		f.stats.own.Add(1)
		// Our own writes are none of the stream's business, but where
		// directories are is: apply renames them too.
		if !isDir || ev.mask&(unix.FAN_CREATE|unix.FAN_DELETE|unix.FAN_RENAME) == 0 {
			return
		}
		s.mute = true
		f.dispatch(ev, linked, s)
		s.mute = false
		return
	}
	f.dispatch(ev, linked, s)
}

func (f *fan) dispatch(ev fanEvent, linked string, s *sink) {
	isDir := ev.mask&unix.FAN_ONDIR != 0
	if isDir && string(ev.target) == f.rootKey {
		s.suspect = true // the volume's root itself was moved or deleted
		return
	}
	switch {
	case ev.mask&unix.FAN_RENAME != 0:
		f.rename(ev, isDir, s)
		return
	case ev.dir == nil:
		f.nameless(ev, s)
		return
	}
	d := f.dir(ev.dir, s)
	if d == nil {
		f.stats.foreign.Add(1)
		return
	}
	name := string(ev.name)
	if isDir {
		f.onDir(ev, d, name, s)
	} else {
		f.onFile(ev, d, name, linked, s)
	}
}

// onDir handles a directory that appeared, went, or changed its attributes.
func (f *fan) onDir(ev fanEvent, d *dirNode[string], name string, s *sink) {
	path, ok := f.tree.visible(d, name)
	if !ok {
		f.stats.ignored.Add(1)
	}
	switch {
	case ev.mask&unix.FAN_DELETE != 0: // merged with its CREATE or not: an inode dies once
		f.doubts.touch(ev.dir, name, false, true, s.mute)
		if n := f.tree.byKey[string(ev.target)]; n != nil {
			f.tree.drop(n)
		}
		if ok {
			f.removed(d, path, true, s)
		}
	case ev.mask&unix.FAN_CREATE != 0:
		f.doubts.touch(ev.dir, name, true, true, s.mute)
		if f.tree.place(string(ev.target), d, name) == nil {
			f.reset(s)
			return
		}
		if ok {
			// Everything made in it later has its own events. A btrfs
			// snapshot, though, is made full with this one event.
			s.changed(path, true, f.btrfs)
		}
	case ok:
		s.changed(path, true, false)
	}
}

// onFile handles everything that is not a directory.
func (f *fan) onFile(ev fanEvent, d *dirNode[string], name, linked string, s *sink) {
	const made, gone = unix.FAN_CREATE, unix.FAN_DELETE
	if ev.mask&(made|gone) == 0 && f.doubts.gone(ev.dir, name) {
		// Written on after its removal, or we have put another one there since: look when the pass ends.
		f.doubts.touch(ev.dir, name, false, false, false)
		return
	}
	if ev.mask&(made|gone) != 0 {
		f.doubts.touch(ev.dir, name, ev.mask&gone == 0, false, s.mute)
	}
	path, ok := f.tree.visible(d, name)
	if !ok {
		f.stats.ignored.Add(1)
		return
	}
	switch {
	case ev.mask&made != 0 && ev.mask&gone != 0:
		// Which came last? Only link(2) can bring the same file back.
		if st, err := statIn(f.root.fd, ev.dir, name); err == nil {
			s.linked(path, severalNames(&st))
		} else {
			f.removed(d, path, false, s)
			if n := len(s.out); n > 0 && !s.mute && s.out[n-1].Path == path {
				s.out[n-1].Inode = f.living(ev.target)
			}
		}
	case ev.mask&gone != 0:
		f.removed(d, path, false, s)
	case ev.mask&made == 0 && isTmpfileName(name):
		// Writes to an O_TMPFILE come under this name, which no directory holds. A real file may have it, though.
		if _, err := statIn(f.root.fd, ev.dir, name); err == nil {
			s.closed(path)
		}
	case ev.mask&unix.FAN_CLOSE_WRITE != 0:
		s.closed(path)
	case ev.mask&made != 0:
		f.created(ev, path, name, linked, s)
	case ev.mask&unix.FAN_ATTRIB != 0:
		s.changed(path, false, false)
	default:
		s.written(path)
	}
}

// removed tells of a removal. Where its directory is not sure, the name may be
// another one's as of this place in the stream: then only a look tells.
func (f *fan) removed(d *dirNode[string], path string, dir bool, s *sink) {
	if f.sure(d) {
		s.removed(path, dir)
	} else {
		s.changed(path, dir, dir)
	}
}

// created decides whether a close will follow a CREATE. It will for a file
// that open(2) made; a link, symlink, device or socket is complete now.
func (f *fan) created(ev fanEvent, path, name, linked string, s *sink) {
	if linked == string(ev.target) {
		s.linked(path, f.living(ev.target))
		return
	}
	st, err := statIn(f.root.fd, ev.dir, name)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1) {
		s.linked(path, severalNames(&st))
		return
	}
	s.written(path)
}

// severalNames is the inode's number if it has more names than one.
func severalNames(st *unix.Stat_t) uint64 {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return st.Ino
	}
	return 0
}

// living is the number of the object that a handle names, if it still has a
// name. It is asked only for names made by link(2) and for those that were made and
// removed within one event: what was written through such a name may live on under another.
func (f *fan) living(target []byte) uint64 {
	if target == nil {
		return 0
	}
	fd, err := openHandle(f.root.fd, target, 0)
	if err != nil {
		return 0
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Nlink == 0 {
		return 0
	}
	return st.Ino
}

// isTmpfileName matches "#" and an inode number (fs/dcache.c, d_mark_tmpfile).
func isTmpfileName(name string) bool {
	digits, ok := strings.CutPrefix(name, "#")
	if !ok || digits == "" {
		return false
	}
	_, err := strconv.ParseUint(digits, 10, 64)
	return err == nil
}

func itoa(n int) string { return strconv.Itoa(n) }

// nameless handles an event that tells the object and not its place: the link
// count changed by link(2) or unlink(2) (their own events name the place), or a change through a file
// that was opened by handle, as a kernel NFS server does after its cache was dropped.
func (f *fan) nameless(ev fanEvent, s *sink) {
	if ev.mask&(unix.FAN_MODIFY|unix.FAN_CLOSE_WRITE) == 0 {
		f.linked = string(ev.target)
		return
	}
	fd, err := openHandle(f.root.fd, ev.target, 0)
	if err != nil {
		f.unnamed = f.unnamed || !isGone(err)
		return
	}
	defer func() { _ = unix.Close(fd) }()
	var st, at unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Nlink == 0 {
		return
	}
	path, err := fdPath(fd)
	base, err2 := fdPath(f.root.fd)
	if err != nil || err2 != nil || unix.Lstat(path, &at) != nil || at.Dev != st.Dev || at.Ino != st.Ino {
		f.stats.nameless.Add(1)
		f.unnamed = true
		return
	}
	rel, inside := strings.CutPrefix(path, strings.TrimSuffix(base, "/")+"/")
	if !inside {
		f.stats.foreign.Add(1)
		return
	}
	if f.visiblePath(rel) {
		s.closed(rel)
	}
}

func isGone(err error) bool { return err == unix.ESTALE || err == unix.ENOENT }

// visiblePath is dirTree.visible for a path whose directories are not known by handle.
func (f *fan) visiblePath(rel string) bool {
	if rel == ownDir || below(rel, ownDir) {
		return false
	}
	if f.tree.ignore == nil {
		return true
	}
	for i := range len(rel) {
		if rel[i] == '/' && f.tree.ignore(rel[:i]) {
			return false
		}
	}
	return !f.tree.ignore(rel)
}

// rename handles FAN_RENAME, which carries both places.
func (f *fan) rename(ev fanEvent, isDir bool, s *sink) {
	from, to := f.dir(ev.dir, s), f.dir(ev.newDir, s)
	if from == nil && to == nil {
		f.stats.foreign.Add(1)
		s.suspect = s.suspect || isDir // it may have been above the root
		return
	}
	if from != nil && f.tree.byKey[from.key] != from {
		f.reset(s) // looking up the one put the other aside: we cannot tell the old name any more
		return
	}
	oldName, newName := string(ev.name), string(ev.newName)
	var old, path string
	var wasSeen, isSeen, ahead bool
	sure := f.sure(from) // before the move: it may go below itself, as far as we know
	if from != nil {
		old, wasSeen = f.tree.visible(from, oldName)
		f.doubts.touch(ev.dir, oldName, false, false, s.mute)
	}
	if isDir {
		ahead = f.moveDir(ev, from, to, s)
	}
	if to != nil {
		path, isSeen = f.tree.visible(to, newName)
		f.doubts.touch(ev.newDir, newName, true, false, s.mute)
	}
	swapped, anyDir := f.renames.swapped(ev)
	f.renames.add(ev)
	switch {
	case wasSeen && swapped:
		// What came in its place was reported by the first half.
		s.changed(old, false, anyDir)
		if isSeen {
			s.changed(path, false, anyDir)
		}
	case wasSeen && isSeen && sure && f.sure(to):
		s.renamed(old, path, isDir)
		if ahead {
			s.changed(path, true, true)
		}
	case wasSeen && sure:
		s.removed(old, isDir)
		if isSeen {
			s.changed(path, isDir, isDir)
		}
	case wasSeen: // see removed
		s.changed(old, isDir, isDir)
		if isSeen {
			s.changed(path, isDir, isDir)
		}
	case isSeen && isDir:
		s.waiting.drop(path, true)
		s.changed(path, true, true)
	case isSeen:
		s.closed(path)
	default:
		f.stats.ignored.Add(1)
	}
}

// moveDir plays a directory's rename into the tree. ahead says that the tree
// did not have it at its old place: the kernel had been asked about it (or something below it)
// after the rename and before the event was read, and changes below it may have been reported
// under the new name already, before this event. The consumer has then to look at all of it again.
func (f *fan) moveDir(ev fanEvent, from, to *dirNode[string], s *sink) (ahead bool) {
	key := string(ev.target)
	n := f.tree.byKey[key]
	switch {
	case n != nil:
		ahead = n.parent != from || n.name != string(ev.name)
	default:
		ahead = f.tree.forgot
	}
	if to == nil {
		if n != nil {
			f.tree.drop(n)
		}
		return ahead
	}
	if from == nil {
		f.foreign.clear() // it and all below it may have been noted as elsewhere
	}
	if f.tree.place(key, to, string(ev.newName)) == nil {
		f.reset(s)
	}
	return ahead
}
