package stories

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hidden is the product's own directory in each volume, which is never mirrored.
const hidden = ".revolve"

// scan describes every name below root as an outsider sees it.
func scan(root string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case rel == ".":
			return nil
		case rel == hidden:
			return fs.SkipDir
		}
		text, err := describe(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		out[rel] = text
		return err
	})
	return out, err
}

func describe(p string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return "", &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, err := os.Readlink(p)
		return text + " -> " + to, err
	case unix.S_IFREG:
		f, err := os.Open(p)
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		return fmt.Sprintf("%s %d bytes %d ns %x", text, n, st.Mtim.Nano(), h.Sum(nil)[:8]), err
	}
	return text, nil
}

// differ says in what two trees differ, nil if in nothing.
func differ(a, b string) error {
	ta, err := scan(a)
	if err != nil {
		return err
	}
	tb, err := scan(b)
	if err != nil {
		return err
	}
	var lines []string
	for _, p := range slices.Sorted(maps.Keys(ta)) {
		if y, ok := tb[p]; !ok {
			lines = append(lines, p+": missing")
		} else if x := ta[p]; x != y {
			lines = append(lines, fmt.Sprintf("%s: %s instead of %s", p, y, x))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(tb)) {
		if _, ok := ta[p]; !ok {
			lines = append(lines, p+": too much")
		}
	}
	if len(lines) == 0 {
		return nil
	}
	n := len(lines)
	return fmt.Errorf("%s differs from %s in %d names: %s", b, a, n, strings.Join(lines[:min(n, 5)], "; "))
}

// equal waits until every running node has the trees of the master.
func (l *lab) equal(m *node) {
	l.t.Helper()
	l.eventually("equal trees", askEvery, func() error {
		for _, n := range l.nodes {
			if n == m || !n.runs {
				continue
			}
			for _, v := range l.plan.volumes {
				if err := differ(m.volume(v), n.volume(v)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// write replaces a file as careful programs do: aside, then rename.
func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path+".tmp", []byte(content), 0o644))
	must(t, os.Rename(path+".tmp", path))
}

// put writes a file in place.
func put(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// have returns an error unless the file has this content.
func have(path, content string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(b) != content {
		return fmt.Errorf("%s holds %.60q instead of %.60q", path, b, content)
	}
	return nil
}

// seed writes n small files into a directory.
func fill(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		put(t, filepath.Join(dir, fmt.Sprintf("%02d", i%10), fmt.Sprintf("file-%03d", i)), strings.Repeat(fmt.Sprintf("%s %d\n", dir, i), 1+i%50))
	}
}

// found lists the files below dir whose content is content.
func found(t *testing.T, dir, content string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		if have(p, content) == nil {
			paths = append(paths, p)
		}
		return nil
	})
	must(t, err)
	return paths
}
