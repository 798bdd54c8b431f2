package roster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

const text = "cluster: homelab\nnodes:\n  a: { links: { lan: 10.77.0.11 } }\n"

func parsed(t testing.TB, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func take(t *testing.T, s *Store, r Roster, want bool) {
	t.Helper()
	taken, err := s.Take(&r, parsed(t, r.Config))
	if err != nil || taken != want {
		t.Errorf("generation %d: taken %v, %v", r.Generation, taken, err)
	}
}

func TestOnlyNewerIsTakenAndSurvives(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	key := &Key{1, 2, 3}
	take(t, s, Roster{Generation: 2, Config: text, Epochs: map[cluster.NodeID]uint32{"d": 1}, Keys: Keys{Send: key}}, true)
	take(t, s, Roster{Generation: 1, Config: text}, false)
	again := open(t, dir)
	r := again.Current()
	if r.Generation != 2 || again.Epoch("d") != 1 || *r.Keys.Send != *key || again.Config() == nil {
		t.Errorf("after a restart: %+v", r)
	}
	if again.Epoch("a") != 0 {
		t.Error("an epoch for a node that was never revoked")
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it holds keys, and its mode is %v, %v", info.Mode(), err)
	}
}

func TestWhatCannotBeTrueIsNotTaken(t *testing.T) {
	s := open(t, t.TempDir())
	take(t, s, Roster{Generation: 0, Config: text}, false) // the configuration of a file is nobody else's to change
	far := Roster{Generation: maxJump + 1, Config: text}
	if taken, err := s.Take(&far, parsed(t, text)); taken || problem.KindOf(err) != problem.Corrupt {
		t.Errorf("taken %v, %v", taken, err)
	}
	take(t, s, Roster{Generation: maxJump, Config: text}, true)
}

// TestTheSameGenerationTwice: two halves of a network made the same generation.
// Both ends take the same one, nothing is thrown away, and no revocation is forgotten.
func TestTheSameGenerationTwice(t *testing.T) {
	x := Roster{Generation: 3, Config: text, By: "a", Epochs: map[cluster.NodeID]uint32{"d": 2}}
	y := Roster{Generation: 3, Config: text, By: "b"}
	if x.Newer(&y) == y.Newer(&x) {
		t.Fatal("no order between them")
	}
	dir, other := t.TempDir(), t.TempDir()
	first, second := open(t, dir), open(t, other)
	take(t, first, x, true)
	take(t, first, y, y.Newer(&x))
	take(t, second, y, true)
	take(t, second, x, x.Newer(&y))
	if first.Current().By != second.Current().By {
		t.Error("the two ends disagree")
	}
	if first.Epoch("d") != 2 {
		t.Error("a revocation was forgotten")
	}
	kept := 0
	for _, d := range []string{dir, other} {
		files, err := filepath.Glob(filepath.Join(d, fileName+".3-*"))
		if err != nil {
			t.Fatal(err)
		}
		kept += len(files)
	}
	if kept != 1 {
		t.Errorf("%d rosters that lost are kept, want 1", kept)
	}
	if open(t, dir).Epoch("d") != 2 {
		t.Error("a revocation was forgotten over a restart")
	}
}

// TestTwoChangesAgainstOne: the half that changed less loses, whatever the mark.
// What it had is kept, and its revocation is told as forgotten until a roster has it.
func TestTwoChangesAgainstOne(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	change := func(o Roster, by cluster.NodeID) Roster {
		r := o.Clone()
		r.Follow(&o)
		r.By = by
		return r
	}
	one := change(Roster{Config: text}, "a")
	near := change(one, "a")
	near.Epochs = map[cluster.NodeID]uint32{"d": 2}
	far := change(change(one, "c"), "c")
	for _, r := range []Roster{one, near} {
		take(t, s, r, true)
	}
	if kept, err := s.Kept(); err != nil || len(kept) != 0 {
		t.Errorf("kept without a split: %v, %v", kept, err)
	}
	take(t, s, far, true)
	if kept, err := s.Kept(); err != nil || len(kept) != 1 || !strings.Contains(kept[0], ".2-") {
		t.Errorf("kept: %v, %v", kept, err)
	}
	if f := open(t, dir).Forgotten(); len(f) != 1 || f["d"] != 2 {
		t.Errorf("forgotten: %v", f)
	}
	again := change(far, "c")
	again.Epochs = map[cluster.NodeID]uint32{"d": 2}
	take(t, s, again, true)
	if f := s.Forgotten(); len(f) != 0 {
		t.Errorf("still forgotten: %v", f)
	}
	// After more changes than a roster names it is no split that a node slept for long.
	for last := again; last.Generation < again.Generation+maxPast+5; {
		last = change(last, "c")
		far = last
	}
	take(t, s, far, true)
	if kept, err := s.Kept(); err != nil || len(kept) != 1 || len(far.Past) != maxPast {
		t.Errorf("kept: %v, %v; %d former generations", kept, err, len(far.Past))
	}
}

// TestAMemberThatLiesCannotGrowTheFile: what no node could read at its next start is not taken.
func TestAMemberThatLiesCannotGrowTheFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	refused := func(what string, r Roster) {
		t.Helper()
		if taken, err := s.Take(&r, parsed(t, text)); taken || err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	many := func(generation uint32, n int, form string) Roster {
		r := Roster{Generation: generation, Config: text, Epochs: map[cluster.NodeID]uint32{}}
		for i := range n {
			r.Epochs[cluster.NodeID(fmt.Sprintf(form, generation, i))] = 1
		}
		return r
	}
	refused("many epochs", many(1, maxEpochs+1, "n%d-%d"))
	refused("long names", many(1, 2, strings.Repeat("n", 1000)+"%d-%d"))
	refused("a configuration that grows in JSON", Roster{Generation: 1, Config: text + "# " + strings.Repeat("<", MaxBytes/5)})
	take(t, s, many(1, maxEpochs, "n%d-%d"), true)
	take(t, s, many(2, maxEpochs, "n%d-%d"), true)
	refused("revocations that are forgotten in turn", many(3, maxEpochs, "n%d-%d"))
	for g := range uint32(maxKept + 2) {
		r := many(3+g, maxEpochs, "n2-%[2]d")
		r.Past = []uint64{1}
		take(t, s, r, true)
	}
	if kept, err := s.Kept(); err != nil || len(kept) != maxKept {
		t.Errorf("%d kept, %v", len(kept), err)
	}
	if open(t, dir).Current().Generation != maxKept+4 {
		t.Error("not read again")
	}
}

func TestConfigureChoosesTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "revolve.yaml")
	if err := os.WriteFile(file, []byte(text+"# the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, dir).Configure(""); problem.KindOf(err) != problem.NotFound || problem.HintOf(err) == "" {
		t.Errorf("without any: %v", err)
	}
	if _, _, err := open(t, dir).Configure(filepath.Join(dir, "none.yaml")); problem.KindOf(err) != problem.NotFound {
		t.Errorf("a missing file: %v", err)
	}
	s := open(t, dir)
	if _, w, err := s.Configure(file); err != nil || w != "" || !strings.Contains(s.Current().Config, "the file") {
		t.Errorf("generation 0: %v %q", err, w)
	}
	if err := os.WriteFile(filepath.Join(dir, initCopy), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, dir).Configure(""); err != nil {
		t.Errorf("what init left: %v", err)
	}
	take(t, s, Roster{Generation: 1, Config: text}, true)
	again := open(t, dir)
	if _, w, err := again.Configure(file); err != nil || !strings.Contains(w, "config apply") || again.Current().Config != text {
		t.Errorf("generation 1 and another file: %v %q", err, w)
	}
}

