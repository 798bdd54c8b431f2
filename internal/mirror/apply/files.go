package apply

import "golang.org/x/sys/unix"

const (
	// filesShare is the part of the process's descriptors that one volume's staged files may take: with the limit of a
	// bare service (256 to 1024) several volumes, streams and comparisons have to live beside them.
	filesShare = 16
)

// openFiles is how many staged files may be kept open.
func openFiles() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return fewFiles
	}
	return int(min(fewFiles, limit.Cur/filesShare))
}

// errInvalid is what the kernel says of a rename into itself.
const errInvalid = unix.EINVAL
