package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// This file is machines that are stopped, brought back and rehearsed.

type vmStopCommand struct {
	VM     string        `arg:"" help:"The machine."`
	Within time.Duration `placeholder:"TIME" default:"3m" help:"How long its guest may take (3m)."`
}

// Help is printed under the usage.
func (vmStopCommand) Help() string {
	return "Its power button is pressed on the node where it runs, and its guest shuts down. A guest that does not is left running; nothing here pulls the plug. A copy that is under way is not disturbed: wait for it."
}

// Run stops it.
func (c *vmStopCommand) Run(ctx context.Context, e *env) error {
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{VM: c.VM, Stop: &vm.StopOrder{VM: c.VM, Within: c.Within}})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s is off on %s; its guest took %s", c.VM, a.Stopped.Node, a.Stopped.Took.Round(100*time.Millisecond))
	if a.Stopped.Was == libvirt.Off {
		text = fmt.Sprintf("%s was off on %s already", c.VM, a.Stopped.Node)
	}
	return e.answer(a.Stopped, text)
}

type vmRestoreCommand struct {
	VM      string        `arg:"" help:"The machine."`
	Point   points.ID     `required:"" placeholder:"POINT" help:"What it shall be again; the point must be on its home."`
	Confirm string        `placeholder:"VM" help:"The machine's name, typed: what it wrote since the point is taken from it."`
	Within  time.Duration `placeholder:"TIME" default:"3m" help:"How long its guest may take to shut down (3m)."`
}

// Help is printed under the usage.
func (vmRestoreCommand) Help() string {
	return "On its home the machine is shut down, what it is then is kept as a point, its disks and its definition become those of the point that is named, and it runs again if it ran before. So nothing is lost, and the way back is the same command with the point that was kept. Whatever fails meanwhile, or is killed, a machine that ran runs again. The next copies send what differs."
}

// Run goes back to the point.
func (c *vmRestoreCommand) Run(ctx context.Context, e *env) error {
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{VM: c.VM, Restore: &vm.RestoreOrder{VM: c.VM, Point: c.Point, Confirm: c.Confirm, Within: c.Within}})
	if err != nil {
		return err
	}
	s := a.Restored
	return e.answer(s, fmt.Sprintf("%s is %s on %s, as it was at point %s (%s ago, %s); it stood still for %s\nwhat it was until now is point %s\nits disks are in %s",
		c.VM, s.State, s.Node, s.Point.ID, ago(s.Point.Taken, time.Now()), s.Point.Level, s.Stood.Round(100*time.Millisecond), s.Kept, s.Images))
}

type vmRehearseCommand struct {
	VM     string         `arg:"" help:"The machine."`
	Point  points.ID      `placeholder:"POINT" help:"From this point; the newest that is there if none is named."`
	On     cluster.NodeID `placeholder:"NODE" help:"Where to boot it; without it a node that has the point, this one first."`
	Sign   string         `placeholder:"TEXT" help:"The guest is up when its serial console shows this; without it, when its agent answers or the console shows login:"`
	Within time.Duration  `placeholder:"TIME" default:"3m" help:"How long it may take to come up (3m)."`
}

// Help is printed under the usage.
func (vmRehearseCommand) Help() string {
	return "A clone of the point's disks is booted beside everything else, under another name, without a network (its cards are there, without a link), without this node's devices and directories. When its guest is up, it is shut down and removed, and the point says that it came up, how that was known and how long it took. The point itself, the machine and its copies are not touched."
}

func (vmRehearseCommand) exitStatuses() []exitStatus {
	return []exitStatus{{2, "the guest did not come up"}}
}

