package election

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is a line of the election that keeps it right, and what it is without.
// The search must find out within so many seeds.
type mutant struct {
	name, file  string
	is, without string
	seeds       int
}

func mutants() []mutant {
	return []mutant{
		{"no fence after a stall", "step.go", "if late > s.cfg.Timers.Fence {", "if late > 1000*Second {", 2000},
		{"no limbo after a fence", "step.go", "f.note(NoteFence, Nobody, uint64(late/Millisecond))\n\t\t\ts.limbo(f)", "s.nextFresh = s.now", 2000},
		{"a late standby accuses", "step.go", "if p.ever && then-p.last < s.cfg.Timers.Dead {", "if p.ever && s.stopped {", 4000},
		{"a claim without probes", "decide.go", "if s.cfg.VIPLinks == 0 {", "if s.cfg.VIPLinks < 100 {", 2000},
		{"a better candidate is ignored", "decide.go", "s.better(); found {", "s.better(); found && s.stopped {", 2000},
		{"a term is used again after a restart", "state.go", "return max(s.seen, s.floor) + 1", "return s.seen + 1", 8000},
		{"terms that others saw are not taken in", "step.go", "s.seen = max(s.seen, b.SeenTerm)", "_ = b.SeenTerm", 4000},
		{"terms beyond the reserved ones", "state.go", "s.nextTerm() > s.word.Reserved", "s.nextTerm() > s.word.Reserved+1000", 4000},
		{"nobody gives way", "master.go", "if worst >= 0 {", "if worst >= 0 && s.stopped {", 2000},
		{"a winner does not announce", "master.go", "s.announce = s.announce || s.holding() // whoever", "_ = s.rivalAt // whoever", 16000},
		{"the word of other standbys is ignored", "step.go", "if r.Term == 0 || int(r.Owner)", "if r.Term < 1<<60 || int(r.Owner)", 4000},
		{"serving without leave of the agent", "master.go", "case !s.leave():", "case s.stopped:", 4000},
		{"the VIPs stay during a handover", "step.go", "return s.role == cluster.Master && s.hand.id == 0", "return s.role == cluster.Master", 4000},
		{"cards are not looked at", "step.go", "return p.card > p.last &&", "return s.stopped && p.card > p.last &&", 4000},
		{"an old word proves a link dead", "decide.go", "p.news-quiet >= t.Dead/2", "p.news-quiet >= -100*t.Dead", 16000},
		{"the witness is not obeyed", "policy.go", "return s.cfg.Witness && !s.verdict &&", "return s.stopped && !s.verdict &&", 8000},
		{"cut off, and serving on", "policy.go", "if s.cfg.Isolation != Release ||", "if s.cfg.Isolation != Release || s.role == cluster.Master ||", 8000},
		{"an unfit master stays", "master.go", "case s.word.Unfit &&", "case s.stopped &&", 8000},
		{"the leave of a late agent has no end", "step.go", "if !s.excused {", "if !s.stopped {", 40000},
		{"who is not in the newer list goes on", "step.go", "s.expelled = true", "s.expelled = s.stopped", 8000},
		{"of two masters that see only cards none gives way", "master.go", "return s.now-p.carded > wait", "return s.stopped && s.now-p.carded > wait", 40000},
		{"a learner claims", "state.go", "if !m.Candidate || s.stopped", "if !m.Candidate && s.stopped || s.stopped", 2000},
	}
}

// The lines are those of the source, so that no planted bug is one on paper only.
func TestMutantsAreOfThisSource(t *testing.T) {
	for _, m := range mutants() {
		text, err := os.ReadFile(m.file)
		if n := strings.Count(string(text), m.is); err != nil || n != 1 {
			t.Errorf("%s: %s has %q %d times, want once (%v)", m.name, m.file, m.is, n, err)
		}
	}
}

// TestMutants is the test of the test: it plants bugs, one at a time, in a copy
// of the election's source (go test -overlay; the source is left alone) and wants
// the search to find each. It compiles the package once per bug.
func TestMutants(t *testing.T) {
	if os.Getenv("REVOLVE_MUTANTS") == "" {
		t.Skip("SKIPPED PART: planted bugs in the election:", "set REVOLVE_MUTANTS=1, or: make sim")
	}
	dir := t.TempDir()
	for _, m := range mutants() {
		if only := os.Getenv("REVOLVE_MUTANT"); only != "" && !strings.Contains(m.name, only) {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			bin := m.build(t, dir)
			cmd := exec.Command(bin, "-test.run", "^TestSchedules$", "-test.v")
			cmd.Env = append(os.Environ(), fmt.Sprintf("REVOLVE_SEEDS=%d", m.seeds), "REVOLVE_ENOUGH=1", "REVOLVE_MUTANTS=")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "REVOLVE_SEED=") {
				t.Fatalf("not found in %d schedules:\n%s", m.seeds, out)
			}
			_, found, _ := strings.Cut(string(out), "REVOLVE_SEED=")
			line, rest, _ := strings.Cut(found, "\n")
			t.Logf("seed %s", line)
			if _, small, ok := strings.Cut(rest, "NAME.txt:\n"); ok && testing.Verbose() {
				t.Logf("shrunk:\n%s", small)
			}
		})
	}
}

func (m mutant) build(t *testing.T, dir string) string {
	src, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), m.is) != 1 {
		t.Fatalf("%s has %q %d times, want once", m.file, m.is, strings.Count(string(text), m.is))
	}
	copied := filepath.Join(dir, "mutant.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{src: copied}})
	if err != nil {
		t.Fatal(err)
	}
	bin, list := filepath.Join(dir, "mutant.test"), filepath.Join(dir, "overlay.json")
	for name, b := range map[string][]byte{copied: []byte(strings.Replace(string(text), m.is, m.without, 1)), list: overlay} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-c", "-o", bin, "-overlay", list, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}
