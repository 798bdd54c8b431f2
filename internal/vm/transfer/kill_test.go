package transfer

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/vm/points"
)

// TestKilled kills the sender and the receiver at every labelled moment. There is
// never half a point, and the next copy is whole.
func TestKilled(t *testing.T) {
	long(t)
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		rng := seeded(t)
		for _, fs := range []string{"xfs", "ext4"} {
			m := newMachine(t, dirs[fs+"1"], rng, 3<<20, 1200<<10)
			k := &killing{m: m, dir: dirs[fs+"1"], storage: filepath.Join(dirs[fs+"2"], "vms"), state: identities(t)}
			k.there = open(t, k.storage)
			k.copyOnce(t, "", "") // the first, so that there is a base
			for _, label := range []string{"cloned", "recorded", "renamed", "offered", "mark", "mark:2", "sent", "proven", "based", "committed", "published"} {
				k.killAt(t, label, "")
			}
			receiver := map[string][]string{"xfs": {"staged", "marked", "marked:3", "recorded", "renamed"}, "ext4": {"staged", "marked", "marked:3", "decided", "moved", "entry", "entry:9", "patched", "renamed"}}
			for _, label := range receiver[fs] {
				k.killAt(t, "", label)
			}
		}
	}, "xfs1", "xfs2", "ext41", "ext42")
}

type killing struct {
	m            *machine
	dir, storage string
	there        *points.Store
	state        map[cluster.NodeID]string
}

// killAt changes the images, has a copy of them killed, and makes the next one.
func (k *killing) killAt(t *testing.T, sender, receiver string) {
	t.Helper()
	where := sender + receiver
	k.m.change(t, 0, 200)
	k.m.change(t, 1, 20)
	if killed := k.copyOnce(t, sender, receiver); !killed {
		t.Errorf("nothing was killed at %s", where)
	}
	release, err := k.there.Lock(vmName) // what the next start does
	must(t, err)
	release()
	k.m.whole(t, k.there)
	k.m.whole(t, k.m.store)
	if killed := k.copyOnce(t, "", ""); killed {
		t.Fatalf("the copy after %s was killed, too", where)
	}
	ids := k.m.whole(t, k.there)
	list, err := k.m.store.List(vmName)
	must(t, err)
	if len(ids) == 0 || ids[0] != list[0].ID {
		t.Errorf("after %s: newest here %s, there %v", where, list[0].ID, ids)
	}
	for _, r := range list[1:] { // the disk is small
		must(t, k.m.store.Delete(vmName, r.ID))
	}
	for _, id := range ids[1:] {
		must(t, k.there.Delete(vmName, id))
	}
	left, err := filepath.Glob(filepath.Join(k.storage, "*", "staging", "*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("after %s is left: %v", where, left)
	}
}

// copyOnce runs both sides as processes of their own.
func (k *killing) copyOnce(t *testing.T, sender, receiver string) (killed bool) {
	t.Helper()
	sums := map[string][32]byte{"domain.xml": sumOf(t, []byte("<domain/>"))}
	for i := range 2 {
		f, err := os.Open(k.m.image(i))
		must(t, err)
		sums[filepath.Base(f.Name())] = sum(t, f)
		f.Close()
	}
	r := k.program("receive", k.state["b"], k.storage, receiver)
	out, err := r.StdoutPipe()
	must(t, err)
	must(t, r.Start())
	addr, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	s := k.program("send", k.state["a"], k.dir, sender)
	s.Env = append(s.Env, envAddr+"="+strings.TrimSpace(addr))
	var said bytes.Buffer
	s.Stderr = &said
	err = s.Run()
	if wanted := sender != "" || receiver != ""; err != nil && !wanted {
		t.Fatalf("the sender: %v: %s", err, &said)
	}
	killed = s.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() == unix.SIGKILL
	_ = r.Process.Signal(unix.SIGTERM)
	_ = r.Wait()
	if receiver != "" {
		killed = r.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() == unix.SIGKILL
	}
	for _, store := range []*points.Store{k.m.store, k.there} {
		list, err := store.List(vmName)
		must(t, err)
		for _, r := range list {
			if k.m.sums[r.ID] == nil {
				k.m.sums[r.ID] = sums
			}
		}
	}
	return killed
}

func (k *killing) program(role, state, dir, kill string) *exec.Cmd {
	self, _ := os.Executable()
	c := exec.Command(self)
	if kill != "" && !strings.Contains(kill, ":") {
		kill += ":1"
	}
	c.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "REVOLVE_TEST") }),
		envRole+"="+role, envState+"="+state, envDir+"="+dir, envKill+"="+kill)
	return c
}
