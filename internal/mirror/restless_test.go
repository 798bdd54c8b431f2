package mirror

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// restlessOn: a large file that a program writes without pause comes all the same where the filesystem can hold a moment of it,
// again and again, and each time as it was at one moment.
func restlessOn(t *testing.T, dir string) {
	must(t, os.Mkdir(dir, 0o755))
	w, err := newWorld(dir, 0)
	must(t, err)
	must(t, w.srcRoot.MkdirAll(tree.Hidden)) // an agent's source has it
	w.versions = send.NewVersions(w.srcRoot)
	defer func() { must(t, w.close()); w.versions.Close() }()
	f, err := os.Create(w.src.abs("disk"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(wire.DeltaLeast+8))
	var written atomic.Uint64
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { // a number at the beginning, then the same at the end
		var err error
		for n := uint64(1); err == nil; n++ {
			b := binary.BigEndian.AppendUint64(nil, n)
			if _, err = f.WriteAt(b, 0); err == nil {
				_, err = f.WriteAt(b, wire.DeltaLeast)
			}
			written.Store(n)
			select {
			case <-stop:
				done <- err
				return
			default:
			}
		}
		done <- err
	}()
	for last, round := uint64(0), 0; round < 4; round++ {
		since := written.Load()
		w.src.written("disk", false)
		must(t, w.emit(1))
		if w.link == nil {
			must(t, w.connect())
		}
		for deadline := time.Now().Add(30 * time.Second); last < since; time.Sleep(5 * time.Millisecond) {
			w.beginDrains()
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the file of after write %d has not come: the follower has that of %d", round, since, last)
			}
			b, err := os.ReadFile(filepath.Join(w.dir, "disk"))
			if os.IsNotExist(err) {
				continue
			}
			must(t, err)
			begin, end := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[wire.DeltaLeast:])
			if begin != end && begin != end+1 {
				t.Fatalf("round %d: the file is torn: %d and %d", round, begin, end)
			}
			last = end
		}
	}
	close(stop)
	must(t, <-done)
	must(t, f.Close())
	w.src.written("disk", false)
	must(t, w.emit(1))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		w.beginDrains()
		diff, err := w.differs()
		must(t, err)
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(diff)
		}
	}
}
