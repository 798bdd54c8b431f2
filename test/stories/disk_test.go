package stories

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/alarm"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

// ioctls of a file system (linux/fs.h): _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// filesystem does an ioctl on the node's disk.
func (n *node) filesystem(what uint) error {
	d, err := os.Open(n.Root())
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.IoctlSetInt(int(d.Fd()), what, 0)
}

// TestIllDisk: a master whose disk stalls, or becomes read-only, loses the
// addresses to a well node; it comes back as a standby when its disk does.
func TestIllDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: stalled disks (-short)")
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		if stage.Mapped {
			t.Skip("SKIPPED PART: freezing file systems needs root")
		}
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{FS: "ext4", Size: 256 << 20} },
			extra: "alarms:\n  - { webhook: { url: \"http://" + inboxAddress + "/hook\" } }\n  - { heartbeat: { url: \"http://" + inboxAddress + "/beat\", every: 10s } }\n"})
		for _, n := range l.nodes {
			n.openInbox()
		}
		m := l.form()
		put(t, m.home("agreed"), "all have it")
		m.sync()
		t.Log("--- the disk of the master stalls")
		must(t, m.filesystem(fiFreeze))
		thawed := false
		defer func() {
			if !thawed {
				_ = m.filesystem(fiThaw)
			}
		}()
		next := l.newMaster(m)
		s, err := m.status()
		if err != nil || !strings.Contains(strings.Join(s.Reasons, "\n"), "has not answered") {
			t.Errorf("its status does not tell: %v %v", s.Reasons, err)
		}
		l.eventually("the others know that it is ill", askEvery, func() error { return l.eligible(next, m, control.No) })
		l.within(2*patience, "who tells hears of it from a node whose disk hangs", askEvery, func() error {
			_, err := next.stands(alarm.DiskIll, m.name)
			return err
		})
		l.within(2*patience, "people are told, and the dead-man's switch", askEvery, func() error {
			told, _ := next.inbox()
			if len(told) == 0 || !strings.Contains(told[len(told)-1].Text(), alarm.DiskIll) {
				return fmt.Errorf("%+v", told)
			}
			if b, err := os.ReadFile(next.inboxFile()); err != nil || !strings.Contains(string(b), "/beat/fail") {
				return fmt.Errorf("all is well, it says: %v", err)
			}
			return nil
		})
		must(t, m.filesystem(fiThaw))
		thawed = true
		l.eventually("it is well again", askEvery, func() error { return l.eligible(next, m, control.Yes) })
		l.settled()
		l.equal(next)
		t.Log("--- the disk of a standby stalls for longer than a dead connection may be silent")
		l.stallStandby(next, m)
		t.Log("--- the file system of the new master has an error and becomes read-only (ext4(5): abort)")
		must(t, unix.Mount("", next.Root(), "", unix.MS_REMOUNT, "abort"))
		third := l.newMaster(next)
		l.eventually("the others know that it is ill", askEvery, func() error { return l.eligible(third, next, control.No) })
	})
}

// stallFor is longer than a kernel's silence ends a connection, and than a closed window did.
const stallFor = 6 * time.Second

// stallStandby: a standby that reads nothing because its disk is busy keeps its connections. What was
// under way would begin anew with another one, on a slow disk again and again.
func (l *lab) stallStandby(m, s *node) {
	l.t.Helper()
	before := s.connections()
	if len(before) == 0 {
		l.t.Fatalf("%s has no connection to %s", s.name, m.name)
	}
	must(l.t, s.filesystem(fiFreeze))
	text := strings.Repeat("more than the sockets hold\n", 2000)
	for i := range 800 { // 43 MB
		put(l.t, m.home("much", fmt.Sprint(i)), text)
	}
	time.Sleep(stallFor)
	must(l.t, s.filesystem(fiThaw))
	m.sync()
	after := s.connections()
	for port := range before {
		if !after[port] {
			l.t.Errorf("the connection from port %s of %s ended; before %v, now %v", port, s.name, before, after)
		}
	}
	l.settled()
	l.equal(m)
}

// connections are the local ports of the connections that the node has made to others.
func (n *node) connections() map[string]bool {
	out, err := n.Run(context.Background(), "ss", "-Htn", "state", "established", "dport", "=", ":7373")
	must(n.lab.t, err)
	ports := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 2 {
			ports[f[2][strings.LastIndexByte(f[2], ':')+1:]] = true
		}
	}
	return ports
}

// eligible checks what one node says of another.
func (l *lab) eligible(who, of *node, want control.Tri) error {
	s, err := who.status()
	if err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if string(n.Name) == of.name && n.Eligible != want {
			return fmt.Errorf("%s says of %s: %+v", who.name, of.name, n)
		}
	}
	return nil
}
