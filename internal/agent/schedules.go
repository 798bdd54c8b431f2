package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/vm"
	"revolve/internal/vm/points"
)

// This file is copies of machines that are made by themselves, as the configuration says.

// schedules are those of the configuration in force.
func (a *Agent) schedules() (out []vm.Schedule) {
	cfg := a.cfg()
	for _, s := range cfg.Schedules {
		v := vm.Schedule{Name: s.Name, Text: s.Text, When: s.When, Wake: s.Wake, Wait: s.Missed == config.MissedWait}
		for _, name := range s.VMs {
			i := a.configured(name)
			if i < 0 {
				continue // the configuration is another one since
			}
			m := cfg.VMs[i]
			v.Machines = append(v.Machines, vm.ScheduledMachine{Name: name, Critical: m.Critical, Plans: vm.Plans{Targets: a.targetsOf(name, nil), Level: points.Level(m.Consistency)}})
		}
		out = append(out, v)
	}
	return out
}

// copyStatus is what the status says of them: those of the machines that are at home here.
func (a *Agent) copyStatus(now time.Time) (out []control.Copy) {
	if a.vms == nil {
		return nil
	}
	for _, s := range a.vms.Scheduled(now) {
		out = append(out, control.Copy{Schedule: s.Schedule, VM: s.VM, Running: s.Running, Next: s.Next, Done: s.Past.Done, Behind: s.Past.Behind, Trouble: s.Trouble()})
	}
	return out
}

// copyReasons is what is wrong with them.
func copyReasons(s *control.Status) (reasons []string) {
	for _, c := range s.Copies {
		if c.Trouble != "" {
			reasons = append(reasons, c.Trouble+"; see revolve vm schedule")
		}
	}
	return reasons
}

// restReasons are the nodes that this one woke for a copy and that have stayed on since.
func (a *Agent) restReasons() (reasons []string) {
	if a.vms == nil {
		return nil
	}
	staying := a.vms.Staying()
	for _, n := range slices.Sorted(maps.Keys(staying)) {
		reasons = append(reasons, fmt.Sprintf("node %s was woken for a copy and is still on: %s; when nobody needs it: revolve power off %s", n, staying[n], n))
	}
	return reasons
}

// scheduled asks all nodes how the schedules stand.
func (a *Agent) scheduled(ctx context.Context, out *control.VMAnswer) {
	list, silent := a.vms.AllScheduled(ctx)
	out.Scheduled, out.Silent = list, silentOf(silent)
}
