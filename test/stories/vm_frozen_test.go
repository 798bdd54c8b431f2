package stories

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/vm/points"
)

// Parts of TestVMs: the guest has two file systems, and Debian's guest agent, which brings them to rest for a point.

// guestAgent writes numbered lines to a file of an ext4 and then to one of an XFS, each durable before it says so, and runs the agent.
// The agent says what it does before it freezes, and takes a moment; and after it thawed.
const guestAgent = `#!/bin/sh
mkdir -p /data /xfs /run
for m in libcrc32c xfs; do insmod /m/$m.ko; done
mount -t ext4 /dev/vdc /data && mount -t xfs /dev/vdd /xfs || echo guest: no file system >/dev/ttyS0
printf '#!/bin/sh\necho guest: agent: $1 >/dev/ttyS0\n[ $1 = thaw ] || sleep 1\n' >/etc/hook
chmod 755 /etc/hook
qemu-ga -m virtio-serial -p /dev/vport*p1 -t /run -F/etc/hook >/dev/ttyS0 2>&1 &
i=$(cat /data/log 2>/dev/null | wc -l); k=$(cat /xfs/log 2>/dev/null | wc -l)
while :; do
	i=$((i+1))
	echo "line $i" >>/data/log
	sync /data/log
	while [ $k -lt $i ]; do k=$((k+1)); echo "line $k" >>/xfs/log; done
	sync /xfs/log
	echo "guest: line $i" >/dev/ttyS0
	sleep 0.2
done
`

// withAgent puts the agent of the machine's packages into the guest, with the libraries that it is linked with.
func withAgent(t *testing.T, root string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(root, "agent"), []byte(guestAgent), 0o755))
	script := `set -e
ga=$(command -v qemu-ga)
cp "$ga" "$1/bin/qemu-ga"
for lib in $(ldd "$ga" | grep -o '/[^ ]*'); do mkdir -p "$1$(dirname "$lib")"; cp -L "$lib" "$1$lib"; done`
	if out, err := exec.Command("sh", "-c", script, "sh", root).CombinedOutput(); err != nil {
		t.Fatalf("give the guest its agent: %v: %s", err, out)
	}
}

// dataDisks makes the guest's file systems.
func (n *node) dataDisks(dir string) {
	t := n.lab.t
	t.Helper()
	for name, mkfs := range map[string][]string{
		"three.raw": {"mkfs.ext4", "-q", "-F"},
		"four.raw":  {"mkfs.xfs", "-q", "-f", "--unsupported"}, // of so few bytes
	} {
		name = filepath.Join(dir, name)
		must(t, errors.Join(os.WriteFile(name, nil, 0o644), os.Truncate(name, 32<<20)))
		if out, err := exec.Command(mkfs[0], append(mkfs[1:], name)...).CombinedOutput(); err != nil {
			t.Fatalf("make the guest's file system: %v: %s", err, out)
		}
	}
}

// lines is how many lines the guest said to be durable.
func (n *node) lines() int { return n.said("guest: line ") }

// agentSays asks the guest's agent, as libvirt does.
func (n *node) agentSays(command string) (string, error) {
	return n.virsh("qemu-agent-command", guestName, fmt.Sprintf(`{"execute":%q}`, command))
}

// atRest is whether the file system in a point needs no journal to be replayed: an ext4 that is mounted says that it does,
// until it is frozen (linux, fs/ext4/super.c: ext4_freeze).
func (n *node) atRest(name string) bool {
	t := n.lab.t
	t.Helper()
	const superblock, magic, incompatible, recover = 1024, 0x38, 0x60, 4
	b := make([]byte, 1024)
	f, err := os.Open(name)
	must(t, err)
	_, err = f.ReadAt(b, superblock)
	must(t, errors.Join(err, f.Close()))
	if got := binary.LittleEndian.Uint16(b[magic:]); got != 0xef53 {
		t.Fatalf("%s is no ext4: %#x", name, got)
	}
	return binary.LittleEndian.Uint32(b[incompatible:])&recover == 0
}

// xfsAtRest is what the guest's XFS in a point has in its file where nothing of its log is replayed. An XFS that is frozen says all the
// same that its log is to be replayed: for files that were removed while they were open, and for its superblock, which has the count of
// free blocks (linux, fs/xfs/xfs_super.c: xfs_fs_freeze).
func (n *node) xfsAtRest(name string) (lines string) {
	n.lab.t.Helper()
	return n.xfsOf(name, "ro,norecovery", `cat "$at/log" || :`) // it may not be there yet
}

// xfsWhole is what the guest finds there after its own mount; xfs_repair finds nothing to repair then.
func (n *node) xfsWhole(name string) (lines string) {
	n.lab.t.Helper()
	return n.xfsOf(name, "rw", `cat "$at/log"; umount "$at"; xfs_repair -n "$of" 1>&2`)
}

// xfsOf looks at a copy of a file system; what is mounted is gone with the namespace.
func (n *node) xfsOf(name, options, look string) string {
	t := n.lab.t
	t.Helper()
	of, at := filepath.Join(t.TempDir(), "xfs.raw"), t.TempDir()
	c := exec.Command("unshare", "-m", "sh", "-ec", `of=$2 at=$3; cp --sparse=always "$1" "$of"; mount -t xfs -o loop,nouuid,"$4" "$of" "$at"; `+look, "sh", name, of, at, options)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		t.Fatalf("look at %s: %v: %s", name, err, &said)
	}
	return string(out)
}

