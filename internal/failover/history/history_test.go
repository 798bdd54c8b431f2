package history

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
)

func record(term cluster.Term, master cluster.NodeID) Record {
	return Record{Term: term, Master: master, From: "a", FromTerm: term - 1, Cause: CauseSilence, At: time.Unix(int64(term), 0).UTC(), Volumes: []Volume{{Name: "home"}}}
}

func opened(t *testing.T, path string) *Store[Record] {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What becomes known later replaces, also over a restart; an older revision that another node still has does not.
func TestLaterRevisionsCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	s := opened(t, path)
	if err := s.Put(record(5, "b"), record(4, "a"), record(5, "c")); err != nil {
		t.Fatal(err)
	}
	known, kept := record(5, "b"), 3
	known.Revision, known.Volumes[0].KeptAside = 1, &kept
	if err := s.Put(known); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(record(5, "b")); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store[Record]{s, opened(t, path)} {
		list := s.List()
		if len(list) != 3 || list[0].Master != "c" || list[1].Master != "b" || list[2].Term != 4 {
			t.Fatalf("got %+v", list)
		}
		if k := list[1].Volumes[0].KeptAside; k == nil || *k != 3 || list[1].Open() || !list[0].Open() {
			t.Errorf("what was kept aside is lost: %+v", list[1])
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v %v", info.Mode(), err)
	}
}

// A power cut in the middle of a line costs that line, and what is appended later is read.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	s := opened(t, path)
	if err := s.Put(record(1, "b")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("no json\n" + `{"term":2,"mas`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s = opened(t, path)
	if err := s.Put(record(3, "b")); err != nil {
		t.Fatal(err)
	}
	if list := opened(t, path).List(); len(list) != 2 || list[0].Term != 3 || list[1].Term != 1 {
		t.Errorf("got %+v", list)
	}
}

// The list and the file are bounded: the oldest reigns go.
func TestBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	s := opened(t, path)
	var all []Record
	for term := range MaxRecords + 50 {
		all = append(all, record(cluster.Term(term+1), "b"))
	}
	if err := s.Put(all...); err != nil {
		t.Fatal(err)
	}
	r := record(MaxRecords+50, "b")
	for range maxVolumes - 1 {
		r.Volumes = append(r.Volumes, Volume{Name: "a-volume-with-a-long-name"})
	}
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxFile/len(line) + 10 {
		r.Revision = i + 1
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxFile {
		t.Errorf("%v %v", info.Size(), err)
	}
	list := opened(t, path).List()
	if len(list) != MaxRecords || list[0].Term != MaxRecords+50 || list[len(list)-1].Term != 51 || list[0].Revision != r.Revision {
		t.Errorf("%d records, from %d to %d", len(list), list[0].Term, list[len(list)-1].Term)
	}
}

func TestMeasure(t *testing.T) {
	at := time.Unix(100, 0)
	heard, released, announced := at, at.Add(50*time.Millisecond), at.Add(80*time.Millisecond)
	r := Record{Times: Times{Heard: &heard, Announced: &announced}}
	if r.Measure(); r.RTO == nil || *r.RTO != 80 {
		t.Errorf("after a silence: %v", r.RTO)
	}
	r = Record{Times: Times{Heard: &heard, Released: &released, Announced: &announced}}
	if r.Measure(); r.RTO == nil || *r.RTO != 30 {
		t.Errorf("after a release: %v", r.RTO)
	}
	r = Record{Times: Times{Announced: &announced}}
	if r.Measure(); r.RTO != nil {
		t.Errorf("after nobody: %v", *r.RTO)
	}
}

// FuzzRecord: what another node says is a record or refused, and comes back as it was.
func FuzzRecord(f *testing.F) {
	good, _ := json.Marshal(record(7, "b"))
	f.Add(good)
	f.Add([]byte(`{"term":1,"master":"a","cause":"switch","at":"2026-01-01T00:00:00Z","revision":-1}`))
	f.Add([]byte(`{"term":18446744073709551615,"master":"x","cause":"met","volumes":[{"name":"v","missing":3}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Record
		if json.Unmarshal(b, &r) != nil || r.Check() != nil {
			return
		}
		r.Measure()
		line, err := json.Marshal(r)
		if err != nil || bytes.ContainsRune(line, '\n') {
			t.Fatalf("%v %q", err, line)
		}
		if err := json.Unmarshal(line, &again); err != nil || again.compare(r) != 0 {
			t.Fatalf("%v %+v", err, again)
		}
	})
}

// FuzzRehearsal: the same for rehearsals; what is accepted drives no terminal.
func FuzzRehearsal(f *testing.F) {
	good, _ := json.Marshal(Rehearsal{Node: "a", Began: time.Unix(1, 0), Ordered: Order{Why: WhyRehearsal, User: "alice as root", Node: "b"}, Result: Done, There: &Leg{Term: 7}})
	f.Add(good)
	f.Add([]byte(`{"node":"a","began":"2026-01-01T00:00:00Z","ordered":{"why":"x","user":"\u001b[2J"},"result":"done"}`))
	f.Add([]byte(`{"node":"a","began":"2026-01-01T00:00:00Z","ordered":{"why":"x"},"result":"lost"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Rehearsal
		if json.Unmarshal(b, &r) != nil || r.Check() != nil {
			return
		}
		line, err := json.Marshal(r)
		if err != nil || bytes.ContainsAny(line, "\n\x1b") || !printable(r.Ordered.User+r.Ordered.Why+r.Why) {
			t.Fatalf("%v %q", err, line)
		}
		if err := json.Unmarshal(line, &again); err != nil || again.compare(r) != 0 {
			t.Fatalf("%v %+v", err, again)
		}
	})
}

// A rehearsal is kept while it runs, and once more when it has ended.
func TestRehearsalsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rehearsals")
	s, err := OpenRehearsals(path)
	if err != nil {
		t.Fatal(err)
	}
	r := Rehearsal{Node: "a", Began: time.Unix(5, 0).UTC(), Ordered: Order{Why: WhyRehearsal, Node: "a"}, Result: Running}
	later := r
	later.Began, later.Node = time.Unix(9, 0).UTC(), "b"
	if err := s.Put(r, later); err != nil {
		t.Fatal(err)
	}
	r.Result, r.Revision = Done, 1
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenRehearsals(path); err != nil {
		t.Fatal(err)
	}
	if list := s.List(); len(list) != 2 || list[0].Node != "b" || list[1].Result != Done {
		t.Errorf("got %+v", list)
	}
}
