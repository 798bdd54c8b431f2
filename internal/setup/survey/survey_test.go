package survey

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/setup"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// envInside says that the test runs in the network that it made for itself.
const envInside = "REVOLVE_SURVEY_INSIDE"

// network has a card of every kind that is told from others.
const network = `
ip link set lo up
ip link add lan0 type veth peer name far0
ip link set far0 up
ip link add dead0 type veth peer name out0
ip link set dead0 up
ip link add br0 type bridge
ip link set out0 master br0
ip link set lan0 mtu 1400 up
ip addr add 10.77.0.11/24 dev lan0
ip addr add 10.77.0.200/32 dev lan0
ip addr add 10.77.0.12/24 dev lan0
ip addr add 10.79.0.12/24 dev lan0 valid_lft 600 preferred_lft 600
ip addr add 10.77.0.13/24 dev lan0 valid_lft 600 preferred_lft 0
ip addr add fd77::11/64 dev lan0 nodad
ip addr add 10.78.0.11/24 dev far0
ip route add default via 10.77.0.1 dev lan0 metric 100
ip route add default via 10.78.0.1 dev far0 metric 50
exec "$@"
`

func TestCards(t *testing.T) {
	if os.Getenv(envInside) == "" {
		if out, err := exec.Command("unshare", "-rn", "true").CombinedOutput(); err != nil {
			t.Skipf("SKIPPED PART: no network namespaces here: %v %s", err, out)
		}
		cmd := exec.Command("unshare", "-rn", "sh", "-ec", network, "sh", os.Args[0], "-test.run=^TestCards$", "-test.v", "-test.count=1")
		cmd.Env = append(os.Environ(), envInside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestCards") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	m, err := Machine("state")
	must(t, err)
	got := map[string]string{}
	for _, c := range m.Cards {
		var addrs []string
		for _, a := range c.Addrs {
			addrs = append(addrs, fmt.Sprintf("%s/%v", a.Prefix, a.Leased))
		}
		got[c.Name] = fmt.Sprint(c.Kind, " mtu ", c.MTU, " carrier ", c.Carrier, " loop ", c.Loop, " port ", c.Port, " noarp ", c.NoARP, " default ", c.Default, " ", strings.Join(addrs, " "))
	}
	for name, want := range map[string]string{
		"lo":    "device mtu 65536 carrier true loop true port false noarp false default 0 ",
		"lan0":  "veth mtu 1400 carrier true loop false port false noarp false default 101 10.77.0.11/24/false 10.79.0.12/24/true fd77::11/64/false",
		"far0":  "veth mtu 1500 carrier true loop false port false noarp false default 51 10.78.0.11/24/false",
		"dead0": "veth mtu 1500 carrier false loop false port false noarp false default 0 ",
		"out0":  "veth mtu 1500 carrier false loop false port true noarp false default 0 ",
		"br0":   "bridge mtu 1500 carrier false loop false port false noarp false default 0 ",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if len(m.Gateways) != 2 {
		t.Errorf("routers %v", m.Gateways)
	}
	if p := setup.New(m).Propose(setup.Interface, nil); p.Text != "far0" {
		t.Errorf("proposed is %+v", p)
	}
	if !filepath.IsAbs(m.State) {
		t.Errorf("state is %s", m.State)
	}
}

// What filesystems can is tried on real ones, and nothing of it stays.
func TestFilesystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: real filesystems need root")
	}
	for kind, c := range map[string]struct {
		make    string
		reflink bool
	}{"ext4": {"mkfs.ext4 -q", false}, "xfs": {"mkfs.xfs -q -m reflink=1", true}, "btrfs": {"mkfs.btrfs -q", true}} {
		t.Run(kind, func(t *testing.T) {
			image, at := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "a b")
			must(t, os.Mkdir(at, 0o755))
			must(t, os.WriteFile(image, nil, 0o600))
			must(t, os.Truncate(image, 400<<20))
			for _, line := range []string{c.make + " " + image, "mount -o loop " + image + " '" + at + "'"} {
				if out, err := exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; "+line).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v %s", line, err, out)
				}
			}
			defer func() { must(t, exec.Command("umount", at).Run()) }()
			found(t, at, kind, c.reflink, false)
			left, err := os.ReadDir(at)
			must(t, err)
			if n := len(left); n > 1 || n == 1 && left[0].Name() != "lost+found" {
				t.Errorf("left behind: %v", left)
			}
			must(t, exec.Command("mount", "-o", "remount,ro", at).Run())
			found(t, at, kind, false, true)
		})
	}
}

func found(t *testing.T, at, kind string, reflink, readOnly bool) {
	t.Helper()
	m, err := Machine("/var/lib/revolve")
	must(t, err)
	for _, fs := range m.Filesystems {
		if fs.At != at {
			continue
		}
		if fs.Kind != kind || fs.Reflink != reflink || fs.ReadOnly != readOnly || fs.Free < 50<<20 || fs.Free > 400<<20 || !strings.HasPrefix(fs.Source, "/dev/loop") {
			t.Errorf("%+v", fs)
		}
		return
	}
	t.Errorf("%s is not among %+v", at, m.Filesystems)
}

func TestLook(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.MkdirAll(dir+"/real/sub", 0o755))
	must(t, os.WriteFile(dir+"/file", nil, 0o600))
	must(t, os.Symlink("real", dir+"/link"))
	must(t, os.Symlink("nowhere", dir+"/dangling"))
	for path, want := range map[string]setup.Place{
		"/real":         {Real: dir + "/real", Exists: true, Dir: true, Parent: true},
		"/real/new":     {Real: dir + "/real/new", Parent: true},
		"/none/new":     {Real: dir + "/none/new"},
		"/link/sub":     {Real: dir + "/real/sub", Exists: true, Dir: true, Parent: true},
		"/link/a/b":     {Real: dir + "/real/a/b"},
		"/file":         {Real: dir + "/file", Exists: true, Parent: true},
		"/file/x":       {Real: dir + "/file/x"},
		"/dangling":     {Real: dir + "/dangling", Exists: true, Parent: true},
		"/link/../real": {Real: dir + "/real", Exists: true, Dir: true, Parent: true},
	} {
		if got := Look(dir + path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	if got := Look("/"); got.Real != "" || !got.Exists || !got.Dir {
		t.Errorf("the root: %+v", got)
	}
}
