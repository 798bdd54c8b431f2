package watch

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// captured are real queues, read from the kernel while files were made, renamed, linked and removed.
func captured(f *testing.F, b Backend) {
	dir := f.TempDir()
	fd, err := -1, error(nil)
	if b == Fanotify {
		fd, err = unix.FanotifyInit(fanInit, 0)
		if err == nil {
			err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD, fanMask|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, dir)
		}
	} else {
		fd, err = unix.InotifyInit1(unix.IN_NONBLOCK)
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, dir, inMask)
		}
	}
	if err != nil {
		f.Logf("SKIPPED PART: no live seeds: %v", err)
		return
	}
	a, c := filepath.Join(dir, "a"), filepath.Join(dir, "ccc")
	_ = os.WriteFile(a, []byte("x"), 0o600)
	_ = os.Chmod(dir, 0o700)
	_ = os.Rename(a, c)
	_ = os.Link(c, a)
	_ = os.Mkdir(filepath.Join(dir, "d"), 0o700)
	_ = os.Remove(a)
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	_ = unix.Close(fd)
	if err != nil || n == 0 {
		f.Fatalf("nothing captured: %d %v", n, err)
	}
	f.Add(buf[:n])
	f.Add(buf[:n-1])
	f.Add(buf[n/2 : n])
}

func FuzzFanEvents(f *testing.F) {
	captured(f, Fanotify)
	f.Fuzz(func(t *testing.T, data []byte) {
		for buf := data; len(buf) > 0; {
			ev, rest, err := nextFanEvent(buf)
			if err != nil {
				return
			}
			if len(rest) > len(buf)-fanMetadataLen {
				t.Fatal("a record took less than its header")
			}
			for _, part := range [][]byte{ev.target, ev.dir, ev.newDir} {
				if part != nil && (len(part) < 4 || len(part) > fanMaxHandle+4 || !inside(part, data)) {
					t.Fatalf("handle of %d bytes", len(part))
				}
			}
			if (ev.name == nil) != (ev.dir == nil) || (ev.newName == nil) != (ev.newDir == nil) {
				t.Fatal("a name without its directory")
			}
			buf = rest
		}
	})
}

func inside(part, data []byte) bool {
	if len(part) == 0 {
		return true
	}
	p, d := uintptr(unsafe.Pointer(&part[0])), uintptr(unsafe.Pointer(&data[0]))
	return p >= d && p+uintptr(len(part)) <= d+uintptr(len(data))
}

func FuzzInEvents(f *testing.F) {
	captured(f, Inotify)
	f.Fuzz(func(t *testing.T, data []byte) {
		for buf := data; len(buf) > 0; {
			ev, rest, err := nextInEvent(buf)
			if err != nil {
				return
			}
			if len(rest) > len(buf)-unix.SizeofInotifyEvent || len(ev.name) > len(buf)-len(rest) {
				t.Fatal("a record took less than its header and name")
			}
			buf = rest
		}
	})
}
