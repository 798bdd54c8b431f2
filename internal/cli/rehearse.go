package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

type rehearseCommand struct {
	Node   string        `arg:"" optional:"" help:"The standby to move to; without it the in-sync one of highest priority."`
	DryRun bool          `help:"Only say whether it could begin, and with whom."`
	Stay   time.Duration `default:"10s" help:"How long the standby leads at least (10s)."`
}

// Help is printed under the usage.
func (rehearseCommand) Help() string {
	return "A drill: the addresses move to a standby by a planned switch, it serves for a while, and when this master is in-sync again they move back; both switches are measured and written down (revolve history). It does not begin while hold or a maintenance is on, while an alarm stands, or without an in-sync standby (one that is about to be is waited for, 5 s at most). What speaks against the way back ends it: the standby then stays master, and this command fails and says why. Interrupting the command does not end the drill; revolve hold on does. It can be typed on any node, and be left to the configuration: failover.rehearsal.window."
}

// Run orders it and waits for its end.
func (c *rehearseCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	var r history.Rehearsal
	err := meanwhile(ctx, e, client, drillText, func(ctx context.Context) (err error) {
		r, err = client.Rehearse(ctx, control.RehearsalOrder{To: cluster.NodeID(c.Node), Stay: c.Stay, DryRun: c.DryRun})
		return err
	})
	if err != nil {
		return err
	}
	if c.DryRun {
		return e.answer(r, fmt.Sprintf("a rehearsal could begin: the addresses would move from %s to %s, and back", r.Node, r.To))
	}
	text := fmt.Sprintf("rehearsed: %s is master, as before\n", cmp.Or(r.Master, "no node"))
	return e.answer(r, text+legsText(r))
}

// drillText is how far a rehearsal is.
func drillText(s control.Status) string {
	if r := s.Rehearsal; r != nil && r.Result == history.Running {
		return fmt.Sprintf("%s rehearses with %s; master is %s", r.Node, cmp.Or(r.To, "nobody"), cmp.Or(s.Master, "no node"))
	}
	return successionText(s)
}

// legsText is a line for each of the two switches.
func legsText(r history.Rehearsal) string {
	var b strings.Builder
	line := func(from, to cluster.NodeID, l *history.Leg) {
		if l != nil {
			fmt.Fprintf(&b, "  %s -> %s: the addresses were away for %s; term %d\n", from, to, millis(l.RTO), l.Term)
		}
	}
	line(r.Node, r.To, r.There)
	line(r.To, r.Node, r.Back)
	return b.String()
}

// rehearsalsText is what revolve history says of the last ones.
func rehearsalsText(list []history.Rehearsal) string {
	rows := [][]string{{"REHEARSED", "FROM", "TO", "RESULT", "THERE", "BACK", "ORDERED BY"}}
	for _, r := range list {
		rows = append(rows, []string{r.Began.Local().Format(time.DateTime), cut(string(r.Node), nameWidth), cut(cmp.Or(string(r.To), "-"), nameWidth), r.Result, legText(r.There), legText(r.Back), orderedBy(r.Ordered, r.Scheduled)})
		if r.Why != "" {
			rows = append(rows, []string{"  " + r.Why})
		}
	}
	return table(rows)
}

func legText(l *history.Leg) string {
	if l == nil {
		return "-"
	}
	return millis(l.RTO)
}

// orderedBy is who ordered something.
func orderedBy(o history.Order, scheduled bool) string {
	switch {
	case scheduled:
		return "schedule"
	case o.User == "":
		return "agent of " + string(o.Node)
	}
	return o.User + " on " + string(o.Node)
}
