package stories

import (
	"fmt"
	"os"
	"strings"
	"testing"

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
		t.Log("--- the file system of the new master has an error and becomes read-only (ext4(5): abort)")
		must(t, unix.Mount("", next.Root(), "", unix.MS_REMOUNT, "abort"))
		third := l.newMaster(next)
		l.eventually("the others know that it is ill", askEvery, func() error { return l.eligible(third, next, control.No) })
	})
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
