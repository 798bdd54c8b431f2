package send

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// A file whose times change all the time, and a log that grows without pause, are sent as they were at some moment.
func TestAFileThatNeverStandsStill(t *testing.T) {
	dir := t.TempDir()
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var all []byte
	for i := range uint64(30_000) {
		all = binary.BigEndian.AppendUint64(all, i)
	}
	const first = 200_000 // bytes that are there from the beginning
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(all[:first]); err != nil {
		t.Fatal(err)
	}
	began, stop, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for n := 0; err == nil; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if at := first + n; n%8 == 0 && at < len(all) {
				_, err = f.Write(all[at : at+8])
			} else {
				err = unix.Futimes(int(f.Fd()), []unix.Timeval{{Sec: int64(n)}, {Sec: int64(n)}})
			}
			if n == 100 {
				close(began)
			}
		}
		done <- err
	}()
	<-began
	s := &Stream{o: Options{Root: root}}
	for range 200 {
		m, data, err := s.readSmall("log")
		if err != nil || m.Kind != tree.File || m.Size != int64(len(data)) || !bytes.HasPrefix(all, data) {
			t.Errorf("%d bytes were read for a size of %d, kind %q (%v)", len(data), m.Size, m.Kind, err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestHeldThroughout(t *testing.T) {
	meta := func(size int64) tree.Meta { return tree.Meta{Kind: tree.File, Size: size, Inode: 5, Links: 1} }
	for name, c := range map[string]struct {
		before tree.Meta
		was    string
		now    tree.Meta
		data   string
		want   bool
	}{
		"it grew":                     {meta(3), "abc", meta(5), "abcde", true},
		"it grew while it was read":   {meta(3), "abcd", meta(5), "abcde", true},
		"it was rewritten":            {meta(3), "abc", meta(3), "abx", false},
		"it was cut":                  {meta(3), "abc", meta(2), "ab", false},
		"it was cut while first read": {meta(3), "ab", meta(3), "abc", false},
		"another one has the name":    {meta(3), "abc", tree.Meta{Kind: tree.File, Size: 3, Inode: 6, Links: 1}, "abc", false},
		"it has another mode":         {meta(3), "abc", tree.Meta{Kind: tree.File, Size: 3, Inode: 5, Links: 1, Mode: 1}, "abc", false},
		"nothing was read before":     {tree.Meta{}, "", meta(3), "abc", false},
	} {
		if got := heldThroughout(c.before, []byte(c.was), c.now, []byte(c.data)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A file that is tried in vain for long is told of, for as long as the follower waits for it.
func TestRestlessFilesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stream{big: newBulk()}
		want := func(what string, files int, path string) {
			t.Helper()
			if r := s.Restless(); r.Files != files || r.Path != path {
				t.Errorf("%s: %+v, want %d and %q", what, r, files, path)
			}
		}
		id := s.big.offer("d/large", 0, tree.Meta{Kind: tree.File, Size: 300_000})
		s.big.want([]uint64{id}, nil)
		s.big.moves("d/large", false)
		time.Sleep(time.Second)
		s.big.moves("small", true)
		s.big.moves("not wanted", false)
		want("most rest within seconds", 0, "")
		time.Sleep(restlessAfter)
		s.big.moves("d/large", false)
		want("both, the first first", 2, "d/large")
		s.rests("small")
		want("one was read", 1, "d/large")
		s.big.renamed("d", "e")
		want("it has another name", 0, "")
		s.big.moves("e/large", false)
		time.Sleep(restlessAfter)
		want("under that", 1, "e/large")
		s.big.sent(id, 300_000)
		want("it was sent", 0, "")
		for i := range 2 * maxRestless {
			s.big.moves(fmt.Sprint(i), true)
		}
		if len(s.big.restless) != maxRestless {
			t.Errorf("%d are remembered", len(s.big.restless))
		}
	})
}
