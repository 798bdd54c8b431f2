package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/control"
	"revolve/internal/vm"
	"revolve/internal/vm/schedule"
)

type vmScheduleCommand struct{}

// Help is printed under the usage.
func (vmScheduleCommand) Help() string {
	return "All nodes are asked; the home of each machine carries its schedules out, and remembers what became of them. " +
		"What does not finish by its end is paused and goes on in the next run. A run that was missed, because its home was off, is made up for as soon as it is there; " +
		"where the machine is shut down for its copy, or with missed: wait, in the next window. IN A ROW counts the runs since the last copy that brought none."
}

func (vmScheduleCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "a machine was not copied when its schedule said"}}
}

// Run asks all nodes.
func (vmScheduleCommand) Run(ctx context.Context, e *env) error {
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{Scheduled: true})
	if err != nil {
		return err
	}
	e.silent(a.Silent)
	list := a.Scheduled
	slices.SortStableFunc(list, func(x, y vm.Scheduled) int {
		return cmp.Or(cmp.Compare(x.Schedule, y.Schedule), cmp.Compare(x.VM, y.VM), cmp.Compare(x.Node, y.Node))
	})
	if list == nil {
		list = []vm.Scheduled{}
	}
	if err := e.answer(list, schedulesText(list, time.Now())); err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(s vm.Scheduled) bool { return s.Why != "" || s.Trouble() != "" }) {
		return exitWith(control.Warning)
	}
	return nil
}

func schedulesText(list []vm.Scheduled, now time.Time) string {
	if len(list) == 0 {
		return "no schedules: the configuration names none, or no machine that is in one"
	}
	var b, below strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SCHEDULE\tVM\tHOME\tWHEN\tLAST COPY\tLAST RUN\tIN A ROW\tNEXT")
	for _, s := range list {
		done := "never"
		if !s.Past.Done.IsZero() {
			done = ago(s.Past.Done, now) + " ago"
		}
		next := "-"
		if !s.Next.IsZero() {
			next = s.Next.Local().Format("Mon 2006-01-02 15:04")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.Schedule, s.VM, cmp.Or(string(s.Node), "-"), s.When, done, runText(&s), s.Past.Behind, next)
		switch {
		case s.Why != "":
			fmt.Fprintf(&below, "%s, %s: %s\n", s.Schedule, s.VM, s.Why)
		case s.Trouble() != "":
			fmt.Fprintf(&below, "%s\n", s.Trouble())
		}
		if p := s.Past.Paused; p != nil && !s.Running {
			fmt.Fprintf(&below, "%s: point %s is paused, and goes on to %s in the next run\n", s.VM, p.Point, strings.Join(p.Nodes, ", "))
		}
	}
	t.Flush()
	return b.String() + below.String()
}

// runText is what became of the newest run, in a few words.
func runText(s *vm.Scheduled) string {
	switch p := &s.Past; {
	case s.Running && p.Turn != nil && p.Turn.Later > 0:
		return fmt.Sprintf("running, overtaken by %d", p.Turn.Later)
	case s.Running && p.Turn != nil && p.Turn.MadeUp:
		return "made up for now"
	case s.Running:
		return "running"
	case p.Turn != nil && p.Turn.Tries > 0:
		return fmt.Sprintf("failed %d times, tried again", p.Turn.Tries)
	case p.Turn != nil:
		return "waits for its turn"
	case p.Result == schedule.Done && p.MadeUp > 0:
		return fmt.Sprintf("done, made up for %d", p.MadeUp)
	case p.Result == "":
		return "-"
	default:
		return string(p.Result)
	}
}
