package election

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"revolve/internal/cluster"
)

var update = flag.Bool("update", false, "write the golden scenarios' output anew")

// TestGolden plays testdata/*.txt: lines "> order", each followed by what it
// printed. Broken invariants fail it, so what a search has found and shrunk is
// kept here as found-*.txt.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) < 8 {
		t.Fatalf("only %d scenarios found", len(files))
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got, bad, err := play(string(old))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range bad {
				t.Error(b)
			}
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("%s differs; it now says:\n%s", name, got)
			}
		})
	}
}

// cast is the first line of a scenario: how many nodes and links, and what else
// is not as usual.
type cast struct {
	nodes, links int
	profile      string
	seed         uint64 // 0: agents say what the script tells them; else they judge their data, and chance is seeded
	vips         int    // links that carry VIPs
}

func (c cast) String() string {
	out := fmt.Sprintf("cluster %d %d", c.nodes, c.links)
	if c.seed != 0 || c.profile != "default" {
		out += fmt.Sprintf(" %s %d %d", c.profile, c.seed, c.vips)
	}
	return out
}

func parseCast(w []string) (c cast, err error) {
	c = cast{profile: "default", vips: 1}
	nums := []*int{&c.nodes, &c.links, nil, nil, &c.vips}
	for k, v := range w[1:] {
		switch {
		case k == 2:
			c.profile = v
		case k == 3:
			c.seed, err = strconv.ParseUint(v, 10, 64)
		case k < len(nums):
			*nums[k], err = strconv.Atoi(v)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c cast) world() *sim {
	t, _ := Profile(c.profile)
	s := newSim(max(c.seed, 1), c.nodes, c.links, t)
	s.sticky = c.seed == 0
	s.cfg.VIPLinks = 1<<c.vips - 1
	for i := range s.n {
		s.n[i].word.Class = cluster.InSync
	}
	return s
}

func play(script string) (string, []string, error) {
	var out strings.Builder
	var s *sim
	scan := bufio.NewScanner(strings.NewReader(script))
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "#") {
			fmt.Fprintln(&out, line)
			continue
		}
		text, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		fmt.Fprintln(&out, line)
		w := strings.Fields(text)
		if w[0] == "cluster" {
			c, err := parseCast(w)
			if err != nil {
				return "", nil, err
			}
			s = c.world()
			s.log = func(format string, args ...any) {
				fmt.Fprintf(&out, "%5d ms  %s\n", s.now/Millisecond, fmt.Sprintf(format, args...))
			}
			continue
		}
		o, err := parseOrder(text)
		if err != nil {
			return "", nil, err
		}
		switch o.op {
		case "run":
			s.runFor(Time(o.x) * Millisecond)
		case "show":
			out.WriteString(s.show())
		case "settle":
			s.settle()
		default:
			s.do(o)
		}
	}
	return out.String(), s.bad, nil
}

func profile(t testing.TB, name string) Timers {
	p, ok := Profile(name)
	if !ok || p.Wrong() != "" {
		t.Fatalf("profile %s: %v %s", name, ok, p.Wrong())
	}
	return p
}
