package mirror

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
)

// A standby that lost power and leads next: what it showed and did not have on
// its disk is set aside and owed, so that a survivor may give it; what is whole stays.
func TestTornFilesDoNotBecomeTheTruth(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	j, _, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	write("old-and-empty", "")
	born := time.Now()
	flew := func(path string, size uint64) journal.Record {
		return journal.Record{Kind: journal.Ahead, Path: path, ID: 1, Pos: cluster.Position{Seq: size + 1}}
	}
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}},
		journal.Record{Kind: journal.Landed, At: born.UnixNano()},
		flew("flew-torn", 5), flew("flew-whole", 5), flew("flew-and-empty", 0), flew("never-seen", 5)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(false); err != nil {
		t.Fatal(err)
	}
	for later := born; !later.After(born); { // the clock of inodes is coarse
		write("clock", "")
		m, err := os.Stat(filepath.Join(dir, "clock"))
		if err != nil {
			t.Fatal(err)
		}
		later = m.ModTime()
		os.Remove(filepath.Join(dir, "clock"))
	}
	write("flew-torn", "12")
	write("flew-whole", "12345")
	write("flew-and-empty", "")
	write("unknown-torn", "")
	write("unknown-whole", "1234")

	v, err := newVolume(&Engine{o: Options{Node: "b", Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := openForTest(t, dir, state)
	o.written = o.since
	if err := v.unwatched(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	v.remember(watch.Event{Kind: watch.Dirty, Path: "unknown-whole"}) // as the scan has it count
	v.remember(watch.Event{Kind: watch.Dirty, Path: "written-now"})
	after, err := v.settleUnproven(t.Context(), o, Role{Reign: cluster.Reign{Term: 2, Owner: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	owed := o.journal.Owed()
	for name, want := range map[string]struct{ there, owed bool }{
		"flew-torn": {false, true}, "flew-whole": {true, true}, "flew-and-empty": {true, true}, "never-seen": {false, true},
		"unknown-torn": {false, true}, "unknown-whole": {true, true}, "old-and-empty": {true, false},
	} {
		_, err := os.Lstat(filepath.Join(dir, name))
		if _, is := owed.Get(name); (err == nil) != want.there || is != want.owed {
			t.Errorf("%s: %v, owed %v; want %+v", name, err, is, want)
		}
	}
	if len(v.written) != 1 || !v.waits("written-now") {
		t.Errorf("these keep a survivor's version out: %v", v.written)
	}
	after()
	if n := len(v.pending); n != 6 { // what was written now, and what nobody gave
		t.Errorf("%d changes are to be told: %v", n, v.pending)
	}
	kept, err := apply.ListDivergent(o.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		if k.Path != "flew-torn" && k.Path != "unknown-torn" {
			t.Errorf("%s is kept aside", k.Path)
		}
	}
	if len(kept) != 2 {
		t.Errorf("%d are kept aside", len(kept))
	}
}

func openForTest(t *testing.T, dir, state string) *opened {
	t.Helper()
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, found, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(false); root.Close() })
	o := &opened{root: root, journal: j, since: found.Known, until: time.Now().Add(time.Second), flown: found.Flown, unclean: !found.Clean, scanned: make(chan struct{})}
	o.applier, err = apply.New(apply.Options{
		Root: root, Journal: j, Node: "b", Excluded: tree.IsHidden, TrashAge: time.Hour, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}
