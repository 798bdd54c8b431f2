package setup

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func addrs(list ...string) (out []CardAddr) {
	for _, a := range list {
		out = append(out, CardAddr{Prefix: netip.MustParsePrefix(a)})
	}
	return out
}

// box is a machine as many people have one: a card with the default route, one without a cable, a second
// network, Docker, a tunnel; a small system's disk and a larger one.
func box() Machine {
	return Machine{Host: "Anna's-Box.example.lan", State: "/var/lib/revolve", Gateways: []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		Cards: []Card{
			{Name: "lo", Kind: "device", Loop: true, Carrier: true, MTU: 65536},
			{Name: "eth2", Kind: "device", Carrier: true, MTU: 9000, Addrs: addrs("10.78.0.11/24")},
			{Name: "eth0", Kind: "device", Carrier: true, MTU: 1500, Default: 101, Addrs: addrs("10.77.0.11/24", "10.79.0.11/28", "fd77::11/64")},
			{Name: "eth1", Kind: "device", MTU: 1500},
			{Name: "eth3", Kind: "device", Carrier: true, MTU: 1500, Port: true},
			{Name: "eth4", Kind: "device", Carrier: true, MTU: 1500},
			{Name: "docker0", Kind: "bridge", Carrier: true, MTU: 1500, Addrs: addrs("172.17.0.1/16")},
			{Name: "veth1a2b", Kind: "veth", Carrier: true, MTU: 1500, Addrs: addrs("10.99.0.1/24")},
			{Name: "wg0", Kind: "wireguard", Carrier: true, MTU: 1420, NoARP: true, Default: 1, Addrs: addrs("10.9.0.1/24")},
			{Name: "tun0", Kind: "tuntap", Carrier: true, MTU: 1500, Addrs: addrs("10.8.0.1/24")},
		},
		Filesystems: []Filesystem{
			{At: "/", Kind: "ext4", Source: "/dev/sda2", Free: 20 << 30},
			{At: "/proc", Kind: "proc", Source: "proc"},
			{At: "/run", Kind: "tmpfs", Source: "tmpfs"},
			{At: "/boot/efi", Kind: "vfat", Source: "/dev/sda1", Free: 1 << 30},
			{At: "/var/log", Kind: "xfs", Source: "/dev/sdc1", Free: 900 << 30, Reflink: true},
			{At: "/tank", Kind: "xfs", Source: "/dev/sdb1", Free: 800 << 30, Reflink: true},
			{At: "/tank/old", Kind: "ext4", Source: "/dev/sdd1", Free: 1000 << 30},
			{At: "/mnt/nas", Kind: "nfs4", Source: "nas:/x"},
			{At: "/mnt/dvd", Kind: "ext4", Source: "/dev/sr0", ReadOnly: true, Free: 90 << 30, Reflink: true},
			{At: "/mnt/full", Kind: "btrfs", Source: "/dev/sde1", Free: 1 << 20, Reflink: true},
			{At: "/tmp", Kind: "tmpfs", Source: "tmpfs"},
			{At: "/ctr", Kind: "overlay", Source: "overlay"},
		}}
}

// filled is a form with right answers to all before t.
func filled(t *testing.T, upTo Topic) *Form {
	t.Helper()
	f := New(box())
	for _, topic := range Topics() {
		if topic == upTo {
			break
		}
		must(t, f.Take(topic, map[Topic]string{Cluster: "homelab", Node: "a", Interface: "eth0", VIP: "10.77.0.200", Directory: "/tank/home", Others: "b=10.77.0.12"}[topic], Facts{Place: Place{Parent: true}}))
	}
	return f
}

