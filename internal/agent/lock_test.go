package agent

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"revolve/internal/problem"
)

// A start meets the lock of an agent that is just ending: it waits a moment, not for ever.
func TestLockOfAnAgentThatEnds(t *testing.T) {
	dir := t.TempDir()
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Add(1)
	time.AfterFunc(3*lockPoll, func() { release(); ended.Done() })
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("the lock came free and was not taken: %v", err)
	}
	ended.Wait()
	if _, err := lock(dir); problem.KindOf(err) != problem.Conflict {
		t.Errorf("a second agent: %v", err)
	}
	again()
}

// A state directory on a disk that cannot be written is not one that is missing:
// "make it with init" would be the wrong advice.
func TestLockWhereItCannotBeWritten(t *testing.T) {
	if _, err := lock(filepath.Join(t.TempDir(), "none")); problem.KindOf(err) != problem.NotFound {
		t.Errorf("a missing one: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lock"), 0o700); err != nil { // EISDIR, like EROFS for root
		t.Fatal(err)
	}
	if _, err := lock(dir); problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) != "" {
		t.Errorf("one that cannot be written: %v, hint %q", err, problem.HintOf(err))
	}
}
