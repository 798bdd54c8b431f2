package stories

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/vm"
	"revolve/internal/vm/schedule"
)

// A second machine does nothing but be there: it is copied by itself, beside everything else.

const (
	idleName  = "idle"
	otherName = "web" // of another schedule
)

// runIdle starts it on a node. It stands still, and takes no time from the others.
func (n *node) runIdle(name string) {
	t, self := n.lab.t, n.lab.bed.Self()
	t.Helper()
	must(t, os.WriteFile(filepath.Join(n.Root(), "images", name+".raw"), make([]byte, 1<<20), 0o644))
	text := fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>16</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s/images/%s.raw'/><target dev='vda' bus='virtio'/></disk><memballoon model='none'/></devices></domain>`, name, self, name)
	must(t, os.WriteFile(filepath.Join(n.Root(), name+".xml"), []byte(text), 0o644))
	for _, args := range [][]string{{"define", self + "/" + name + ".xml"}, {"start", "--paused", name}} {
		if out, err := n.virsh(args...); err != nil {
			t.Fatalf("%s: %v: %s", args[0], err, out)
		}
	}
}

// vmScheduled looks whether it was copied meanwhile. Nobody ordered that.
func vmScheduled(a, b *node) {
	a.lab.within(2*time.Minute, "the schedule has copied a machine", askEvery, func() error {
		var list []vm.Scheduled
		complaint, status := b.vmJSON(&list, "schedule")
		if len(list) != 2 || list[0].Schedule != "critical-weekly" || list[0].VM != idleName || list[1].VM != otherName || status != 0 {
			return fmt.Errorf("exit status %d: %s %+v", status, complaint, list)
		}
		s := list[0]
		points, err := os.ReadDir(filepath.Join(b.Root(), "vms", idleName, "points"))
		switch {
		case err != nil || len(points) == 0:
			return fmt.Errorf("no point on b: %v; %+v", err, s)
		case s.Past.Result != schedule.Done || s.Node != "a" || s.Past.Done.IsZero():
			return fmt.Errorf("exit status %d: %+v", status, s)
		}
		return nil
	})
	kept, err := os.ReadFile(filepath.Join(a.state(), "vm-schedules.json"))
	if err != nil || !strings.Contains(string(kept), idleName) {
		a.lab.t.Error(errors.Join(err, fmt.Errorf("written down is %q", kept)))
	}
}