// Every answer that is wrong is refused, with what is wrong and what would be right, and the form stays without it.
func TestMistakes(t *testing.T) {
	is := func(exists, dir, parent bool, real ...string) Facts {
		return Facts{Place: Place{Exists: exists, Dir: dir, Parent: parent, Real: strings.Join(real, "")}}
	}
	fine := is(true, true, true)
	long := strings.Repeat("x", 5000)
	for _, c := range []struct {
		topic       Topic
		text        string
		facts       Facts
		what, right string
	}{
		{Cluster, "", Facts{}, `"" is not a name`, "use 1 to 32 lower-case letters"},
		{Cluster, "Home Lab", Facts{}, `"Home Lab" is not a name`, "lower-case"},
		{Cluster, "\x1b[2J", Facts{}, `"\x1b[2J" is not a name`, "lower-case"},
		{Cluster, long, Facts{}, "5000 characters", "at most 4096"},
		{Node, "-a", Facts{}, `"-a" is not a name`, "beginning with"},
		{Node, "ä", Facts{}, `"ä" is not a name`, "lower-case"},
		{Node, "a.b", Facts{}, `"a.b" is not a name`, "lower-case"},
		{Interface, "", Facts{}, `there is no interface ""`, "choose one of eth0, eth2"},
		{Interface, "eth9", Facts{}, `there is no interface "eth9"`, "choose one of eth0, eth2"},
		{Interface, "eth0; reboot", Facts{}, `there is no interface "eth0; reboot"`, "eth0"},
		{Interface, "lo", Facts{}, "lo is the loopback", "eth0, eth2"},
		{Interface, "eth1", Facts{}, "eth1 has no carrier", "eth0"},
		{Interface, "eth3", Facts{}, "eth3 is a port of a bridge", "eth0"},
		{Interface, "eth4", Facts{}, "eth4 has no address", "eth0"},
		{Interface, "docker0", Facts{}, "docker0 is for containers", "eth0"},
		{Interface, "wg0", Facts{}, "wg0 is a tunnel (wireguard)", "eth0"},
		{Interface, "tun0", Facts{}, "tun0 is a tunnel (tuntap)", "eth0"},
		{VIP, "", Facts{}, `"" is not an address`, "such as 10.77.0.200/24"},
		{VIP, "host.example.lan", Facts{}, "is not an address", "10.77.0.200/24"},
		{VIP, "10.77.0.300", Facts{}, "is not an address", "10.77.0.200/24"},
		{VIP, "10.77.0.200/33", Facts{}, "is not an address", "10.77.0.200/24"},
		{VIP, "10.77.0.200/24/24", Facts{}, "is not an address", "10.77.0.200/24"},
		{VIP, "fe80::1%eth0", Facts{}, "is not an address", "10.77.0.200/24"},
		{VIP, "10.78.0.200", Facts{}, "10.78.0.200 is in no network of eth0 (10.77.0.11/24, 10.79.0.11/28, fd77::11/64)", "10.77.0.200/24"},
		{VIP, "10.77.0.200/16", Facts{}, "the network of eth0 is 10.77.0.0/24", "write 10.77.0.200/24"},
		{VIP, "10.77.0.0/24", Facts{}, "address of the network itself", "one of its hosts'"},
		{VIP, "10.77.0.255", Facts{}, "broadcast address", "one of its hosts'"},
		{VIP, "10.77.0.11", Facts{}, "this machine's own, on eth0", "nobody has, such as 10.77.0.200/24"},
		{VIP, "10.77.0.1", Facts{}, "is the router's", "nobody has"},
		{VIP, "::ffff:10.77.0.200", Facts{}, "is in no network", "10.77.0.200/24"},
		{VIP, "10.77.0.50", Facts{Holder: "02:00:00:00:00:07"}, "the card 02:00:00:00:00:07 answers for 10.77.0.50", "nobody has"},
		{Directory, "", fine, `path "" is not absolute`, "slash"},
		{Directory, "srv/home", fine, "is not absolute", "slash"},
		{Directory, "/srv//home/", fine, "not in its simplest form", "write /srv/home"},
		{Directory, "/srv/../etc", fine, "not in its simplest form", "write /etc"},
		{Directory, "/srv/a\xffb", fine, "not UTF-8", "use characters"},
		{Directory, "/srv/a\x00b", fine, "control character", "remove"},
		{Directory, "/", fine, "root of the file system", "below it"},
		{Directory, "H=/srv/home", fine, `"H" is not a name`, "lower-case"},
		{Directory, "home=", fine, "is not absolute", "slash"},
		{Directory, "/srv/file", is(true, false, true), "/srv/file is no directory", "such as /tank/home"},
		{Directory, "/mnt/dsk/home", is(false, false, false), "there is no /mnt/dsk", "mkdir -p"},
		{Directory, "/etc/x", fine, "/etc/x is the system's", "such as /tank/home"},
		{Directory, "/srv/link", is(true, true, true, "/proc/self"), "/srv/link is the system's", "such as"},
		{Directory, "/var/lib/revolve/x", fine, "inside one another", "such as"},
		{Directory, "/var/lib", fine, "is the system's", "such as"},
		{Directory, "/mnt/dvd/x", fine, "mounted read-only", "mount it for writing"},
		{Directory, "/mnt/nas/x", fine, "network filesystem (nfs4)", "such as"},
		{Directory, "/srv/link", is(true, true, true, "/mnt/nas/x"), "network filesystem", "such as"},
		{Others, "b", Facts{}, `"b" is not NAME=ADDRESS`, "such as b=10.77.0.12"},
		{Others, "=10.77.0.12", Facts{}, `"" is not a name`, "lower-case"},
		{Others, "B=10.77.0.12", Facts{}, `"B" is not a name`, "lower-case"},
		{Others, "b=", Facts{}, `"" is not an address`, "10.77.0.0/24, the network of eth0"},
		{Others, "b=box.lan", Facts{}, `"box.lan" is not an address`, "10.77.0.0/24"},
		{Others, "b=10.77.0.12/24", Facts{}, "is not an address", "10.77.0.0/24"},
		{Others, "a=10.77.0.12", Facts{}, "there is a node a already", "own name"},
		{Others, "b=10.77.0.11", Facts{}, "this machine's own", "that of b"},
		{Others, "b=10.77.0.200", Facts{}, "is the floating address", "b has itself"},
		{Others, "b=10.78.0.12", Facts{}, "not in the network of eth0", "10.77.0.0/24"},
		{Others, "b=fd77::12", Facts{}, "not in the network of eth0", "10.77.0.0/24"},
		{Others, "b=10.77.0.255", Facts{}, "is no machine's address", "10.77.0.0/24"},
		{Others, "b=10.77.0.0", Facts{}, "is no machine's address", "10.77.0.0/24"},
	} {
		t.Run(fmt.Sprintf("%s %.40q", c.topic.Flag(), c.text), func(t *testing.T) {
			f := filled(t, c.topic)
			missing := f.Missing()
			err := f.Take(c.topic, c.text, c.facts)
			var m *Mistake
			if !errors.As(err, &m) || !strings.Contains(m.What, c.what) || !strings.Contains(m.Right, c.right) {
				t.Errorf("%v; want %q and %q", err, c.what, c.right)
			}
			if !slices.Equal(f.Missing(), missing) || len(f.Answers.Others) > 0 {
				t.Errorf("it is taken: %+v", f.Answers)
			}
			if len(fmt.Sprint(err)) > 400 {
				t.Errorf("nobody reads %d characters", len(fmt.Sprint(err)))
			}
		})
	}
}

