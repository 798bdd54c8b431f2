package cli

import (
	"strings"
	"testing"
	"time"

	"revolve/internal/vm"
	"revolve/internal/vm/schedule"
)

// A copy that runs says by how many later runs it was overtaken, and the reason stands below the table.
func TestScheduleOfAnOvertakenCopy(t *testing.T) {
	now := time.Date(2026, 6, 7, 12, 0, 0, 0, time.UTC)
	turn := &schedule.Turn{Begin: now.AddDate(0, 0, -2)}
	s := vm.Scheduled{Schedule: "nightly", VM: "web", Node: "a", Running: true, Past: schedule.Past{Turn: turn}}
	if got := schedulesText([]vm.Scheduled{s}, now); !strings.Contains(got, "running ") || strings.Contains(got, "overtaken") {
		t.Errorf("in its time: %s", got)
	}
	turn.Later = 2
	s.Past.Result, s.Past.Why, s.Past.Behind = schedule.Overtaken, "it is still under way, and 2 runs began meanwhile", 2
	got := schedulesText([]vm.Scheduled{s}, now)
	for _, want := range []string{"running, overtaken by 2", "the copy of web by schedule nightly was overtaken: it is still under way"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not told: %s", want, got)
		}
	}
}
