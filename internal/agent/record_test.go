package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

func openTest(t *testing.T, dir string) *record {
	t.Helper()
	r, err := openRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAcceptedTermsOutliveRestarts(t *testing.T) {
	dir := t.TempDir()
	r := openTest(t, dir)
	if err := r.Accept(7); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, dir)
	if again.Seen() != 7 {
		t.Errorf("seen %d after a restart, want 7", again.Seen())
	}
	if err := again.Accept(6); problem.KindOf(err) != problem.StaleTerm {
		t.Errorf("an older term: %v", err)
	}
	if err := again.Accept(7); err != nil {
		t.Errorf("the same term: %v", err)
	}
}

func TestAnObservedTermIsRefusedBelowAtOnce(t *testing.T) {
	r := openTest(t, t.TempDir())
	r.observe(9)
	if err := r.Accept(8); problem.KindOf(err) != problem.StaleTerm {
		t.Errorf("%v", err)
	}
}

func TestATermFromNowhereIsRefused(t *testing.T) {
	r := openTest(t, t.TempDir())
	if err := r.Accept(1 << 63); problem.KindOf(err) != problem.Corrupt {
		t.Errorf("%v", err)
	}
	r.observe(1 << 63)
	if r.Seen() != 0 {
		t.Errorf("seen %d", r.Seen())
	}
	if err := r.reserve(0); err != nil || r.reserved() == 0 {
		t.Errorf("reserved %d, %v", r.reserved(), err)
	}
}

func TestReservedTermsAreNeverHandedOutTwice(t *testing.T) {
	dir := t.TempDir()
	r := openTest(t, dir)
	if err := r.reserve(0); err != nil {
		t.Fatal(err)
	}
	first := r.reserved()
	again := openTest(t, dir)
	if again.reserved() != first {
		t.Errorf("reserved %d after a restart, want %d", again.reserved(), first)
	}
	if err := again.reserve(first + 1); err != nil {
		t.Fatal(err)
	}
	if again.reserved() <= first {
		t.Errorf("reserved %d, not above %d", again.reserved(), first)
	}
}

func TestOnlyWhatIsOnDiskCounts(t *testing.T) {
	dir := t.TempDir()
	r := openTest(t, dir)
	if err := r.reserve(0); err != nil {
		t.Fatal(err)
	}
	before := r.reserved()
	r.path = filepath.Join(dir, "missing", "term.json")
	if err := r.reserve(100); err == nil {
		t.Fatal("writing into a missing directory succeeded")
	}
	if r.reserved() != before {
		t.Errorf("reserved %d although the disk refused, want %d", r.reserved(), before)
	}
	if err := r.Accept(50); err == nil {
		t.Error("a term was accepted although the disk refused")
	}
}

func TestWhoLivedIsRemembered(t *testing.T) {
	dir := t.TempDir()
	r := openTest(t, dir)
	if !r.setAlive([]cluster.NodeID{"b", "c"}, everybody) {
		t.Fatal("a change of who lives is not to be written")
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	if r.setAlive([]cluster.NodeID{"b", "c"}, everybody) {
		t.Error("no change is to be written")
	}
	if diff := cmp.Diff([]cluster.NodeID{"b", "c"}, openTest(t, dir).memory().Alive); diff != "" {
		t.Error(diff)
	}
}

func everybody(cluster.NodeID) bool { return true }

// Whoever was heard is taken to be on, over restarts, until it says goodbye; while it is still heard then, that counts. A goodbye that is taken back, or not followed by silence, does not.
func TestWhoIsOnIsRemembered(t *testing.T) {
	dir := t.TempDir()
	r := openTest(t, dir)
	both, b := []cluster.NodeID{"b", "c"}, []cluster.NodeID{"b"}
	want := func(what string, want []cluster.NodeID, alive []cluster.NodeID) {
		t.Helper()
		r.setAlive(alive, everybody)
		if err := r.flush(); err != nil {
			t.Fatal(err)
		}
		for which, x := range map[string]*record{"this": r, "the next": openTest(t, dir)} {
			if diff := cmp.Diff(want, x.on()); diff != "" {
				t.Errorf("%s, %s agent: %s", what, which, diff)
			}
		}
	}
	says := func(stays bool) {
		t.Helper()
		if err := r.parts("c", stays, newWord()); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(openTest(t, dir).on(), "c") != stays {
			t.Errorf("what it said (stays: %v) is not on the disk: %v", stays, openTest(t, dir).on())
		}
	}
	want("heard", both, both)
	want("cut off", both, b)
	says(false)
	want("it said goodbye, and is heard for a moment", b, both)
	want("it is off", b, b)
	want("it comes again", both, both)
	says(false)
	says(true)
	want("it took that back", both, both)
	says(false)
	r.parting["c"] -= restFor
	want("it is still here after that time", both, both)
	early := newWord()
	says(false)
	says(true)
	if err := r.parts("c", false, early); err != nil {
		t.Fatal(err)
	}
	want("a goodbye that was taken back comes late", both, b)
	if err := r.parts("c", false, goingWord{System: "its next run", At: 1}); err != nil {
		t.Fatal(err)
	}
	want("it was started anew, and goes", b, b)
	if err := r.parts("c", true, goingWord{}); err != nil {
		t.Fatal(err)
	}
	want("one that does not say when", both, both)
	r.setAlive(both, func(n cluster.NodeID) bool { return n == "b" })
	if diff := cmp.Diff(b, r.on()); diff != "" {
		t.Errorf("c is no member any more: %s", diff)
	}
}

func TestADamagedRecordIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "term.json"), []byte("{\"seen\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openRecord(dir)
	var p *problem.Problem
	if !errors.As(err, &p) || p.Kind != problem.Corrupt || p.Hint == "" {
		t.Errorf("%v", err)
	}
}

func TestOneAgentForAStateDirectory(t *testing.T) {
	dir := t.TempDir()
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); problem.KindOf(err) != problem.Conflict {
		t.Errorf("a second lock: %v", err)
	}
	release()
	release, err = lock(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	release()
}

// A disk that is full for days costs no terms: they would be too far above those of the others in the end.
func TestTriesInVainReserveNothing(t *testing.T) {
	dir := t.TempDir()
	r := openTest(t, dir)
	if err := r.reserve(0); err != nil {
		t.Fatal(err)
	}
	first := r.reserved()
	block := filepath.Join(dir, filepath.Base(r.path)+".new") // what is written aside
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if r.reserve(first+1) == nil || r.reserved() != first {
			t.Fatalf("reserved %d though the record cannot be written", r.reserved())
		}
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if err := r.reserve(first + 1); err != nil || r.reserved() > first+1+termBlock {
		t.Errorf("reserved %d (%v) after %d", r.reserved(), err, first)
	}
}
