package journal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
)

// bytesIn is what the files of a directory hold.
func bytesIn(t *testing.T, dir string) (n int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

func begun(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, _, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(false) })
	if err := j.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}); err != nil {
		t.Fatal(err)
	}
	return j
}

// TestOneLargeAppend: the changes of a new master's first moment come at once,
// and take no more room than any others.
func TestOneLargeAppend(t *testing.T) {
	dir := t.TempDir()
	j := begun(t, dir)
	long := strings.Repeat("directory/", 300)
	var records []journal.Record
	for i := range 30_000 { // 90 MB
		records = append(records, journal.Record{Kind: journal.Dirty, Path: long + fmt.Sprint(i), Pos: cluster.Position{Term: 1, Seq: uint64(i + 1)}})
	}
	if err := j.Append(records...); err != nil {
		t.Fatal(err)
	}
	if n := bytesIn(t, dir); n > journal.MaxBytes {
		t.Errorf("the journal takes %d bytes, more than %d", n, int64(journal.MaxBytes))
	}
	if got := j.Position(); got.Seq != 30_000 {
		t.Errorf("it stands at %v", got)
	}
	last, err := j.Tail(cluster.Position{Term: 1, Seq: 29_998}, 10)
	if err != nil || len(last) != 2 || last[1].Path != records[29_999].Path {
		t.Errorf("its end is %d records, %v", len(last), err)
	}
}

// TestManyDebtsFitAHead: more debts than a segment's head may hold become one
// for everything; a journal that could not be read again would lose them all, and its position.
func TestManyDebtsFitAHead(t *testing.T) {
	dir := t.TempDir()
	j := begun(t, dir)
	const debts, size = 100_000, 120
	pad := strings.Repeat("p", size)
	for at := 0; at < debts; at += 1000 {
		var records []journal.Record
		for i := at; i < at+1000; i++ {
			records = append(records, journal.Record{Kind: journal.Owe, Path: fmt.Sprintf("%s%d", pad, i)})
		}
		if err := j.Append(records...); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Append(journal.Record{Kind: journal.Dirty, Path: "last", Pos: cluster.Position{Term: 1, Seq: 7}}); err != nil {
		t.Fatal(err)
	}
	if j.OwedTrees() != 1 || j.Collapsed() == 0 {
		t.Errorf("%d trees are owed, collapsed %d times", j.OwedTrees(), j.Collapsed())
	}
	if n := bytesIn(t, dir); n > journal.MaxBytes {
		t.Errorf("the journal takes %d bytes, more than %d", n, int64(journal.MaxBytes))
	}
	if err := j.Close(true); err != nil {
		t.Fatal(err)
	}
	again, _, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(false)
	if got := again.Position(); got != (cluster.Position{Term: 1, Seq: 7}) || again.OwedTrees() != 1 {
		t.Errorf("read again it stands at %v and owes %d trees", got, again.OwedTrees())
	}
}
