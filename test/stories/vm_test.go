package stories

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
	"revolve/internal/vm"
	"revolve/internal/vm/points"
)

// The guest is Debian's cloud kernel with busybox: it writes numbered records
// with their sums, each first to one disk and then to the other, goes on behind the
// last one of the other, and shuts down
// when its power button is pressed. Beside that it has Debian's guest agent (vm_frozen_test.go).

const (
	guestName   = "web server"
	guestUUID   = "6f8a1d2e-0b1c-4d5e-8f90-123456789abc"
	recordSize  = 512
	guestWithin = 60 * time.Second // a boot under emulation on a busy machine
)

const guestInit = `#!/bin/sh
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console evdev button; do insmod /m/$m.ko; done
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\nsync\necho guest: power button >/dev/ttyS0\npoweroff -f\n' >/etc/acpi/PWRF/00000080
chmod 755 /etc/acpi/PWRF/00000080
acpid -d >/dev/null 2>&1 &
sh /agent &
sh /tpm
n=$(dd if=/dev/vdb bs=64k count=128 2>/dev/null | tr -d '\000' | wc -l)
echo guest: up at record $n >/dev/ttyS0
while :; do
	s=$(echo "record $n" | md5sum | cut -d' ' -f1)
	echo "record $n $s" >/r
	dd if=/r of=/dev/vda bs=512 seek=$n conv=sync,notrunc oflag=direct 2>/dev/null || dd if=/r of=/dev/vda bs=512 seek=$n conv=sync,notrunc,fsync 2>/dev/null
	dd if=/r of=/dev/vdb bs=512 seek=$n conv=sync,notrunc oflag=direct 2>/dev/null || dd if=/r of=/dev/vdb bs=512 seek=$n conv=sync,notrunc,fsync 2>/dev/null
	n=$((n+1))
done
`

// guestParts are the kernel and the initramfs, made from the machine's packages.
func guestParts(t *testing.T, dir string) (kernel, initrd string) {
	t.Helper()
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	for _, need := range []string{"libvirtd", "qemu-system-x86_64", "busybox", "cpio", "virsh", "qemu-ga", "swtpm", "swtpm_setup", "mkfs.xfs", "xfs_repair", "unshare"} {
		if _, err := exec.LookPath(need); err != nil || len(kernels) == 0 {
			t.Skip("SKIPPED PART: real virtual machines: no " + need + ", or no linux-image-cloud-amd64")
		}
	}
	kernel = kernels[len(kernels)-1]
	modules := "/lib/modules/" + strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	root := filepath.Join(dir, "guest")
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "m"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(root, "init"), []byte(guestInit), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "tpm"), []byte(guestTPM), 0o755))
	withAgent(t, root)
	script := `set -e
cd "$1"; cp /bin/busybox bin/busybox
for a in $(bin/busybox --list); do [ -e bin/$a ] || ln -s busybox bin/$a; done
mkdir -p sbin usr/bin usr/sbin
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console evdev button libcrc32c xfs; do cp "$(find "$2" -name $m.ko)" m/; done
find . | cpio -o -H newc --quiet | gzip -1 > "$3"`
	initrd = filepath.Join(dir, "initrd.gz")
	if out, err := exec.Command("sh", "-c", script, "sh", root, modules, initrd).CombinedOutput(); err != nil {
		t.Fatalf("make the guest: %v: %s", err, out)
	}
	return kernel, initrd
}

// hypervisor starts libvirt's daemon on a node, with directories of its own.
func (n *node) hypervisor() {
	t := n.lab.t
	t.Helper()
	script := `set -e
for d in /run /var/log /var/cache /var/lib /etc/libvirt; do mount -t tmpfs -o mode=755 tmpfs $d; done
for f in passwd group; do cp /etc/$f /run/$f; done
grep -q ^libvirt-qemu: /run/passwd || echo libvirt-qemu:x:64055:64055::/:/bin/false >>/run/passwd
grep -q :64055: /run/group || echo libvirt-qemu:x:64055: >>/run/group
for f in passwd group; do mount --bind /run/$f /etc/$f; done
! id tss >/dev/null 2>&1 || install -d -o tss /var/lib/swtpm-localca # as its package does
mkdir -p "$1/swtpm" /var/lib/libvirt/swtpm && chmod 711 "$1/swtpm" && mount --bind "$1/swtpm" /var/lib/libvirt/swtpm # it outlasts a power cut
mkdir -p /run/libvirt /var/log/libvirt/qemu /var/lib/libvirt/qemu /etc/libvirt/qemu
printf 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\nremember_owner = 0\nstdio_handler = "file"\n' >/etc/libvirt/qemu.conf
printf 'auth_unix_rw = "none"\nunix_sock_group = "root"\n' >/etc/libvirt/libvirtd.conf`
	if out, err := n.Run(context.Background(), "sh", "-c", script, "sh", n.lab.bed.Self()); err != nil {
		t.Fatalf("prepare libvirt: %v: %s", err, out)
	}
	if out, err := n.Run(context.Background(), os.Getenv(envBin), "vm", "hook", "--install", "/etc/libvirt/hooks/qemu.d", "--state", n.state()); err != nil {
		t.Fatalf("install libvirt's hook: %v: %s", err, out)
	}
	_, err := n.Start(testbed.Command{Argv: []string{"libvirtd", "-f", "/etc/libvirt/libvirtd.conf"}, Log: filepath.Join(n.lab.stage.Dir, "logs", n.name+"-libvirtd.log")})
	must(t, err)
	n.lab.within(guestWithin, "libvirt of "+n.name, askEvery, func() error {
		_, err := n.virsh("list")
		return err
	})
}

