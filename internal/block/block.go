// Package block tells which byte ranges of a large file changed since a clone of
// it was taken, without reading either.
//
// On filesystems that share blocks between files (XFS, btrfs) a clone pins the
// blocks of its moment: whoever writes to the file afterwards gets new ones. So
// where the clone and the file have the same block at the same place, the bytes
// are the same. It compares extent maps only; it never writes to the files that
// it compares, and where a map is not certain it says that the range changed.
//
//	was, err := block.Clone(dir, file)     // when the file was sent
//	now, err := block.Clone(dir, file)     // when it is to be sent again
//	changed, err := block.Changed(was, now)
package block

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Range is a piece of a file, in bytes.
type Range struct {
	At, Length int64
	Hole       bool // nothing is allocated: it reads as zeros
}

// The extent map's ioctl (Documentation/filesystems/fiemap.rst, include/uapi/linux/fiemap.h).
const (
	ioctlFiemap  = 0xc020660b // FS_IOC_FIEMAP
	headSize     = 32
	extentSize   = 56
	extentsOnce  = 512 // per call: 28 KiB
	flagLast     = 0x1
	flagUnsure   = 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400 // unknown, delayed, encoded, not aligned, inline, tail: the place does not tell the bytes
	flagZero     = 0x800                                   // unwritten: allocated, and reads as zeros
	maxExtents   = 1 << 20                                 // a file in more pieces costs more to compare than to read
	flagSyncMap  = 0x1                                     // FIEMAP_FLAG_SYNC: write back first
	offsetMapped = 20
	offsetCount  = 24
)

// ErrUnsupported says that the filesystem shares no blocks, or tells no extents.
var ErrUnsupported = &problem.Problem{Op: "share blocks", Kind: problem.Unavailable, Err: errors.New("the filesystem cannot")}

// Clone makes dst a copy of src that shares its blocks (FICLONE, ioctl_ficlonerange(2)). What
// src has in memory only is written back by the kernel first. ErrUnsupported
// where the filesystem cannot.
func Clone(dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EXDEV):
		return ErrUnsupported
	}
	return &problem.Problem{Op: "share blocks", Kind: problem.Unavailable, Subject: src.Name(), Err: err}
}

// extent is a run of blocks at one place.
type extent struct {
	at, place, length int64
	flags             uint32
}

func (e extent) end() int64 { return e.at + e.length }

// Changed lists, in order, the ranges of now (size bytes long) that may differ
// from was. Both must be clones, which nobody writes to. ErrUnsupported where the
// filesystem tells no extents.
func Changed(was, now *os.File, size int64) ([]Range, error) {
	old, err := extents(was)
	if err != nil {
		return nil, err
	}
	new, err := extents(now)
	if err != nil {
		return nil, err
	}
	return compare(old, new, size), nil
}

// compare is Changed for two maps.
func compare(old, new []extent, size int64) (changed []Range) {
	add := func(at, end int64, hole bool) {
		if end = min(end, size); at >= end {
			return
		}
		if n := len(changed); n > 0 && changed[n-1].At+changed[n-1].Length == at && changed[n-1].Hole == hole {
			changed[n-1].Length += end - at
			return
		}
		changed = append(changed, Range{at, end - at, hole})
	}
	for at := int64(0); at < size; {
		was, wasEnd := pieceAt(&old, at, size)
		is, isEnd := pieceAt(&new, at, size)
		end := min(wasEnd, isEnd)
		switch {
		case was == nil && is == nil: // a hole in both
		case was != nil && is != nil && was.flags&flagUnsure == 0 && is.flags&flagUnsure == 0 &&
			was.flags&flagZero == is.flags&flagZero && at-was.at+was.place == at-is.at+is.place: // the same blocks
		default:
			add(at, end, is == nil)
		}
		at = end
	}
	return changed
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

// extents reads a file's extent map.
func extents(f *os.File) (list []extent, err error) {
	buf := make([]byte, headSize+extentsOnce*extentSize)
	for start := int64(0); ; {
		clear(buf[:headSize])
		binary.NativeEndian.PutUint64(buf, uint64(start))
		binary.NativeEndian.PutUint64(buf[8:], uint64(1<<63-1-start))
		binary.NativeEndian.PutUint32(buf[16:], flagSyncMap)
		binary.NativeEndian.PutUint32(buf[offsetCount:], extentsOnce)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlFiemap, uintptr(unsafe.Pointer(&buf[0])))
		runtime.KeepAlive(f)
		if errno != 0 {
			return nil, ErrUnsupported
		}
		n := int(binary.NativeEndian.Uint32(buf[offsetMapped:]))
		if n == 0 {
			return list, nil
		}
		for b := buf[headSize : headSize+n*extentSize]; len(b) > 0; b = b[extentSize:] {
			e := extent{
				at: int64(binary.NativeEndian.Uint64(b)), place: int64(binary.NativeEndian.Uint64(b[8:])),
				length: int64(binary.NativeEndian.Uint64(b[16:])), flags: binary.NativeEndian.Uint32(b[40:]),
			}
			if e.length <= 0 || e.at < start {
				return nil, ErrUnsupported // not a map in order
			}
			list, start = append(list, e), e.end()
			if e.flags&flagLast != 0 {
				return list, nil
			}
		}
		if len(list) > maxExtents {
			return nil, ErrUnsupported
		}
	}
}