// Run rehearses it.
func (c *vmRehearseCommand) Run(ctx context.Context, e *env) error {
	if strings.ContainsFunc(c.Sign, func(r rune) bool { return r < ' ' }) {
		return &problem.Problem{Op: "rehearse", Kind: problem.Invalid, Subject: c.VM, Err: errors.New("a sign is part of one line"), Hint: "leave out what does not print"}
	}
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{VM: c.VM, On: c.On, Rehearse: &vm.RehearseOrder{VM: c.VM, Point: c.Point, Sign: c.Sign, Within: c.Within}})
	if err != nil {
		return err
	}
	h := a.Rehearsal
	p := h.Proof
	if p.Failed != "" {
		if err := e.answer(h, fmt.Sprintf("%s did not come up on %s from point %s: %s", c.VM, h.Node, h.Point, p.Failed)); err != nil {
			return err
		}
		return exitWith(control.Critical)
	}
	text := fmt.Sprintf("%s came up on %s from point %s in %s (%s)", c.VM, h.Node, h.Point, p.Took.Round(100*time.Millisecond), p.By)
	if p.Unclean {
		text += "; it did not shut down within a minute, and was ended"
	}
	return e.answer(h, text)
}

type vmPruneCommand struct {
	VM     []string  `arg:"" optional:"" help:"The machines; all of which there are points if none is named."`
	Aside  points.ID `placeholder:"POINT" help:"Delete this one point, which was kept aside, and nothing else."`
	DryRun bool      `name:"dry-run" short:"n" help:"Show what would go and why the rest stays, and delete nothing."`
}

// Help is printed under the usage.
func (vmPruneCommand) Help() string {
	return "Every node prunes its own points by keep in its configuration; it does so after every copy, too. A point goes only if there are as many newer ones as each rule counts, and it is older than so many days, weeks or months. Never deleted are the newest point, the newest that another node has as well (from which the next copy starts), the newest that came up in a rehearsal or was compared whole, and what was kept aside when a machine was started elsewhere: that goes only by its name (--aside). Without rules nothing else goes."
}

// Run prunes each machine.
func (c *vmPruneCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	names := c.VM
	if c.Aside != "" && len(names) != 1 {
		return &problem.Problem{Op: "prune", Kind: problem.Invalid, Err: errors.New("a point that was kept aside is of one machine"), Hint: "name it: revolve vm prune VM --aside " + string(c.Aside)}
	}
	if len(names) == 0 {
		a, err := client.VMs(ctx, control.VMQuery{})
		if err != nil {
			return err
		}
		names = withPoints(a.Views)
	}
	all := []vm.Pruned{}
	var text strings.Builder
	for _, name := range names {
		a, err := client.VMs(ctx, control.VMQuery{VM: name, Prune: &vm.PruneOrder{VM: name, DryRun: c.DryRun, Aside: c.Aside}})
		if err != nil {
			return err
		}
		e.silent(a.Silent)
		for _, p := range a.Pruned {
			if c.Aside != "" && p.Gone == 0 {
				continue
			}
			all = append(all, p)
			text.WriteString(prunedText(p, c.DryRun))
		}
	}
	if len(all) == 0 && c.Aside != "" {
		return &problem.Problem{Op: "delete point", Kind: problem.NotFound, Subject: string(c.Aside), Err: errors.New("no node that answered has kept it aside"), Hint: "see which were: revolve vm points " + names[0]}
	}
	if len(all) == 0 {
		return e.answer(all, "there are no points")
	}
	return e.answer(all, text.String())
}

func withPoints(views []vm.View) (names []string) {
	for _, v := range views {
		for _, s := range v.VMs {
			if len(s.Points) > 0 {
				names = append(names, s.VM)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func prunedText(p vm.Pruned, dry bool) string {
	var b strings.Builder
	verb := map[bool]string{true: "would go", false: "gone"}[dry]
	fmt.Fprintf(&b, "%s on %s: %d of %d points %s\n", p.VM, p.Node, p.Gone, len(p.Points), verb)
	for _, v := range p.Points {
		why := strings.Join(v.Why, ", ")
		if !v.Stay {
			why = verb
		}
		fmt.Fprintf(&b, "  %s: %s\n", v.ID, why)
	}
	return b.String()
}

// moreText says in a few words how a point's rehearsal went, and that it leads nowhere.
func moreText(h points.Here, now time.Time) (text string) {
	if h.Aside {
		text = "; kept aside: the machine was started elsewhere"
	}
	switch r := h.Rehearsed; {
	case r == nil:
	case r.Failed != "":
		text += fmt.Sprintf("; did not come up %s ago", ago(r.At, now))
	default:
		text += fmt.Sprintf("; came up %s ago (%s)", ago(r.At, now), r.By)
	}
	return text
}
