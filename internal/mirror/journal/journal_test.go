package journal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
)

func open(t *testing.T, dir string) (*journal.Journal, journal.Opened) {
	t.Helper()
	j, o, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(false) })
	return j, o
}

func fill(t *testing.T, j *journal.Journal, term cluster.Term, owner cluster.NodeID, paths ...string) {
	t.Helper()
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: term, Owner: owner}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if err := j.Append(journal.Record{Kind: journal.Dirty, Pos: j.Next(), Path: p}); err != nil {
			t.Fatal(err)
		}
	}
}

func paths(records []journal.Record) (out []string) {
	for _, r := range records {
		if r.Kind.IsChange() {
			out = append(out, r.Path)
		}
	}
	return out
}

func TestReadsBehindAnyPosition(t *testing.T) {
	j, o := open(t, t.TempDir())
	if !o.Clean {
		t.Error("a new journal is not clean")
	}
	fill(t, j, 1, "a", "x", "y")
	fill(t, j, 3, "b", "z")
	for _, tc := range []struct {
		after cluster.Position
		want  []string
	}{
		{cluster.Position{}, []string{"x", "y", "z"}},
		{cluster.Position{Term: 1, Seq: 1}, []string{"y", "z"}},
		{cluster.Position{Term: 1, Seq: 2}, []string{"z"}},
		{cluster.Position{Term: 3, Seq: 1}, nil},
	} {
		records, err := j.Tail(tc.after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, paths(records)); diff != "" {
			t.Errorf("after %v: %s", tc.after, diff)
		}
	}
	if got, want := j.Position(), (cluster.Position{Term: 3, Seq: 1}); got != want {
		t.Errorf("position %v, want %v", got, want)
	}
}

func TestRefusesWhatDoesNotFollow(t *testing.T) {
	j, _ := open(t, t.TempDir())
	fill(t, j, 5, "a", "x")
	for _, r := range []journal.Record{
		{Kind: journal.Begun, Reign: cluster.Reign{Term: 5, Owner: "a"}},
		{Kind: journal.Begun, Reign: cluster.Reign{Term: 4, Owner: "b"}},
		{Kind: journal.Dirty, Pos: cluster.Position{Term: 4, Seq: 9}},
		{Kind: journal.Dirty, Pos: cluster.Position{Term: 5, Seq: 1}},
	} {
		if err := j.Append(r); err == nil {
			t.Errorf("%+v was accepted behind 5/1", r)
		}
	}
}

func TestTornEndIsCutAndTheRestKept(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	fill(t, j, 1, "a", "x", "y")
	j.Close(false)
	name := filepath.Join(dir, "0000000000000001")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < 12; cut++ { // within the last record
		if err := os.WriteFile(name, b[:len(b)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, o := open(t, dir)
		if o.Clean || o.Torn == 0 {
			t.Fatalf("cut %d: clean %v, torn %d", cut, o.Clean, o.Torn)
		}
		if got, want := j.Position(), (cluster.Position{Term: 1, Seq: 1}); got != want {
			t.Fatalf("cut %d: position %v, want %v", cut, got, want)
		}
		if err := j.Append(journal.Record{Kind: journal.Dirty, Pos: j.Next(), Path: "again"}); err != nil {
			t.Fatal(err)
		}
		j.Close(true)
		j, o = open(t, dir)
		if !o.Clean || j.Position().Seq != 2 {
			t.Fatalf("cut %d: after a clean end: clean %v, position %v", cut, o.Clean, j.Position())
		}
		j.Close(false)
	}
}

func TestRewindAndOwedSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	fill(t, j, 1, "a", "x", "y", "z")
	if err := j.Rewind(cluster.Position{Term: 1, Seq: 1}, []reconcile.Debt{{Path: "y"}, {Path: "z"}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(journal.Record{Kind: journal.Paid, Path: "y"}); err != nil {
		t.Fatal(err)
	}
	j.Close(false)
	j, _ = open(t, dir)
	if got, want := j.Position(), (cluster.Position{Term: 1, Seq: 1}); got != want {
		t.Errorf("position %v, want %v", got, want)
	}
	owed := j.Owed()
	if diff := cmp.Diff([]reconcile.Debt{{Path: "z"}}, owed.List()); diff != "" {
		t.Error(diff)
	}
	if _, err := j.Reader(cluster.Position{}); err != journal.ErrTrimmed {
		t.Errorf("reading before the rewind: %v, want ErrTrimmed", err)
	}
}

func TestBoundedAndTrimmed(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	fill(t, j, 1, "a")
	long := string(make([]byte, 3000))
	batch := make([]journal.Record, 1000)
	for range 40 { // 120 MB of paths
		next := j.Next()
		for i := range batch {
			batch[i] = journal.Record{Kind: journal.Dirty, Pos: next, Path: fmt.Sprint(next.Seq, long)}
			next.Seq++
		}
		if err := j.Append(batch...); err != nil {
			t.Fatal(err)
		}
	}
	var size int64
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		info, _ := e.Info()
		size += info.Size()
	}
	if size > 100<<20 {
		t.Errorf("journal takes %d MiB", size>>20)
	}
	if _, err := j.Reader(cluster.Position{}); err != journal.ErrTrimmed {
		t.Errorf("reading from the start: %v, want ErrTrimmed", err)
	}
	if got := j.History(); len(got) != 1 || got[0].Last != 40000 {
		t.Errorf("history %v", got)
	}
	records, err := j.Tail(cluster.Position{Term: 1, Seq: 39990}, 100)
	if err != nil || len(records) != 10 {
		t.Errorf("%d records, %v", len(records), err)
	}
}
