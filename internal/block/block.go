// Package block tells which byte ranges of a large file changed since a clone of
// it was taken, without reading either where the filesystem helps, and with one
// reading of the file where it does not.
//
// On filesystems that share blocks between files (XFS, btrfs) a clone pins the
// blocks of its moment: whoever writes to the file afterwards gets new ones. So
// where the clone and the file have the same block at the same place, the bytes
// are the same. It compares extent maps; where a map is not certain it says that
// the range changed, and SelfTest shows beforehand that a filesystem keeps to this.
// Elsewhere a Table of the blocks' hashes is kept from one reading to the next.
// It never writes to the files that it compares, and never turns from one way
// to the other by itself: Choose says which it is, and why.
//
//	was, err := block.Clone(dir, file)     // when the file was sent
//	now, err := block.Clone(dir, file)     // when it is to be sent again
//	changed, err := block.Changed(was, now)
package block

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Range is a piece of a file, in bytes.
type Range struct {
	At, Length int64
	Hole       bool // nothing is allocated: it reads as zeros
}

// End is the first byte behind it.
func (r Range) End() int64 { return r.At + r.Length }

// ErrUnsupported says that the filesystem shares no blocks, or tells no extents.
var ErrUnsupported = &problem.Problem{Op: "share blocks", Kind: problem.Unavailable, Err: errors.New("the filesystem cannot")}

// flagNoCOW is FS_NOCOW_FL (ioctl_iflags(2)), as libvirt sets it on the images in its pools on btrfs.
const flagNoCOW = 0x00800000

// Clone makes dst a copy of src that shares its blocks (FICLONE, ioctl_ficlonerange(2)). What
// src has in memory only is written back by the kernel first. ErrUnsupported
// where the filesystem cannot.
func Clone(dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if errors.Is(err, unix.EINVAL) && alikeCOW(dst, src) {
		err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	}
	if err == nil {
		return nil
	}
	return cloneProblem(src, err)
}

func cloneProblem(src *os.File, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EXDEV):
		return ErrUnsupported
	}
	return &problem.Problem{Op: "share blocks", Kind: problem.Unavailable, Subject: src.Name(), Err: err}
}

// CanClone tries whether dst, which must be empty, can share the blocks of src,
// and leaves it empty. It costs the same however large src is.
func CanClone(dst, src *os.File) error {
	try := func() error {
		return unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_length: trialBlock})
	}
	if info, err := src.Stat(); err != nil || info.Size() < trialBlock {
		return errors.Join(err, Clone(dst, src), dst.Truncate(0))
	}
	err := try()
	if errors.Is(err, unix.EINVAL) && alikeCOW(dst, src) {
		err = try()
	}
	if err == nil {
		return dst.Truncate(0)
	}
	return cloneProblem(src, err)
}

// alikeCOW makes dst, which must be empty, a file without checksums like src:
// btrfs refuses to share blocks between files that differ in that.
func alikeCOW(dst, src *os.File) bool {
	is, err := unix.IoctlGetInt(int(src.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return false
	}
	was, err := unix.IoctlGetInt(int(dst.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || is&flagNoCOW == was&flagNoCOW {
		return false
	}
	return unix.IoctlSetPointerInt(int(dst.Fd()), unix.FS_IOC_SETFLAGS, was&^flagNoCOW|is&flagNoCOW) == nil
}
