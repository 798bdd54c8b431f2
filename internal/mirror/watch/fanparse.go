package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"

	"golang.org/x/sys/unix"
)

// fanEvent is one record of a fanotify queue, its slices pointing into the
// read buffer. A handle here is the kernel's handle_type (4 bytes) and the
// opaque handle itself, back to back as they lie in struct file_handle: the
// pair is what names an inode on one filesystem, even after its number was reused.
//
// Layout: fanotify(7), struct fanotify_event_metadata, fanotify_event_info_fid.
type fanEvent struct {
	mask    uint64
	pid     int32
	target  []byte // handle of the object itself; nil if not reported
	dir     []byte // DFID_NAME: the directory; for a rename the old one
	name    []byte // the entry in dir; "." is dir itself
	newDir  []byte // rename only
	newName []byte // rename only
}

const (
	fanMetadataLen = 24 // FAN_EVENT_METADATA_LEN of version 3, all there ever was in this mode
	fanInfoHeader  = 4  // info_type, pad, len
	fanFsidLen     = 8
	fanHandleHead  = 8   // handle_bytes, handle_type
	fanMaxHandle   = 128 // MAX_HANDLE_SZ of fcntl.h
)

var errFanFormat = errors.New("malformed fanotify record")

// nextFanEvent takes the first record off buf and returns the rest.
func nextFanEvent(buf []byte) (ev fanEvent, rest []byte, err error) {
	if len(buf) < fanMetadataLen {
		return ev, nil, errFanFormat
	}
	length := binary.NativeEndian.Uint32(buf)
	metaLen := int(binary.NativeEndian.Uint16(buf[6:]))
	if buf[4] != unix.FANOTIFY_METADATA_VERSION || length > math.MaxInt32 ||
		int(length) > len(buf) || metaLen < fanMetadataLen || metaLen > int(length) {
		return ev, nil, errFanFormat
	}
	ev.mask = binary.NativeEndian.Uint64(buf[8:])
	ev.pid = int32(binary.NativeEndian.Uint32(buf[20:]))
	info := buf[metaLen:length]
	for len(info) > 0 {
		if len(info) < fanInfoHeader {
			return ev, nil, errFanFormat
		}
		n := int(binary.NativeEndian.Uint16(info[2:]))
		if n < fanInfoHeader || n > len(info) {
			return ev, nil, errFanFormat
		}
		if err := ev.addInfo(info[0], info[fanInfoHeader:n]); err != nil {
			return ev, nil, err
		}
		info = info[n:]
	}
	return ev, buf[length:], nil
}

// movesDir reports whether a directory moves by this event, or may have by events that were lost.
func (ev *fanEvent) movesDir() bool {
	const dir = unix.FAN_RENAME | unix.FAN_ONDIR
	return ev.mask&dir == dir || ev.mask&unix.FAN_Q_OVERFLOW != 0
}

// addInfo takes in one info record. Types we did not ask for are skipped: the
// man page asks readers to expect new ones.
func (ev *fanEvent) addInfo(kind uint8, body []byte) error {
	switch kind {
	case unix.FAN_EVENT_INFO_TYPE_FID, unix.FAN_EVENT_INFO_TYPE_DFID, unix.FAN_EVENT_INFO_TYPE_DFID_NAME,
		unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
	default:
		return nil
	}
	if len(body) < fanFsidLen+fanHandleHead {
		return errFanFormat
	}
	size := binary.NativeEndian.Uint32(body[fanFsidLen:])
	if size > fanMaxHandle || int(size) > len(body)-fanFsidLen-fanHandleHead {
		return errFanFormat
	}
	end := fanFsidLen + fanHandleHead + int(size)
	handle := body[fanFsidLen+4 : end]
	name := body[end:]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	if len(name) == 0 {
		name = []byte(".") // the directory itself
	}
	switch kind {
	case unix.FAN_EVENT_INFO_TYPE_FID:
		ev.target = handle
	case unix.FAN_EVENT_INFO_TYPE_DFID, unix.FAN_EVENT_INFO_TYPE_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME:
		ev.dir, ev.name = handle, name
	case unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
		ev.newDir, ev.newName = handle, name
	}
	return nil
}
