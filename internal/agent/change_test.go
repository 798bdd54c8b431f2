package agent

import (
	"slices"
	"strings"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/problem"
)

const before = `cluster: homelab
nodes:
  a: { links: { lan: 10.77.0.11 } }
  b: { links: { lan: 10.77.0.12 }, priority: 90 }
  c: { links: { lan: 10.77.0.13 } }
vips:
  - { address: 10.77.0.200/24, link: lan }
volumes:
  home: { path: /srv/home }
`

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestWhatAChangeOfTheConfigurationDoes(t *testing.T) {
	a := &Agent{o: Options{Node: "a"}}
	change := func(pairs ...string) (control.Changed, error) {
		var done control.Changed
		return done, a.compare(parse(t, before), parse(t, strings.NewReplacer(pairs...).Replace(before)), &done)
	}
	if done, err := change(); err != nil || len(done.Added)+len(done.Removed)+len(done.Altered)+len(done.Restart) > 0 {
		t.Errorf("nothing: %+v, %v", done, err)
	}

	var done control.Changed
	text := strings.NewReplacer("  c: {", "  e: {", "0.13", "0.15", "priority: 90", "priority: 80, candidate: false", "/srv/home", "/srv/house").Replace(before)
	if err := a.compare(parse(t, before), parse(t, text), &done); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(done.Added, []cluster.NodeID{"e"}) || !slices.Equal(done.Removed, []cluster.NodeID{"c"}) ||
		!slices.Equal(done.Altered, []cluster.NodeID{"b"}) || !slices.Equal(done.Restart, []string{"volumes"}) {
		t.Errorf("%+v", done)
	}

	for what, pairs := range map[string][]string{
		"name":    {"homelab", "elsewhere"},
		"port":    {"cluster: homelab", "cluster: homelab\nport: 7474"},
		"profile": {"volumes:", "failover: { profile: fast }\nvolumes:"},
		"master":  {"  a: { links: { lan: 10.77.0.11 } }\n", ""},
	} {
		if _, err := change(pairs...); problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "" {
			t.Errorf("%s: %v; %s", what, err, problem.HintOf(err))
		}
	}

	// With agents that start anew by themselves these can change, but not under another engine.
	for what, pairs := range map[string][]string{
		"VIP":     {"0.200", "0.201"},
		"link":    {"lan: 10.77.0.13", "lan: 10.77.0.13, fast: 10.78.0.13"},
		"address": {"0.13", "0.14"},
	} {
		if done, err := change(pairs...); err != nil || len(done.Anew) == 0 || len(done.Restart) > 0 {
			t.Errorf("%s: %+v, %v", what, done, err)
		}
	}
	external := strings.Replace(before, "volumes:", "failover: { engine: external }\nvolumes:", 1)
	if err := a.compare(parse(t, external), parse(t, strings.Replace(external, "0.200", "0.201", 1)), &control.Changed{}); problem.KindOf(err) != problem.Conflict {
		t.Errorf("a VIP that another engine places: %v", err)
	}
}
