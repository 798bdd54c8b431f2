package verify

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The rule, row by row.
func TestJudge(t *testing.T) {
	file := func(hash string) *Entry {
		return &Entry{Kind: tree.File, Size: 1, MTime: 7, Hash: []byte(hash)}
	}
	with := func(e *Entry, change func(*Entry)) *Entry { change(e); return e }
	was := func(hash string) func(*Entry) { return func(e *Entry) { e.Was = []byte(hash) } }
	unread := func(e *Entry) { e.Error = "input/output error" }
	for _, row := range []struct {
		name         string
		master, b, c *Entry
		want         string
	}{
		{"the master's is the truth", file("m"), file("x"), file("m"), OfMaster},
		{"against one standby too", file("m"), file("x"), &Entry{}, OfMaster},
		{"two standbys that differ are no majority", file("m"), file("x"), file("y"), OfMaster},
		{"a majority against what was never proven", file("m"), file("x"), file("x"), Undecided},
		{"a majority of another time is only behind", file("m"), with(file("x"), func(e *Entry) { e.MTime = 6 }), with(file("x"), func(e *Entry) { e.MTime = 6 }), OfMaster},
		{"a majority against what was proven", with(file("m"), func(e *Entry) { e.proven = true }), file("x"), file("x"), OfMaster},
		{"the master's is damaged", with(file("m"), was("x")), file("x"), file("x"), "b"},
		{"who has what it was", with(file("m"), was("x")), file("y"), file("x"), "c"},
		{"nobody has what it was", with(file("m"), was("x")), file("y"), file("z"), NoCopyLeft},
		{"the master's cannot be read", with(&Entry{Kind: tree.File, Size: 1, MTime: 7}, unread), with(file("x"), was("y")), file("x"), "c"},
		{"nobody's can be read", with(&Entry{Kind: tree.File, Size: 1, MTime: 7}, unread), with(file("x"), unread), &Entry{}, NoCopyLeft},
	} {
		if got := Judge(row.master, map[cluster.NodeID]*Entry{"b": row.b, "c": row.c}); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}

// Other bytes under the same state are damage, and what was read first stays the evidence.
func TestIndexTellsDamage(t *testing.T) {
	x, err := OpenIndex(filepath.Join(t.TempDir(), "i", "v.db"))
	must(t, err)
	good, bad := make([]byte, 32), make([]byte, 32)
	bad[0] = 1
	s := state{1, 2, 3, 4}
	see := func(s state, hash []byte, run int64, damaged, proven bool) {
		t.Helper()
		was, before, err := x.seen("f", s, hash, run)
		must(t, err)
		if (was != nil) != damaged || before != proven {
			t.Errorf("run %d: was %x, proven %v", run, was, before)
		}
	}
	see(s, good, 1, false, false)
	see(s, good, 1, false, false) // the same proof looks twice
	see(s, good, 2, false, true)
	must(t, x.flush())
	see(s, bad, 3, true, false)
	see(s, bad, 4, true, false)
	see(s, good, 5, false, true)
	see(state{1, 2, 3, 5}, bad, 6, false, false) // written since
	must(t, x.Done(7))
	see(state{1, 2, 3, 5}, bad, 8, false, false) // it was not seen by proof 7
	must(t, x.Close())
}

// local is a standby without a connection.
type local struct {
	r      *Reader
	asked  int
	fail   int // the question that is not answered; 0: none
	repair func(Repair)
}

func (l *local) Digests(a Ask) ([]Entry, End, error) {
	if l.asked++; l.asked == l.fail {
		return nil, End{}, errors.New("gone")
	}
	list, more, err := l.r.Digests(context.Background(), a)
	return list, End{More: more}, err
}
func (l *local) Repair(r Repair) error                           { l.repair(r); return nil }
func (l *local) Content(string, int64, func([]byte) error) error { return nil }
func (l *local) Done(int64) error                                { return nil }

func reader(t *testing.T) (*Reader, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := tree.Open(dir)
	must(t, err)
	t.Cleanup(func() { must(t, root.Close()) })
	x, err := OpenIndex(filepath.Join(t.TempDir(), "v.db"))
	must(t, err)
	t.Cleanup(func() { must(t, x.Close()) })
	return &Reader{Root: root, Excluded: tree.IsHidden, Index: x}, dir
}

func old(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
	must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
}

// A proof that is interrupted goes on behind the last range, and reads nothing twice.
func TestResumes(t *testing.T) {
	m, mine := reader(t)
	b, theirs := reader(t)
	for _, dir := range []string{mine, theirs} {
		for _, name := range []string{"a", "d/b", "d/e/c", "d.x/y", "f/g", "f-/h", "z"} {
			old(t, filepath.Join(dir, name), name)
		}
	}
	old(t, filepath.Join(theirs, "f/g"), "G")
	s := &State{Began: time.Now(), Rate: MostRate, Nodes: map[cluster.NodeID]*NodeState{}}
	ctx, cancel := context.WithCancel(context.Background())
	w := func(saves int) *Walk {
		return &Walk{Self: "a", Reader: &Reader{Root: m.Root, Excluded: m.Excluded, Index: m.Index}, Standbys: map[cluster.NodeID]Standby{"b": &local{r: b}}, Barrier: func(context.Context, cluster.NodeID) error { return nil },
			Save: func(s *State) error {
				if saves--; saves == 0 {
					cancel()
				}
				_, err := json.Marshal(s)
				return err
			}}
	}
	first := w(1) // the first save comes after the first range
	if err := Run(ctx, first, s); err == nil {
		t.Fatal("an interrupted proof came to its end")
	}
	n := s.Files
	second := w(0)
	must(t, Run(context.Background(), second, s))
	if s.Files < 7 || n >= 7 || second.Reader.Files >= 9 || s.Ended.IsZero() {
		t.Errorf("%d files before, %d after, %d in all", n, second.Reader.Files, s.Files)
	}
	if len(s.Findings) != 1 || string(s.Findings[0].Path) != "f/g" || s.Findings[0].Bad != "b" || !s.Nodes["b"].Proven.IsZero() {
		t.Errorf("found %+v", s.Findings)
	}
}

// What changes while it is looked at is no difference, and not proven either.
func TestChangingIsNotReported(t *testing.T) {
	m, mine := reader(t)
	b, theirs := reader(t)
	old(t, filepath.Join(mine, "f"), "one")
	old(t, filepath.Join(theirs, "f"), "two")
	w := &Walk{Self: "a", Reader: m, Standbys: map[cluster.NodeID]Standby{"b": &local{r: b}}, Save: func(*State) error { return nil },
		Barrier: func(context.Context, cluster.NodeID) error {
			return os.WriteFile(filepath.Join(mine, "f"), []byte("new"), 0o644)
		}}
	s := &State{Began: time.Now(), Rate: MostRate, Nodes: map[cluster.NodeID]*NodeState{}}
	must(t, Run(context.Background(), w, s))
	if len(s.Findings) != 0 || s.Nodes["b"].Unproven != 1 || !s.Nodes["b"].Proven.IsZero() {
		t.Errorf("found %+v, %+v", s.Findings, s.Nodes["b"])
	}
}

// A standby that goes away is not proven, and no difference.
func TestAway(t *testing.T) {
	m, mine := reader(t)
	b, _ := reader(t)
	old(t, filepath.Join(mine, "f"), "one")
	w := &Walk{Self: "a", Reader: m, Standbys: map[cluster.NodeID]Standby{"b": &local{r: b, fail: 1}}, Save: func(*State) error { return nil }}
	s := &State{Began: time.Now(), Rate: MostRate, Nodes: map[cluster.NodeID]*NodeState{}}
	must(t, Run(context.Background(), w, s))
	if len(s.Findings) != 0 || s.Nodes["b"].Away == "" || !s.Nodes["b"].Proven.IsZero() {
		t.Errorf("found %+v, %+v", s.Findings, s.Nodes["b"])
	}
}

// FuzzAsk: no question leads out of the volume or asks for too much.
func FuzzAsk(f *testing.F) {
	f.Add([]byte(`{"dir":"YQ==","only":["Yg=="],"rate":1048576}`))
	f.Add([]byte(`{"dir":"Li4=","only":["Li4="],"rate":1048576}`))
	f.Add([]byte(`{"dir":"LnJldm9sdmU=","rate":1048576}`))
	f.Add([]byte(`{"rate":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := decode(b, (*Ask).Check); err == nil {
			for _, n := range append(a.Only, []byte("x")) {
				if rel := tree.Join(string(a.Dir), string(n)); tree.Check(rel) != nil || tree.IsHidden(string(a.Dir)) {
					t.Errorf("%q was taken", rel)
				}
			}
			if a.Rate < LeastRate || a.Rate > MostRate || len(a.Only) > rangeNames {
				t.Errorf("%+v was taken", a)
			}
		}
		if r, err := decode(b, (*Repair).Check); err == nil && tree.IsHidden(string(r.Dir)) {
			t.Error("a repair of revolve's own directory was taken")
		}
		if w, err := decode(b, (*content).check); err == nil && (tree.IsHidden(string(w.Path)) || tree.Check(string(w.Path)) != nil) {
			t.Error("bytes of revolve's own directory were given")
		}
		var e Entry
		if json.Unmarshal(b, &e) == nil {
			a := Ask{}
			_ = a.fits(&e)
		}
	})
}
