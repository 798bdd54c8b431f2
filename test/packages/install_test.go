package packages

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What `make test-packages` gives: a bare Debian system, the package of this commit
// and the one of the commit before.
const (
	envBase   = "REVOLVE_BASE"
	envDeb    = "REVOLVE_DEB"
	envBefore = "REVOLVE_DEB_BEFORE"
)

const vip = "10.77.0.200"

// bareSystems are three that run, with nothing but Debian.
func bareSystems(t *testing.T) map[string]*machine {
	t.Helper()
	if os.Getenv(envBase) == "" {
		t.Skip("SKIPPED PART: the package on three bare Debian systems (make test-packages gives them)")
	}
	h := newHub(t)
	base := t.TempDir()
	output(t, "tar", "-C", base, "-xf", os.Getenv(envBase))
	must(t, os.WriteFile(filepath.Join(base, "etc/apt/apt.conf.d/90yes"), []byte("APT::Get::Assume-Yes \"true\";\n"), 0o644))
	all := map[string]*machine{}
	for name, addr := range map[string]string{"a": "10.77.0.11", "b": "10.77.0.12", "c": "10.77.0.13"} {
		all[name] = newMachine(t, h, base, name, addr)
		all[name].on()
	}
	return all
}

// TestInstall follows docs/install.md on three bare Debian systems, with the package
// of the commit before until its upgrade: power cut and return, upgrade node by node, remove, purge.
func TestInstall(t *testing.T) {
	on := bareSystems(t)
	p := readPage(t, "docs/install.md", true)
	a := on["a"]
	for _, m := range on {
		m.brings(os.Getenv(envBefore))
	}
	p.follow("The package", on)
	for _, m := range on {
		if out, _ := m.try("", "systemctl", "is-active", "revolve", "revolve-witness"); strings.TrimSpace(out) != "inactive\ninactive" {
			t.Errorf("%s: after the installation: %s", m.name, out)
		}
		if out, _ := m.try("", "systemctl", "is-enabled", "revolve", "revolve-witness"); strings.TrimSpace(out) != "disabled\ndisabled" {
			t.Errorf("%s: after the installation: %s", m.name, out)
		}
		m.run("systemctl", "start", "revolve") // without an identity it is no failure, and nothing runs
		if out, _ := m.try("", "systemctl", "is-active", "revolve"); strings.TrimSpace(out) != "inactive" {
			t.Errorf("%s: without an identity the unit is %s", m.name, out)
		}
	}
	p.follow("The first machine", on)
	p.follow("The others", on)
	a.until("everything is well", func() error { return a.said("revolve status") })
	powerCut(t, p, on)
	upgrade(t, p, on)
	remove(t, p, on)
	alone(t, on)
	libvirtAsks(t, on["c"])
	if len(p.steps) != 1 || p.steps[0].section != "Without Debian" { // TestTarball's
		t.Errorf("docs/install.md has commands that were not run: %+v", p.steps)
	}
}

// powerCut: what was acknowledged is everywhere although the master's power goes; the
// machine starts by itself, and gets what it missed.
func powerCut(t *testing.T, p *page, on map[string]*machine) {
	t.Helper()
	a, b := on["a"], on["b"]
	if got := holder(on); got != a {
		t.Fatalf("%s is not the first master", a.name)
	}
	page := &page{t: t}
	var after []step // of "It serves": what follows the power cut
	for i, s := range p.steps {
		if s.section == "It serves" && strings.HasPrefix(s.text, "revolve history") {
			after = append(after, s)
			p.steps = slices.Delete(p.steps, i, i+1)
			break
		}
	}
	page.steps = after
	p.follow("It serves", on)
	a.cut()
	var m *machine
	b.until("another has the address", func() error {
		if m = holder(on); m == nil {
			return errors.New("nobody has it")
		}
		return nil
	})
	m.write("/srv/home/while-a-was-off", "x\n")
	m.sh("grep -qx hello /srv/home/hello")
	a.on()
	page.follow("It serves", on)
	b.until("the list of what was kept aside is looked at, and all is well", func() error {
		return b.said(`revolve divergent list --json | grep -o '"set":"[^"]*"' | cut -d '"' -f 4 | sort -u | while read -r set; do revolve divergent drop --yes "$set"; done; revolve status`)
	})
	a.until("has what it missed", func() error { return a.said("cat /srv/home/while-a-was-off /srv/home/hello") })
	same(t, on)
}

