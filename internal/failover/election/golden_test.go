package election

import (
	"bufio"
	"flag"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"revolve/internal/cluster"
)

var update = flag.Bool("update", false, "write the golden scenarios' output anew")

// tell is a note as the scenarios print it.
func (s *sim) tell(n Note) string {
	who := "nobody"
	if n.Node != Nobody {
		who = s.name(int(n.Node))
	}
	names := map[NoteCode]string{NoteClaim: "claims term %N after %W", NoteMaster: "is master of term %N", NoteYield: "yields to %W",
		NoteLate: "was late by %N ms", NoteFence: "fences itself, late by %N ms", NoteMute: "fences itself, mute", NoteRetake: "takes back term %N",
		NoteLostTo: "gives way to %W, term %N", NoteWonOver: "stays after meeting %W, heal term %N", NoteLinkDown: "releases: VIP link",
		NoteNoLeave: "releases: no word of the agent", NoteMaint: "releases: maintenance", NoteBlocked: "heartbeats of %W are blocked",
		NoteForeign: "sees a foreign duplicate", NoteHandover: "hands over to %W", NoteGranted: "grants term %N to %W", NoteAborted: "gives the handover to %W up",
		NoteNoTerms: "needs terms up to %N", NoteLimboEnd: "leaves limbo", NoteListenEnd: "listened for %N ms"}
	return strings.NewReplacer("%N", fmt.Sprint(n.N), "%W", who).Replace(names[n.Code])
}

// TestGolden plays testdata/*.txt: lines "> command", each followed by what it printed.
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
			got := play(t, string(old))
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

func play(t *testing.T, script string) string {
	var out strings.Builder
	var s *sim
	scan := bufio.NewScanner(strings.NewReader(script))
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "#") {
			fmt.Fprintln(&out, line)
			continue
		}
		cmd, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		fmt.Fprintln(&out, line)
		w := strings.Fields(cmd)
		if w[0] == "cluster" {
			s = newSim(1, number(t, w[1]), number(t, w[2]), profile(t, "default"))
			s.sticky = true
			origin := Time(0)
			s.log = func(format string, args ...any) {
				fmt.Fprintf(&out, "%5d ms  %s\n", (s.now-origin)/Millisecond, fmt.Sprintf(format, args...))
			}
			for i := range s.n {
				s.n[i].word.Class = cluster.InSync
			}
			continue
		}
		command(t, s, w, &out)
	}
	for _, b := range s.bad {
		t.Error(b)
	}
	return out.String()
}

func profile(t testing.TB, name string) Timers {
	p, ok := Profile(name)
	if !ok || p.Wrong() != "" {
		t.Fatalf("profile %s: %v %s", name, ok, p.Wrong())
	}
	return p
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func command(t *testing.T, s *sim, w []string, out *strings.Builder) {
	node := func(k int) int { return int(w[k][0] - 'a') }
	each := func(k int, do func(i int)) {
		for _, c := range w[k] {
			do(int(c - 'a'))
		}
	}
	switch w[0] {
	case "start":
		each(1, s.start)
	case "crash":
		each(1, s.crash)
	case "record": // record NODE seen N reserved N others NODES
		n := &s.n[node(1)]
		n.seen, n.reserved = cluster.Term(number(t, w[2])), cluster.Term(number(t, w[3]))
		for _, c := range w[4:] {
			n.others |= 1 << (c[0] - 'a')
		}
	case "word": // word NODE class fresh
		n := &s.n[node(1)]
		n.word.Class = map[string]cluster.Class{"barred": 0, "stale": 1, "lagging": 2, "in-sync": 3}[w[2]]
		n.word.Fresh = cluster.Position{Term: 1, Seq: uint64(number(t, w[3]))}
	case "ill":
		s.n[node(1)].word.Ill = w[2] == "on"
	case "on-demand":
		s.cfg.Members[node(1)].OnDemand = true
	case "maintenance":
		s.n[node(1)].word.Maintenance = w[2] == "on"
	case "priority":
		s.cfg.Members[node(1)].Priority = uint16(number(t, w[2]))
	case "switch":
		s.n[node(1)].word.Switch = Switch{ID: uint64(number(t, w[3])), To: uint8(node(2))}
	case "flushed":
		s.n[node(1)].word.Flushed = uint64(number(t, w[2]))
	case "agent-dies":
		s.n[node(1)].agentDead = true
	case "stop":
		s.feed(node(1), Event{Kind: Stop})
	case "freeze":
		s.freeze(node(1), Time(number(t, w[2]))*Millisecond)
	case "pause":
		s.pause(node(1), Time(number(t, w[2]))*Millisecond)
	case "unplug", "plug":
		s.plug(node(1), number(t, w[2]), w[0] == "plug")
	case "cut", "join": // cut FROM TO LINK: what FROM sends to TO
		each(1, func(i int) {
			each(2, func(j int) { s.path[i][j][number(t, w[3])].cut = w[0] == "cut" })
		})
	case "run":
		s.runFor(Time(number(t, w[1])) * Millisecond)
	case "show":
		show(s, out)
	default:
		t.Fatalf("no command %q", w[0])
	}
}

func show(s *sim, out *strings.Builder) {
	for i := range s.n {
		n := &s.n[i]
		if !n.up {
			fmt.Fprintf(out, "          %s off\n", s.name(i))
			continue
		}
		master, heard := "-", uint16(0)
		if r, ok := n.st.Master(); ok {
			master = fmt.Sprintf("%d@%s", r.Term, s.name(int(r.Owner)))
		}
		for l := range s.links {
			heard |= n.st.HearsOn(l)
		}
		vip := map[bool]string{true: " holds the VIPs"}[n.vip]
		if id, why := n.st.SwitchResult(); id != 0 {
			vip += fmt.Sprintf(" (switch %d: %q)", id, why)
		}
		fmt.Fprintf(out, "          %s %v %v master %s hears %d%s\n", s.name(i), n.st.Role(), n.st.Class(), master, bits.OnesCount16(heard), vip)
	}
}
