package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"revolve/internal/calendar"
	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// update rewrites what is generated: go test ./internal/config -update
var update = flag.Bool("update", false, "rewrite docs/config.schema.json") //tidy:constant a test's flag

const schemaFile = "../../docs/config.schema.json"

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDesignExample(t *testing.T) {
	cfg, err := Parse("design.yaml", read(t, "design.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	always := Power{Mode: PowerAlways}
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	want := &Config{
		Cluster: "homelab", Port: 7373,
		Nodes: []Node{
			{Name: "a", Links: []Link{{"lan", addr("10.77.0.11")}, {"fast", addr("10.78.0.11")}}, Priority: 100, Candidate: true, Power: always},
			{Name: "b", Links: []Link{{"lan", addr("10.77.0.12")}, {"fast", addr("10.78.0.12")}}, Priority: 100, Candidate: true, Power: Power{Mode: PowerOnDemand, Wake: "02:00:00:00:00:0b"}},
			{Name: "c", Links: []Link{{"lan", addr("10.77.0.13")}}, Priority: 100, Paths: map[cluster.VolumeID]string{"home": "/tank/home"}, Power: always},
		},
		VIPs:     []VIP{{prefix("10.77.0.200/24"), "lan"}, {prefix("fd77::200/64"), "lan"}},
		Failover: Failover{Engine: EngineBuiltin, Profile: ProfileDefault, Isolation: IsolationKeep},
		Volumes: []Volume{
			{Name: "home", Path: "/srv/home", Exclude: []string{"*.tmp"}, Trash: 7 * 24 * time.Hour, Sync: SyncGroup},
			{Name: "zones", Path: "/srv/zones", Trash: 7 * 24 * time.Hour, Sync: SyncGroup, OnChange: "rndc reload"},
		},
		Services: []Service{{Name: "dns", Unit: "named.service", Required: true, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3,
			Check: Check{Kind: CheckDNS, Text: "dns://127.0.0.1:53/www.example.lan", Address: "127.0.0.1:53", Name: "www.example.lan.", Type: "A"}}},
		Alarms:    []Alarm{{Kind: AlarmDiscord, Name: "discord", URLFile: "/etc/revolve/discord.url"}},
		VMs:       []VM{{Name: "ad1", Nodes: []cluster.NodeID{"a", "b", "c"}, Consistency: ConsistencyFreeze, Critical: true, Keep: Keep{Last: 3, Weekly: 4}}},
		Schedules: []Schedule{{Name: "critical-weekly", Text: "Sun 03:00", When: calendar.Rule{Days: [7]bool{true}, From: 3 * time.Hour, Length: 3 * time.Hour}, VMs: []string{"ad1"}, Wake: true, Missed: MissedSoon}},
		VMStorage: "/var/lib/revolve/vms",
	}
	warnings := cfg.Warnings
	cfg.Warnings = nil
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	samePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	samePort := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, cfg, same, samePrefix, samePort); diff != "" {
		t.Error(diff)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	if got := cfg.VolumePath("c", "home"); got != "/tank/home" {
		t.Errorf("home of c is %q", got)
	}
	if got := cfg.VolumePath("a", "home"); got != "/srv/home" {
		t.Errorf("home of a is %q", got)
	}
	if got := cfg.VolumePath("a", "nothing"); got != "" {
		t.Errorf("an unknown volume is at %q", got)
	}
}

// Every mistake of a file is reported, type errors included, each with its line.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("ten.yaml", read(t, "ten.yaml"))
	var problems *Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	if problem.KindOf(err) != problem.Invalid {
		t.Errorf("kind is %s", problem.KindOf(err))
	}
	want := []string{
		`ten.yaml:1: "Home Lab" is not a name; use 1 to 32 lower-case letters, digits and dashes, beginning with a letter or digit`,
		`ten.yaml:2: unknown key "prot"; did you mean "port"?`,
		`ten.yaml:4: nodes.a.priority is the text "high", not a whole number; write a whole number`,
		`ten.yaml:5: nodes.b.candidate is the text "maybe", not true or false; write true or false`,
		`ten.yaml:5: address 10.77.0.11 is that of nodes.a.links.lan already; give every node its own address on every link`,
		`ten.yaml:6: "10.77.0.300" is not an address; write a literal IPv4 or IPv6 address; names are not resolved`,
		`ten.yaml:6: unknown volume "hime" in nodes.c.paths; did you mean "home"?`,
		`ten.yaml:8: "10.77.0.200" is not an address with a length; add the length of its network, such as 10.77.0.200/24`,
		`ten.yaml:9: unknown link "lam"; did you mean "lan"?`,
		`ten.yaml:10: failover.engine is "extern"; did you mean "external"?`,
		`ten.yaml:10: failover.profile is "quick"; known here: default, fast, patient`,
		`ten.yaml:12: volumes.home.trash is the number 7, not a mapping; write a time such as 7d, 12h or 30m, or a mapping such as { age: 7d, quota: 5% }`,
		`ten.yaml:12: path "srv/home" is not absolute; begin it with a slash`,
		`ten.yaml:12: pattern "[a-" has an unfinished bracket or escape; close the "[", or write "\\[" for the character itself`,
		`ten.yaml:13: duplicate key "home" in volumes, first on line 12; remove one of the two`,
		`ten.yaml:14: volumes.zones.exclude is the text "*.tmp", not a list; write a list`,
		`ten.yaml:14: key "path" is missing in volumes.zones; add it: an absolute path`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

// A valid file to put single mistakes into: OLD is replaced by NEW in it.
const good = `cluster: homelab
port: 7373
nodes:
  a: { links: { lan: 10.77.0.11, fast: 10.78.0.11 }, priority: 150 }
  b: { links: { lan: 10.77.0.12, fast: 10.78.0.12 } }
  c: { links: { lan: 10.77.0.13 }, candidate: false }
vips:
  - { address: 10.77.0.200/24, link: lan }
failover: { profile: fast }
volumes:
  home:  { path: /srv/home, exclude: ["*.tmp", "cache/*"], trash: 1d12h }
  zones: { path: /srv/zones }
`

type mistake struct {
	name, old, new, want string
	shape                bool // the schema must refuse it too
}

func mistakes() []mistake {
	return append(append(scheduleMistakes(), powerMistakes()...), []mistake{
		{"port", "port: 7373", "port: 70000", ":2: port 70000 does not exist", true},
		{"port text", "port: 7373", `port: "7373"`, `:2: port is the text "7373", not a whole number`, true},
		{"no cluster", "cluster: homelab\n", "", `key "cluster" is missing`, true},
		{"null", "port: 7373", "port:", ":2: port has no value; remove the key", true},
		{"node name", "  a:", "  A_1:", `:4: "A_1" is not a name`, true},
		{"priority", "priority: 150", "priority: 999", ":4: priority 999 is out of range", true},
		{"unknown key", "priority: 150", "prio: 150", `:4: unknown key "prio" in nodes.a`, true},
		{"name for address", "10.77.0.13", "c.lan", `:6: "c.lan" is not an address; write a literal`, true},
		{"length", "10.77.0.13", "10.77.0.13/24", "leave the length out", true},
		{"unspecified", "10.77.0.13", "0.0.0.0", "0.0.0.0 is not the address of a machine", false},
		{"multicast", "10.77.0.13", "224.0.0.1", "224.0.0.1 is not the address of a machine", false},
		{"link local", "10.77.0.13", `"fe80::1"`, "means something only on its own interface", false},
		{"mapped", "10.77.0.13", `"::ffff:10.77.0.13"`, "write 10.77.0.13", false},
		{"nobody leads", "lan: 10.77.0.12, fast: 10.78.0.12 } }", "lan: 10.77.0.12 }, candidate: yes }", ":5: nodes.b.candidate is the text", true},
		{"vip is a node's", "10.77.0.200/24", "10.77.0.12/24", ":8: the address 10.77.0.12 belongs to node b on link lan", false},
		{"vip without length", "10.77.0.200/24", "10.77.0.200", "such as 10.77.0.200/24", true},
		{"vip elsewhere", "10.77.0.200/24", "10.99.0.200/24", ":8: 10.99.0.200/24 is not in the network of link lan", false},
		{"vip is the network", "10.77.0.200/24", "10.77.0.0/24", "is the address of the network itself", false},
		{"vip is broadcast", "10.77.0.200/24", "10.77.0.255/24", "is the broadcast address", false},
		{"vip on an unknown link", "link: lan }", "link: lna }", `:8: unknown link "lna"; did you mean "lan"?`, false},
		{"vip twice", "link: lan }\n", "link: lan }\n  - { address: 10.77.0.200/24, link: lan }\n", ":9: the address 10.77.0.200 belongs to the VIP on line 8", false},
		{"vip unknown key", "link: lan }", "link: lan, label: x }", `:8: unknown key "label" in vips[0]`, true},
		{"profile", "profile: fast", "profile: fsat", `did you mean "fast"?`, true},
		{"failback", "profile: fast", "profile: fast, failback: { window: \"Sunday 3-5\" }", `"Sunday 3-5" is not a window; write "Sun 03:00-05:00"`, true},
		{"failback without a window", "profile: fast", "profile: fast, failback: {}", `key "window" is missing`, true},
		{"rate", "failover:", "bandwidth: { lan: { rate: fast } }\nfailover:", `:9: "fast" is not a rate; write how much in a second`, true},
		{"rate number", "failover:", "bandwidth: { lan: { rate: 10 } }\nfailover:", "bandwidth.lan.rate is the number 10, not text; put it in quotes, or write a rate such as 10MiB", true},
		{"rate too low", "failover:", "bandwidth: { lan: { rate: 1KiB } }\nfailover:", ":9: 1KiB is out of range; choose between 64KiB and", false},
		{"rate of a link", "failover:", "bandwidth: { wan: { rate: 1MiB } }\nfailover:", `:9: unknown link "wan" in bandwidth; did you mean "lan"?`, false},
		{"rate of nothing", "failover:", "bandwidth: { lan: {} }\nfailover:", ":9: bandwidth.lan limits nothing; give it a rate", false},
		{"rate key", "failover:", "bandwidth: { lan: { rat: 1MiB } }\nfailover:", `:9: unknown key "rat" in bandwidth.lan; did you mean "rate"?`, true},
		{"rate window", "failover:", "bandwidth: { lan: { windows: [ { when: 8-18, rate: 1MiB } ] } }\nfailover:", `:9: "8-18" is not a window; write "Sun`, true},
		{"rate window without a rate", "failover:", "bandwidth: { lan: { windows: [ { when: \"daily 08:00-18:00\" } ] } }\nfailover:", `:9: key "rate" is missing in bandwidth.lan.windows[0]`, true},
		{"isolation", "profile: fast", "isolation: relase", `:9: failover.isolation is "relase"; did you mean "release"?`, true},
		{"release alone", "profile: fast", "isolation: release", ":9: isolation: release without a witness or a reference: a node that is left alone would never serve; name a machine that is no node", false},
		{"no reference", "profile: fast", "isolation: release, reference: []", ":9: isolation: release without a witness or a reference", false},
		{"witness without a key", "profile: fast", "witness: { address: 10.77.0.250 }", `:9: key "key_file" is missing in failover.witness; add it: an absolute path`, true},
		{"witness without an address", "profile: fast", "witness: { key_file: /k }", `:9: key "address" is missing in failover.witness; add it: an address such as 10.77.0.250`, true},
		{"witness by name", "profile: fast", "witness: { address: nas.lan, key_file: /k }", `:9: "nas.lan" is not an address; write a literal address, with a port`, true},
		{"witness port", "profile: fast", "witness: { address: \"10.77.0.250:0\", key_file: /k }", ":9: port 0 does not exist", false},
		{"witness is a node", "profile: fast", "witness: { address: 10.77.0.12, key_file: /k }", ":9: the address 10.77.0.12 is that of node b; a witness is a third machine", false},
		{"witness behind a VIP", "profile: fast", "witness: { address: 10.77.0.200, key_file: /k }", ":9: the address 10.77.0.200 is a VIP", false},
		{"witness key", "profile: fast", "witness: { address: 10.77.0.250, key_file: k }", `:9: path "k" is not absolute`, true},
		{"reference of text", "profile: fast", "isolation: release, reference: 10.77.0.1", `:9: failover.reference is the text "10.77.0.1", not a list; write a list of addresses such as [ 10.77.0.1 ]`, true},
		{"reference by name", "profile: fast", "isolation: release, reference: [router]", `:9: "router" is not an address`, true},
		{"reference is a node", "profile: fast", "isolation: release, reference: [10.78.0.12]", ":9: the address 10.78.0.12 is that of node b; a reference is a machine that is no node", false},
		{"reference is a VIP", "profile: fast", "isolation: release, reference: [10.77.0.200]", ":9: the address 10.77.0.200 is a VIP", false},
		{"reference twice", "profile: fast", "isolation: release, reference: [10.77.0.1, 10.77.0.1]", ":9: the address 10.77.0.1 is listed twice", false},
		{"references", "profile: fast", "isolation: release, reference: [10.77.0.1, 10.77.0.2, 10.77.0.3, 10.77.0.4, 10.77.0.5]", ":9: 5 references; at most 4 are supported", true},
		{"relative", "/srv/zones", "zones", ":12: path \"zones\" is not absolute", true},
		{"unclean", "/srv/zones", "/srv//zones/", "write /srv/zones", false},
		{"root", "/srv/zones", "/", "is the root of the file system", true},
		{"nested", "/srv/zones", "/srv/home/zones", ":12: volumes home (/srv/home) and zones (/srv/home/zones) are inside one another", false},
		{"same", "/srv/zones", "/srv/home", "are inside one another", false},
		{"nested on one node", "candidate: false", "candidate: false, paths: { zones: /srv/home/z }", ":6: volumes home (/srv/home) and zones (/srv/home/z) are inside", false},
		{"time", "1d12h", "12h1d", `:11: "12h1d" is not a time`, true},
		{"no time", "1d12h", `""`, `"" is not a time`, true},
		{"time too short", "1d12h", "0d", "0d is out of range", false},
		{"sync", "trash: 1d12h", "sync: ful", `:11: volumes.home.sync is "ful"; did you mean "full"?`, true},
		{"trash key", "trash: 1d12h", "trash: { agee: 7d }", `:11: unknown key "agee" in volumes.home.trash; did you mean "age"?`, true},
		{"trash age", "trash: 1d12h", "trash: { age: never }", `:11: "never" is not a time`, true},
		{"trash quota", "trash: 1d12h", "trash: { quota: 5 GB }", `:11: "5 GB" is not a quota; write a share`, true},
		{"trash quota share", "trash: 1d12h", "trash: { quota: 80% }", ":11: 80% is out of range; choose between 1% and 50%", false},
		{"trash quota none", "trash: 1d12h", "trash: { quota: 0MiB }", ":11: 0MiB is out of range", false},
		{"trash every", "trash: 1d12h", "trash: { every: 2d }", ":11: 2d is out of range; choose between 1m and 1d", false},
		{"trash list", "trash: 1d12h", "trash: [7d]", ":11: volumes.home.trash is a list, not a mapping", true},
		{"pattern comment", "cache/*", "#cache", "it is a comment", false},
		{"pattern above", "cache/*", "../cache", "without dot or dot-dot", false},
		{"anchor", "trash: 1d12h", "trash: &t 1d12h", "anchors, aliases and tags are not read", false},
		{"syntax", "vips:", "vips: [", "not valid YAML", false},
		{"two documents", "vips:", "---\nvips:", "a second document begins here", false},
		{"service key", "failover:", "services: { dns: { unti: x } }\nfailover:", `:9: unknown key "unti" in services.dns; did you mean "unit"?`, true},
		{"service without anything", "failover:", "services: { dns: { required: true } }\nfailover:", ":9: services.dns has neither unit, exec nor check", false},
		{"service unit", "failover:", "services: { dns: { unit: named } }\nfailover:", `:9: "named" is not the name of a unit; write "named.service"`, false},
		{"service exec", "failover:", "services: { dns: { exec: \" \" } }\nfailover:", ":9: the command is empty", false},
		{"check scheme", "failover:", "services: { dns: { check: \"ping://x\" } }\nfailover:", `:9: "ping://x" is not a check; write dns://`, true},
		{"check without a port", "failover:", "services: { dns: { check: \"tcp://127.0.0.1\" } }\nfailover:", `:9: check "tcp://127.0.0.1" has no port`, false},
		{"check without a name", "failover:", "services: { dns: { check: \"dns://127.0.0.1:53\" } }\nfailover:", `:9: check "dns://127.0.0.1:53" asks for no name`, false},
		{"check type", "failover:", "services: { dns: { check: \"dns://127.0.0.1:53/a.lan?type=AAA\" } }\nfailover:", `asks for the type "AAA"; known here: A, AAAA`, false},
		{"check host name", "failover:", "services: { dns: { check: \"tcp://ns.lan:53\" } }\nfailover:", `has the host "ns.lan"; write a literal`, false},
		{"check command", "failover:", "services: { dns: { check: \"exec: \" } }\nfailover:", "the command is empty", false},
		{"status of no HTTP", "failover:", "services: { dns: { check: \"tcp://127.0.0.1:53\", status: 200 } }\nfailover:", "a status goes with http:// and https:// only", false},
		{"status", "failover:", "services: { web: { check: \"http://127.0.0.1/\", status: 20 } }\nfailover:", ":9: status 20 does not exist", true},
		{"interval", "failover:", "services: { dns: { exec: x, interval: 5 } }\nfailover:", "services.dns.interval is the number 5, not text; put it in quotes, or write a time such as 500ms", true},
		{"interval form", "failover:", "services: { dns: { exec: x, interval: 1d } }\nfailover:", `"1d" is not a time; write 500ms, 2s or 1m`, true},
		{"interval range", "failover:", "services: { dns: { exec: x, interval: 10ms } }\nfailover:", "10ms is out of range; choose between 200ms and 10m", false},
		{"timeout range", "failover:", "services: { dns: { exec: x, timeout: 90s } }\nfailover:", "90s is out of range; choose between 50ms and 1m", false},
		{"fall", "failover:", "services: { dns: { exec: x, fall: 0 } }\nfailover:", "fall 0 is out of range", true},
		{"web without a list", "failover:", "web: { listen: \":8480\" }\nfailover:", "web.listen is the text \":8480\", not a list; write a list such as [ \":8480\" ]", true},
		{"web nowhere", "failover:", "web: { listen: [] }\nfailover:", ":9: web.listen is empty", true},
		{"web alone", "failover:", "web: { names: [ a.lan ] }\nfailover:", `key "listen" is missing in web`, true},
		{"web without a port", "failover:", "web: { listen: [ 10.77.0.200 ] }\nfailover:", `:9: "10.77.0.200" is no address with a port; write`, true},
		{"web by name", "failover:", "web: { listen: [ \"localhost:8480\" ] }\nfailover:", `"localhost:8480" is no address with a port`, true},
		{"web port", "failover:", "web: { listen: [ \":70000\" ] }\nfailover:", `":70000" is no address with a port`, false},
		{"web port zero", "failover:", "web: { listen: [ \":0\" ] }\nfailover:", "port 0 does not exist", false},
		{"web twice", "failover:", "web: { listen: [ \":8480\", \":8480\" ] }\nfailover:", "is listed twice", false},
		{"web on the cluster's port", "failover:", "web: { listen: [ \":7373\" ] }\nfailover:", "port 7373 is the one the nodes talk over", false},
		{"web name", "failover:", "web: { listen: [ \":8480\" ], names: [ \"http://x.org\" ] }\nfailover:", `"http://x.org" is not a DNS name`, true},
		{"vm on an unknown node", "failover:", "vms: { ad1: { nodes: [a, d] } }\nfailover:", `:9: unknown node "d"`, false},
	}...)
}

func TestMistakes(t *testing.T) {
	if _, err := Parse("good", []byte(good)); err != nil {
		t.Fatalf("the good file: %v", err)
	}
	schema := resolved(t)
	for _, m := range append(mistakes(), alarmMistakes()...) {
		t.Run(m.name, func(t *testing.T) {
			if !strings.Contains(good, m.old) {
				t.Fatalf("%q is not in the good file", m.old)
			}
			text := strings.Replace(good, m.old, m.new, 1)
			_, err := Parse("f", []byte(text))
			if err == nil || !strings.Contains(err.Error(), m.want) {
				t.Errorf("got %v\nwant %s", err, m.want)
			}
			if m.shape {
				if err := schema.Validate(instance(t, []byte(text))); err == nil {
					t.Error("the schema accepts it")
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	var b strings.Builder
	b.WriteString("cluster: big\nnodes:\n")
	for i := range MaxNodes + 1 {
		b.WriteString("  n" + string(rune('a'+i)) + ": { links: { lan: 10.0.0." + string(rune('1'+i%9)) + string(rune('0'+i/9)) + " } }\n")
	}
	_, err := Parse("f", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "f:2: 17 nodes; at most 16 are supported") {
		t.Errorf("got %v", err)
	}
	for name, data := range map[string][]byte{
		"too long": bytes.Repeat([]byte("# comment\n"), MaxBytes/10+1),
		"binary":   {0x7f, 'E', 'L', 'F', 0},
		"deep":     bytes.Repeat([]byte("["), 100000),
		"colons":   bytes.Repeat([]byte(": "), maxKeys+1),
		"empty":    nil,
		"comment":  []byte("# nothing\n"),
		"a list":   []byte("- a\n- b\n"),
	} {
		_, err := Parse("f", data)
		var p *Problems
		if !errors.As(err, &p) || len(p.Mistakes) == 0 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTooManyMistakesAreCut(t *testing.T) {
	_, err := Parse("f", []byte(manyUnknownKeys(250)))
	var p *Problems
	if !errors.As(err, &p) || len(p.Mistakes) != maxProblems || p.Omitted != 250+2-maxProblems {
		t.Fatalf("got %v", err)
	}
}

func manyUnknownKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("zz" + strings.Repeat("q", i) + ": 1\n")
	}
	return b.String()
}

func TestWarnings(t *testing.T) {
	text := strings.Replace(good, "lan: 10.77.0.12, fast: 10.78.0.12", "fast: 10.78.0.12", 1)
	cfg, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(cfg.Warnings, "\n")
	for _, want := range []string{
		"f:5: node b has no link lan, so it cannot hold 10.77.0.200 and never leads; add the link, or say candidate: false",
		"f:6: nodes b and c have no link in common",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// What a node does that hears no other one.
func TestIsolation(t *testing.T) {
	for _, c := range []struct {
		text     string
		want     Failover
		warnings []string
	}{
		{"isolation: release, witness: { address: 10.77.0.250, key_file: /etc/w.key }",
			Failover{Isolation: IsolationRelease, Witness: Witness{netip.MustParseAddrPort("10.77.0.250:7374"), "/etc/w.key"}}, nil},
		{`witness: { address: "[fd77::250]:7000", key_file: /etc/w.key }`,
			Failover{Isolation: IsolationKeep, Witness: Witness{netip.MustParseAddrPort("[fd77::250]:7000"), "/etc/w.key"}}, nil},
		{`isolation: release, reference: [10.77.0.1, "fe80::1"]`,
			Failover{Isolation: IsolationRelease, References: []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fe80::1")}}, nil},
		{"isolation: release, reference: [192.0.2.1]", Failover{Isolation: IsolationRelease, References: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			[]string{"f:9: 192.0.2.1 is in no network of a VIP"}},
		{"reference: [10.77.0.1]", Failover{Isolation: IsolationKeep, References: []netip.Addr{netip.MustParseAddr("10.77.0.1")}},
			[]string{"f:9: failover.reference has no effect with isolation: keep"}},
		{"reference: [10.77.0.1], witness: { address: 10.77.0.250, key_file: /k }",
			Failover{Isolation: IsolationKeep, References: []netip.Addr{netip.MustParseAddr("10.77.0.1")}, Witness: Witness{netip.MustParseAddrPort("10.77.0.250:7374"), "/k"}},
			[]string{"f:9: failover.reference has no effect beside a witness"}},
		{"engine: external, isolation: release, reference: [10.77.0.1]",
			Failover{Engine: EngineExternal, Isolation: IsolationRelease, References: []netip.Addr{netip.MustParseAddr("10.77.0.1")}},
			[]string{"f:9: isolation, witness and reference have no effect with engine: external"}},
	} {
		cfg, err := Parse("f", []byte(strings.Replace(good, "profile: fast", c.text, 1)))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if c.want.Profile = ProfileDefault; c.want.Engine == "" {
			c.want.Engine = EngineBuiltin
		}
		if diff := cmp.Diff(c.want, cfg.Failover, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", c.text, diff)
		}
		for _, w := range c.warnings {
			if !strings.Contains(strings.Join(cfg.Warnings, "\n"), w) {
				t.Errorf("%s: no %q in %q", c.text, w, cfg.Warnings)
			}
		}
		if len(c.warnings) == 0 && strings.Contains(strings.Join(cfg.Warnings, ""), "failover") {
			t.Errorf("%s: %q", c.text, cfg.Warnings)
		}
	}
	three := strings.Replace(strings.Replace(good, ", candidate: false", "", 1), "profile: fast", "witness: { address: 10.77.0.250, key_file: /k }", 1)
	cfg, err := Parse("f", []byte(three))
	if err != nil || !strings.Contains(strings.Join(cfg.Warnings, "\n"), "of 3 candidates, two that hear each other do not ask it") {
		t.Errorf("three candidates: %v", err)
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load("testdata/design.yaml"); err != nil {
		t.Error(err)
	}
	_, err := Load(filepath.Join(t.TempDir(), "nothing.yaml"))
	if problem.KindOf(err) != problem.NotFound || problem.HintOf(err) == "" {
		t.Errorf("a missing file: %v (%s)", err, problem.KindOf(err))
	}
	if _, err := Load(t.TempDir()); problem.KindOf(err) != problem.Invalid {
		t.Errorf("a directory: %v", err)
	}
}

func resolved(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// instance is a YAML file as JSON data, as an editor sees it.
func instance(t *testing.T, data []byte) any {
	t.Helper()
	js, err := yaml.YAMLToJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(js, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchema(t *testing.T) {
	if *update {
		if err := os.WriteFile(schemaFile, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	published, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(published, Schema()) {
		t.Errorf("%s is not what the types say; run: go test ./internal/config -update", schemaFile)
	}
	for _, data := range [][]byte{read(t, "design.yaml"), []byte(good)} {
		if err := resolved(t).Validate(instance(t, data)); err != nil {
			t.Errorf("the schema refuses a valid file: %v", err)
		}
	}
}

// Whatever the bytes: no panic, and either a configuration within its limits or
// at least one mistake with a line.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	for _, m := range append(mistakes(), alarmMistakes()...) {
		f.Add([]byte(strings.Replace(good, m.old, m.new, 1)))
	}
	f.Add([]byte("? a\n: b\n"))
	f.Add([]byte("<<: { a: b }\n"))
	f.Add([]byte("a: *b\n"))
	f.Add([]byte("cluster: |\n  a\nnodes: {1: {links: {~: ::1}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("f", data)
		if err == nil {
			if len(cfg.Nodes) == 0 || len(cfg.Nodes) > MaxNodes || len(cfg.Volumes) > MaxVolumes || cfg.Port == 0 {
				t.Fatalf("accepted %q as %+v", data, cfg)
			}
			return
		}
		var p *Problems
		if !errors.As(err, &p) || len(p.Mistakes) == 0 || p.Mistakes[0].Line < 1 || p.Mistakes[0].What == "" {
			t.Fatalf("reported %v", err)
		}
	})
}

// The trash may be written as its age alone, or in full.
func TestTrashForms(t *testing.T) {
	for _, tc := range []struct {
		text  string
		age   time.Duration
		every time.Duration
		quota Quota
	}{
		{"1d12h", 36 * time.Hour, 0, Quota{}},
		{"{ age: 30d, quota: 20%, every: 1h }", 30 * 24 * time.Hour, time.Hour, Quota{Share: 20}},
		{"{ quota: 10GiB }", DefaultTrash, 0, Quota{Bytes: 10 << 30}},
		{"\n      quota: 500MiB\n      age: 1d", 24 * time.Hour, 0, Quota{Bytes: 500 << 20}},
	} {
		text := strings.Replace(good, `  home:  { path: /srv/home, exclude: ["*.tmp", "cache/*"], trash: 1d12h }`, "  home:\n    path: /srv/home\n    trash: "+tc.text, 1)
		cfg, err := Parse("good.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", tc.text, err)
			continue
		}
		v, _ := cfg.Volume("home")
		if v.Trash != tc.age || v.TrashEvery != tc.every || v.TrashQuota != tc.quota {
			t.Errorf("%s: %v, %v, %+v", tc.text, v.Trash, v.TrashEvery, v.TrashQuota)
		}
	}
}
