package config

import (
	"reflect"
	"strings"
	"testing"
)

const small = "cluster: homelab\nnodes:\n  a: { links: { lan: 10.77.0.11 } }\n  b: { links: { lan: 10.77.0.12 }, priority: 90 }\nvips:\n  - { address: 10.77.0.200/24, link: lan }\n"

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           string // lines, with their effect
	}{
		{"a comment and another form", "priority: 90 }", "priority: 90   } # the small one", ""},
		{"a priority", "priority: 90", "priority: 120", "~ nodes.b.priority: 90 -> 120; at once"},
		{"a node goes", "  b: { links: { lan: 10.77.0.12 }, priority: 90 }\n", "", `- nodes.b: {"links":{"lan":"10.77.0.12"},"priority":90}; at once`},
		{"a node comes", "vips:", "  c: { links: { lan: 10.77.0.13 } }\nvips:", `+ nodes.c: {"links":{"lan":"10.77.0.13"}}; at once`},
		{"an address", "10.77.0.12", "10.77.0.22", `~ nodes.b.links.lan: "10.77.0.12" -> "10.77.0.22"; the agents concerned start anew, one by one`},
		{"a floating address", "10.77.0.200/24", "10.77.0.201/24", `~ vips: [{"address":"10.77.0.200/24","link":"lan"}] -> [{"address":"10.77.0.201/24","link":"lan"}]; the agents concerned start anew, one by one`},
		{"a volume", "vips:", "volumes: { home: { path: /srv/home } }\nvips:", `+ volumes: {"home":{"path":"/srv/home"}}; on each node when its agent is restarted`},
		{"the profile", "vips:", "failover: { profile: fast }\nvips:", `+ failover: {"profile":"fast"}; not while the cluster serves`},
		{"the port", "vips:", "port: 7400\nvips:", "+ port: 7400; not while the cluster serves"},
	} {
		now := strings.Replace(small, c.old, c.new, 1)
		if now == small {
			t.Fatalf("%s: nothing was changed", c.name)
		}
		list, err := Diff([]byte(small), []byte(now))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []string
		for _, d := range list {
			got = append(got, d.String()+"; "+string(d.Effect))
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, text, c.want)
		}
	}
}

// Every key of the file has an effect of its own choosing: a new one is not refused by oversight.
func TestEveryKeyHasAnEffect(t *testing.T) {
	refused := map[string]bool{"cluster": true, "port": true, "failover": true}
	for _, key := range keysOf(reflect.TypeFor[document]()) {
		if got := effect(key, true); (got == EffectRefused) != refused[key] {
			t.Errorf("%s takes effect %q", key, got)
		}
	}
}

func TestSource(t *testing.T) {
	for value, own := range map[string]bool{"file": true, "cluster": false} {
		cfg, err := Parse("test", []byte(strings.Replace(small, "priority: 90", "source: "+value, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Nodes[0].OwnFile || cfg.Nodes[1].OwnFile != own {
			t.Errorf("%s: %+v", value, cfg.Nodes)
		}
	}
	if _, err := Parse("test", []byte(strings.Replace(small, "priority: 90", "source: git", 1))); err == nil {
		t.Error("source: git is accepted")
	}
}