// upgrade: node by node, the master last; it hands over first.
func upgrade(t *testing.T, p *page, on map[string]*machine) {
	t.Helper()
	m := holder(on)
	if m != on["a"] {
		m.until("hands over to a", func() error { return m.said("revolve switch a") }) // the page does a last
	}
	before := on["a"].run("revolve", "version")
	on["a"].write("/etc/default/revolve", "REVOLVE_OPTIONS=\"--debug\"\n") // a person's change of a conffile stays
	for _, m := range on {
		m.brings(os.Getenv(envDeb))
	}
	running := map[*machine]string{}
	for _, m := range on {
		running[m] = m.run("systemctl", "show", "--property=MainPID", "--value", "revolve")
	}
	p.follow("Upgrade", on)
	for _, m := range on {
		if m.run("systemctl", "show", "--property=MainPID", "--value", "revolve") == running[m] {
			t.Errorf("%s: the agent of before goes on", m.name)
		}
		if m.run("revolve", "version") == before {
			t.Errorf("%s is still %s", m.name, before)
		}
		m.until("status says ok", func() error { return m.said("revolve status") })
	}
	if out := on["a"].run("cat", "/etc/default/revolve"); !strings.Contains(out, "--debug") {
		t.Errorf("an upgrade has replaced a conffile: %s", out)
	}
	m = holder(on)
	if m == nil || m == on["a"] {
		t.Fatal("the master was upgraded and is still the master")
	}
	var last struct {
		Records []struct{ Master, From, Cause string }
	}
	must(t, json.Unmarshal([]byte(m.run("revolve", "history", "--json")), &last))
	found := slices.ContainsFunc(last.Records, func(f struct{ Master, From, Cause string }) bool {
		return f.Master == m.name && f.From == "a" && f.Cause == "switch"
	})
	if !found {
		t.Errorf("the master did not hand over before it was upgraded: %+v", last)
	}
	m.write("/srv/home/after-the-upgrade", "x\n")
	m.run("revolve", "sync", "--wait")
	same(t, on)
}

// remove: c is stopped, and what the cluster and the person made stays, also after the purge.
func remove(t *testing.T, p *page, on map[string]*machine) {
	t.Helper()
	c := on["c"]
	// Where files came from is written down at each orderly stop, for the start after it.
	made := "find /srv/home /etc/revolve /var/lib/revolve/identity /var/lib/revolve/roster.json -type f -not -path '*/.revolve/origins.json' | sort | xargs sha256sum"
	c.write("/etc/revolve/mine", "x\n")
	before := c.sh(made)
	p.follow("Remove", on)
	if got := c.sh(made); got != before {
		t.Errorf("after the purge there is\n%s\nbefore there was\n%s", got, before)
	}
	left := c.sh("find / -xdev \\( -name '*revolve*' -o -path '*/revolve/*' \\) -not -path '/srv/*' -not -path '/var/lib/revolve*' -not -path '/etc/revolve*' -not -path '/root/*' -not -path '/var/cache/*' -not -path '/var/log/*' -print")
	if left != "" {
		t.Errorf("the purge leaves behind:\n%s", left)
	}
	if out, err := c.try("", "sh", "-c", "cat /proc/[0-9]*/comm | grep -x revolve"); err == nil {
		t.Errorf("after the purge there run: %s", out)
	}
	c.brings(os.Getenv(envDeb)) // and installed again it is the node that it was
	c.sh("apt install ./revolve_*.deb && systemctl enable --now revolve")
	c.until("is back", func() error { return c.said("revolve status") })
	c.sh("apt purge revolve; rm -r /etc/revolve /var/lib/revolve; apt install ./revolve_*.deb; apt purge revolve; test ! -e /etc/revolve; test ! -e /var/lib/revolve")
}

// alone: a master that nobody can take over from goes on over an upgrade, and a person is told what to type.
func alone(t *testing.T, on map[string]*machine) {
	t.Helper()
	m := holder(on)
	if m == nil {
		t.Fatal("nobody has the address")
	}
	for _, other := range on {
		if other != m && other != on["c"] { // c is no node any more
			other.run("systemctl", "stop", "revolve")
		}
	}
	before := m.run("systemctl", "show", "--property=MainPID", "--value", "revolve")
	out := m.sh("dpkg --install /root/revolve_*.deb 2>&1")
	if !strings.Contains(out, "could not hand over") || !strings.Contains(out, "systemctl restart revolve") {
		t.Errorf("%s: a lone master was upgraded, and it says only\n%s", m.name, out)
	}
	if m.run("systemctl", "show", "--property=MainPID", "--value", "revolve") != before {
		t.Errorf("%s: a master that could not hand over was started anew", m.name)
	}
}

