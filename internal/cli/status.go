package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/control"
	"revolve/internal/problem"
)

type statusCommand struct {
	Watch bool `short:"w" help:"Show it again every second until Ctrl-C."`
}

// Help is printed under the usage.
func (statusCommand) Help() string {
	return "It says how the cluster looks from this node: a verdict with its reasons, the nodes, who holds the floating addresses, and for every volume how far each standby is. What is not known says unknown."
}

func (statusCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "a warning, or it is unknown (no agent answers)"}, {2, "critical"}}
}

// verdict ends the command with the status of what was found.
type verdict string

func (v verdict) Error() string { return string(v) }
func (v verdict) exitStatus() int {
	switch string(v) {
	case control.OK:
		return 0
	case control.Critical:
		return 2
	}
	return 1
}

// Run asks the agent and prints what it says.
func (c *statusCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	for {
		s, err := client.Status(ctx)
		if err != nil {
			report(e, err)
			s = control.Status{AsOf: time.Now(), Master: control.Unknown, Verdict: control.Unknown, Reasons: []string{err.Error()},
				Nodes: []control.Node{}, VIPs: []control.VIP{}, Volumes: []control.Volume{}, Services: []control.Service{}, Beat: control.Beat{Refused: []string{}}}
			if hint := problem.HintOf(err); hint != "" {
				s.Reasons = append(s.Reasons, hint)
			}
		}
		clear := ""
		if c.Watch && !e.json {
			clear = "\x1b[H\x1b[2J" // home and clear, as watch(1) does
		}
		if err == nil || e.json {
			if err := e.answer(s, clear+statusText(s, time.Now())); err != nil {
				return err
			}
		}
		if !c.Watch {
			return exitWith(s.Verdict)
		}
		select {
		case <-ctx.Done():
			return exitWith(s.Verdict)
		case <-time.After(time.Second):
		}
	}
}

func exitWith(v string) error {
	if v == control.OK {
		return nil
	}
	return verdict(v)
}

// statusText is the status for people.
func statusText(s control.Status, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", s.Verdict, headline(s))
	for _, r := range s.Reasons {
		fmt.Fprintf(&b, "  # %s\n", r)
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tSTATE\tROLE\tELIGIBLE\tIN-SYNC\tLINKS\tSINCE")
	for _, n := range s.Nodes {
		name := string(n.Name)
		if n.Name == s.Node {
			name += " *"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, n.State, n.Role, yesNo(n.Eligible), yesNo(n.InSync), linksText(n.Links), ago(n.Since, now))
	}
	t.Flush()
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tHOLDER")
	for _, v := range s.VIPs {
		fmt.Fprintf(t, "%s\t%s\n", v.Address, v.Holder)
	}
	t.Flush()
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tLINK\tSTATE\tLAG\tPENDING\tPOSITION\tSINCE")
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			fmt.Fprintf(t, "%s\t%s -> %s\t%s\t%s\t%s\t%s\t%s\n", v.Name, s.Master, sb.Node, standbyState(sb), countText(sb.LagMS, " ms"), countText(sb.Pending, ""), positionText(sb), ago(sb.Since, now))
		}
	}
	t.Flush()
	for _, v := range s.Volumes {
		if x := v.Trash; x.Kept+x.Bytes+x.Skipped+x.Dropped > 0 {
			fmt.Fprintf(&b, "\ntrash of %s on %s: %d versions since start, %d bytes held, %d skipped, %d gone early\n", v.Name, s.Node, x.Kept, x.Bytes, x.Skipped, x.Dropped)
		}
	}
	servicesText(&b, s, now)
	return b.String()
}

// servicesText is the table of the services, where there are any.
func servicesText(b *strings.Builder, s control.Status, now time.Time) {
	if len(s.Services) == 0 {
		return
	}
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nSERVICE ON %s\tSTATE\tREQUIRED\tRUN AS\tRESTARTS\tSINCE\n", s.Node)
	for _, v := range s.Services {
		required := map[bool]string{true: "yes", false: "no"}[v.Required]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", v.Name, v.State, required, cmp.Or(v.How, "-"), v.Restarts, ago(v.Since, now))
	}
	t.Flush()
}

func headline(s control.Status) string {
	switch s.Master {
	case "none":
		return "no node is master"
	case "unknown", "":
		return "who is master is unknown"
	}
	return fmt.Sprintf("%s is master, term %d", s.Master, s.Term)
}

func yesNo(t control.Tri) string {
	switch t {
	case control.Yes:
		return "yes"
	case control.No:
		return "no"
	}
	return "unknown"
}

func linksText(links []control.Link) string {
	var parts []string
	for _, l := range links {
		state := map[control.Tri]string{control.Yes: "up", control.No: "down", control.NotKnown: "unknown"}[l.Up]
		parts = append(parts, fmt.Sprintf("%s %s", l.Name, state))
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

func standbyState(s control.Standby) string {
	if s.Owed > 0 {
		return fmt.Sprintf("%s (%d large on the way)", s.State, s.Owed)
	}
	return s.State
}

func countText(c control.Count, unit string) string {
	if c < 0 {
		return "unknown"
	}
	return fmt.Sprintf("%d%s", c, unit)
}

func positionText(s control.Standby) string {
	if s.State == control.Unknown {
		return "unknown"
	}
	return s.Position.String()
}

func ago(at, now time.Time) string {
	if at.IsZero() {
		return "unknown"
	}
	d := now.Sub(at)
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
