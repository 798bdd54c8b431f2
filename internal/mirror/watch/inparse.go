package watch

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// inEvent is one record of an inotify queue (inotify(7), struct inotify_event).
type inEvent struct {
	wd     int32
	mask   uint32
	cookie uint32
	name   string // "" for the watched directory itself
}

var errInFormat = errors.New("malformed inotify record")

// nextInEvent takes the first record off buf and returns the rest.
func nextInEvent(buf []byte) (ev inEvent, rest []byte, err error) {
	if len(buf) < unix.SizeofInotifyEvent {
		return ev, nil, errInFormat
	}
	ev.wd = int32(binary.NativeEndian.Uint32(buf))
	ev.mask = binary.NativeEndian.Uint32(buf[4:])
	ev.cookie = binary.NativeEndian.Uint32(buf[8:])
	size := binary.NativeEndian.Uint32(buf[12:])
	buf = buf[unix.SizeofInotifyEvent:]
	if uint64(size) > uint64(len(buf)) {
		return ev, nil, errInFormat
	}
	name := buf[:size]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	ev.name = string(name)
	return ev, buf[size:], nil
}
