package tree

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The extent map of a file (linux/fiemap.h).
const (
	fsIocFiemap        = 0xc020660b
	fiemapFlagSync     = 0x1
	fiemapExtentLast   = 0x1
	fiemapExtentShared = 0x2000
	// fiemapBatch is how many extents are asked for at once: 28 KiB.
	fiemapBatch = 512
	// fiemapMost bounds the extents looked at: a file in more pieces than this counts as its own.
	fiemapMost = 1 << 17
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length uint64
	flags, mapped uint32
	count, _      uint32
	extents       [fiemapBatch]fiemapExtent
}

// OwnBytes is how many bytes of the file at rel are on blocks of its own, not
// shared with another file's (FIEMAP_EXTENT_SHARED); it stops counting beyond
// most. A filesystem that cannot tell shares nothing: all blocks are the file's own.
func (r *Root) OwnBytes(rel string, most int64) (int64, error) {
	f, m, err := r.OpenFile(rel)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	own, err := ownBytes(f, most)
	if err == unix.EOPNOTSUPP || err == unix.ENOTTY || err == unix.EINVAL {
		return m.Size, nil
	}
	return own, wrap("fiemap", rel, err)
}

func ownBytes(f *os.File, most int64) (own int64, err error) {
	fm := &fiemap{}
	for seen, at := 0, uint64(0); own <= most; {
		fm.start, fm.length, fm.flags, fm.mapped, fm.count = at, ^uint64(0)-at, fiemapFlagSync, 0, fiemapBatch
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(fm))); errno != 0 {
			return 0, errno
		}
		if fm.mapped == 0 {
			return own, nil
		}
		for _, e := range fm.extents[:min(fm.mapped, fiemapBatch)] {
			if e.flags&fiemapExtentShared == 0 {
				own += int64(e.length)
			}
			if e.flags&fiemapExtentLast != 0 {
				return own, nil
			}
			at = e.logical + e.length
		}
		if seen += int(fm.mapped); seen > fiemapMost {
			return most + 1, nil
		}
	}
	return own, nil
}