func (n *node) virsh(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	out, err := n.Run(ctx, append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...)...)
	return strings.TrimSpace(string(out)), err
}

// define makes the guest known to a node; its files lie where every node has its own.
func (n *node) define(kernel, initrd string) {
	t, self := n.lab.t, n.lab.bed.Self()
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(n.Root(), "images"), 0o755))
	for _, d := range []string{"one.raw", "two.img"} {
		f, err := os.Create(filepath.Join(n.Root(), "images", d))
		must(t, err)
		must(t, errors.Join(f.Truncate(64<<20), f.Close()))
	}
	n.dataDisks(filepath.Join(n.Root(), "images"))
	text := fmt.Sprintf(`<domain type='qemu'><!-- kept as it is --><name>%s</name><uuid>%s</uuid><memory unit='MiB'>96</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
<features><acpi/></features><clock offset='utc'/><on_poweroff>destroy</on_poweroff>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='threads'/><source file='%s/images/one.raw'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='threads'/><source file='%s/images/two.img'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='threads'/><source file='%s/images/three.raw'/><target dev='vdc' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='threads'/><source file='%s/images/four.raw'/><target dev='vdd' bus='virtio'/></disk>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
<serial type='file'><source path='%s/console.log' append='on'/></serial><memballoon model='none'/></devices></domain>`, guestName, guestUUID, kernel, initrd, self, self, self, self, self)
	must(t, os.WriteFile(filepath.Join(n.Root(), "guest.xml"), []byte(text), 0o644))
	n.defineAgain()
}

func (n *node) defineAgain() {
	n.lab.t.Helper()
	if out, err := n.virsh("define", n.lab.bed.Self()+"/guest.xml"); err != nil {
		n.lab.t.Fatalf("define: %v: %s", err, out)
	}
}

// boots is how often the guest came up, by its own word.
func (n *node) boots() int { return n.said("guest: up at record") }

// said is how often the guest's console has a text.
func (n *node) said(text string) int {
	b, _ := os.ReadFile(filepath.Join(n.Root(), "console.log"))
	return bytes.Count(b, []byte(text))
}

// records reads a disk: how many records there are. It fails if they are not
// exactly the first ones that the guest wrote.
func records(t *testing.T, name string) int {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	n := 0
	for ; (n+1)*recordSize <= len(b); n++ {
		got := string(bytes.TrimRight(b[n*recordSize:(n+1)*recordSize], "\x00"))
		if got == "" {
			break
		}
		text := fmt.Sprintf("record %d", n)
		if want := fmt.Sprintf("%s %x\n", text, md5.Sum([]byte(text+"\n"))); got != want {
			t.Errorf("%s: record %d is %q, want %q", name, n, got, want)
			return n
		}
	}
	if rest := bytes.TrimLeft(b[n*recordSize:], "\x00"); len(rest) > 0 {
		t.Errorf("%s: there is something behind record %d", name, n)
	}
	return n
}

// pointRecords checks the disks of a point: each is a beginning of what was
// written, and no disk is ahead of what the guest can have written at one moment.
// It returns where the guest goes on: behind the last record of the second disk.
func (n *node) pointRecords(id points.ID, oneMoment bool) (two int) {
	t := n.lab.t
	t.Helper()
	dir := filepath.Join(n.Root(), "vms", guestName, "points", string(id))
	one := records(t, filepath.Join(dir, "vda.raw"))
	two = records(t, filepath.Join(dir, "vdb.raw"))
	if oneMoment && (one < two || one > two+1) {
		t.Errorf("point %s: %d records on one disk, %d on the other", id, one, two)
	}
	return two
}

