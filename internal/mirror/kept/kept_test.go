package kept

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

type frame struct {
	kind    byte
	payload []byte
}

// end of a pipe of frames.
type side struct {
	in  <-chan frame
	out chan<- frame
}

func (s side) Peer() cluster.NodeID             { return "other" }
func (s side) Flush() error                     { return nil }
func (s side) SetReadDeadline(time.Time) error  { return nil }
func (s side) SetWriteDeadline(time.Time) error { return nil }

func (s side) Read() (byte, []byte, error) {
	f, ok := <-s.in
	if !ok {
		return 0, nil, io.EOF
	}
	return f.kind, f.payload, nil
}

func (s side) Write(kind byte, parts ...[]byte) error {
	s.out <- frame{kind, bytes.Join(parts, nil)}
	return nil
}

func volume(t *testing.T) *tree.Root {
	t.Helper()
	root, err := tree.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// asked lets ask talk to a node that keeps what is in root.
func asked(t *testing.T, root *tree.Root, ask func(c conn) error) error {
	t.Helper()
	there, here := make(chan frame, 1024), make(chan frame, 1024)
	var g errgroup.Group
	g.Go(func() error {
		defer close(here)
		_ = Serve(context.Background(), side{there, here}, func(cluster.VolumeID) (*tree.Root, error) { return tree.Open(root.Path()) }, func(Ask) {}) // the asking side hears of it
		return nil
	})
	err := ask(side{here, there})
	close(there)
	return errors.Join(err, g.Wait())
}

func put(t *testing.T, root *tree.Root, rel, content string) {
	t.Helper()
	path := filepath.Join(root.Path(), rel)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o640)); err != nil {
		t.Fatal(err)
	}
}

const slot = ".revolve/trash/20260501T1200/"

// Everything that a trash may hold comes over as it is, whatever its name.
func TestFetchBringsEverything(t *testing.T) {
	theirs, mine := volume(t), volume(t)
	odd := []string{"d/plain", "d/new\nline", "d/\xff\xfe", "d/" + strings.Repeat("n", 255), "d/deep/er/still"}
	for _, name := range odd {
		put(t, theirs, slot+name, "content of "+name)
	}
	large := strings.Repeat("x", chunk+3) + strings.Repeat("\x00", 2*chunk)
	put(t, theirs, slot+"d/large", large)
	dir := filepath.Join(theirs.Path(), slot)
	if err := errors.Join(os.Symlink("no where", dir+"/d/link"), os.Mkdir(dir+"/d/empty", 0o710), unix.Mkfifo(dir+"/d/fifo", 0o600),
		unix.Setxattr(dir+"/d/plain", "user.x", []byte("y"), 0)); err != nil {
		t.Fatal(err)
	}
	var f *Fetched
	err := asked(t, theirs, func(c conn) (err error) {
		f, err = Fetch(c, Ask{Volume: "v", Path: []byte("d")}, mine)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]tree.Meta{}
	for i, it := range f.Items {
		if got[it.Path], err = mine.Lstat(it.File); err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Lstat(f.Kept[i].File)
		if err != nil || !got[it.Path].Same(want, tree.Refused{Owner: os.Geteuid() != 0}) {
			t.Errorf("%q is %+v, not %+v (%v)", it.Path, got[it.Path], want, err)
		}
	}
	for _, name := range append(odd, "d/large", "d/link", "d/empty", "d/fifo") {
		if got[name].Kind == 0 {
			t.Errorf("%q did not come", name)
		}
	}
	for _, it := range f.Items {
		want := map[bool]string{true: large, false: "content of " + it.Path}[it.Path == "d/large"]
		if b, err := mine.ReadFile(it.File, 1<<30); got[it.Path].Kind == tree.File && (err != nil || string(b) != want) {
			t.Errorf("%q: %d bytes, %v", it.Path, len(b), err)
		}
	}
}

// Lists, pins and refusals come over.
func TestAsks(t *testing.T) {
	theirs := volume(t)
	for i := range 3*pageEntries + 1 {
		put(t, theirs, fmt.Sprintf("%sd/\xff%d", slot, i), "x")
	}
	put(t, theirs, ".revolve/trash/20260501T1200.pinned", `{"removed":7}`)
	set := apply.NewSet(theirs, "b", 3, apply.WhyForeign, time.Now())
	put(t, theirs, "f", "by hand")
	if err := set.Keep("f"); err != nil {
		t.Fatal(err)
	}
	err := asked(t, theirs, func(c conn) error {
		list, pins, err := AskTrash(c, "v", "d")
		if len(list) != 3*pageEntries+1 || len(pins) != 1 || pins[0].Removed != 7 || !strings.HasPrefix(list[0].Path, "d/\xff") {
			t.Errorf("%d in the trash, pins %+v", len(list), pins)
		}
		return err
	})
	err = errors.Join(err, asked(t, theirs, func(c conn) error {
		list, err := AskDivergent(c, "v")
		if len(list) != 1 || list[0].Path != "f" || list[0].Term != 3 {
			t.Errorf("divergent: %+v", list)
		}
		return err
	}), asked(t, theirs, func(c conn) error {
		pins, err := AskUnpin(c, "v", "")
		if len(pins) != 1 {
			t.Errorf("unpinned %+v", pins)
		}
		return err
	}), asked(t, theirs, func(c conn) error {
		n, err := AskDrop(c, "v", set.Name(), nil)
		if n != 1 {
			t.Errorf("dropped %d", n)
		}
		return err
	}))
	if err != nil {
		t.Error(err)
	}
	err = asked(t, theirs, func(c conn) error {
		_, err := AskDrop(c, "v", set.Name(), nil)
		return err
	})
	if problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), "other says") {
		t.Errorf("a set that is gone: %v", err)
	}
}

