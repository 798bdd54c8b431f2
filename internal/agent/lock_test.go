package agent

import (
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