// vmJSON types a command and reads its answer.
func (n *node) vmJSON(v any, args ...string) (complaint string, status int) {
	n.lab.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*guestWithin)
	defer cancel()
	c := n.lab.stage.Command(ctx, append([]string{os.Getenv(envBin), "vm", "--json", "--state", n.state()}, args...)...)
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	if v != nil && out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), v); err != nil {
			n.lab.t.Fatalf("vm %v: %v: %s", args, err, &out)
		}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.lab.t.Fatalf("vm %v: %v", args, err)
	}
	return said.String(), c.ProcessState.ExitCode()
}

// replicate copies the guest and returns its point.
func (n *node) replicate(args ...string) vm.Work {
	n.lab.t.Helper()
	var j vm.Job
	complaint, status := n.vmJSON(&j, append([]string{"replicate", guestName}, args...)...)
	if status != 0 || len(j.VMs) != 1 || j.VMs[0].Error != "" {
		n.lab.t.Fatalf("replicate %v: exit status %d: %s %+v", args, status, complaint, j.VMs)
	}
	return j.VMs[0]
}

func (n *node) guestIs(state string) {
	n.lab.t.Helper()
	n.lab.within(guestWithin, "the guest is "+state+" on "+n.name, askEvery, func() error {
		out, err := n.virsh("domstate", guestName)
		if err == nil && out != state {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

// writes waits until the guest has written more than so many records.
func (n *node) writes(file string, more int) {
	n.lab.t.Helper()
	n.lab.within(guestWithin, "the guest writes", askEvery, func() error {
		b, err := os.ReadFile(file)
		if err == nil && len(bytes.Trim(b[more*recordSize:(more+1)*recordSize], "\x00")) == 0 {
			err = fmt.Errorf("no record %d", more)
		}
		return err
	})
}

// TestVMs: a real guest that writes all the time is copied in every way, held
// still by an agent that is killed, and started on the other node when its home
// has died. What it finds there is always a beginning of what it had written.
func TestVMs(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		kernel, initrd := guestParts(t, stage.Dir)
		l := newLab(t, stage, plan{names: []string{"a", "b"}, extra: "vm_storage: SELF/vms\n" + weekly(t), disk: func(string) testbed.Disk { return testbed.Disk{FS: "xfs", Size: 512 << 20} }})
		a, b := l.nodes["a"], l.nodes["b"]
		if a.FS() != "xfs" {
			t.Skip("SKIPPED PART: real virtual machines: no root, or no mkfs.xfs")
		}
		a.hypervisor()
		b.hypervisor()
		a.define(kernel, initrd)
		if out, err := a.virsh("start", guestName); err != nil {
			t.Fatalf("start: %v: %s", err, out)
		}
		a.runIdle(idleName)
		a.runIdle(otherName)
		l.form()
		disk := filepath.Join(a.Root(), "images", "one.raw")
		a.writes(disk, 3)
		first := a.counted()
		vmCopies(t, a, b, disk)
		vmFrozen(t, a, b)
		vmRehearsed(t, a, b)
		vmRestored(t, a, b, first)
		vmSaved(a, b)
		vmAgentKilled(t, a)
		vmKilledWhileFrozen(t, a)
		vmScheduled(a, b)
		vmHomeDies(t, a, b)
	})
}

// vmCopies takes points in three ways.
func vmCopies(t *testing.T, a, b *node, disk string) {
	last := 0
	for _, level := range []string{"suspend", "live", "shutdown"} {
		boots := a.boots()
		w := a.replicate("--consistency", level)
		r := w.Nodes[0].Record
		if r == nil || string(w.Level) != level || string(r.Level) != level {
			t.Fatalf("%s: %+v", level, w)
		}
		got := b.pointRecords(w.Point, level != "live")
		if got < last || got == 0 {
			t.Errorf("%s: %d records, %d were in the point before", level, got, last)
		}
		for _, f := range r.Here.Files {
			if f.Name == "vda.raw" && level != "suspend" && (f.Tracker != "extents" || f.Read > 4<<20) {
				t.Errorf("%s: %+v", level, f)
			}
		}
		t.Logf("%s: %d records, stood still for %v, published in %v", level, got, w.Stood, w.Nodes[0].Took)
		if level != "shutdown" { // then its guest counts on
			b.hasTPM(w.Point, a)
		}
		a.guestIs("running")
		if level == "shutdown" {
			a.bootsAfter(boots)
		}
		a.writes(disk, got+1)
		last = got
	}
}

// vmAgentKilled kills the agent while it holds the guest still.
func vmAgentKilled(t *testing.T, a *node) {
	boots, pressed := a.boots(), a.said("guest: power button")
	done := make(chan int, 1)
	go func() {
		c := a.lab.stage.Command(context.Background(), os.Getenv(envBin), "vm", "replicate", guestName, "--consistency", "shutdown", "--state", a.state())
		_ = c.Run() // its agent dies under it
		done <- c.ProcessState.ExitCode()
	}()
	debt := filepath.Join(a.Root(), "vms", guestName, "held-still.json")
	a.lab.within(guestWithin, "the guest hears its power button", time.Millisecond, func() error {
		if a.said("guest: power button") == pressed {
			return errors.New("not yet")
		}
		return nil
	})
	must(t, a.agent.Signal(unix.SIGKILL))
	a.waitEnd()
	if _, err := os.Stat(debt); err != nil {
		t.Errorf("the agent held the guest no more: %v", err)
	}
	if status := <-done; status == 0 {
		t.Error("the command said that all is well")
	}
	a.lab.within(guestWithin, "the guest runs again without an agent", askEvery, func() error {
		if a.boots() == boots {
			return errors.New("it has not booted since")
		}
		return nil
	})
	a.guestIs("running")
	a.start()
	a.lab.eventually("the debt is paid", askEvery, func() error {
		if _, err := os.Stat(debt); err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
}

// vmHomeDies starts the guest on the other node, and copies it back.
func vmHomeDies(t *testing.T, a, b *node) {
	a.lab.settled()
	w := a.replicate("--consistency", "suspend")
	want, counted := b.pointRecords(w.Point, true), a.counted()
	refused := func(what string, args ...string) {
		t.Helper()
		complaint, status := a.lab.nodes["b"].vmJSON(nil, args...)
		if status != 13 || !strings.Contains(complaint, what) {
			t.Errorf("vm %v: exit status %d: %s, want %q", args, status, complaint, what)
		}
	}
	refused("it is running on a", "start", guestName, "--on", "b", "--confirm", guestName)
	a.off()
	refused("a cannot be asked", "start", guestName, "--on", "b")
	var s vm.Started
	died := recipe(t, "Its home died", "points", "start")
	b.types(nil, died[0])
	b.types(&s, died[1])
	live := filepath.Join(b.lab.stage.Dir, "b", strings.TrimPrefix(s.Images, b.lab.bed.Self()), "vda.raw")
	b.writes(live, want+1)
	b.counts(counted+1, "started from the point")
	if console, err := os.ReadFile(filepath.Join(b.Root(), "console.log")); err != nil || !bytes.Contains(console, []byte(fmt.Sprintf("guest: up at record %d", want))) {
		t.Errorf("the guest did not go on at record %d: %v: %s", want, err, console)
	}
	b.pointRecords(w.Point, true) // it stays what it was
	must(t, a.PowerOn())
	a.hypervisor()
	a.defineAgain()
	a.start()
	b.lab.settled()
	a.keepsTPM(vmHomeReturns(t, a))
	vmGoesBack(t, a, b)
	a.counts(counted+3, "after another boot on b, back on a") // two on b
}

// vmGoesBack brings the guest back to its former home: the recipe's two copies are the time of what changed.
func vmGoesBack(t *testing.T, a, b *node) {
	back := recipe(t, "Going back", "replicate", "stop", "replicate", "start")
	had := 0
	copied := func(step []string) {
		t.Helper()
		var j vm.Job
		b.types(&j, step)
		r := j.VMs[0].Nodes[0].Record
		if r == nil || r.Level != points.Shutdown || r.Generation != 4 {
			t.Fatalf("%q: %+v, want generation 4, after two restores and a promotion", step, j.VMs[0])
		}
		for _, f := range r.Here.Files {
			if f.Name == "vda.raw" && (f.Tracker != "extents" || f.Read > 4<<20) {
				t.Errorf("going back is not the time of what changed: %+v", f)
			}
		}
		if got := a.pointRecords(r.ID, true); got < had || got == 0 {
			t.Errorf("%d records went back, there were %d", got, had)
		} else {
			had = got
		}
	}
	boots := b.boots()
	copied(back[0])
	b.bootsAfter(boots)
	var stopped vm.Stopped
	if a.types(&stopped, back[1]); stopped.Node != "b" || stopped.Was != "running" {
		t.Errorf("stop: %+v", stopped)
	}
	copied(back[2])
	var s vm.Started
	boots = a.boots()
	if b.types(&s, back[3]); s.Node != "a" || s.Generation != 5 {
		t.Errorf("start: %+v", s)
	}
	a.bootsAfter(boots)
	if !a.upAt(had) {
		t.Errorf("the guest did not go on at record %d", had)
	}
	b.guestIs("shut off")
}