// libvirtAsks: the package puts its hook where libvirt looks, beside those of others and never over one. It lets machines of
// which nothing is known start, and goes with the program; what is not the program's stays.
func libvirtAsks(t *testing.T, m *machine) {
	t.Helper()
	const dir = "/etc/libvirt/hooks/qemu.d"
	m.sh("test ! -e /etc/libvirt") // nothing was left of the last time
	m.sh("mkdir -p -m 755 " + dir + "; echo '# mine' >" + dir + "/10-mine; chmod 700 " + dir + "/10-mine")
	m.sh("apt install ./revolve_*.deb")
	m.sh("test -x " + dir + "/revolve; " + dir + "/revolve web prepare begin - </dev/null; " + dir + "/revolve web reconnect begin - </dev/null")
	m.sh("apt remove revolve; test ! -e " + dir + "/revolve; test -x " + dir + "/10-mine")

	// One of which the agent's records say that this node keeps points of it is refused while no agent answers.
	m.sh("apt install ./revolve_*.deb; install -d -m 700 /var/lib/revolve; echo '{' >/var/lib/revolve/vm-storage.json")
	if out, err := m.try("", dir+"/revolve", "web", "prepare", "begin", "-"); err == nil || !strings.Contains(out, "agent does not answer") {
		t.Errorf("the hook lets start what cannot be known: %v\n%s", err, out)
	}
	m.sh("rm /var/lib/revolve/vm-storage.json; apt purge revolve; test ! -e " + dir + "/revolve")

	m.sh("printf '#!/bin/sh\\nexit 0\\n' >" + dir + "/revolve; chmod 755 " + dir + "/revolve; cksum " + dir + "/revolve >/root/before")
	m.sh("apt install ./revolve_*.deb; cksum " + dir + "/revolve | cmp - /root/before; apt purge revolve; cksum " + dir + "/revolve | cmp - /root/before")
	m.sh("rm -r /etc/libvirt /root/before; apt install ./revolve_*.deb; apt purge revolve; test ! -e /etc/libvirt")
}

// holder has the address, or nobody.
func holder(on map[string]*machine) *machine {
	for _, m := range on {
		if m.pid == 0 {
			continue
		}
		if out, err := m.try("", "ip", "-o", "-4", "address"); err == nil && strings.Contains(out, vip+"/") {
			return m
		}
	}
	return nil
}

// same compares the volumes of all machines.
func same(t *testing.T, on map[string]*machine) {
	t.Helper()
	var first, of string
	for name, m := range on {
		got := m.sh(`cd /srv/home && find . -path ./.revolve -prune -o -printf '%p %M %U:%G %T@ %l\n' -type f -exec sha256sum {} \; | sort`)
		if first == "" {
			first, of = got, name
		} else if got != first {
			t.Errorf("%s has\n%s\n%s has\n%s", name, got, of, first)
		}
	}
}

// TestTarball: unpacked, the tarball of the page is a revolve that systemd and the shell find.
func TestTarball(t *testing.T) {
	dir := os.Getenv(envDeb)
	if dir == "" {
		t.Skip("SKIPPED PART: the tarball unpacked (make test-packages makes it)")
	}
	dir = filepath.Dir(dir)
	found, err := filepath.Glob(filepath.Join(dir, "revolve_*.tar.gz"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("%s has %d tarballs", dir, len(found))
	}
	for _, name := range strings.Fields(output(t, "tar", "-tzf", found[0])) {
		if strings.HasSuffix(name, "/") {
			t.Errorf("it has the directory %s, which is the machine's", name)
		}
	}
	root := t.TempDir()
	output(t, "tar", "-C", root, "-xzf", found[0])
	for _, p := range []string{"bin/revolve", "lib/systemd/system/revolve.service", "share/man/man1/revolve.1.gz", "share/doc/revolve/licenses"} {
		if _, err := os.Stat(filepath.Join(root, "usr/local", p)); err != nil {
			t.Error(err)
		}
	}
	unit, err := os.ReadFile(filepath.Join(root, "usr/local/lib/systemd/system/revolve.service"))
	must(t, err)
	if !strings.Contains(string(unit), "ExecStart=/usr/local/bin/revolve agent ") {
		t.Errorf("the unit runs another program:\n%s", unit)
	}
	if out, err := exec.Command(filepath.Join(root, "usr/local/bin/revolve"), "version").CombinedOutput(); err != nil || strings.Contains(string(out), "unknown") {
		t.Errorf("%v: %s", err, out)
	}
	fmt.Fprintln(os.Stderr, "unpacked", found[0])
}
