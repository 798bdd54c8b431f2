package journal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
)

// copyDir is the journal's directory as a crash at this moment would leave it.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func segments(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "clean" {
			names = append(names, e.Name())
		}
	}
	return names
}

// rotate appends until a new segment has begun, and returns how many changes that took.
func rotate(t *testing.T, j *journal.Journal, dir string) (n int) {
	t.Helper()
	before := len(segments(t, dir))
	long := strings.Repeat("x", 2000)
	batch := make([]journal.Record, 1000)
	for len(segments(t, dir)) == before {
		next := j.Next()
		for i := range batch {
			batch[i] = journal.Record{Kind: journal.Dirty, Pos: next, Path: fmt.Sprint(next.Seq, long)}
			next.Seq++
		}
		if err := j.Append(batch...); err != nil {
			t.Fatal(err)
		}
		n += len(batch)
	}
	return n
}

// TestCrashInTheMiddleOfARestart: a crash after the new head is durable and
// before the old segments are gone must not bring them back.
func TestCrashInTheMiddleOfARestart(t *testing.T) {
	for _, how := range []string{"rewind", "adopt"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			j, _ := open(t, dir)
			fill(t, j, 1, "a", "x", "y", "z")
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			before := copyDir(t, dir)
			want := cluster.Position{Term: 1, Seq: 1}
			owe := []reconcile.Debt{{Path: "y"}}
			if how == "rewind" {
				if err := j.Rewind(want, owe); err != nil {
					t.Fatal(err)
				}
			} else {
				want = cluster.Position{Term: 7, Seq: 9}
				h := reconcile.History{{Reign: cluster.Reign{Term: 7, Owner: "q"}, Last: 9}}
				if err := j.Adopt(h, owe); err != nil {
					t.Fatal(err)
				}
			}
			j.Close(false)
			crashed := copyDir(t, dir)
			for _, name := range segments(t, before) { // as if they had not been removed
				b, err := os.ReadFile(filepath.Join(before, name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(crashed, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			j, _ = open(t, crashed)
			if got := j.Position(); got != want {
				t.Errorf("position %v, want %v", got, want)
			}
			owed := j.Owed()
			if diff := cmp.Diff(owe, owed.List()); diff != "" {
				t.Error(diff)
			}
			if _, err := j.Reader(cluster.Position{}); err != journal.ErrTrimmed {
				t.Errorf("the voided segment can still be read: %v", err)
			}
			if got := segments(t, crashed); len(got) != 1 {
				t.Errorf("segments %v are left", got)
			}
		})
	}
}

// TestCrashWhenASegmentBegins: a new segment without a whole head is as if it
// had never been begun.
func TestCrashWhenASegmentBegins(t *testing.T) {
	for _, head := range []string{"", "\x05\x00\x00\x00torn"} {
		dir := t.TempDir()
		j, _ := open(t, dir)
		fill(t, j, 1, "a", "x", "y")
		j.Close(false)
		if err := os.WriteFile(filepath.Join(dir, "0000000000000002"), []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
		j, o := open(t, dir)
		if got, want := j.Position(), (cluster.Position{Term: 1, Seq: 2}); got != want || o.Clean {
			t.Fatalf("head %q: position %v, want %v; clean %v", head, got, want, o.Clean)
		}
		if err := j.Append(journal.Record{Kind: journal.Dirty, Pos: j.Next(), Path: "z"}); err != nil {
			t.Fatalf("head %q: %v", head, err)
		}
		j.Close(false)
		j, _ = open(t, dir)
		records, err := j.Tail(cluster.Position{}, 100)
		if diff := cmp.Diff([]string{"x", "y", "z"}, paths(records)); diff != "" || err != nil {
			t.Fatalf("head %q: %v %s", head, err, diff)
		}
	}
}

// TestARestartVoidsOnlyWhatIsBefore: segments begun after a rewind are not void
// when the journal was reopened between.
func TestARestartVoidsOnlyWhatIsBefore(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	fill(t, j, 1, "a", "x", "y")
	at := cluster.Position{Term: 1, Seq: 1}
	if err := j.Rewind(at, nil); err != nil {
		t.Fatal(err)
	}
	j.Close(false)
	j, _ = open(t, dir)
	n := rotate(t, j, dir)
	j.Close(false)
	j, _ = open(t, dir)
	records, err := j.Tail(at, n+1)
	if err != nil || len(records) != n {
		t.Fatalf("%d of %d changes since the rewind, %v", len(records), n, err)
	}
}

// TestReaderGoesOverRotations: a reader that keeps reading misses nothing and
// sees nothing twice.
func TestReaderGoesOverRotations(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	fill(t, j, 1, "a")
	r, err := j.Reader(cluster.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var seen uint64
	read := func(max int) {
		t.Helper()
		for {
			records, err := r.Next(max)
			if err != nil {
				t.Fatal(err)
			}
			if len(records) == 0 {
				return
			}
			for _, rec := range records {
				if !rec.Kind.IsChange() {
					continue
				}
				if seen++; rec.Pos.Seq != seen {
					t.Fatalf("%v after %d", rec.Pos, seen-1)
				}
			}
		}
	}
	for round := range 3 {
		rotate(t, j, dir)
		read([]int{1, 7, 512}[round])
		if want := j.Position().Seq; seen != want {
			t.Fatalf("round %d: read %d of %d", round, seen, want)
		}
	}
	// A reader that stands still while its segment is dropped learns that it was trimmed.
	slow, err := j.Reader(cluster.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for len(segments(t, dir)) < 8 {
		rotate(t, j, dir)
	}
	for range 2 { // the bound is reached: the number of segments stays
		next := j.Next()
		batch := make([]journal.Record, 5000)
		for i := range batch {
			batch[i] = journal.Record{Kind: journal.Dirty, Pos: next, Path: strings.Repeat("y", 2000)}
			next.Seq++
		}
		if err := j.Append(batch...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := slow.Next(1); err != journal.ErrTrimmed {
		t.Errorf("a reader of a dropped segment: %v, want ErrTrimmed", err)
	}
}

// TestADamagedOlderSegmentCostsOnlyWhatIsBefore: bytes that rot in the middle
// make the journal shorter, and nothing of it wrong.
func TestADamagedOlderSegmentCostsOnlyWhatIsBefore(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	fill(t, j, 1, "a", "x")
	rotate(t, j, dir)
	at := j.Position()
	fill(t, j, 2, "b", "y", "z")
	j.Close(true)
	name := filepath.Join(dir, "0000000000000001")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	j, _ = open(t, dir)
	if got, want := j.Position(), (cluster.Position{Term: 2, Seq: 2}); got != want {
		t.Errorf("position %v, want %v", got, want)
	}
	if _, err := j.Reader(cluster.Position{}); err != journal.ErrTrimmed {
		t.Errorf("reading over the damage: %v, want ErrTrimmed", err)
	}
	records, err := j.Tail(at, 100)
	if diff := cmp.Diff([]string{"y", "z"}, paths(records)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
