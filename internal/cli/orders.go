package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type switchCommand struct {
	Node string `arg:"" optional:"" help:"The new master; without it the in-sync standby of highest priority."`
}

// Help is printed under the usage.
func (switchCommand) Help() string {
	return "A planned move: the successor must be in-sync; the addresses leave this master, every change whose close() returned before that is brought over, and only then the successor takes them. It can be typed on any node."
}

// Run orders the move and waits for it.
func (c *switchCommand) Run(ctx context.Context, e *env) error {
	began := time.Now()
	master, err := control.Dial(e.state).Switch(ctx, cluster.NodeID(c.Node))
	if err != nil {
		return err
	}
	return e.answer(map[string]any{"master": master, "took_ms": float64(time.Since(began).Microseconds()) / 1000},
		fmt.Sprintf("%s is master (%d ms)", master, time.Since(began).Milliseconds()))
}

type syncCommand struct {
	Wait    bool          `required:"" help:"Wait until every in-sync standby has, durably, everything written before this."`
	Timeout time.Duration `default:"10m" help:"Give up after this long (10m)."`
}

// Help is printed under the usage.
func (syncCommand) Help() string {
	return "A barrier: when it has returned, what was written before it survives the master's death. If none is in-sync it waits for the first that catches up; it fails if no standby is connected, since then what is written is only on the master."
}

// Run waits for the barrier.
func (c *syncCommand) Run(ctx context.Context, e *env) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	ms, err := control.Dial(e.state).Sync(ctx)
	if err != nil {
		return err
	}
	return e.answer(map[string]any{"took_ms": ms}, fmt.Sprintf("the standbys have it (%.1f ms)", ms))
}

type divergentCommand struct {
	List divergentListCommand `cmd:"" help:"List the changes that were kept aside on this node."`
	Show divergentShowCommand `cmd:"" help:"Show one set of them."`
}

type divergentListCommand struct{}

// Help is printed under the usage.
func (divergentListCommand) Help() string {
	return "Divergent are changes that the next master never received: made in the last moment of a reign that ended badly, on the losing side of a partition, or by hand on a standby. They are kept on the node that made them, below .revolve/divergent of the volume, and nothing removes them but you."
}

// Run lists the sets.
func (divergentListCommand) Run(ctx context.Context, e *env) error {
	list, err := control.Dial(e.state).Divergent(ctx)
	if err != nil {
		return err
	}
	return e.answer(list, setsText(list))
}

func setsText(list []control.Divergent) string {
	if len(list) == 0 {
		return "nothing is kept aside on this node"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tSET\tWHY\tBY\tTERM\tCHANGES\tFIRST")
	for i := 0; i < len(list); {
		d, n := list[i], 0
		for i+n < len(list) && list[i+n].Set == d.Set && list[i+n].Volume == d.Volume {
			n++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%q\n", d.Volume, d.Set, d.Why, d.Node, d.Term, n, d.Path)
		i += n
	}
	t.Flush()
	return b.String() + "\nrevolve divergent show SET lists its files"
}

type divergentShowCommand struct {
	Set string `arg:"" help:"The set, as the list names it."`
}

// Run lists one set's changes and where their bytes are.
func (c *divergentShowCommand) Run(ctx context.Context, e *env) error {
	list, err := control.Dial(e.state).Divergent(ctx)
	if err != nil {
		return err
	}
	kept := []control.Divergent{}
	for _, d := range list {
		if d.Set == c.Set {
			kept = append(kept, d)
		}
	}
	if len(kept) == 0 {
		return &problem.Problem{Op: "show divergent set", Kind: problem.NotFound, Subject: c.Set, Err: errors.New("there is no such set on this node"), Hint: "revolve divergent list"}
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tPATH\tSIZE\tKEPT IN")
	for _, d := range kept {
		path := fmt.Sprintf("%q", d.Path)
		if d.Old != "" {
			path = fmt.Sprintf("%q, was %q", d.Path, d.Old)
		}
		file := d.File
		if file == "" {
			file = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", d.What, path, d.Size, file)
	}
	t.Flush()
	return e.answer(kept, b.String())
}