func TestOutIsRemembered(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Leave("revoked"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	var s stored
	if err := json.Unmarshal(b, &s); err != nil || s.Out != "revoked" {
		t.Errorf("%s, %v", b, err)
	}
}

func TestOutWithoutARosterIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Leave("revoked"); err != nil {
		t.Fatal(err)
	}
	if s := open(t, dir); s.Out() != "revoked" {
		t.Errorf("out: %q", s.Out())
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	r := Roster{Keys: Keys{Send: &Key{0xab, 0xcd}}}
	for _, s := range []string{fmt.Sprintf("%v", r.Keys.Send), fmt.Sprintf("%#v", *r.Keys.Send), fmt.Sprintf("%+v", *r.Keys.Send)} {
		if strings.Contains(s, "abcd") || strings.Contains(s, "171") {
			t.Errorf("printed as %s", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range []Roster{{}, {Generation: 1, Config: text}, {Generation: 9, Config: text, Keys: Keys{Send: &Key{1}, Retired: []Key{{2}}}}} {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"keys":{"send":"zz"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, cfg, err := Decode(b)
		if err == nil && (cfg == nil || len(r.Keys.Retired) > MaxRetired) {
			t.Errorf("%+v", r)
		}
		if err != nil && problem.KindOf(err) == problem.Internal {
			t.Errorf("no problem: %v", err)
		}
	})
}
