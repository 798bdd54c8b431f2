package demo

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script makes a history: "n op path [to]" at time n, "n? ..." begun only.
func script(t *testing.T, lines ...string) *history {
	t.Helper()
	l := newLedger()
	for i, line := range lines {
		f := strings.Fields(line)
		begun := strings.HasSuffix(f[0], "?")
		c := change{node: "a", run: 1, n: i + 1, op: op(f[1]), path: f[2]}
		if len(f) > 3 {
			c.to = f[3]
		}
		if err := l.add(c); err != nil {
			t.Fatal(err)
		}
		if c.at = instant(i + 1); !begun {
			if err := l.add(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	h := l.snapshot()
	if len(h) != 1 {
		t.Fatalf("%d histories", len(h))
	}
	return &h[0]
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		history []string
		acked   instant
		tree    map[string]int
		wrong   int
		missing int
		owed    int
		torn    int
	}{
		{"all there", []string{"1 create x", "2 create y"}, 9, map[string]int{"x": 1, "y": 2}, 0, 0, 0, 0},
		{"acknowledged, missing", []string{"1 create x", "2 create y"}, 9, map[string]int{"x": 1}, 1, 0, 0, 0},
		{"not acknowledged, missing", []string{"1 create x", "2 create y"}, 2, map[string]int{"x": 1}, 0, 1, 1, 0},
		{"old version, acknowledged", []string{"1 create x", "2 rewrite x"}, 9, map[string]int{"x": 1}, 1, 0, 0, 0},
		{"old version, not acknowledged", []string{"1 create x", "2 replace x"}, 2, map[string]int{"x": 1}, 0, 1, 1, 0},
		{"rename lost", []string{"1 create x", "2 rename x y"}, 2, map[string]int{"x": 1}, 0, 1, 1, 0},
		{"half a rename", []string{"1 create x", "2 rename x y"}, 9, map[string]int{"x": 1, "y": 1}, 1, 0, 0, 0},
		{"delete lost", []string{"1 create x", "2 delete x"}, 2, map[string]int{"x": 1}, 0, 1, 0, 0},
		{"delete undone", []string{"1 create x", "2 delete x"}, 9, map[string]int{"x": 1}, 1, 0, 0, 0},
		{"begun and there", []string{"1 create x", "2? create y"}, 9, map[string]int{"x": 1, "y": 2}, 0, 0, 0, 0},
		{"begun and not there", []string{"1 create x", "2? create y"}, 9, map[string]int{"x": 1}, 0, 0, 0, 0},
		{"begun and half there", []string{"1 create x", "2? rewrite x"}, 9, map[string]int{"x": broken}, 0, 0, 0, 1},
		{"missing, and perhaps deleted", []string{"1 create x", "2? delete x"}, 0, map[string]int{}, 0, 0, 0, 0},
		{"missing, and perhaps replaced", []string{"1 create x", "2 rewrite x", "3? rewrite x"}, 2, map[string]int{"x": 1}, 0, 1, 0, 0},
		{"broken", []string{"1 create x", "2 rewrite x"}, 9, map[string]int{"x": broken}, 1, 0, 0, 0},
		{"foreign", []string{"1 create x"}, 9, map[string]int{"x": 1, "z": broken}, 1, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := script(t, c.history...).judge(c.acked, c.tree)
			got := []int{len(v.wrong), len(v.missing), len(v.owed), v.torn}
			if d := cmp.Diff([]int{c.wrong, c.missing, c.owed, c.torn}, got); d != "" {
				t.Errorf("wrong, missing, owed, torn (-want +got):\n%s%v", d, v.wrong)
			}
		})
	}
}

func TestStamp(t *testing.T) {
	s := stamp{node: "a", run: 3, n: 77}
	for _, size := range []int{10, writeMin, writeMax} {
		b := s.content(size)
		got, ok := readStamp(b)
		if !ok || got != s {
			t.Errorf("size %d: read %v, %v", size, got, ok)
		}
		b[len(b)-1] ^= 1
		if _, ok := readStamp(b); ok {
			t.Errorf("size %d: a flipped bit passes", size)
		}
		if _, ok := readStamp(b[:len(b)-1]); ok {
			t.Errorf("size %d: a short file passes", size)
		}
	}
}

// TestWrite lets a writer work on 127.0.0.1, which is always local, and checks
// that its ledger says what its files hold.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	out := &lines{want: 300, done: cancel}
	time.AfterFunc(time.Minute, cancel)
	o := WriteOptions{Dir: dir, Node: "a", Run: 4, While: netip.MustParseAddr("127.0.0.1"), Seed: 1}
	if err := Write(ctx, o, out); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	for line := range strings.Lines(out.buf.String()) {
		c, err := parseChange("a", line)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.add(c); err != nil {
			t.Fatal(err)
		}
	}
	h := l.snapshot()
	if len(h) != 1 || h[0].id.run != 5 || l.count() < 100 {
		t.Fatalf("%d runs, %d changes", len(h), l.count())
	}
	tree := map[string]int{}
	files, err := filepath.Glob(filepath.Join(dir, writerDir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, ok := readStamp(b)
		rel, _ := filepath.Rel(dir, f)
		if tree[rel] = s.n; !ok {
			tree[rel] = broken
		}
	}
	if v := h[0].judge(now(), tree); len(v.wrong) > 0 || len(v.missing) > 0 {
		t.Errorf("wrong %v, missing %v", v.wrong, v.missing)
	}
}

// lines collects output and calls done after enough lines.
type lines struct {
	buf  bytes.Buffer
	want int
	done func()
}

func (l *lines) Write(p []byte) (int, error) {
	if l.want--; l.want == 0 {
		l.done()
	}
	return l.buf.Write(p)
}

func FuzzParseChange(f *testing.F) {
	f.Add("12 1 3 rename a/b c/d\n")
	f.Add("0 1 3 create x \n")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parseChange("a", line)
		if err != nil {
			return
		}
		again, err := parseChange("a", c.line())
		if err != nil || again != c {
			t.Errorf("%q reads as %v, printed %q", line, c, c.line())
		}
	})
}

func FuzzReadStamp(f *testing.F) {
	f.Add(stamp{node: "a", run: 1, n: 2}.content(100))
	f.Add([]byte("revolve-demo 00000000 a 1 2 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := readStamp(b); ok && s.node == "" {
			t.Errorf("%q has a stamp of nobody", b)
		}
	})
}
