package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
	"revolve/internal/vm"
	"revolve/internal/vm/points"
)

// The flags of the tool that this one replaces keep their letters and their sense.
type vmReplicateCommand struct {
	VM          []string         `arg:"" optional:"" help:"The machines; those of the configuration if none is named."`
	Checksum    bool             `short:"c" help:"Prove every block: both sides read everything, and what differs is sent."`
	Debug       bool             `short:"d" help:"Show what would be done, and do nothing (vm plan)."`
	Force       bool             `short:"f" help:"Also onto a node whose copy has gone another way; what is there stays as a point."`
	Poweroff    bool             `short:"p" help:"Have the other nodes power themselves off when the last machine has come; each refuses that is not on demand, is master, runs a machine, is busy, or was used by somebody since."`
	Wake        bool             `help:"Wake the nodes on demand that are off first, and wait until their volumes are caught up; without -p they stay on."`
	Novxsnap    bool             `short:"s" aliases:"nosnap" help:"Without a snapshot. Not in this version: where blocks cannot be shared there is none, and the machine stands still until all is sent."`
	Test        bool             `short:"t" help:"Only check whether it could be done (vm plan)."`
	Update      bool             `short:"u" help:"Only where the copy is older. That is always so: its lineage decides, never a time."`
	Host        []cluster.NodeID `placeholder:"NODE" help:"Only to these nodes."`
	Consistency string           `placeholder:"LEVEL" enum:",live,suspend,freeze,shutdown" default:"" help:"How the machine is held for the point: live, suspend, freeze, shutdown; the configuration's if none is named (suspend)."`
	Within      time.Duration    `placeholder:"TIME" default:"3m" help:"With shutdown: how long the guest may take (3m)."`
	Version     bool             `short:"V" help:"Say which revolve this is."`
}

// Help is printed under the usage.
func (vmReplicateCommand) Help() string {
	return "It is typed on the machine's home. The machine goes on as soon as all its disks are cloned, also when revolve is killed meanwhile; what is sent then is what changed since the newest point that both nodes have. It says how that is known, and never falls back to something else without saying so. A copy that is interrupted, by Ctrl-C here too, stays ordered: the agent goes on."
}

func (vmReplicateCommand) exitStatuses() []exitStatus {
	return []exitStatus{{2, "not every machine is on every node that was to have it"}}
}

// Run orders the copies and waits for their end.
func (c *vmReplicateCommand) Run(ctx context.Context, e *env) error {
	switch {
	case c.Version:
		return versionCommand{}.Run(ctx, e)
	case c.Novxsnap:
		return &problem.Problem{Op: "replicate", Kind: problem.Invalid, Err: errors.New("--novxsnap is not in this version"), Hint: "leave it out: revolve vm replicate --help"}
	case c.Debug || c.Test:
		return plan(ctx, e, c.VM, c.Host)
	}
	client := control.Dial(e.state)
	a, err := client.VMs(ctx, control.VMQuery{Replicate: &vm.Order{VMs: c.VM, Targets: c.Host, Level: points.Level(c.Consistency), Within: c.Within, Whole: c.Checksum, Force: c.Force, Wake: c.Wake, Poweroff: c.Poweroff}})
	if err != nil {
		return err
	}
	j, err := waitForCopies(ctx, e, client, a.Job.ID)
	if err != nil {
		return err
	}
	if err := e.answer(j, jobText(j)); err != nil {
		return err
	}
	for _, w := range j.VMs {
		if w.Error != "" {
			return exitWith(control.Critical)
		}
	}
	return nil
}

func waitForCopies(ctx context.Context, e *env, client *control.Client, id string) (*vm.Job, error) {
	var told time.Time
	for {
		a, err := client.VMs(ctx, control.VMQuery{Job: id})
		if err != nil || a.Job.Ended {
			return a.Job, err
		}
		if time.Since(told) > tellProof {
			if line := copiesText(a.Job); line != "" {
				told = time.Now()
				fmt.Fprintln(e.stderr, line)
			}
		}
		select {
		case <-ctx.Done():
			return nil, &problem.Problem{Op: "wait for the copies", Kind: problem.Unavailable, Err: ctx.Err(), Hint: "the agent goes on with them: revolve vm list"}
		case <-time.After(lookAtProof):
		}
	}
}

// copiesText is what is under way.
func copiesText(j *vm.Job) string {
	var parts []string
	for _, w := range j.VMs {
		for _, n := range w.Nodes {
			if n.Record == nil && n.Error == "" && n.File != "" {
				parts = append(parts, fmt.Sprintf("%s to %s: %s, %s, %s of %s sent", w.VM, n.Node, n.File, n.Tracker, size(n.Sent), size(n.Changed)))
			}
		}
	}
	return strings.Join(parts, "; ")
}

func jobText(j *vm.Job) string {
	var b strings.Builder
	for _, w := range j.VMs {
		switch {
		case w.Point == "":
			fmt.Fprintf(&b, "%s: no point was taken\n", w.VM)
		default:
			fmt.Fprintf(&b, "%s: point %s, %s; it stood still for %s\n", w.VM, w.Point, w.Level, w.Stood.Round(time.Millisecond))
		}
		if w.Weaker != "" {
			fmt.Fprintf(&b, "  %s\n", w.Weaker)
		}
		for _, n := range w.Nodes {
			if n.Record == nil {
				fmt.Fprintf(&b, "  %s: %s\n", n.Node, n.Error)
				continue
			}
			tracker, changed, sent := heldText(n.Record.Here.Files)
			fmt.Fprintf(&b, "  %s: published in %s; tracker %s, %s changed, %s sent; proof: %s\n", n.Node, n.Took.Round(10*time.Millisecond), tracker, changed, sent, proofText(n.Record.Here.Proof))
			switch {
			case n.PoweredOff:
				fmt.Fprintf(&b, "  %s: powers itself off\n", n.Node)
			case n.StaysOn != "":
				fmt.Fprintf(&b, "  %s: stays on: %s\n", n.Node, n.StaysOn)
			}
		}
		if w.Error != "" {
			fmt.Fprintf(&b, "  not done: %s\n", w.Error)
		}
		if w.Hint != "" {
			fmt.Fprintf(&b, "  hint: %s\n", w.Hint)
		}
	}
	return b.String()
}
