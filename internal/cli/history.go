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
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

type historyCommand struct {
	Term  uint64 `arg:"" optional:"" help:"Show the whole record of the reign with this term."`
	Limit int    `short:"n" default:"20" help:"How many to list (20); 0 lists all that are kept."`
}

// Help is printed under the usage.
func (historyCommand) Help() string {
	return "Every failover has one record, written by the node that took over and copied by the others: why the reign before ended, how long the addresses were away (RTO, from the last heartbeat or the release to the first announcement), and for every volume how much of what the old master had told of was missing. What the old master had that nobody had received is known when it has returned. What is not known says unknown."
}

// Run lists them, or shows one.
func (c *historyCommand) Run(ctx context.Context, e *env) error {
	h, err := control.Dial(e.state).History(ctx)
	if err != nil {
		return err
	}
	if c.Term != 0 {
		h.Records = slices.DeleteFunc(h.Records, func(r history.Record) bool { return r.Term != cluster.Term(c.Term) })
		if len(h.Records) == 0 {
			return &problem.Problem{Op: "show record of term", Kind: problem.NotFound, Subject: fmt.Sprint(c.Term), Err: errors.New("no node that answers has one"), Hint: "revolve history"}
		}
	} else if c.Limit > 0 && len(h.Records) > c.Limit {
		h.Records = h.Records[:c.Limit]
	}
	if c.Limit > 0 && len(h.Rehearsals) > c.Limit {
		h.Rehearsals = h.Rehearsals[:c.Limit]
	}
	e.silent(h.Silent)
	if c.Term != 0 {
		var b strings.Builder
		for _, r := range h.Records {
			b.WriteString(recordText(r))
		}
		return e.answer(h, b.String())
	}
	return e.answer(h, historyText(h.Records)+rehearsalsText(h.Rehearsals))
}

func historyText(records []history.Record) string {
	if len(records) == 0 {
		return "no failover is recorded"
	}
	rows := [][]string{{"WHEN", "TERM", "MASTER", "FROM", "CAUSE", "RTO", "MISSING", "KEPT ASIDE"}}
	for _, r := range records {
		missing, kept := sums(r)
		from := string(r.From)
		if from == "" {
			from, missing, kept = "-", "-", "-"
		}
		rows = append(rows, []string{r.At.Local().Format(time.DateTime), fmt.Sprint(r.Term), cut(string(r.Master), nameWidth), cut(from, nameWidth), causeText(r), millis(r.RTO), missing, kept})
	}
	return strings.TrimLeft(table(rows), "\n")
}

// causeText is why the reign before ended, and for a planned switch what it was ordered for.
func causeText(r history.Record) string {
	if r.Ordered != nil {
		return cut(r.Ordered.Why, nameWidth)
	}
	return r.Cause
}

// sums are the changes missing and kept aside, of all volumes; one that is not known makes the sum so.
func sums(r history.Record) (missing, kept string) {
	m, k, mKnown, kKnown := uint64(0), 0, true, true
	for _, v := range r.Volumes {
		if mKnown = mKnown && v.Missing != nil; mKnown {
			m += *v.Missing
		}
		if kKnown = kKnown && v.KeptAside != nil; kKnown {
			k += *v.KeptAside
		}
	}
	missing, kept = control.Unknown, control.Unknown
	if mKnown {
		missing = fmt.Sprint(m)
	}
	if kKnown {
		kept = fmt.Sprint(k)
	}
	return missing, kept
}

func millis(p *float64) string {
	if p == nil {
		return control.Unknown
	}
	return fmt.Sprintf("%.0f ms", *p)
}

// recordText is one record, its times as milliseconds from the first.
func recordText(r history.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "term %d: %s is master since %s", r.Term, r.Master, r.At.Local().Format("2006-01-02 15:04:05.000"))
	if r.From != "" {
		fmt.Fprintf(&b, "; before: %s", r.From)
		if r.FromTerm > 0 {
			fmt.Fprintf(&b, ", term %d", r.FromTerm)
		}
	}
	fmt.Fprintf(&b, "\ncause: %s; the addresses were away for %s\n", r.Cause, millis(r.RTO))
	if r.Ordered != nil {
		fmt.Fprintf(&b, "ordered by %s, for: %s\n", orderedBy(*r.Ordered, false), r.Ordered.Why)
	}
	t := r.Times
	rows := [][]string{{"STEP", "AT", "AFTER"}}
	var first *time.Time
	for _, s := range []struct {
		what string
		at   *time.Time
	}{{"last heartbeat", t.Heard}, {"suspect", t.Suspect}, {"released", t.Released}, {"claim", t.Claim}, {"address", t.Address}, {"first announcement", t.Announced},
		{"first packet of a client", t.Packet}, {"first answer to a client", t.Answer}} {
		if s.at == nil {
			continue
		}
		if first == nil {
			first = s.at
		}
		rows = append(rows, []string{s.what, s.at.Local().Format("15:04:05.000"), fmt.Sprintf("%.0f ms", float64(s.at.Sub(*first).Microseconds())/1000)})
	}
	b.WriteString(table(rows))
	if r.ClientsTold != nil {
		fmt.Fprintf(&b, "\n%d connections of clients with %s were known; they were told that they are gone\n", *r.ClientsTold, r.From)
	}
	rows = [][]string{{"VOLUME", "TOLD OF", "APPLIED", "MISSING", "RPO", "KEPT ASIDE"}}
	for _, v := range r.Volumes {
		told, missing, kept := control.Unknown, control.Unknown, control.Unknown
		if v.Advertised != nil {
			told = v.Advertised.String()
		}
		if v.Missing != nil {
			missing = fmt.Sprint(*v.Missing)
		}
		if v.KeptAside != nil {
			kept = fmt.Sprint(*v.KeptAside)
		}
		rows = append(rows, []string{cut(string(v.Name), nameWidth), told, v.Applied.String(), missing, millis(v.RPO), kept})
	}
	b.WriteString(table(rows))
	return b.String()
}
