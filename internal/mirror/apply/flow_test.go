package apply

import (
	"bytes"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// resident counts the pages of a file that are in memory.
func resident(t *testing.T, name string) (n int) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(b)
	in := make([]byte, (len(b)+os.Getpagesize()-1)/os.Getpagesize())
	must(t, mincore(b, in))
	for _, page := range in {
		n += int(page & 1)
	}
	return n
}

func TestALargeFileDoesNotStayInMemory(t *testing.T) {
	r := newRig(t, t.TempDir())
	var fs unix.Statfs_t
	must(t, unix.Statfs(r.dir, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("SKIPPED PART: all of this filesystem is in memory")
	}
	page := int64(os.Getpagesize())
	piece := bytes.Repeat([]byte("0123456789abcde\n"), wire.BulkChunk/16)
	for id, size := range map[uint64]int64{7: flowPast, 8: flowPast / 2} {
		m := tree.Meta{Kind: tree.File, Mode: 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Size: size, MTime: 1}
		path := "big" + itoa(id)
		r.do(wire.Op{Kind: wire.OpDefer, Path: path, ID: id, Meta: m})
		for at := int64(0); at < size; at += int64(len(piece)) {
			must(t, r.Data(id, piece))
		}
		staged := r.abs(stagingDir + "/b" + itoa(id))
		way := resident(t, staged)
		must(t, r.Seal(id, m))
		end := resident(t, staged)
		if large := size >= flowPast; large && (int64(way) > 3*flowEvery/page || end > 0) || !large && int64(end) < size/page {
			t.Errorf("of %d pages %d are in memory on the way, %d at the end", size/page, way, end)
		}
		r.StageReady()
		must(t, r.Commit())
		if b, err := os.ReadFile(r.abs(path)); err != nil || !bytes.Equal(b, bytes.Repeat(piece, int(size)/len(piece))) {
			t.Errorf("what came is not what was sent: %v", err)
		}
	}
}

func mincore(b, in []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(unsafe.Pointer(unsafe.SliceData(in))))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestSmallPiecesBeginTheirWayEarly: what comes for a clone is begun by the half megabyte written, wherever that lies; a
// file that comes whole by the large piece only. Whether the disk is waited for does not depend on it.
func TestSmallPiecesBeginTheirWayEarly(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/f")
	must(t, err)
	defer f.Close()
	for _, based := range []bool{false, true} {
		tr := &transfer{f: f, based: based}
		begun := 0
		for range 2 * flowEvery / 4096 {
			tr.size += 40960 // nine of ten pages are kept
			before := tr.flow.begun
			must(t, tr.flow.wrote(tr, 4096))
			if tr.flow.begun != before {
				begun++
			}
		}
		if want := map[bool]int{false: 2, true: 2 * flowEvery / flowBased}[based]; begun != want {
			t.Errorf("a clone: %v: begun %d times, want %d", based, begun, want)
		}
		if tr.flow.piece != tr.size || tr.flow.last != tr.size/2 {
			t.Errorf("a clone: %v: the last piece is from %d to %d of %d", based, tr.flow.last, tr.flow.piece, tr.size)
		}
	}
}
