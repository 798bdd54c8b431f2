package vm

import (
	"strings"
	"testing"

	"revolve/internal/vm/tpm"
)

// A machine that rehearses shares nothing with the machine itself, with this node or with a network.
func TestAlone(t *testing.T) {
	const text = `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><!-- <name>x</name> --><name>m &amp; n</name><uuid>1-2</uuid><metadata><name>inner</name></metadata>` +
		`<memory unit='MiB'>96</memory><os><type>hvm</type></os><devices><emulator>/usr/bin/qemu</emulator>` +
		`<disk type='file' device='disk'><driver type='raw'/><source file='/live/vda.raw'/><target dev='vda'/><serial>S1</serial></disk>` +
		`<disk type='file' device='cdrom'><source file='/iso'/><target dev='sda'/><readonly/></disk>` +
		`<disk type='network' device='cdrom'><source protocol='http' name='x'/><target dev='sdb'/><readonly/></disk>` +
		`<disk type='file' device='floppy'><source file='/floppy'/><target dev='fda'/></disk>` +
		`<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>` +
		`<interface type='network'><source network='default'/></interface>` +
		`<channel type='unix'><source mode='bind' path='/var/lib/x.sock'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>` +
		`<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>` +
		`<hostdev mode='subsystem' type='pci'><source><address domain='0'/></source></hostdev><filesystem type='mount'><source dir='/srv'/></filesystem>` +
		`<input type='tablet' bus='usb'/><input type='passthrough' bus='virtio'><source evdev='/dev/input/event1'/></input><input type='evdev'><source dev='/dev/input/event1'/></input>` +
		`<memory model='dimm'><target><size unit='MiB'>1</size></target></memory><memory model='nvdimm'><source><path>/nv</path></source></memory><memory model='virtio-pmem'><source><path>/pm</path></source></memory>` +
		`<rng model='virtio'><backend model='egd' type='tcp'><source mode='connect' host='10.0.0.1' service='1'/></backend></rng><tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>` +
		`<pstore backend='acpi-erst'><path>/erst</path></pstore><crypto model='virtio'><backend model='lkcf'/></crypto><tomorrow path='/x'/><memballoon model='virtio'/>` +
		`<serial type='file'><source path='/var/log/m.log'/><target port='0'/></serial><console type='pty'/><graphics type='vnc' port='5900'/><video><model type='qxl'/></video></devices>` +
		`<qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline></domain>`
	const want = `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><!-- <name>x</name> --><name>revolve-rehearsal-1</name><metadata><name>inner</name></metadata>` +
		`<memory unit='MiB'>96</memory><os><type>hvm</type></os><devices><emulator>/usr/bin/qemu</emulator>` +
		`<disk type='file' device='disk'><driver type='raw'/><source file='/live/vda.raw'/><target dev='vda'/><serial>S1</serial></disk>` +
		`<disk type='file' device='cdrom'><source file='/iso'/><target dev='sda'/><readonly/></disk>` +
		`<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/><link state='down'/></interface>` +
		`<interface type='user'><link state='down'/></interface>` + agentChannel +
		`<input type='tablet' bus='usb'/><memory model='dimm'><target><size unit='MiB'>1</size></target></memory>` +
		`<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>` +
		`<video><model type='qxl'/></video><serial type='file'><source path='/d/it&#39;s'/><target port='0'/></serial></devices></domain>`
	got, hasAgent, err := alone(text, guestOnStage{Name: "revolve-rehearsal-1"}, "/d/it's")
	if err != nil || !hasAgent || got != want {
		t.Errorf("%v, agent %v\n got %s\nwant %s", err, hasAgent, got, want)
	}
	if _, _, err := alone(strings.Replace(text, "<name>m &amp; n</name>", "", 1), guestOnStage{Name: "x"}, "/c"); err == nil {
		t.Error("a definition without a name would run under whatever name")
	}
	// A TPM comes only with a copy of its state, and under the UUID of that.
	g := guestOnStage{Name: "revolve-rehearsal-1", TPM: &tpm.Which{UUID: newUUID(), Version: "2.0"}}
	const crb = `<tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'/></tpm>`
	start, end := strings.Index(text, "<tpm"), strings.Index(text, "</tpm>")+len("</tpm>")
	got, _, err = alone(text[:start]+crb+text[end:], g, "/d/it's")
	with := strings.Replace(strings.Replace(want, "</name><metadata>", "</name><uuid>"+g.TPM.UUID+"</uuid><metadata>", 1), "</rng>", "</rng>"+crb, 1)
	if err != nil || got != with {
		t.Errorf("%v\n got %s\nwant %s", err, got, with)
	}
	if d, err := readDomain(text); err != nil || d.memory() != 96<<20 {
		t.Errorf("memory %d, %v", d.memory(), err)
	}
}
