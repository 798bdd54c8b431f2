package points

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/problem"
)

// A clone that failed publishes nothing, and leaves the machine's own image as it was.
func TestFailedClone(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	release, err := s.Lock("m")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	image := filepath.Join(t.TempDir(), "m.raw")
	if err := os.WriteFile(image, []byte("disk"), 0o640); err != nil {
		t.Fatal(err)
	}
	p := First("m", time.Now())
	p.Level = Suspend
	src, err := s.Take(p, "a", []Image{{Name: "vda.raw", Path: image}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	f := &src.Files[0]
	if f.clone == nil { // as where blocks are shared
		if f.clone, err = os.Create(filepath.Join(s.path, src.dir(), f.Name)); err != nil {
			t.Fatal(err)
		}
		f.Kept, f.bytes = true, true
	}
	f.clone.Close() // so that nothing can be cloned there
	if err := src.Clone(); err == nil {
		t.Fatal("it was cloned")
	}
	for what, do := range map[string]func() error{"settled": src.Settle, "published": src.Publish} {
		if err := do(); problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if info, err := os.Stat(image); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the image is %v, %v", info.Mode(), err)
	}
	if list, err := s.List("m"); err != nil || len(list) > 0 {
		t.Errorf("points %v, %v", list, err)
	}
}
