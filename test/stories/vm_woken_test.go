package stories

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
	"revolve/internal/vm"
	"revolve/internal/vm/schedule"
)

const envWoken = "REVOLVE_WOKEN"

// TestVMWoken: one scheduled run. A node that is off is woken, its volumes catch up, a machine is copied to it, it is
// looked whether the point is there, and the node powers itself off. Then the same by hand; and somebody who wants it on keeps it on.
func TestVMWoken(t *testing.T) {
	if os.Getenv(envWoken) == "" {
		t.Skip("SKIPPED PART: a node that is woken for a copy (two minutes, most of them waiting for a schedule): set " + envWoken + "=1, or: make test-power")
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		for _, need := range []string{"libvirtd", "qemu-system-x86_64", "virsh", "unshare"} {
			if _, err := exec.LookPath(need); err != nil {
				t.Skip("SKIPPED PART: a node that is woken for a copy: no " + need)
			}
		}
		l := newLab(t, stage, plan{names: []string{"a", "b", "c"},
			extra: "vm_storage: SELF/vms\nvms: { idle: { nodes: [a, c] } }\nschedules: { often: { when: every 1m, vms: idle, wake: true } }\n",
			disk:  func(string) testbed.Disk { return testbed.Disk{FS: "xfs", Size: 512 << 20} },
			node: func(name string) string {
				if name == "c" {
					return ", candidate: false, power: { mode: on-demand, on: \"touch SELF/woke-c\", off: \"touch SELF/was-off\" }"
				}
				return ""
			}})
		a, c := l.nodes["a"], l.nodes["c"]
		if a.FS() != "xfs" {
			t.Skip("SKIPPED PART: a node that is woken for a copy: no root, or no mkfs.xfs")
		}
		if out, err := l.stage.Command(t.Context(), append(bootedNow(t), "cat", "/proc/uptime")...).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "0.") && !strings.HasPrefix(string(out), "1.") && !strings.HasPrefix(string(out), "2.") {
			t.Skipf("SKIPPED PART: a node that is woken for a copy: no namespaces of time: %v, %s", err, out)
		}
		a.hypervisor()
		must(t, os.MkdirAll(filepath.Join(a.Root(), "images"), 0o755))
		m := l.form()
		l.powersItselfOff(m, c)
		c.unplug()
		put(t, m.home("while-c-was-off"), "this has to be there before it is powered off")
		a.runIdle(idleName)

		a.plugs(c, "the schedule to wake c")
		l.within(2*time.Minute, "c to power itself off", askEvery, c.wasOff)
		if _, err := os.Stat(c.home("while-c-was-off")); err != nil {
			t.Errorf("its volumes were not caught up: %v", err)
		}
		had := c.copies(t)
		if had == 0 {
			t.Error("it has no point")
		}
		c.unplug()
		var list []vm.Scheduled
		if complaint, status := a.vmJSON(&list, "schedule"); status != 0 || len(list) != 1 || list[0].Past.Result != schedule.Done {
			t.Errorf("exit status %d: %s %+v", status, complaint, list)
		}

		// The next run, and a person who wants it on meanwhile.
		a.plugs(c, "the schedule to wake c again")
		l.settled()
		l.powerTyped(a, 0, "c is on", "on", "c") // already, or as soon as it is heard
		l.within(2*time.Minute, "another point on c", askEvery, func() error {
			if n := c.copies(t); n <= had {
				return fmt.Errorf("%d points", n)
			}
			return nil
		})
		l.within(2*time.Minute, "nobody to be owed anything", askEvery, func() error {
			b, err := os.ReadFile(filepath.Join(a.state(), "vm-woken.json"))
			if err == nil && strings.TrimSpace(string(b)) != "{}" {
				err = fmt.Errorf("written down is %s", b)
			}
			return err
		})
		if err := c.wasOff(); err == nil {
			t.Error("it powered itself off though somebody wants it on")
		}

		// By hand: a person says that it is to be powered off.
		l.eventually("c to power itself off by an order", askEvery, func() error {
			var j vm.Job
			complaint, status := a.vmJSON(&j, "replicate", idleName, "--poweroff")
			if status != 0 || len(j.VMs) != 1 || len(j.VMs[0].Nodes) != 1 || !j.VMs[0].Nodes[0].PoweredOff {
				return fmt.Errorf("exit status %d: %s %+v", status, complaint, j.VMs)
			}
			return c.wasOff()
		})
	})
}

// firmwareTakes is how long a machine takes from being told to power on to its kernel's start: here more than the second to which bootedNow rounds.
const firmwareTakes = 1100 * time.Millisecond

// bootedNow has a program run on a kernel that seems to have just started (time_namespaces(7)): a node in namespaces has that of its machine.
func bootedNow(t *testing.T) []string {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	return []string{"unshare", "--time", "--boottime", fmt.Sprint(-now.Sec)}
}

// plugs waits until a node tells another one to power on, and does that.
func (n *node) plugs(c *node, what string) {
	n.lab.t.Helper()
	told := filepath.Join(n.Root(), "woke-"+c.name)
	n.lab.within(2*time.Minute, what, askEvery, func() error {
		_, err := os.Stat(told)
		return err
	})
	time.Sleep(firmwareTakes)
	c.under = bootedNow(n.lab.t)
	c.boot()
	must(n.lab.t, os.Remove(told))
}

// wasOff reports whether it powered itself off.
func (n *node) wasOff() error {
	_, err := os.Stat(filepath.Join(n.Root(), "was-off"))
	return err
}

// unplug takes the power of a node that powered itself off.
func (n *node) unplug() {
	n.lab.t.Helper()
	must(n.lab.t, os.Remove(filepath.Join(n.Root(), "was-off")))
	n.stop()
	n.off()
}

// copies are the points of the machine that does nothing.
func (n *node) copies(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(n.Root(), "vms", idleName, "points"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return len(list)
}
