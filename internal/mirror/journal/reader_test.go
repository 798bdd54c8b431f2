package journal_test

import (
	"fmt"
	"runtime"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
)

// TestAReaderKeepsItsBuffer counts what a stream that keeps up allocates for each
// change: it once was a buffer of 256 KiB.
func TestAReaderKeepsItsBuffer(t *testing.T) {
	const changes, most = 200, 16 << 10 // bytes for a change, the append included
	j := begun(t, t.TempDir())
	r, err := j.Reader(cluster.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	change := func(i int) {
		rec := journal.Record{Kind: journal.Dirty, Path: fmt.Sprint("directory/file", i), Pos: cluster.Position{Term: 1, Seq: uint64(i + 1)}}
		if err := j.Append(rec); err != nil {
			t.Fatal(err)
		}
		for {
			got, err := r.Next(512)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				return
			}
			if last := got[len(got)-1]; last.Kind == journal.Dirty && last.Path != rec.Path {
				t.Fatalf("read %q, appended %q", last.Path, rec.Path)
			}
		}
	}
	change(0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range changes {
		change(i + 1)
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / changes; n > most {
		t.Errorf("each change costs %d bytes of memory, more than %d", n, most)
	}
}
