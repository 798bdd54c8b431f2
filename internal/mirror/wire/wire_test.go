package wire_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

func ops() []wire.Op {
	file := tree.Meta{Kind: tree.File, Mode: 0o4755, UID: 1<<32 - 1, GID: 7, Size: 3, MTime: -1}
	return []wire.Op{
		{Kind: wire.OpFile, Seq: 1, Path: "a/b", Meta: file, Data: []byte("xyz")},
		{Kind: wire.OpFile, Path: "new\nline/\xff\xfe", Meta: file, Data: []byte{}},
		{Kind: wire.OpDir, Seq: 2, Path: "", Meta: tree.Meta{Kind: tree.Dir, Mode: 0o755}},
		{Kind: wire.OpSymlink, Seq: 3, Path: "l", Meta: tree.Meta{Kind: tree.Symlink, Target: "/etc/../passwd"}},
		{Kind: wire.OpRename, Seq: 1 << 63, Path: "b", Old: "a", Flag: true},
		{Kind: wire.OpRemove, Path: "...", Seq: 4},
		{Kind: wire.OpDefer, Path: ".revolved", ID: 9, Meta: file},
		{Kind: wire.OpDefer, Path: "young", ID: 10, Meta: tree.Meta{Kind: tree.File, Size: 3, Origin: 1 << 63}},
		{Kind: wire.OpNode, Path: "null", Meta: tree.Meta{Kind: tree.Char, Rdev: 1 << 40}},
		{Kind: wire.OpTree, Flag: true},
		{Kind: wire.OpBegun, ID: 5, Old: "node"},
		{Kind: wire.OpGroup, Seq: 6, Path: "x", Names: []string{"d/y", "z\n\xff"}, How: wire.GroupData, Flag: true, Meta: file, Data: []byte("xyz")},
		{Kind: wire.OpGroup, Path: "x", How: wire.GroupNames, Meta: tree.Meta{Kind: tree.FIFO, Group: 1 << 63}},
	}
}

func encode(o wire.Op) []byte { return append(o.Append(nil), o.Data...) }

func TestOpsComeBack(t *testing.T) {
	for _, o := range ops() {
		got, err := wire.DecodeOp(encode(o))
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if diff := cmp.Diff(o, got, cmp.Comparer(bytes.Equal)); diff != "" {
			t.Errorf("%s", diff)
		}
	}
}

func TestRefusesHostileOps(t *testing.T) {
	file := tree.Meta{Kind: tree.File}
	for _, o := range []wire.Op{
		{Kind: wire.OpFile, Path: "../x", Meta: file},
		{Kind: wire.OpFile, Path: "a/../../x", Meta: file},
		{Kind: wire.OpFile, Path: "a/./x", Meta: file},
		{Kind: wire.OpFile, Path: "/etc/passwd", Meta: file},
		{Kind: wire.OpFile, Path: "a//b", Meta: file},
		{Kind: wire.OpFile, Path: "a/", Meta: file},
		{Kind: wire.OpFile, Path: "a\x00b", Meta: file},
		{Kind: wire.OpFile, Path: "", Meta: file},
		{Kind: wire.OpFile, Path: "x"}, // nothing said about the file
		{Kind: wire.OpFile, Path: "x", Meta: tree.Meta{Kind: tree.Dir}},
		{Kind: wire.OpFile, Path: strings.Repeat("n", 256), Meta: file},
		{Kind: wire.OpFile, Path: strings.Repeat("d/", 2048) + "f", Meta: file},
		{Kind: wire.OpFile, Path: ".revolve/volume", Meta: file},
		{Kind: wire.OpDir, Path: ".revolve", Meta: tree.Meta{Kind: tree.Dir}},
		{Kind: wire.OpRemove, Path: ".revolve/divergent"},
		{Kind: wire.OpRemove, Path: ""},
		{Kind: wire.OpRename, Path: "x", Old: ".revolve/trash/x"},
		{Kind: wire.OpRename, Path: ".revolve/trash/x", Old: "x"},
		{Kind: wire.OpRename, Path: "x", Old: "../x"},
		{Kind: wire.OpRename, Path: "x", Old: ""},
		{Kind: wire.OpRename, Path: "", Old: "x"},
		{Kind: wire.OpSymlink, Path: "l", Meta: tree.Meta{Kind: tree.Symlink, Target: strings.Repeat("t", tree.MaxPath)}},
		{Kind: wire.OpDir, Path: "d", Meta: tree.Meta{Kind: tree.Dir, Mode: 0o10000}},
		{Kind: 0, Path: "x"},
		{Kind: wire.OpSame + 1, Path: "x"},
		{Kind: wire.OpGroup, Path: "x", Names: []string{"../y"}, How: wire.GroupData, Meta: file},
		{Kind: wire.OpGroup, Path: "x", Names: []string{".revolve/trash/y"}, How: wire.GroupData, Meta: file},
		{Kind: wire.OpGroup, Path: "x", Names: []string{"x"}, How: wire.GroupData, Meta: file},
		{Kind: wire.OpGroup, Path: "x", Names: []string{""}, How: wire.GroupData, Meta: file},
		{Kind: wire.OpGroup, Path: "x", Names: []string{"y"}, How: wire.GroupNames + 1, Meta: file},
		{Kind: wire.OpGroup, Path: "x", Names: []string{"y"}, Meta: file},
		{Kind: wire.OpGroup, Path: "x", Names: []string{"y"}, How: wire.GroupNames, Meta: tree.Meta{Kind: tree.Dir}},
		{Kind: wire.OpGroup, Path: "x", Names: []string{"y"}, How: wire.GroupNames},
		{Kind: wire.OpGroup, Path: "x", Names: slices.Repeat([]string{"y"}, wire.GroupMax+1), How: wire.GroupNames, Meta: file},
	} {
		if got, err := wire.DecodeOp(encode(o)); err == nil {
			t.Errorf("%+v was accepted", got)
		}
	}
}

