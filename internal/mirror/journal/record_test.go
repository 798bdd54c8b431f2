package journal

import (
	"errors"
	"fmt"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
)

func seeds() []Record {
	reign := cluster.Reign{Term: 3, Owner: "a"}
	return []Record{
		{Kind: head, heading: &heading{history: reconcile.History{{Reign: reign, Last: 2}}, owed: []reconcile.Debt{{Path: "x\xff\n", ID: 4}, {Tree: true}}, fresh: true}},
		{Kind: head, heading: &heading{}},
		{Kind: Begun, Reign: reign},
		{Kind: Dirty, Pos: cluster.Position{Term: 3, Seq: 3}, Path: "a/b"},
		{Kind: Tree, Pos: cluster.Position{Term: 3, Seq: 4}, Below: true},
		{Kind: Removed, Pos: cluster.Position{Term: 3, Seq: 5}, Path: "a"},
		{Kind: Renamed, Pos: cluster.Position{Term: 1<<64 - 1, Seq: 1<<64 - 1}, Path: "b", Old: "a"},
		{Kind: Owe, Path: "p", ID: 1<<64 - 1, Below: true},
		{Kind: Paid, Path: "p"},
		{Kind: Ahead, Path: "p", ID: 2, Pos: cluster.Position{Seq: 6}, Looks: 1<<32 - 1},
		{Kind: Landed, ID: 2, At: 1},
	}
}

// FuzzDecodeFrame: what is decoded is encoded to the same record again, and
// what is not whole is torn.
func FuzzDecodeFrame(f *testing.F) {
	for _, r := range seeds() {
		b := appendRecord(nil, r)
		f.Add(b, true)
		f.Add(b[frameHeader:], false)
		f.Add(b[:len(b)-1], true)
	}
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		var r Record
		var err error
		if framed {
			var size int
			r, size, err = decodeFrame(b)
			if err == nil && (size < frameHeader || size > len(b)) {
				t.Fatalf("a record of %d bytes in %d", size, len(b))
			}
		} else if len(b) > 0 { // the checksum would hide the decoder from the fuzzer
			r, err = decodePayload(b)
		} else {
			return
		}
		if err != nil {
			return
		}
		enc := appendRecord(nil, r)
		again, size, err := decodeFrame(append(enc[:len(enc):len(enc)], "rest"...))
		if err != nil || size != len(enc) {
			t.Fatalf("%+v: %d of %d bytes, %v", r, size, len(enc), err)
		}
		if diff := cmp.Diff(r, again, cmp.AllowUnexported(Record{}, heading{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
		for cut := range min(len(enc), 64) {
			if _, _, err := decodeFrame(enc[:cut]); err == nil {
				t.Fatalf("%+v: %d of %d bytes are a record", r, cut, len(enc))
			}
		}
	})
}

// FuzzReplay: a segment of any bytes is replayed up to its first damage, and
// replaying the good part again gives the same.
func FuzzReplay(f *testing.F) {
	var all []byte
	for _, r := range seeds() {
		all = appendRecord(all, r)
	}
	f.Add(all)
	f.Add(all[:len(all)-3])
	f.Add(append(append([]byte(nil), all...), all[frameHeader:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, after, good := replay(b, nil)
		if good < 0 || good > len(b) {
			t.Fatalf("%d good bytes of %d", good, len(b))
		}
		st2, after2, good2 := replay(b[:good], nil)
		owed, owed2 := st.owed, st2.owed
		if good2 != good || after2 != after || !cmp.Equal(st.history, st2.history) || !cmp.Equal(owed.List(), owed2.List()) {
			t.Fatalf("replaying %d good bytes again: %d", good, good2)
		}
	})
}

// A source holds 200,000 records for one follower that is behind: their size is memory of the master's.
func TestARecordIsSmall(t *testing.T) {
	const most = 112
	if size := unsafe.Sizeof(Record{}); size > most {
		t.Errorf("a record takes %d bytes, and the bound of a backlog's memory was measured with %d", size, most)
	}
}

// What was asked for and has come is known at the next start, of large files and whole trees nothing, and no more than is asked again.
func TestAnsweredIsKnownAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	j, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	records := []Record{{Kind: Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}}
	for i := range 3 * maxAnswered {
		path := fmt.Sprint(i)
		records = append(records, Record{Kind: Owe, Path: path}, Record{Kind: Paid, Path: path})
	}
	records = append(records, Record{Kind: Owe, Path: "large", ID: 1}, Record{Kind: Paid, Path: "large"}, Record{Kind: Owe, Path: "tree", Below: true}, Record{Kind: Paid, Path: "tree", Below: true},
		Record{Kind: Paid, Path: "not owed"})
	if err := errors.Join(j.Append(records...), j.Close(false)); err != nil {
		t.Fatal(err)
	}
	j, found, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(false)
	if n := len(found.Answered); n != maxAnswered || found.Answered[n-1] != fmt.Sprint(3*maxAnswered-1) {
		t.Errorf("%d are known, the last %q", n, found.Answered[max(0, n-1):])
	}
}
