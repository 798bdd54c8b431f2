package block

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Data lists, in order, everything of a file of this size: its data, and its
// holes (lseek(2), SEEK_DATA). It tells what is sparse, never what changed.
func Data(f *os.File, size int64) (list []Range, err error) {
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // nothing but a hole from here on
			data = size
		case err != nil: // the filesystem cannot tell: everything is data
			return Append(list, Range{At: at, Length: size - at}), nil
		}
		data = min(data, size)
		if list = Append(list, Range{at, data - at, true}); data == size {
			break
		}
		end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil || end <= data {
			end = size
		}
		end = min(end, size)
		list, at = Append(list, Range{At: data, Length: end - data}), end
	}
	return list, nil
}

// Punch makes a range of a file a hole.
func Punch(f *os.File, r Range) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.At, r.Length)
}
