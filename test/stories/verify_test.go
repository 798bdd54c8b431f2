package stories

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// A proof is given while programs write; a flipped bit is found, on a standby and
// on the master, and repaired from the node that has it right.
func TestVerify(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		if stage.Mapped {
			t.Skip("SKIPPED PART: bits flipped on a disk need root")
		}
		verifies(t, stage)
	})
}

func verifies(t *testing.T, stage *testbed.Stage) {
	l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{FS: "ext4", Size: 256 << 20} }})
	m := l.form()
	must(t, os.MkdirAll(m.home("d", "e"), 0o755))
	for i := range 120 {
		must(t, os.WriteFile(m.home("d", fmt.Sprintf("f%d", i)), []byte(strings.Repeat(fmt.Sprint("file ", i, "\n"), 600)), 0o644))
	}
	must(t, os.WriteFile(m.home("d", "e", "large"), bytes.Repeat([]byte("0123456789abcdef"), 512<<10), 0o644))
	must(t, os.Symlink("f1", m.home("link")))
	unix.Sync()
	m.sync()

	stop := writeOn(t, m)
	a, status := m.verify("--rate", "1GiB")
	stop()
	if p := a.Proofs[0]; status != 0 && status != 1 || p.Files < 120 || len(p.Findings) > 0 || len(p.Nodes) != 2 || !p.Complete {
		t.Fatalf("a proof while files are written: status %d, %+v", status, p)
	}
	m.sync()
	if a, status = m.verify("--rate", "1GiB"); status != 0 || a.Proofs[0].Nodes[0].Result != "equal" {
		t.Fatalf("a proof at rest: status %d, %+v", status, a.Proofs[0])
	}

	bad := l.others(m)[0]
	flipOnDisk(t, bad.home("d", "f107"))
	flipOnDisk(t, bad.home("d", "e", "large"))
	a, status = m.verify("--rate", "1GiB")
	if p := a.Proofs[0]; status != 2 || len(p.Findings) != 2 || p.Findings[0].Bad != bad.ID || p.Findings[0].What != "content" || p.Findings[0].Right != "master" {
		t.Fatalf("two flipped bits on %s: status %d, %+v", bad.name, status, p)
	}
	a, status = m.verify("--rate", "1GiB", "--repair")
	if p := a.Proofs[0]; status != 0 || len(p.Findings) != 2 || !p.Findings[0].Repaired || !p.Findings[1].Repaired {
		t.Fatalf("repair of a standby: status %d, %+v", status, p)
	}
	same(t, m.home("d", "f107"), bad.home("d", "f107"))
	same(t, m.home("d", "e", "large"), bad.home("d", "e", "large"))
	keptDamaged(t, bad, "d/f107")
	keptDamaged(t, bad, "d/e/large")

	flipOnDisk(t, m.home("d", "f109"))
	a, status = m.verify("--rate", "1GiB")
	if p := a.Proofs[0]; status != 2 || p.Findings[0].Bad != m.ID || p.Findings[0].Right == "master" {
		t.Fatalf("a flipped bit on the master: status %d, %+v", status, p)
	}
	a, status = m.verify("--rate", "1GiB", "--repair")
	if p := a.Proofs[0]; status != 0 || len(p.Findings) != 1 || !p.Findings[0].Repaired {
		t.Fatalf("repair of the master: status %d, %+v", status, p)
	}
	same(t, l.others(m)[1].home("d", "f109"), m.home("d", "f109"))
	keptDamaged(t, m, "d/f109")
	m.sync()
	if a, status = m.verify("--rate", "1GiB"); status != 0 || len(a.Proofs[0].Findings) != 0 {
		t.Fatalf("the proof after all: status %d, %+v", status, a.Proofs[0])
	}
	explained(t, l, m)
	l.eventually("every node to know when it was proven", askEvery, func() error {
		v, err := bad.volumeStatus("home")
		for _, sb := range v.Standbys {
			if sb.Proven.IsZero() {
				err = errors.Join(err, fmt.Errorf("%s: never", sb.Node))
			}
		}
		return err
	})
	watched(t, l, m)
}

// watched: every node tells the lag of the last hour, and the master how long a
// change that nothing notifies of stays unseen at most; a standby does not look.
func watched(t *testing.T, l *lab, m *node) {
	t.Helper()
	l.eventually("the master to look at the files that are open", askEvery, func() error {
		v, err := m.volumeStatus("home")
		if err == nil && (v.Live == nil || v.Live.Bound < 5) {
			err = fmt.Errorf("the live set is %+v", v.Live)
		}
		return err
	})
	for _, n := range l.nodes {
		v, err := n.volumeStatus("home")
		must(t, err)
		if n != m && v.Live != nil {
			t.Errorf("%s follows, and tells of a live set: %+v", n.name, v.Live)
		}
		for _, sb := range v.Standbys {
			if sb.LagP50 <= 0 || sb.LagP99 < sb.LagP50 {
				t.Errorf("%s says of %s: p50 %v ms, p99 %v ms", n.name, sb.Node, sb.LagP50, sb.LagP99)
			}
		}
		if v.Events == nil || v.Events.Read == 0 {
			t.Errorf("%s tells of no notification", n.name)
		}
	}
}

