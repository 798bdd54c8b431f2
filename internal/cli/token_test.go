package cli

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"revolve/internal/config"
	"revolve/internal/problem"
	"revolve/internal/setup"
)

// A node is added to a configuration as people write it, as init writes it and as the example has it; and only with what the cluster has.
func TestAddNode(t *testing.T) {
	example, err := os.ReadFile("../../examples/revolve.yaml")
	must(t, err)
	made := (&setup.Answers{Cluster: "c", Node: "a", Card: "eth0", Address: setup.CardAddr{Prefix: netip.MustParsePrefix("10.77.0.11/24")}, VIP: netip.MustParsePrefix("10.77.0.200/24"), Volume: "home", Path: "/srv/home"}).File()
	two := "cluster: c\nnodes:\n    a: { links: { lan: 10.77.0.11, fast: 10.78.0.11 } }\n    b: { links: { lan: 10.77.0.12 } }\n"
	for name, c := range map[string]struct {
		text  string
		links map[string]string
		wrong string
	}{
		"by hand":          {two, map[string]string{"lan": "10.77.0.15", "fast": "10.78.0.15"}, ""},
		"of init":          {made, map[string]string{"lan": "10.77.0.15"}, ""},
		"the example":      {string(example), map[string]string{"lan": "10.77.0.15"}, ""},
		"an unknown link":  {made, map[string]string{"lan": "10.77.0.15", "fast": "10.78.0.15"}, "no node has a link fast; the links are lan"},
		"a wrong address":  {two, map[string]string{"lan": "10.77.0"}, "lan=10.77.0: not an address"},
		"a taken address":  {two, map[string]string{"lan": "10.77.0.12"}, "10.77.0.12 is that of nodes.e.links.lan already"},
		"nodes in one row": {"cluster: c\nnodes: { a: { links: { lan: 10.77.0.11 } } }\n", map[string]string{"lan": "10.77.0.15"}, "no line that is only `nodes:`"},
	} {
		out, err := addNode(c.text, "e", c.links)
		if c.wrong != "" {
			if problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), c.wrong) || problem.HintOf(err) == "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		must(t, err)
		cfg, err := config.Parse(name, []byte(out))
		must(t, err)
		if n, ok := cfg.Node("e"); !ok || len(n.Links) != len(c.links) {
			t.Errorf("%s: %+v", name, cfg.Nodes)
		}
	}
}