// linesUpTo are the first lines that the guest writes.
func linesUpTo(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i+1)
	}
	return b.String()
}

// vmFrozen: a point in which the guest's own agent brought its file systems to rest; one of a suspended guest is not.
func vmFrozen(t *testing.T, a, b *node) {
	a.lab.within(guestWithin, "the guest's agent answers, and its file system is written to", askEvery, func() error {
		out, err := a.agentSays("guest-ping")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if a.lines() == 0 {
			return errors.New("no line yet")
		}
		return nil
	})
	disk := func(id points.ID, name ...string) string {
		return filepath.Join(b.Root(), "vms", guestName, "points", string(id), append(name, "vdc.raw")[0])
	}
	a.suspendedIsNot(b, disk)
	before, frozen, thawed := a.lines(), a.said("guest: agent: freeze"), a.said("guest: agent: thaw")
	w := a.replicate("--consistency", "freeze")
	if r := w.Nodes[0].Record; r == nil || w.Level != points.Freeze || r.Level != points.Freeze {
		t.Fatalf("freeze: %+v", w)
	}
	if a.said("guest: agent: freeze") != frozen+1 || a.said("guest: agent: thaw") != thawed+1 {
		t.Errorf("the agent froze %d times, and thawed %d times", a.said("guest: agent: freeze")-frozen, a.said("guest: agent: thaw")-thawed)
	}
	if !b.atRest(disk(w.Point)) {
		t.Error("the file system of the point was not brought to rest")
	}
	if out, err := exec.Command("e2fsck", "-fn", disk(w.Point)).CombinedOutput(); err != nil {
		t.Errorf("the file system of the point is not whole: %v: %s", err, out)
	}
	out, err := exec.Command("debugfs", "-R", "cat log", disk(w.Point)).Output()
	must(t, err)
	got := strings.Count(string(out), "\n")
	if string(bytes.TrimRight(out, "\x00")) != linesUpTo(got) || got < before {
		t.Errorf("%d lines are in the point, %d were durable before: %.200q", got, before, out)
	}
	xfs := disk(w.Point, "vdd.raw")
	there := b.xfsAtRest(xfs)
	if n := strings.Count(there, "\n"); there != linesUpTo(n) || n < before || n > got || n < got-1 { // it comes second
		t.Errorf("%d lines are in the XFS of the point, %d in its ext4, %d were durable before: %.200q", n, got, before, there)
	}
	if whole := b.xfsWhole(xfs); whole != there {
		t.Errorf("after its log was replayed the XFS of the point has something else: %.200q", whole)
	}
	t.Logf("freeze: %d lines, stood still for %v", got, w.Stood)
	a.thawed()
}

// restTries is how many points of a suspended guest are taken: its XFS may happen to be at rest, in a few ms of every 30 s.
const restTries = 3

// suspendedIsNot: the file systems of a suspended guest are not at rest, so they can be told from frozen ones.
func (n *node) suspendedIsNot(to *node, disk func(points.ID, ...string) string) {
	t := n.lab.t
	t.Helper()
	for range restTries {
		before := n.lines()
		w := n.replicate("--consistency", "suspend")
		if to.atRest(disk(w.Point)) {
			t.Error("the ext4 of a suspended guest is at rest: it cannot be told from a frozen one")
		}
		if there := to.xfsAtRest(disk(w.Point, "vdd.raw")); strings.Count(there, "\n") < before {
			return
		}
	}
	t.Error("the XFS of a suspended guest is at rest: it cannot be told from a frozen one")
}

// thawed waits until the guest writes to its file system again.
func (n *node) thawed() {
	n.lab.t.Helper()
	lines := n.lines()
	n.lab.within(guestWithin, "the guest writes on", askEvery, func() error {
		out, err := n.agentSays("guest-fsfreeze-status")
		if err == nil && (!strings.Contains(out, "thawed") || n.lines() <= lines+1) {
			err = fmt.Errorf("its agent says %s, and %d lines more came", out, n.lines()-lines)
		}
		return err
	})
}

// vmKilledWhileFrozen kills the agent while the guest's agent freezes for it: it is thawed without it.
func vmKilledWhileFrozen(t *testing.T, a *node) {
	a.thawed() // it has booted
	frozen, thawed := a.said("guest: agent: freeze"), a.said("guest: agent: thaw")
	done := make(chan int, 1)
	go func() {
		c := a.lab.stage.Command(context.Background(), os.Getenv(envBin), "vm", "replicate", guestName, "--consistency", "freeze", "--state", a.state())
		_ = c.Run() // its agent dies under it
		done <- c.ProcessState.ExitCode()
	}()
	a.lab.within(guestWithin, "the guest's agent is about to freeze", time.Millisecond, func() error {
		if a.said("guest: agent: freeze") == frozen {
			return errors.New("not yet")
		}
		return nil
	})
	must(t, a.agent.Signal(unix.SIGKILL))
	a.waitEnd()
	debt := filepath.Join(a.Root(), "vms", guestName, "held-still.json")
	if _, err := os.Stat(debt); err != nil {
		t.Errorf("nothing is owed: %v", err)
	}
	if status := <-done; status == 0 {
		t.Error("the command said that all is well")
	}
	a.lab.within(guestWithin, "the guest is thawed without an agent", askEvery, func() error {
		if a.said("guest: agent: thaw") == thawed {
			return errors.New("not yet")
		}
		return nil
	})
	a.thawed()
	a.start()
	a.lab.eventually("the debt is paid", askEvery, func() error {
		if _, err := os.Stat(debt); err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
}
