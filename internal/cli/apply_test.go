package cli

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/agent"
	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

const formerText = "cluster: homelab\nnodes:\n  a: { links: { lan: 10.77.0.11 } }\n"

// TestAnAgentThatCannotRunWithWhatIsTriedGoesBackAtOnce: also one that is started while
// the trial is on already, after a crash; but not one that finds another agent running.
func TestAnAgentThatCannotRunWithWhatIsTriedGoesBackAtOnce(t *testing.T) {
	for _, inUse := range []bool{false, true} {
		state := t.TempDir()
		store, err := roster.Open(state)
		if err != nil {
			t.Fatal(err)
		}
		tried := strings.Replace(formerText, ".11", ".12", 1)
		cfg, err := config.Parse("tried", []byte(tried))
		if err != nil {
			t.Fatal(err)
		}
		r := roster.Roster{Generation: 2, Config: tried, Trial: &roster.Trial{Seconds: 60, Former: formerText, Expect: []cluster.NodeID{"a"}}}
		if err := store.Reset(&r, cfg); err != nil {
			t.Fatal(err)
		}
		if inUse {
			f, err := os.Create(filepath.Join(state, "lock"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		}
		o := agent.Options{Roster: store, Node: "a", State: state, Log: slog.New(slog.DiscardHandler)}
		if err := (&agentCommand{}).runAgain(context.Background(), store, o); err == nil { // there is no identity: it runs with neither
			t.Fatal("it ran")
		}
		want := uint32(3)
		if inUse {
			want = 2
		}
		if now := store.Current(); now.Generation != want || (now.Trial != nil) != inUse {
			t.Errorf("another agent runs: %v; generation %d, tried %v", inUse, now.Generation, now.Trial != nil)
		}
	}
}

// TestAChangeWithoutTheWayBackThatWasAskedFor: a master of an older version knows no
// trials, and has put the change in force for good. The person must hear of it.
func TestAChangeWithoutTheWayBackThatWasAskedFor(t *testing.T) {
	altered := []cluster.NodeID{"b"}
	for what, c := range map[string]struct {
		command configApplyCommand
		done    control.Changed
		told    bool
	}{
		"an older master":    {configApplyCommand{Deadline: time.Minute}, control.Changed{Generation: 4, Altered: altered}, true},
		"a key for later":    {configApplyCommand{Deadline: time.Minute}, control.Changed{Generation: 4, Restart: []string{"web"}}, true},
		"it is tried":        {configApplyCommand{Deadline: time.Minute}, control.Changed{Generation: 4, Altered: altered, Trial: true}, false},
		"nothing changes":    {configApplyCommand{Deadline: time.Minute}, control.Changed{Generation: 3}, false},
		"a dry run":          {configApplyCommand{Deadline: time.Minute, DryRun: true}, control.Changed{Generation: 4, Altered: altered}, false},
		"none was asked for": {configApplyCommand{}, control.Changed{Generation: 4, Altered: altered}, false},
	} {
		err := c.command.untried(c.done)
		if (err != nil) != c.told || c.told && (problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), "generation 4")) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
