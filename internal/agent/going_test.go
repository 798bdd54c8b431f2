package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/roster"
)

// A node on demand says goodbye when its system is shut down and no machine runs; an agent that only ends says nothing.
func TestGoesWithSystem(t *testing.T) {
	for name, c := range map[string]struct {
		system, runs string
		always       bool
		want         bool
	}{
		"shut down":               {"stopping", "", false, true},
		"the agent is restarted":  {"running", "", false, false},
		"a machine runs":          {"stopping", "it runs", false, false},
		"it is always to be on":   {"stopping", "", true, false},
		"no systemd, or it hangs": {"", "", false, false},
	} {
		a := standby(t)
		a.record = openTest(t, a.o.State)
		a.record.setAlive([]cluster.NodeID{"b"}, everybody)
		if a.runs = func(context.Context) string { return c.runs }; c.always {
			a.o.Roster = holding(t, roster.Roster{Generation: 1, Config: before})
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\necho "+c.system+"\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		ended, end := context.WithCancel(t.Context())
		end()
		if err := a.goesWithSystem(ended); err != nil || a.parted.Load() != c.want || (len(a.record.on()) == 0) != c.want {
			t.Errorf("%s: it said goodbye: %v; it knows %v; %v", name, a.parted.Load(), a.record.on(), err)
		}
	}
}