func TestOthersTwice(t *testing.T) {
	f := filled(t, Others)
	must(t, f.Take(Others, " b = 10.77.0.12 ", Facts{}))
	for text, want := range map[string]string{"b=10.77.0.13": "there is a node b already", "c=10.77.0.12": "that of b already"} {
		if err := f.Take(Others, text, Facts{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for i := range 14 {
		must(t, f.Take(Others, fmt.Sprintf("n%d=10.77.0.%d", i, 20+i), Facts{}))
	}
	if err := f.Take(Others, "z=10.77.0.99", Facts{}); err == nil || !strings.Contains(err.Error(), "at most 16") {
		t.Errorf("node 17: %v", err)
	}
	reads(t, &f.Answers)
}

// What is right is taken, and is in the file as the reader of the configuration reads it.
func TestTaken(t *testing.T) {
	for _, c := range []struct{ vip, dir, wantVIP, wantAddr, wantVolume string }{
		{"10.77.0.200", "/tank/home", "10.77.0.200/24", "10.77.0.11/24", "home"},
		{" 10.77.0.200/24 ", "/srv/Home Films", "10.77.0.200/24", "10.77.0.11/24", "home-films"},
		{"10.79.0.12", "films=/srv/Home Films", "10.79.0.12/28", "10.79.0.11/28", "films"},
		{"fd77::c8", "/srv/ä", "fd77::c8/64", "fd77::11/64", "data"},
		{"fd77:0::c8/64", "/srv/a=b", "fd77::c8/64", "fd77::11/64", "a-b"},
	} {
		f := filled(t, VIP)
		must(t, f.Take(VIP, c.vip, Facts{}))
		must(t, f.Take(Directory, c.dir, Facts{Place: Place{Parent: true}}))
		if a := f.Answers; a.VIP.String() != c.wantVIP || a.Address.String() != c.wantAddr || a.Volume != c.wantVolume || len(f.Missing()) > 0 {
			t.Errorf("%+v: %+v", c, a)
		}
		reads(t, &f.Answers)
	}
}

// What is proposed is taken, on every kind of machine, and in the file as the reader reads it.
func TestProposalsAreTaken(t *testing.T) {
	f := New(box())
	for topic, want := range map[Topic]string{Cluster: "homelab", Node: "anna-s-box", Interface: "eth0", Directory: "/tank/home"} {
		if p := f.Propose(topic, nil); p.Text != want {
			t.Errorf("%s: %+v", topic.Flag(), p)
		}
	}
	for _, topic := range f.Missing() {
		must(t, f.Take(topic, f.Propose(topic, nil).Text, Facts{Place: Place{Parent: true}}))
	}
	if f.Answers.VIP.String() != "10.77.0.200/24" {
		t.Errorf("proposed %s", f.Answers.VIP)
	}
	reads(t, &f.Answers)
}

func TestProposedCards(t *testing.T) {
	wire := func(name string, far int) Card {
		return Card{Name: name, Kind: "veth", Carrier: true, Default: far, Addrs: addrs("10.1.0.1/24")}
	}
	card := func(name string, far int) Card {
		return Card{Name: name, Kind: "device", Carrier: true, Default: far, Addrs: addrs("10.2.0.1/24")}
	}
	for _, c := range []struct {
		cards []Card
		want  string
	}{
		{nil, ""},
		{[]Card{card("a", 0), card("b", 0)}, "a b"},
		{[]Card{card("a", 0), card("b", 101), card("c", 1)}, "c b a"},
		{[]Card{wire("v", 1), card("a", 0)}, "a"},
		{[]Card{wire("v", 0), wire("w", 1)}, "w v"}, // a container
		{[]Card{{Name: "br0", Kind: "bridge", Carrier: true, Addrs: addrs("10.1.0.1/24")}, {Name: "br-0123456789ab", Kind: "bridge", Carrier: true, Addrs: addrs("172.18.0.1/16")}, {Name: "virbr0", Kind: "bridge", Carrier: true, Addrs: addrs("192.168.122.1/24")}}, "br0"},
	} {
		var names []string
		for _, c := range New(Machine{Cards: c.cards}).Cards() {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v: %q, want %q", c.cards, got, c.want)
		}
	}
	if err := New(Machine{}).Take(Interface, "eth0", Facts{}); err == nil || !strings.Contains(err.Error(), "give one a cable and an address first") {
		t.Errorf("without any: %v", err)
	}
}

func TestProposedVIPs(t *testing.T) {
	taken := map[netip.Addr]bool{netip.MustParseAddr("10.77.0.200"): true, netip.MustParseAddr("10.77.0.201"): true}
	for own, want := range map[string]string{
		"10.77.0.11/24": "10.77.0.202/24", "10.77.3.11/16": "10.77.3.200/16", "10.1.0.1/29": "10.1.0.6/29", "10.1.0.6/29": "10.1.0.5/29", "10.1.0.1/30": "10.1.0.2/30", "10.1.0.1/31": "",
		"fd77::11/64": "fd77::c8/64", "fd77::11/127": "", "10.9.9.200/24": "10.9.9.201/24",
	} {
		f := New(Machine{Cards: []Card{{Name: "x", Carrier: true, Addrs: addrs(own)}}})
		must(t, f.Take(Interface, "x", Facts{}))
		if p := f.Propose(VIP, func(a netip.Addr) bool { return taken[a] }); p.Text != want {
			t.Errorf("%s: %+v, want %s", own, p, want)
		}
	}
	f := New(box())
	must(t, f.Take(Interface, "eth0", Facts{}))
	asked := 0
	if p := f.Propose(VIP, func(netip.Addr) bool { asked++; return true }); p.Text != "" || asked != maxVIPs {
		t.Errorf("where all are taken: %+v, asked %d times", p, asked)
	}
}

func TestProposedDirectories(t *testing.T) {
	fs := func(at, kind, source string, gib uint64, reflink bool) Filesystem {
		return Filesystem{At: at, Kind: kind, Source: source, Free: gib << 30, Reflink: reflink}
	}
	root := fs("/", "ext4", "/dev/a", 50, false)
	for name, c := range map[string]struct {
		list []Filesystem
		want string
		why  string
	}{
		"nothing":                    {nil, "", ""},
		"the system's disk alone":    {[]Filesystem{root}, "/srv/home", "/ (ext4): the only one, 50 GiB free"},
		"in memory":                  {[]Filesystem{root, fs("/big", "tmpfs", "tmpfs", 500, true)}, "/srv/home", "the only one"},
		"another disk":               {[]Filesystem{root, fs("/data", "ext4", "/dev/b", 10, false)}, "/data/home", "/data (ext4): not the system's disk, 10 GiB free"},
		"sharing before room":        {[]Filesystem{root, fs("/data", "ext4", "/dev/b", 900, false), fs("/x", "xfs", "/dev/c", 10, true)}, "/x/home", "files can share blocks, so of a large one only what changed is sent, not the system's disk, 10 GiB free"},
		"room":                       {[]Filesystem{root, fs("/data", "ext4", "/dev/b", 900, false), fs("/x", "ext4", "/dev/c", 910, false)}, "/x/home", "910 GiB free"},
		"a root that shares":         {[]Filesystem{fs("/", "btrfs", "/dev/a", 50, true), fs("/data", "ext4", "/dev/b", 900, false)}, "/srv/home", "files can share blocks"},
		"both share":                 {[]Filesystem{fs("/", "btrfs", "/dev/a", 50, true), fs("/data", "xfs", "/dev/b", 9, true)}, "/data/home", "not the system's disk"},
		"a subvolume of the root":    {[]Filesystem{fs("/", "btrfs", "/dev/a", 50, true), fs("/home", "btrfs", "/dev/a", 50, true)}, "/srv/home", "the only one"},
		"a disk for /home":           {[]Filesystem{root, fs("/home", "xfs", "/dev/b", 50, true)}, "/home/shared", "not the system's disk"},
		"a disk for /srv":            {[]Filesystem{root, fs("/srv", "xfs", "/dev/b", 50, true)}, "/srv/home", "not the system's disk"},
		"seen twice":                 {[]Filesystem{root, fs("/b", "xfs", "/dev/b", 50, true), fs("/c", "xfs", "/dev/b", 50, true)}, "/b/home", ""},
		"hidden":                     {[]Filesystem{root, fs("/b", "xfs", "/dev/b", 50, true), fs("/b", "tmpfs", "tmpfs", 1, false)}, "/srv/home", ""},
		"a disk for the state":       {[]Filesystem{root, fs("/var/lib/revolve", "xfs", "/dev/b", 50, true)}, "/srv/home", ""},
		"an overlay, in a container": {[]Filesystem{{At: "/", Kind: "overlay", Source: "overlay"}, fs("/data", "ext4", "/dev/b", 10, false)}, "/data/home", ""},
		"a terabyte":                 {[]Filesystem{fs("/", "zfs", "rpool", 20<<10, false)}, "/srv/home", "20 TiB free"},
	} {
		p := New(Machine{State: "/var/lib/revolve", Filesystems: c.list}).Propose(Directory, nil)
		if p.Text != c.want || !strings.Contains(p.Why, c.why) {
			t.Errorf("%s: %+v, want %s, %q", name, p, c.want, c.why)
		}
	}
	if lines := New(box()).Places(); len(lines) != 3 || !strings.HasPrefix(lines[0], "/tank (xfs)") {
		t.Errorf("%q", lines)
	}
}

func TestAdvice(t *testing.T) {
	for dir, want := range map[string]string{"/tmp/x": "lies in memory (tmpfs)", "/ctr/x": "lies on an overlay", "/mnt/full/x": "less than 1 GiB free", "/tank/home": ""} {
		f := filled(t, Directory)
		must(t, f.Take(Directory, dir, Facts{Place: Place{Exists: true, Dir: true}}))
		got := strings.Join(f.Advice(), "; ")
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q", dir, got)
		}
	}
	f := filled(t, Others)
	f.Answers.Address.Leased = true
	if got := f.Advice(); len(got) != 1 || !strings.Contains(got[0], "10.77.0.11 is leased (DHCP)") {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string]string{"Anna's PC": "anna-s-pc", "": "x", "---": "x", "日本": "x", strings.Repeat("a", 31) + "-b": strings.Repeat("a", 31), "12": "12", "a_b": "a-b"} {
		if got := nameOf(text, "x"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
