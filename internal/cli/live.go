package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/control"
)

// This file is what changes under a reader's eyes: status --watch.

const (
	// watchEvery is how often a live view looks: a person sees no more, and the agent answers from memory.
	watchEvery = time.Second
)

// watchStatus shows the status until ctx ends or q is pressed; it outlives the agent.
func watchStatus(ctx context.Context, e *env) error {
	v := &view{e: e, screen: openScreen(e)}
	defer v.screen.close()
	client := control.Dial(e.state)
	for {
		s := v.last
		if !v.screen.held {
			answer, err := client.Status(ctx)
			if ctx.Err() != nil {
				return exitWith(v.verdict())
			}
			s = v.known(answer, err, time.Now())
		}
		if err := v.show(s, time.Now()); err != nil {
			return err
		}
		if !v.screen.wait(ctx) {
			return exitWith(v.verdict())
		}
	}
}

const noAnswerSince = "no answer since "

// view remembers what was shown.
type view struct {
	e        *env
	screen   *screen
	last     control.Status
	answered time.Time
	shown    string // what was printed last, without what changes all the time
}

func (v *view) verdict() string {
	if v.last.Verdict == "" {
		return control.Unknown
	}
	return v.last.Verdict
}

// known is the answer, or what was known last under a verdict that says so.
func (v *view) known(s control.Status, err error, now time.Time) control.Status {
	if err == nil {
		v.answered = now
		return s
	}
	s = noAnswer(err)
	if v.answered.IsZero() {
		return s
	}
	s.Reasons = slices.Insert(s.Reasons, 0, fmt.Sprintf(noAnswerSince+"%s (%s); what follows is what was known then", v.answered.Format(time.TimeOnly), ago(v.answered, now)))
	s.Cluster, s.Node, s.Term, s.Nodes, s.VIPs, s.Volumes, s.Pairs = v.last.Cluster, v.last.Node, v.last.Term, v.last.Nodes, v.last.VIPs, v.last.Volumes, v.last.Pairs
	return s
}

func (v *view) show(s control.Status, now time.Time) error {
	v.last = s
	switch {
	case v.e.json:
		return v.e.answer(s, "")
	case v.screen.out != nil:
		return v.screen.draw(statusText(s, now), s.Verdict)
	}
	if steady := steadyPart(s); steady != v.shown {
		between := ""
		if v.shown != "" {
			between = "\n"
		}
		v.shown = steady
		return v.e.answer(nil, between+now.Format(time.DateTime)+"  "+statusText(s, now))
	}
	return nil
}

// steadyPart is a status without what changes all the time: a new block is printed when it differs.
func steadyPart(s control.Status) string {
	type row struct{ A, B, C, D any }
	rows := []row{{A: s.Verdict, B: s.Master, C: s.Term}}
	for _, r := range s.Reasons {
		if !strings.HasPrefix(r, noAnswerSince) {
			rows = append(rows, row{A: r})
		}
	}
	for _, n := range s.Nodes {
		rows = append(rows, row{n.Name, n.State, n.Role, []any{n.InSync, n.Eligible, n.Hold, n.Maintenance, n.Links}})
	}
	for _, a := range s.VIPs {
		rows = append(rows, row{A: a.Address, B: a.Holder})
	}
	for _, p := range s.Pairs {
		rows = append(rows, row{p.A, p.B, "links", p.Links})
	}
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			rows = append(rows, row{v.Name, v.State, sb.Node, sb.State})
		}
	}
	b, _ := json.Marshal(rows) // strings, numbers and lists of them: it cannot fail
	return string(b)
}

// meanwhile shows on a terminal, and only there, what an order waits for.
func meanwhile(ctx context.Context, e *env, client *control.Client, text func(control.Status) string, order func(context.Context) error) (err error) {
	out, ok := e.stderr.(*os.File)
	if e.json || !ok || !isTerminal(out) || os.Getenv("TERM") == "dumb" {
		return order(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		err = order(ctx)
		return nil
	})
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			waiting = false
		case <-tick.C:
			if s, err := client.Status(ctx); err == nil {
				fmt.Fprintf(out, "\r%s\x1b[K", cut(text(s), textWidth-1))
			}
		}
	}
	_ = g.Wait() // its error is err
	fmt.Fprint(out, "\r\x1b[K")
	return err
}

// waitingText says what the standbys lack.
func waitingText(s control.Status) string {
	var parts []string
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			if p := standbyProgress(sb); p != "" {
				parts = append(parts, fmt.Sprintf("%s on %s: %s", v.Name, sb.Node, p))
			}
		}
	}
	if len(parts) == 0 {
		return "waiting for the standbys"
	}
	return strings.Join(parts, "; ")
}

// successionText says what keeps the standbys from taking over.
func successionText(s control.Status) string {
	var parts []string
	for _, n := range s.Nodes {
		if string(n.Name) != s.Master && n.WhyNot != "" {
			parts = append(parts, fmt.Sprintf("%s: %s", n.Name, n.WhyNot))
		}
	}
	if len(parts) == 0 {
		return "waiting for the addresses to move"
	}
	return "waiting for a standby that can take over; " + strings.Join(parts, "; ")
}
