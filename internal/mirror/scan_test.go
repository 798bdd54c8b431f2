package mirror

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
)

// What changed while the agent did not run is found: files one by one, and the
// directories in which names came or went.
func TestUnwatched(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"calm", "busy", tree.Hidden} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"calm/old", "calm/written", "busy/removed"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m, err := root.Lstat("busy")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Unix(0, m.CTime)
	for later := since; !later.After(since); { // the clock of inodes is coarse
		if err := os.WriteFile(filepath.Join(dir, "calm/written"), []byte("2"), 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err = root.Lstat("calm/written"); err != nil {
			t.Fatal(err)
		}
		later = time.Unix(0, m.CTime)
	}
	if err := os.Remove(filepath.Join(dir, "busy/removed")); err != nil {
		t.Fatal(err)
	}
	v, err := newVolume(&Engine{o: Options{Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{root: root, since: since, until: time.Now().Add(time.Second), scanned: make(chan struct{})}
	if err := v.unwatched(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"busy"}, v.doubts); diff != "" {
		t.Error(diff)
	}
	o.since, o.scanned = time.Now().Add(time.Second), make(chan struct{})
	v.doubts = nil
	if err := v.unwatched(t.Context(), o); err != nil || v.doubts != nil {
		t.Errorf("nothing was written: %v, %v", err, v.doubts)
	}
}

// A master that was killed finds its last write, which its journal lost, as its own. If the search for what nobody watched
// ends only after another's reign has begun here, that is no write of others: it would be kept aside a second time.
func TestOwnLastWriteIsFoundOnce(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	j, _, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(false); err != nil {
		t.Fatal(err)
	}
	v, err := newVolume(&Engine{o: Options{Node: "b", Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := openForTest(t, dir, state)
	o.written = o.since
	for at := o.since; !at.After(o.since); { // the clock of inodes is coarse
		if err := os.WriteFile(filepath.Join(dir, "last"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := o.root.Lstat("last")
		if err != nil {
			t.Fatal(err)
		}
		at = time.Unix(0, m.CTime)
	}
	if err := v.afterStop(o, journal.Opened{LastWrite: o.since}); err != nil {
		t.Fatal(err)
	}
	tail, err := o.journal.Tail(cluster.Position{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, r := range tail {
		if r.Kind == journal.Dirty {
			own = append(own, r.Path)
		}
	}
	if diff := cmp.Diff([]string{"last"}, own); diff != "" {
		t.Errorf("its own: %s", diff)
	}
	v.open, v.mode = o, collect
	if err := v.unwatched(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if len(v.pending) > 0 || len(v.doubts) > 0 {
		t.Errorf("others': %v, below %q", v.pending, v.doubts)
	}
}

// A node may lead before the search for what nobody watched is over: then the standbys compare what it doubts.
func TestDoubtsOfALeader(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	j, _, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(false); err != nil {
		t.Fatal(err)
	}
	v, err := newVolume(&Engine{o: Options{Node: "b", Log: slog.New(slog.DiscardHandler)}}, VolumeConfig{Name: "home", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := openForTest(t, dir, state)
	o.written = o.since
	if err := o.journal.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 2, Owner: "b"}}); err != nil {
		t.Fatal(err)
	}
	for at := o.since; !at.After(o.since); { // the clock of inodes is coarse
		if err := os.Mkdir(filepath.Join(dir, "made"), 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := o.root.Lstat("made")
		if err != nil {
			t.Fatal(err)
		}
		if at = time.Unix(0, m.CTime); !at.After(o.since) {
			os.Remove(filepath.Join(dir, "made"))
		}
	}
	v.open, v.mode = o, record
	if err := v.unwatched(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	tail, err := o.journal.Tail(cluster.Position{Term: 2}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var compared []string
	for _, r := range tail {
		if r.Kind == journal.Tree && r.Below {
			compared = append(compared, r.Path)
		}
	}
	if diff := cmp.Diff([]string{"", "made"}, compared); diff != "" || len(v.doubts) > 0 {
		t.Errorf("standbys compare %s; doubted still: %q", diff, v.doubts)
	}
}
