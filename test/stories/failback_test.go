package stories

import (
	"fmt"
	"testing"
	"time"

	"revolve/internal/failover/history"
	"revolve/internal/testbed"
)

// failbackWithin is the minute for which a wish must stand, and patience.
const failbackWithin = time.Minute + patience

// TestFailback: with a window that is open, the addresses go back to the node of
// highest priority by a planned switch; not while hold is on.
func TestFailback(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: failback (-short)")
	}
	t.Parallel() // it waits for a minute of calm, and measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{window: "daily 00:00-00:00", node: func(name string) string {
			return map[string]string{"b": ", priority: 200"}[name]
		}})
		l.form()
		first := l.nodes["b"]
		l.within(failbackWithin, "b, of the highest priority, to lead", askEvery, func() error {
			if who := l.holders(); len(who) != 1 || who[0] != "b" {
				return fmt.Errorf("the VIPs are on %v", who)
			}
			return nil
		})
		l.settled()
		l.mustRevolve("hold", "on", "--state", first.state())
		first.stop()
		m := l.newMaster(first)
		first.start()
		l.settled()
		l.mustRevolve("hold", "off", "--state", first.state())
		l.within(failbackWithin, "the addresses to go back", askEvery, func() error {
			if who := l.holders(); len(who) != 1 || who[0] != "b" {
				return fmt.Errorf("the VIPs are on %v", who)
			}
			return nil
		})
		l.settled()
		if r := first.latest(); r.Cause != history.CauseSwitch || string(r.From) != m.name {
			t.Errorf("got %+v", r)
		}
	})
}