func list() wire.List {
	return wire.List{
		Job: 3, Dir: "d", From: "a", To: "z", Extras: wire.ExtrasAsk, Meta: tree.Meta{Kind: tree.Dir, Mode: 0o755, MTime: 5},
		Entries: []tree.Entry{
			{Name: "f", Meta: tree.Meta{Kind: tree.File, Size: 1}},
			{Name: "l\n\xff", Meta: tree.Meta{Kind: tree.Symlink, Target: "x"}},
		},
	}
}

func TestRefusesHostileLists(t *testing.T) {
	for name, spoil := range map[string]func(*wire.List){
		"..":               func(l *wire.List) { l.Entries[0].Name = ".." },
		".":                func(l *wire.List) { l.Entries[0].Name = "." },
		"empty name":       func(l *wire.List) { l.Entries[0].Name = "" },
		"slash":            func(l *wire.List) { l.Entries[0].Name = "a/b" },
		"null":             func(l *wire.List) { l.Entries[0].Name = "a\x00" },
		"own directory":    func(l *wire.List) { l.Dir, l.Entries[0].Name = "", tree.Hidden },
		"in own directory": func(l *wire.List) { l.Dir = tree.Hidden + "/trash" },
		"absolute":         func(l *wire.List) { l.Dir = "/etc" },
		"above":            func(l *wire.List) { l.Dir = "a/../.." },
		"extras 0":         func(l *wire.List) { l.Extras = 0 },
		"extras 4":         func(l *wire.List) { l.Extras = 4 },
		"unknown kind":     func(l *wire.List) { l.Entries[0].Meta.Kind = 'x' },
		"long name":        func(l *wire.List) { l.Entries[0].Name = strings.Repeat("n", 256) },
		"too many":         func(l *wire.List) { l.Entries = make([]tree.Entry, wire.ListMax+1) },
	} {
		l := list()
		spoil(&l)
		if got, err := wire.DecodeList(l.Append(nil)); err == nil {
			t.Errorf("%s: %+v was accepted", name, got)
		}
	}
	// A count that promises more than there is costs no memory.
	l := list()
	l.Entries = nil
	b := l.Append(nil)
	for _, n := range []uint64{1, wire.ListMax, 1 << 62} {
		if _, err := wire.DecodeList(binary.AppendUvarint(b[:len(b)-1:len(b)-1], n)); err == nil {
			t.Errorf("a list of %d entries without entries was accepted", n)
		}
	}
}

// inside fails if a path could leave the volume or reach into revolve's own directory.
func inside(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if tree.Check(p) != nil || tree.IsHidden(p) {
			t.Fatalf("path %q came through", p)
		}
	}
}

func FuzzDecodeOp(f *testing.F) {
	for _, o := range ops() {
		f.Add(encode(o))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := wire.DecodeOp(b)
		if err != nil {
			return
		}
		if o.Kind != wire.OpBegun {
			inside(t, o.Path, o.Old)
		}
		again, err := wire.DecodeOp(encode(o))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(o, again, cmp.Comparer(bytes.Equal)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzDecodeList(f *testing.F) {
	l := list()
	f.Add(l.Append(nil))
	l.Entries = nil
	f.Add(l.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := wire.DecodeList(b)
		if err != nil {
			return
		}
		inside(t, l.Dir)
		for _, e := range l.Entries {
			inside(t, tree.Join(l.Dir, e.Name))
		}
		again, err := wire.DecodeList(l.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzDecodeBatchAndAck(f *testing.F) {
	f.Add(wire.Batch{Term: 3, Pos: cluster.Position{Term: 2, Seq: 9}}.Append(nil))
	f.Add(wire.Ack{Pos: cluster.Position{Term: 2, Seq: 9}, Owed: 1, Batches: 1 << 60}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := wire.DecodeBatch(b); err == nil {
			if again, err := wire.DecodeBatch(x.Append(nil)); err != nil || again != x {
				t.Fatalf("%+v, %+v, %v", x, again, err)
			}
		}
		if x, err := wire.DecodeAck(b); err == nil {
			if again, err := wire.DecodeAck(x.Append(nil)); err != nil || again != x {
				t.Fatalf("%+v, %+v, %v", x, again, err)
			}
		}
		if id, rest, err := wire.DecodeID(b); err == nil {
			if got := append(wire.AppendID(nil, id), rest...); !bytes.Equal(got, b) {
				t.Fatalf("%x became %x", b, got)
			}
		}
	})
}

// What a standby says of itself goes to every other: it is bounded at the first receiver.
func TestSaidIsBounded(t *testing.T) {
	long := make([]byte, wire.MaxSampled+1)
	for _, s := range []wire.Said{
		{Divergent: -1}, {Absent: -1}, {Alarm: string(make([]byte, wire.MaxAlarm+1))},
		{Sample: make([][]byte, wire.MaxSample+1)}, {Sample: [][]byte{long}},
	} {
		if s.Check() == nil {
			t.Errorf("accepted: %d divergent, %d absent, an alarm of %d bytes, a sample of %d", s.Divergent, s.Absent, len(s.Alarm), len(s.Sample))
		}
	}
	ok := wire.Said{Divergent: 1, Absent: 7, Alarm: string(make([]byte, wire.MaxAlarm)), Sample: [][]byte{long[1:]}}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
}
