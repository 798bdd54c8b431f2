package apply

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/wire"
)

// TestStaged: whether staged files are synced one by one or together, the same is published, and nothing
// stays behind. Few descriptors are a hard limit below 2,048 (RLIMIT_NOFILE).
func TestStaged(t *testing.T) {
	for _, few := range []int{fewFiles, 3, 0} {
		t.Run(fmt.Sprint("few=", few), func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.few = few
			r.do(fileOp("was0", "old"), fileOp("was3", "old"))
			ops := func(name, content string) (ops []wire.Op) {
				for i := range 5 {
					ops = append(ops, fileOp(fmt.Sprint(name, i), content))
				}
				return append(ops, fileOp("was0", content), fileOp("was3", content+"3"))
			}
			r.mustFly(append([]wire.Op{dirOp("d")}, ops("d/flown", "f")...)...)
			if err := r.Settle(); err != nil {
				t.Fatal(err)
			}
			r.wants("was0", "f")
			r.do(append(ops("done", "c"), renameOp("done4", "renamed"))...) // a rename does not fly
			for path, want := range map[string]string{"d/flown4": "f", "done0": "c", "renamed": "c", "was0": "c", "was3": "c3"} {
				r.wants(path, want)
			}
			for _, o := range ops("never", "n") {
				if err := r.Stage(o); err != nil {
					t.Fatal(err)
				}
			}
			r.Abort()
			r.gone("never0")
			if left, err := r.aside(); err != nil || len(left) > 0 {
				t.Errorf("left in the staging area: %v, %v", left, err)
			}
		})
	}
}

// TestStagedDescriptors: what was published or given up holds no descriptor.
func TestStagedDescriptors(t *testing.T) {
	r := newRig(t, t.TempDir())
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	round := func(n int) {
		var ops []wire.Op
		for i := range 300 {
			ops = append(ops, fileOp(fmt.Sprintf("%d-%d", n, i), "x"))
		}
		r.mustFly(ops...)
		if err := r.Settle(); err != nil {
			t.Fatal(err)
		}
		for i := range ops {
			ops[i].Path += "c"
		}
		r.do(ops...)
		for _, o := range ops {
			o.Path += "a"
			if err := r.Stage(o); err != nil {
				t.Fatal(err)
			}
		}
		r.Abort()
	}
	round(0)
	before := open()
	round(1)
	if after := open(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestProgramsHearOfCompleteFiles: who waits for files by inotify takes a move, or the end of writing, for one that is complete.
// What begins to exist under its name by another way (a link, say) would be missed.
func TestProgramsHearOfCompleteFiles(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("replaced", "old"))
	in, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(in)
	if _, err := unix.InotifyAddWatch(in, r.dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE); err != nil {
		t.Fatal(err)
	}
	r.mustFly(fileOp("flown", "new"), fileOp("replaced", "new"))
	if err := r.Settle(); err != nil {
		t.Fatal(err)
	}
	r.do(fileOp("committed", "new"))
	buf := make([]byte, 4096)
	n, err := unix.Read(in, buf)
	for _, name := range []string{"flown", "replaced", "committed"} {
		if err != nil || !bytes.Contains(buf[:n], []byte(name+"\x00")) {
			t.Errorf("nothing was heard of %s (%v)", name, err)
		}
	}
}
