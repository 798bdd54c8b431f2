package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

// This file is virtual machines and their points.

type vmCommand struct {
	List      vmListCommand      `cmd:"" help:"The machines, where they are, and their newest points."`
	Plan      vmPlanCommand      `cmd:"" help:"What a copy would read, send and hold still, without making one."`
	Replicate vmReplicateCommand `cmd:"" help:"Take a point of machines and bring it to the other nodes."`
	Points    vmPointsCommand    `cmd:"" help:"Every point of a machine, on every node."`
	Start     vmStartCommand     `cmd:"" help:"Start a machine on a node, from a point that is there."`
	Stop      vmStopCommand      `cmd:"" help:"Have a machine shut down where it runs."`
	Restore   vmRestoreCommand   `cmd:"" help:"Make a machine what it was at a point; what it is now is kept as one."`
	Prune     vmPruneCommand     `cmd:"" help:"Delete the points that no rule of the configuration wants."`
	Schedule  vmScheduleCommand  `cmd:"" help:"When machines are copied by themselves, and what became of it."`
	Hook      vmHookCommand      `cmd:"" help:"What libvirt asks before a machine starts."`
	Rehearse  vmRehearseCommand  `cmd:"" help:"Boot a clone of a point without a network, to know that it comes up."`
}

// vmGuardCommand is the process that lets a machine go on if the agent dies while it holds one still. Nobody types it.
type vmGuardCommand struct{}

// Run reads what is owed from its standard input.
func (vmGuardCommand) Run(ctx context.Context, e *env) error {
	return vm.Guard(context.WithoutCancel(ctx), e.stdin, libvirt.At(libvirt.DefaultSocket), tpm.Default())
}

type vmListCommand struct{}

// Help is printed under the usage.
func (vmListCommand) Help() string {
	return "All nodes are asked. Home is the node whose machine the newest point was taken of, or that started it since. A state of - means that libvirt there knows no machine of that name: a copy is not defined before it is started."
}

// Run asks all nodes.
func (vmListCommand) Run(ctx context.Context, e *env) error {
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{})
	if err != nil {
		return err
	}
	e.silent(a.Silent)
	for _, v := range a.Views {
		if v.Libvirt != "" {
			fmt.Fprintf(e.stderr, "revolve: libvirt on %s: %s\n", v.Node, v.Libvirt)
		}
	}
	return e.answer(a, machinesText(a.Views, time.Now()))
}

func machinesText(views []vm.View, now time.Time) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VM\tNODE\tSTATE\tHOME\tNEWEST POINT\tAGE\tLEVEL\tPROOF")
	var lines []string
	for _, v := range views {
		for _, s := range v.VMs {
			state, home, rest := string(s.State), string(s.Home), "none\t-\t-\t-"
			if state == "" {
				state = "-"
			}
			if home == "" {
				home = "-"
			}
			if len(s.Points) > 0 {
				p := s.Points[0]
				rest = fmt.Sprintf("%s\t%s\t%s\t%s", p.ID, ago(p.Taken, now), p.Level, proofText(p.Here.Proof)+moreText(p.Here, now))
			}
			lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", s.VM, v.Node, state, home, rest))
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(t, l)
	}
	t.Flush()
	if len(lines) == 0 {
		return "no machines: libvirt knows none on any node that answered, and there are no points"
	}
	return b.String()
}

// proofText says in a few words what was compared.
func proofText(p points.Proof) string {
	switch {
	case len(p.Found) > 0:
		return fmt.Sprintf("%d blocks differed, all compared", len(p.Found))
	case p.All:
		return "every block"
	case p.Bytes == 0:
		return "taken here"
	}
	text := fmt.Sprintf("%d samples, %s", p.Samples, size(p.Bytes))
	if !p.Whole.IsZero() {
		text += ", whole since " + p.Whole.Local().Format(time.DateOnly)
	}
	return text
}

type vmPointsCommand struct {
	VM string `arg:"" help:"The machine."`
}

// Help is printed under the usage.
func (vmPointsCommand) Help() string {
	return "A point is a directory of ordinary files on a node, with the machine's disks as they were at one moment; no point needs another, so any may be deleted (rm -r). Level is what a guest finds that starts from it: live and suspend are as after a power cut, with freeze the guest's agent had brought its file systems to rest, with shutdown it was off."
}

// Run asks all nodes.
func (c *vmPointsCommand) Run(ctx context.Context, e *env) error {
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{VM: c.VM})
	if err != nil {
		return err
	}
	e.silent(a.Silent)
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "POINT\tNODE\tTAKEN ON\tAGE\tLEVEL\tTRACKER\tCHANGED\tSENT\tPROOF")
	n := 0
	for _, v := range a.Views {
		for _, s := range v.VMs {
			for _, p := range s.Points {
				tracker, changed, sent := heldText(p.Here.Files)
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, v.Node, p.Node, ago(p.Taken, time.Now()), p.Level, tracker, changed, sent, proofText(p.Here.Proof)+moreText(p.Here, time.Now()))
				n++
			}
		}
	}
	t.Flush()
	if n == 0 {
		return e.answer(a, "there is no point of "+c.VM+" on any node that answered")
	}
	return e.answer(a, b.String())
}

