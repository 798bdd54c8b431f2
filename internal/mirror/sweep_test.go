package mirror

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What no notification tells of is found by a sweep: files that stay open, and stores into a mapping.
func TestSweep(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	root, err := tree.Open(dir)
	must(t, err)
	defer root.Close()
	for _, name := range []string{"open", "read", "mapped", "closed"} {
		must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 8192), 0o644))
	}
	s := &sweeper{proc: "/proc", root: root, path: dir, seen: map[string]look{}}
	f, err := os.OpenFile(filepath.Join(dir, "open"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	r, err := os.Open(filepath.Join(dir, "read"))
	must(t, err)
	defer r.Close()
	g, err := os.OpenFile(filepath.Join(dir, "mapped"), os.O_RDWR, 0)
	must(t, err)
	m, err := unix.Mmap(int(g.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	must(t, g.Close())
	defer func() { must(t, unix.Munmap(m)) }()

	expect := func(what string, want ...string) {
		t.Helper()
		got := s.sweep()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("first sight", "mapped", "open")
	expect("nothing happened")
	_, err = f.WriteAt([]byte("x"), 0)
	must(t, err)
	expect("a file that stays open", "open")
	for i := range 3 { // each store after a sweep is found by the next
		m[0]++
		deadline, found := time.Now().Add(10*time.Second), false
		for !found && time.Now().Before(deadline) { // the clock of the filesystem is coarse, and writing out takes a moment
			found = slices.Contains(s.sweep(), "mapped")
			m[1]++
		}
		if !found {
			t.Fatalf("store %d into a mapping was never found", i)
		}
	}
}
