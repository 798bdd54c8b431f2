package setup

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/config"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func answers(own, vip, path string, others ...string) *Answers {
	a := &Answers{Cluster: "homelab", Node: "a", Card: "eth0", Address: CardAddr{Prefix: netip.MustParsePrefix(own)}, VIP: netip.MustParsePrefix(vip), Path: path}
	a.Volume, _ = SplitVolume(path)
	next := a.Address.Addr()
	for _, name := range others {
		next = next.Next()
		a.Others = append(a.Others, Other{name, next})
	}
	return a
}

// What is written is what was answered, for every kind of answer, and passes the check without a warning.
func TestFileSaysWhatWasAnswered(t *testing.T) {
	odd := []string{"b", "no", "y", "null", "true", "1", "0x1f", "1e3", "007"}
	for _, family := range [][2]string{{"10.77.0.11/24", "10.77.0.200/24"}, {"fd77::11/64", "fd77::c8/64"}, {"10.1.2.1/28", "10.1.2.14/28"}} {
		for _, others := range [][]string{nil, {"b"}, odd} {
			for _, name := range []string{"a", "on", "12"} {
				a := answers(family[0], family[1], "/srv/home", others...)
				a.Cluster, a.Node = name, name
				reads(t, a)
			}
		}
	}
	for _, path := range []string{"/srv/my files", `/srv/"x" #y: {z}`, "/srv/ä'ö\\n", "/tank/a&b<c>", "/0/1", "/srv/" + string([]rune{0x1F600}), "/n", "/srv/- x", "/srv/*a", "/srv/x ", "/1.2/3"} {
		reads(t, answers("10.77.0.11/24", "10.77.0.200/24", path, odd...))
	}
}

// reads compares the answers with what the configuration's own reader reads.
func reads(t *testing.T, a *Answers) {
	t.Helper()
	cfg, err := config.Parse("revolve.yaml", []byte(a.File()))
	if err != nil || len(cfg.Warnings) > 0 {
		t.Errorf("%+v: %v %v\n%s", a, err, cfg, a.File())
		return
	}
	got := &Answers{Cluster: cfg.Cluster, Node: string(cfg.Nodes[0].Name), Card: a.Card, Address: a.Address, VIP: cfg.VIPs[0].Prefix, Volume: string(cfg.Volumes[0].Name), Path: cfg.Volumes[0].Path}
	for _, n := range cfg.Nodes[1:] {
		got.Others = append(got.Others, Other{string(n.Name), n.Links[0].Addr})
	}
	if diff := cmp.Diff(a, got, cmp.Comparer(func(x, y netip.Prefix) bool { return x == y }), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Error(diff)
	}
	if own := cfg.Nodes[0]; own.Links[0].Addr != a.Address.Addr() || own.Priority != firstPriority {
		t.Errorf("this node is %+v", own)
	}
}

// Every line that is a comment with a key is in force without its #, alone and with all others; those with a default change nothing.
func TestFileUncommented(t *testing.T) {
	text := answers("10.77.0.11/24", "10.77.0.200/24", "/srv/home", "b", "c").File()
	before, err := config.Parse("f", []byte(text))
	must(t, err)
	commented := regexp.MustCompile(`(?m)^( *)#([^ #].*)$`)
	for _, m := range append(commented.FindAllStringSubmatch(text, -1), []string{"", "", ""}) {
		each := regexp.MustCompile(`(?m)^( *)#(` + regexp.QuoteMeta(m[2]) + `)$`)
		if m[0] == "" {
			each = commented // all
		}
		after, err := config.Parse("f", []byte(each.ReplaceAllString(text, "$1$2")))
		if err != nil {
			t.Errorf("%q: %v", m[2], err)
			continue
		}
		standard := regexp.MustCompile(`^(port|failover|trash|sync|vm_storage)`).MatchString(m[2])
		if m[2] == "vm_storage: "+config.DefaultVMStorage {
			after.VMStorage = before.VMStorage // it is only read where there are machines
		}
		same := fmt.Sprintf("%+v", after) == fmt.Sprintf("%+v", before)
		if standard != same {
			t.Errorf("%q: a default is %v, and it changes nothing is %v", m[2], standard, same)
		}
	}
	if n := len(commented.FindAllString(text, -1)); n < 9 {
		t.Errorf("only %d keys stand there as comments", n)
	}
}

// A person reads this file: it is kept as an example, so that a change of it is seen.
func TestFileForPeople(t *testing.T) {
	text := answers("10.77.0.11/24", "10.77.0.200/24", "/srv/home", "b", "c").File()
	const golden = "testdata/revolve.yaml"
	if os.Getenv("UPDATE_DOCS") != "" {
		must(t, os.WriteFile(golden, []byte(text), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Error(diff)
	}
}
