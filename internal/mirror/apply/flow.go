package apply

import (
	"golang.org/x/sys/unix"

	"revolve/internal/syswait"
)

const (
	// flowEvery is how much of a transfer is written before its way to the disk begins.
	flowEvery = 8 << 20
	// flowBased is the same for what is written into a clone: small pieces at many places, each a write of the disk's own.
	flowBased = 512 << 10
	// flowPast is the size from which on a transfer does not stay in memory: a standby's memory is for what is used there, and a
	// page that was on its way a moment ago is cheaper to write into than one that nobody has used for long (measured on a
	// virtual machine that gives free memory back to its host: 0.06 s of CPU for a gigabyte, not 1.3 to 2). What is smaller may be wanted soon.
	flowPast = 64 << 20
)

// flow has the disk work while the rest of a transfer is still to come. Without it
// a gigabyte waits for Seal, and everything that syncs meanwhile waits for the gigabyte.
type flow struct {
	fresh int64 // bytes written behind piece
	still int64 // bytes written behind begun
	begun int64 // of what is before, the way to the disk has begun
	piece int64 // where the last whole piece ended
	last  int64 // where it began
	past  int64 // what is before is on the disk, and not in memory any more
}

// wrote is told of n bytes more. Of a large transfer it waits for the piece before the last one: an error of the disk that it hears is told to no
// later fsync(2) of this descriptor (errseq_t), so the transfer must not count as whole.
func (w *flow) wrote(t *transfer, n int) error {
	w.fresh += int64(n)
	w.still += int64(n)
	if w.fresh < flowEvery && (!t.based || w.still < flowBased) {
		return nil
	}
	fd := int(t.f.Fd())
	_ = unix.SyncFileRange(fd, w.begun, t.size-w.begun, unix.SYNC_FILE_RANGE_WRITE) // a hint: Seal syncs
	w.still, w.begun = 0, t.size
	if w.fresh < flowEvery {
		return nil
	}
	if t.meta.Size >= flowPast && w.last > w.past {
		switch err := syswait.Written(fd, w.past, w.last-w.past); err {
		case nil:
			_ = unix.Fadvise(fd, w.past, w.last-w.past, unix.FADV_DONTNEED) // it stays in memory otherwise
		case unix.ENOSYS, unix.EINVAL, unix.EOPNOTSUPP: // nothing was waited for
		default:
			return err
		}
		w.past = w.last
	}
	w.fresh, w.last, w.piece = 0, w.piece, t.size
	return nil
}

// ended is told that all of the transfer is on the disk.
func (w *flow) ended(t *transfer) {
	if t.meta.Size >= flowPast {
		_ = unix.Fadvise(int(t.f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
}
