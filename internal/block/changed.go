package block

import (
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tries bounds how often maps are read again because somebody moved the blocks
// meanwhile (btrfs balance, defragmentation of the clones).
const tries = 8

// Changed lists, in order, the ranges of now (size bytes long) that may differ
// from was. Both must be clones, which nobody writes to, on one filesystem.
// ErrUnsupported where the filesystem tells no extents, or keeps moving them.
func Changed(was, now *os.File, size int64) ([]Range, error) {
	if err := sameDevice(was, now); err != nil {
		return nil, err
	}
	return steadily(func() ([]extent, error) { return extents(was) }, func() ([]extent, error) { return extents(now) }, size)
}

// steadily compares two maps once that of was is the same before and after that
// of now was read: a block that moved away meanwhile could have left its place to
// another one of now, which would look like it.
func steadily(was, now func() ([]extent, error), size int64) ([]Range, error) {
	before, err := was()
	if err != nil {
		return nil, err
	}
	for range tries {
		is, err := now()
		if err != nil {
			return nil, err
		}
		after, err := was()
		if err != nil {
			return nil, err
		}
		if slices.Equal(before, after) {
			return compare(after, is, size), nil
		}
		before = after
	}
	return nil, ErrUnsupported
}

// sameDevice refuses two files whose places are not places of one device.
func sameDevice(a, b *os.File) error {
	var x, y unix.Stat_t
	if unix.Fstat(int(a.Fd()), &x) != nil || unix.Fstat(int(b.Fd()), &y) != nil || x.Dev != y.Dev || realtime(a) || realtime(b) {
		return ErrUnsupported
	}
	return nil
}

// FS_IOC_FSGETXATTR and FS_XFLAG_REALTIME (include/uapi/linux/fs.h): the data are on another device of XFS.
const (
	ioctlGetXFlags = 0x801c581f
	xflagRealtime  = 0x1
)

func realtime(f *os.File) bool {
	var attr [28]byte
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlGetXFlags, uintptr(unsafe.Pointer(&attr[0])))
	return errno == 0 && attr[0]&xflagRealtime != 0
}

// compare is Changed for two maps.
func compare(old, new []extent, size int64) (changed []Range) {
	for at := int64(0); at < size; {
		was, wasEnd := pieceAt(&old, at, size)
		is, isEnd := pieceAt(&new, at, size)
		end := min(wasEnd, isEnd)
		switch {
		case was == nil && is == nil: // a hole in both
		case was != nil && is != nil && was.flags&flagUnsure == 0 && is.flags&flagUnsure == 0 &&
			was.flags&flagZero == is.flags&flagZero && at-was.at+was.place == at-is.at+is.place: // the same blocks
		default:
			changed = Append(changed, Range{at, end - at, is == nil})
		}
		at = end
	}
	return changed
}

// Append adds r behind the last of list, to it where they touch and are alike.
func Append(list []Range, r Range) []Range {
	if r.Length <= 0 {
		return list
	}
	if n := len(list); n > 0 && list[n-1].End() == r.At && list[n-1].Hole == r.Hole {
		list[n-1].Length += r.Length
		return list
	}
	return append(list, r)
}

// pieceAt is the extent that holds at, nil for a hole, and where it ends. Extents
// that end before at are dropped from the list.
func pieceAt(list *[]extent, at, size int64) (*extent, int64) {
	for len(*list) > 0 && (*list)[0].end() <= at {
		*list = (*list)[1:]
	}
	switch {
	case len(*list) == 0:
		return nil, size
	case (*list)[0].at > at:
		return nil, min(size, (*list)[0].at)
	}
	e := &(*list)[0]
	return e, min(size, e.end())
}