// heldText sums up the files of a point; how its largest one was known stands for all.
func heldText(files []points.Held) (tracker, changed, sent string) {
	var all, most points.Held
	for _, f := range files {
		all.Changed, all.Sent = all.Changed+f.Changed, all.Sent+f.Sent
		if f.Stamp.Size >= most.Stamp.Size {
			most = f
		}
	}
	return string(most.Tracker), size(all.Changed), size(all.Sent)
}

type vmPlanCommand struct {
	VM   []string         `arg:"" optional:"" help:"The machines; all that libvirt knows here if none is named."`
	Host []cluster.NodeID `placeholder:"NODE" help:"Only for these nodes."`
}

// Help is printed under the usage.
func (vmPlanCommand) Help() string {
	return "It is typed on the machine's home. Clones of the running machine's disks are made, compared with the newest point that each node has, and removed: that costs a moment, and sends nothing."
}

// Run plans for each machine.
func (c *vmPlanCommand) Run(ctx context.Context, e *env) error {
	return plan(ctx, e, c.VM, c.Host)
}

func plan(ctx context.Context, e *env, names []string, hosts []cluster.NodeID) error {
	client := control.Dial(e.state)
	if len(names) == 0 {
		a, err := client.VMs(ctx, control.VMQuery{})
		if err != nil {
			return err
		}
		if names = atHome(a); len(names) == 0 {
			return &problem.Problem{Op: "plan", Kind: problem.NotFound, Err: errors.New("libvirt knows no machine on this node"), Hint: "see where they are: revolve vm list"}
		}
	}
	var plans []*vm.Plan
	var text strings.Builder
	for _, name := range names {
		if hosts == nil {
			hosts = []cluster.NodeID{}
		}
		a, err := client.VMs(ctx, control.VMQuery{VM: name, Plan: append([]cluster.NodeID{}, hosts...)})
		if err != nil {
			return err
		}
		plans = append(plans, a.Plan)
		text.WriteString(planText(a.Plan))
	}
	return e.answer(plans, text.String())
}

// atHome are the machines that libvirt knows on the node that answered.
func atHome(a control.VMAnswer) (names []string) {
	for _, v := range a.Views {
		for _, s := range v.VMs {
			if v.Node == a.Node && s.State != "" {
				names = append(names, s.VM)
			}
		}
	}
	slices.Sort(names)
	return names
}

func planText(p *vm.Plan) string {
	var b strings.Builder
	total := int64(0)
	for _, f := range p.Files {
		total += f.Size
	}
	fmt.Fprintf(&b, "%s: %d files, %s, %d extents; held still for about %s, besides what the guest itself takes\n", p.VM, len(p.Files), size(total), p.Extents, p.Stands.Round(time.Millisecond))
	if p.Whole {
		fmt.Fprintf(&b, "  no clone can be kept (%s): it has to stand still until everything is sent\n", p.Choice.Why)
	}
	for _, n := range p.Nodes {
		base := string(n.Base)
		if base == "" {
			base = "nothing"
		}
		fmt.Fprintf(&b, "  to %s: from %s; tracker %s (%s); %s to read here, at most %s to send\n", n.Node, base, n.Tracker, n.Why, size(n.Read), size(n.Send))
		if n.Refused != "" {
			fmt.Fprintf(&b, "    it would be refused: %s\n", n.Refused)
		}
	}
	return b.String()
}

type vmStartCommand struct {
	VM      string         `arg:"" help:"The machine."`
	Point   points.ID      `placeholder:"POINT" help:"From this point; the newest that is there if none is named."`
	On      cluster.NodeID `required:"" placeholder:"NODE" help:"The node to start it on."`
	AsItIs  bool           `help:"The machine that libvirt has there, with its own disks, not one from a point."`
	Confirm string         `placeholder:"VM" help:"The machine's name, typed: it is not running anywhere else, and what it wrote after the point may be given up."`
}

// Help is printed under the usage.
func (vmStartCommand) Help() string {
	return "The point's files become the machine's disks by cloning them, so the point stays; libvirt on that node gets its definition. The machine's history goes on from there, and its copies go the other way. It is refused, whatever is typed, while the machine runs or is being started on a node that answers. With a node that does not answer, or when another node is its home, a person has to type its name: nothing else keeps it from running twice."
}

// Run starts it.
func (c *vmStartCommand) Run(ctx context.Context, e *env) error {
	a, err := control.Dial(e.state).VMs(ctx, control.VMQuery{VM: c.VM, On: c.On, Start: &vm.StartOrder{VM: c.VM, Point: c.Point, Confirm: c.Confirm, AsItIs: c.AsItIs}})
	if err != nil {
		return err
	}
	s := a.Started
	if c.AsItIs {
		return e.answer(s, fmt.Sprintf("%s runs on %s as it was there", s.VM, s.Node))
	}
	return e.answer(s, fmt.Sprintf("%s runs on %s from point %s (taken on %s, %s ago, %s; proof: %s)\nits disks are in %s", s.VM, s.Node, s.Point.ID, s.Point.Node, ago(s.Point.Taken, time.Now()), s.Point.Level, proofText(s.Point.Here.Proof), s.Images))
}