// explained asks about a path that is everywhere, one that was removed, and one that is not mirrored.
func explained(t *testing.T, l *lab, m *node) {
	t.Helper()
	ask := func(rel string) (x struct {
		control.Explained
		Trash []control.Trashed
	}) {
		out := l.mustRevolve("mirror", "explain", filepath.Join(l.bed.Self(), "home", rel), "--json", "--state", m.state())
		must(t, json.Unmarshal([]byte(out), &x))
		return x
	}
	must(t, os.Remove(m.home("d", "f100")))
	m.sync()
	if x := ask("d/f109"); !x.Mirrored || !x.There || x.What != "changed" || len(x.Standbys) != 2 || x.Standbys[0].State != "durable" {
		t.Errorf("a file that is everywhere: %+v", x)
	}
	if x := ask("d/f100"); x.There || x.What != "removed" || len(x.Trash) != 2 {
		t.Errorf("a file that was removed: %+v", x)
	}
	if x := ask(".revolve/x"); x.Mirrored || x.Why == "" {
		t.Errorf("what is not mirrored: %+v", x)
	}
}

// verify runs the command on the node.
func (n *node) verify(args ...string) (a control.VerifyAnswer, status int) {
	n.lab.t.Helper()
	n.lab.eventually("a proof that comes to its end", askEvery, func() error {
		var out, complaint string
		out, complaint, status = n.lab.revolve(append([]string{"verify", "home", "--json", "--state", n.state()}, args...)...)
		if a = (control.VerifyAnswer{}); status > 2 {
			return errors.New(complaint) // a master that was late, on a busy machine, gives its role up for a moment
		}
		if err := json.Unmarshal([]byte(out), &a); err != nil || len(a.Proofs) != 1 || !a.Proofs[0].Complete {
			return fmt.Errorf("status %d, %v: %s%s", status, err, out, complaint)
		}
		return nil
	})
	return a, status
}

// writeOn writes on a node until it is stopped: new files, the same one again, removals.
func writeOn(t *testing.T, n *node) (stop func()) {
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
			err := errors.Join(os.WriteFile(n.home("d", fmt.Sprintf("f%d", i%20)), []byte(fmt.Sprint("again ", i)), 0o644),
				os.WriteFile(n.home("d", fmt.Sprint("new", i)), []byte("new"), 0o644))
			if i > 5 {
				err = errors.Join(err, os.Remove(n.home("d", fmt.Sprint("new", i-5))))
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	return func() { close(end); done.Wait() }
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	must(t, err)
	y, err := os.ReadFile(b)
	must(t, err)
	if !bytes.Equal(x, y) {
		t.Fatalf("%s and %s differ", a, b)
	}
}

// keptDamaged looks for the wrong bytes of a path.
func keptDamaged(t *testing.T, n *node, rel string) {
	t.Helper()
	for _, d := range n.divergent() {
		if d.Path == rel && d.Why == "damaged" {
			_, file, _ := strings.Cut(d.File, "/home/")
			b, err := os.ReadFile(n.home(file))
			must(t, err)
			if !bytes.Contains(b, []byte{flipped}) {
				t.Errorf("what is kept of %s is not the damaged copy", rel)
			}
			return
		}
	}
	t.Errorf("%s keeps nothing of the damaged %s", n.name, rel)
}

// flipped is what a damaged byte is.
const flipped = 0xf1

// flipOnDisk changes a byte of a file on the disk below its filesystem: no time
// changes, nobody is told.
func flipOnDisk(t *testing.T, path string) {
	t.Helper()
	unix.Sync()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	const fibmap = 1 // FIBMAP of linux/fs.h: block of the file in, block of the device out
	var block int32
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fibmap, uintptr(unsafe.Pointer(&block))); e != 0 || block == 0 {
		t.Fatalf("where %s is on its disk: %v, block %d", path, e, block)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	var fs unix.Statfs_t
	must(t, unix.Fstatfs(int(f.Fd()), &fs))
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", unix.Minor(st.Dev)), os.O_RDWR|unix.O_SYNC, 0)
	must(t, err)
	defer dev.Close()
	at := int64(block)*fs.Bsize + 11
	_, err = dev.WriteAt([]byte{flipped}, at)
	must(t, err)
	must(t, dev.Sync())
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}
