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

// Parts of TestVMs: the guest has a file system, and Debian's guest agent, which brings it to rest for a point.

// guestAgent writes numbered lines to a file of an ext4, each durable before it says so, and runs the agent. The agent says
// what it does before it freezes, and takes a moment; and after it thawed.
const guestAgent = `#!/bin/sh
mkdir -p /data /run
mount -t ext4 /dev/vdc /data || echo guest: no file system >/dev/ttyS0
printf '#!/bin/sh\necho guest: agent: $1 >/dev/ttyS0\n[ $1 = thaw ] || sleep 1\n' >/etc/hook
chmod 755 /etc/hook
qemu-ga -m virtio-serial -p /dev/vport*p1 -t /run -F/etc/hook >/dev/ttyS0 2>&1 &
i=$(cat /data/log 2>/dev/null | wc -l)
while :; do
	i=$((i+1))
	echo "line $i" >>/data/log
	sync /data/log
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

// dataDisk makes the guest's file system.
func (n *node) dataDisk(name string) {
	t := n.lab.t
	t.Helper()
	must(t, errors.Join(os.WriteFile(name, nil, 0o644), os.Truncate(name, 32<<20)))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", name).CombinedOutput(); err != nil {
		t.Fatalf("make the guest's file system: %v: %s", err, out)
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

// vmFrozen: a point in which the guest's own agent brought its file system to rest; one of a suspended guest is not.
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
	disk := func(id points.ID) string {
		return filepath.Join(b.Root(), "vms", guestName, "points", string(id), "vdc.raw")
	}
	if w := a.replicate("--consistency", "suspend"); b.atRest(disk(w.Point)) {
		t.Error("the file system of a suspended guest is at rest: it cannot be told from a frozen one")
	}
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
	var want strings.Builder
	for i := range got {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	if string(bytes.TrimRight(out, "\x00")) != want.String() || got < before {
		t.Errorf("%d lines are in the point, %d were durable before: %.200q", got, before, out)
	}
	t.Logf("freeze: %d lines, stood still for %v", got, w.Stood)
	a.thawed()
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
