package main

import (
	"context"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The eyes must see exactly what became right, when it did, and the rest must count as lost.
func TestEyesSeeWhatBecomesRight(t *testing.T) {
	master, standby := t.TempDir(), t.TempDir()
	must(t, makeDirs(master))
	must(t, makeDirs(standby))
	load := &paced{root: master, rate: 1000, count: 40, prefix: "f"}
	e, err := openEyes(standby)
	must(t, err)
	defer e.close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m := &measure{load: load, eyes: []*eyes{e}}
	watching, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 8192)
		done <- e.watch(watching, func(name string) bool { return m.right(standby, name, buf) })
	}()
	must(t, load.run(ctx, func(i int) {
		b, err := os.ReadFile(filepath.Join(master, load.name(i)))
		must(t, err)
		switch i {
		case 7:
			return // lost
		case 8:
			b[5]++ // torn
		}
		aside := filepath.Join(standby, "aside")
		must(t, os.WriteFile(aside, b, 0o644))
		must(t, os.Rename(aside, filepath.Join(standby, load.name(i))))
	}))
	must(t, until(ctx, 10*time.Second, time.Millisecond, func() error {
		if n := m.missing(); n != 2 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}))
	stop()
	must(t, <-done)
	ms, lost := m.latencies(0, load.count, e)
	if lost != 2 || len(ms) != 38 {
		t.Errorf("%d seen, %d lost; want 38 and 2", len(ms), lost)
	}
}

func TestCompareFindsWhatDiffers(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	at := time.Unix(1000, 7)
	write := func(dir, name, text string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		must(t, os.Chtimes(filepath.Join(dir, name), at, at))
	}
	for _, dir := range []string{a, b} {
		write(dir, "d/same", "x")
		write(dir, ".revolve/own", dir)
	}
	must(t, compare(t.Context(), a, b, true))
	write(a, "d/other", "one")
	write(b, "d/other", "two")
	must(t, compare(t.Context(), a, b, false))
	if err := compare(t.Context(), a, b, true); err == nil {
		t.Error("other bytes are not found")
	}
	write(b, "d/other", "one")
	write(b, "extra", "")
	if err := compare(t.Context(), a, b, true); err == nil || !strings.Contains(err.Error(), "extra") {
		t.Errorf("an extra file gives %v", err)
	}
}

func TestAwait(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	files := []file{{path: "f"}, {path: "d/g"}, {path: "d/h"}, {path: "e/i"}}
	put := func(root string, f file) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, f.path)), 0o755))
		must(t, os.WriteFile(filepath.Join(root, f.path), []byte("x"), 0o644))
		if f.mtime != 0 {
			must(t, os.Chtimes(filepath.Join(root, f.path), time.Time{}, time.Unix(0, f.mtime)))
		}
	}
	for _, f := range files {
		put(a, f)
	}
	want, err := look(a, files)
	must(t, err)
	seen := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err := awaitMoved(ctx, []string{a, b}, "old", want)
		return err == nil
	}
	for i, f := range want {
		if seen() {
			t.Errorf("%s was seen, which is not there", want[i].path)
		}
		put(b, f)
	}
	if !seen() {
		t.Error("what is there was not seen")
	}
	put(b, file{path: "old"})
	if seen() {
		t.Error("the old name is there and was not seen")
	}
	must(t, os.Remove(filepath.Join(b, "old")))
	must(t, os.Chtimes(filepath.Join(b, "d/h"), time.Time{}, time.Unix(1, 0)))
	if seen() {
		t.Error("another file was seen")
	}
	must(t, os.Rename(filepath.Join(b, "d"), filepath.Join(b, "gone")))
	if seen() {
		t.Error("files of a directory that went were seen")
	}
}

type named struct {
	engine
	id string
}

func (n named) name() string    { return n.id }
func (n named) version() string { return "1" }

func TestTheTableJudgesMedians(t *testing.T) {
	r := newResults()
	for _, v := range []float64{1, 9, 3} {
		r.add("new1g", named{id: ours}, "visible s", v)
	}
	r.add("new1g", named{id: "lsyncd-d1"}, "visible s", 2)
	r.add("rename", named{id: ours}, "visible s", 0.01)
	r.describe(3, "")
	table := r.table()
	for _, want := range []string{"3.00 [1.00 .. 9.00] | lsyncd-d1 2.00 | 1.50 | no |", "| 0.010 |  | - | yes |"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	data, page, images := filepath.Join(t.TempDir(), "r.json"), filepath.Join(t.TempDir(), "r.md"), t.TempDir()
	must(t, r.write(data, page, images))
	again := newResults()
	again.add("sparse", named{id: ours}, "visible s", 0.1)
	again.describe(1, "")
	must(t, again.write(data, page, images))
	must(t, newResults().write(data, page, images)) // nothing new: the same page again
	b, err := os.ReadFile(page)
	must(t, err)
	for _, want := range []string{"### sparse", "### new1g", "### rename"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("after a second run %q is not in the page", want)
		}
	}
	if got := percentile([]float64{4, 1, 3, 2}, 0.5); got != 3 {
		t.Errorf("the median of 1..4 is %v", got)
	}
}

// What grew is in a table with a column for each size, and in pictures that are well-formed.
func TestGrowthIsDrawn(t *testing.T) {
	r := newResults()
	for i, s := range fileSteps() {
		r.add(s.row, named{id: ours}, "master RSS MiB", float64(30+i))
		r.add(s.row, named{id: ours}, "visible s", 0.1)
	}
	for _, s := range standbySteps()[:3] {
		r.add(s.row, named{id: ours}, "master CPU ms/file", 0.3*float64(s.n))
	}
	r.add("latency200", named{id: ours}, "p50 ms", 2)
	r.sample("latency200", named{id: ours}, []float64{1, 2, 3, 40})
	r.describe(1, "")
	data, page, images := filepath.Join(t.TempDir(), "r.json"), filepath.Join(t.TempDir(), "r.md"), t.TempDir()
	must(t, r.write(data, page, images))
	b, err := os.ReadFile(page)
	must(t, err)
	for _, want := range []string{"| files | 10,000 | 100,000 | 1,000,000 |", "| master RSS MiB | 30.0 | 31.0 | 32.0 |", "| standbys | 1 | 2 | 4 |"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	for name, want := range map[string]string{"mirror-latency.svg": "p50 3.00, p99 40.0 ms", "mirror-files.svg": "memory of the master", "mirror-standbys.svg": "CPU of the master"} {
		f, err := os.Open(filepath.Join(images, name))
		must(t, err)
		defer f.Close()
		text := ""
		for d := xml.NewDecoder(f); ; {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			must(t, err)
			if chars, ok := token.(xml.CharData); ok {
				text += string(chars)
			}
		}
		if !strings.Contains(text, want) || strings.Contains(text, "NaN") {
			t.Errorf("%s says %q", name, text)
		}
	}
}