// Whoever asks for what is outside of the volume is refused, and nothing is touched.
func TestHostileQuestions(t *testing.T) {
	theirs := volume(t)
	for _, ask := range []string{
		`{"what":"fetch","volume":"v","path":"Li4vLi4vZXRjL3Bhc3N3ZA=="}`, // ../../etc/passwd
		`{"what":"trash","volume":"v","path":"L2V0Yw=="}`,                 // /etc
		`{"what":"fetch","volume":"v","set":"../trash"}`,
		`{"what":"drop","volume":"v","set":"..","only":["Li4="]}`,
		`{"what":"forget","volume":"v","set":"s","items":[{"path":"Li4=","file":"Li4="}]}`,
		`{"what":"remove","volume":"v"}`, `{"what":"fetch"`, ``, `[]`,
	} {
		err := asked(t, theirs, func(c conn) error {
			if err := c.Write(frameAsk, []byte(ask)); err != nil {
				return err
			}
			_, _, err := receive(c)
			return err
		})
		if err == nil {
			t.Errorf("%s was answered", ask)
		}
	}
}

// itemFrame is what a keeper sends for one thing.
func itemFrame(kept string, op wire.Op) frame {
	return frame{frameItem, bytes.Join([][]byte{wire.AppendID(nil, uint64(len(kept))), []byte(kept), op.Append(nil)}, nil)}
}

// A keeper that lies writes nothing outside of the place that is its own, and no more than it announced.
func TestHostileKeeper(t *testing.T) {
	js := func(kind byte, v any) frame {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return frame{kind, b}
	}
	file := func(path string, size int64) wire.Op {
		return wire.Op{Kind: wire.OpFile, Path: path, Meta: tree.Meta{Kind: tree.File, Mode: 0o644, Size: size}}
	}
	const kept = ".revolve/trash/x/f"
	one := js(frameBegin, begin{1, 10})
	for name, frames := range map[string][]frame{
		"outside":               {one, itemFrame(kept, file("../f", 1)), {frameData, []byte("x")}},
		"revolve's own":         {one, itemFrame(kept, file(".revolve/volume", 1)), {frameData, []byte("x")}},
		"absolute":              {one, itemFrame(kept, file("/f", 1)), {frameData, []byte("x")}},
		"kept outside":          {one, itemFrame("f", file("f", 1)), {frameData, []byte("x")}},
		"more bytes":            {one, itemFrame(kept, file("f", 11)), {frameData, []byte("xxxxxxxxxxx")}},
		"more items":            {one, itemFrame(kept, file("f", 0)), itemFrame(kept, file("g", 0))},
		"longer than announced": {one, itemFrame(kept, file("f", 3)), {frameData, []byte("xxxx")}},
		"empty data":            {one, itemFrame(kept, file("f", 3)), {frameData, nil}},
		"no data":               {one, itemFrame(kept, file("f", 3)), js(frameEnd, end{})},
		"a removal":             {one, itemFrame(kept, wire.Op{Kind: wire.OpRemove, Path: "f"})},
		"a rename":              {one, itemFrame(kept, wire.Op{Kind: wire.OpRename, Path: "f", Old: "g"})},
		"kinds differ":          {one, itemFrame(kept, wire.Op{Kind: wire.OpDir, Path: "f", Meta: tree.Meta{Kind: tree.File}})},
		"too many":              {js(frameBegin, begin{maxItems + 1, 0})},
		"negative":              {js(frameBegin, begin{1, -1})},
		"larger than the disk":  {js(frameBegin, begin{1, 1 << 60})},
		"no beginning":          {itemFrame(kept, file("f", 0))},
		"garbage":               {one, {frameItem, []byte{0xff}}},
		"length":                {one, {frameItem, wire.AppendID(nil, 1<<62)}},
		"other frame":           {one, {99, nil}},
		"gone":                  {one},
	} {
		mine := volume(t)
		in, out := make(chan frame, 8), make(chan frame, 8)
		for _, f := range frames {
			in <- f
		}
		close(in)
		if f, err := Fetch(side{in, out}, Ask{Volume: "v", Path: []byte("f")}, mine); err == nil {
			t.Errorf("%s: took %+v", name, f)
		}
		left, err := filepath.Glob(filepath.Join(mine.Path(), fetchedDir, "*"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left %v (%v)", name, left, err)
		}
		if list, err := mine.List(""); err != nil || len(list) > 0 {
			t.Errorf("%s: in the volume there is now %v (%v)", name, list, err)
		}
	}
}

func FuzzItem(f *testing.F) {
	f.Add(itemFrame(".revolve/trash/x/f", wire.Op{Kind: wire.OpFile, Path: "f", Meta: tree.Meta{Kind: tree.File, Size: 3}}).payload)
	f.Add(itemFrame(".revolve/divergent/x/f", wire.Op{Kind: wire.OpSymlink, Path: "d/l", Meta: tree.Meta{Kind: tree.Symlink, Target: "x"}}).payload)
	f.Add(wire.AppendID(nil, 1<<63))
	f.Fuzz(func(t *testing.T, b []byte) {
		op, name, err := decodeItem(b)
		if err != nil {
			return
		}
		if !tree.IsHidden(name) || tree.Check(name) != nil || tree.Check(op.Path) != nil || op.Path == "" || tree.IsHidden(op.Path) {
			t.Errorf("accepted %q kept in %q", op.Path, name)
		}
	})
}
