package mirror

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A new version of a large file is acknowledged and still on its way to everybody when its master is cut off. Who leads next has the old
// one, and that is the truth; the new one is kept where it is (P5): the trash is no place for what nobody else has.
func TestWhatOnlyTheLosingSideHasIsKept(t *testing.T) {
	for _, cut := range []int{1, 4, 8, 12} {
		dir := filepath.Join(memoryDir(t), "m")
		must(t, os.Mkdir(dir, 0o755))
		now := time.Now().Round(0)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(now.Add(time.Hour)))
			w, err := newModelWorld(dir, 396537472139)
			must(t, err)
			step := func(what, a string, n uint64) { t.Helper(); must(t, w.step(stormOp{what, a, "b", n})) }
			step("big", "a", 780149)
			step("pass", "", 2000<<4)
			step("sync", "", 0)
			step("pass", "", 2400<<4)
			w.cutLater(w.nodes[0], cut)
			step("big", "a", 780149+160)
			step("split", "d/b/a", 77161)
			diff, err := w.finish()
			if must(t, err); diff != "" {
				t.Errorf("cut %d: %s", cut, diff)
			}
		})
		if !keepsSecond(t, filepath.Join(dir, "a")) {
			t.Errorf("cut %d: the second version is neither in the tree nor listed as divergent where it was written", cut)
		}
	}
}

// A large file is on its way to one standby, and acknowledged by the other, when that one alone leads. It has nothing under that name, and nobody
// saw it go; when a person says that what is only absent may go, it is kept aside for all that.
func TestWhatANewMasterNeverHadIsKept(t *testing.T) {
	for cut := 1; cut <= 6; cut++ {
		dir := filepath.Join(memoryDir(t), "m")
		must(t, os.Mkdir(dir, 0o755))
		now := time.Now().Round(0)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(now.Add(time.Hour)))
			w, err := newModelWorld(dir, 396537472139)
			must(t, err)
			step := func(what string, n uint64) { t.Helper(); must(t, w.step(stormOp{what, "a", "b", n})) }
			step("pass", 2400<<4)
			w.cutLater(w.nodes[2], cut)
			step("big", 780149)
			step("split", 4<<4)
			step("sync", 0)
			diff, err := w.finish()
			if must(t, err); diff != "" {
				t.Errorf("cut %d: %s\n%s", cut, diff, strings.Join(w.story, "\n"))
			}
		})
	}
}

// keepsSecond reports whether the second version of the model's is in the tree at dir or kept aside there.
func keepsSecond(t *testing.T, dir string) (kept bool) {
	second := binary.BigEndian.AppendUint64(nil, 2)
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() != "a" || strings.Contains(path, "/trash/") {
			return err
		}
		b, err := os.ReadFile(path)
		kept = kept || bytes.HasPrefix(b, second)
		return err
	}))
	return kept
}
