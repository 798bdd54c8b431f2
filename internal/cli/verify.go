package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type verifyCommand struct {
	Volume      string `arg:"" optional:"" help:"The volume; all if none is named."`
	Rate        string `placeholder:"BYTES" default:"16MiB" help:"Read at most so much per second on each node (16MiB)."`
	Repair      bool   `help:"Bring what is wrong over from the node that has it right; the wrong bytes are kept aside."`
	TrustMaster bool   `help:"With --repair: where nobody can tell which copy is right, the master's is."`
	Restart     bool   `help:"Begin anew, even if there is a proof to go on with."`
	Stop        bool   `xor:"do" help:"Stop a proof that runs; the next goes on where it stood."`
	Show        bool   `xor:"do" help:"Only show the last proof."`
}

// Help is printed under the usage.
func (verifyCommand) Help() string {
	return "Every node reads its files from the disk and tells their digests to the master, while programs go on writing: what changes meanwhile is looked at again. It takes as long as reading everything at the given rate, can be stopped at any time (Ctrl-C), and goes on where it stood. A copy is damaged if its bytes are not those of an earlier proof although nothing was written since; else the master's copy is the right one. It is typed on the master."
}

func (verifyCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "not everything could be proven: a node is away, a file kept changing, or it was stopped"}, {2, "something differs"}}
}

// lookAtProof is how often a running proof is looked at, and tellProof how often a line about it is printed.
const (
	lookAtProof = 200 * time.Millisecond
	tellProof   = 5 * time.Second
)

// Run starts the proofs and waits for their end.
func (c *verifyCommand) Run(ctx context.Context, e *env) error {
	rate, err := parseBytes(c.Rate)
	if err != nil {
		return &problem.Problem{Op: "read --rate", Kind: problem.Invalid, Subject: c.Rate, Err: err, Hint: "such as --rate 64MiB"}
	}
	client := control.Dial(e.state)
	q := control.VerifyQuery{Volume: cluster.VolumeID(c.Volume), Rate: rate, Repair: c.Repair, Restart: c.Restart, TrustMaster: c.TrustMaster, Start: !c.Stop && !c.Show, Stop: c.Stop}
	a, err := client.Verify(ctx, q)
	if err != nil {
		return err
	}
	if q.Start || q.Stop {
		if a, err = c.wait(ctx, e, client); err != nil {
			return err
		}
	}
	if err := e.answer(a, proofsText(a)); err != nil {
		return err
	}
	return proofVerdict(a)
}

// wait looks until no proof runs. When ctx ends, it stops them.
func (c *verifyCommand) wait(ctx context.Context, e *env, client *control.Client) (control.VerifyAnswer, error) {
	q := control.VerifyQuery{Volume: cluster.VolumeID(c.Volume)}
	var told time.Time
	for {
		a, err := client.Verify(context.WithoutCancel(ctx), q)
		if err != nil {
			return a, err
		}
		running := false
		for _, p := range a.Proofs {
			running = running || p.Running
			if p.Running && time.Since(told) > tellProof {
				fmt.Fprintf(e.stderr, "%s: %d files, %s; at %q\n", p.Volume, p.Files, size(p.Bytes), "/"+p.At)
			}
		}
		if time.Since(told) > tellProof {
			told = time.Now()
		}
		if !running {
			return a, nil
		}
		select {
		case <-ctx.Done():
			q.Stop = true
			time.Sleep(lookAtProof)
		case <-time.After(lookAtProof):
		}
	}
}

// proofVerdict is the worst of all proofs.
func proofVerdict(a control.VerifyAnswer) error {
	worst := control.OK
	if len(a.Proofs) == 0 {
		worst = control.Warning
	}
	for _, p := range a.Proofs {
		if !p.Complete || p.Error != "" || len(p.Nodes) == 0 {
			worst = control.Warning
		}
		for _, n := range p.Nodes {
			if n.Result == "away" || n.Result == "unproven" {
				worst = control.Warning
			}
		}
	}
	for _, p := range a.Proofs {
		for _, n := range p.Nodes {
			if n.Result == "differs" {
				worst = control.Critical
			}
		}
	}
	return exitWith(worst)
}

// proofsText says what was proven, for people.
func proofsText(a control.VerifyAnswer) string {
	if len(a.Proofs) == 0 {
		return "nothing was ever proven on this node"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tNODE\tRESULT\tDIFFERS\tREPAIRED\tUNPROVEN\tPROVEN AT")
	for _, p := range a.Proofs {
		for _, n := range p.Nodes {
			proven := "never"
			if !n.Proven.IsZero() {
				proven = n.Proven.Local().Format(time.DateTime)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", p.Volume, n.Node, n.Result, n.Differs, n.Repaired, n.Unproven, proven)
		}
	}
	t.Flush()
	for _, p := range a.Proofs {
		end := "stopped: `revolve verify` goes on from there"
		if p.Complete {
			end = "complete"
		}
		fmt.Fprintf(&b, "%s: %d files, %s read on the master, from position %s on; %s\n", p.Volume, p.Files, size(p.Bytes), p.Position, end)
		if p.Error != "" {
			fmt.Fprintf(&b, "  %s\n", p.Error)
		}
		for _, n := range p.Nodes {
			if n.Away != "" {
				fmt.Fprintf(&b, "  %s is not part of it: %s\n", n.Node, n.Away)
			}
		}
		for _, f := range p.Findings {
			b.WriteString(findingText(f))
		}
		if len(p.Changing) > 0 {
			fmt.Fprintf(&b, "  kept changing: %s\n", strings.Join(p.Changing, ", "))
		}
	}
	return b.String()
}

func findingText(f control.ProofFinding) string {
	text := fmt.Sprintf("  %q: %s on %s", f.Path, f.What, f.Node)
	switch {
	case f.Bad != "":
		text += fmt.Sprintf("; wrong on %s", f.Bad)
	case f.Right == "undecided":
		text += "; nobody can tell which is right: look at both; --repair --trust-master takes the master's"
	}
	if f.Right == "none" {
		text += "; no node has what it was"
	}
	switch {
	case f.Repaired:
		text += "; repaired, see `revolve divergent list`"
	case f.Why != "":
		text += "; not repaired: " + f.Why
	}
	return text + "\n"
}

// parseBytes reads a number with KiB, MiB or GiB, or K, M, G.
func parseBytes(s string) (int64, error) {
	text, factor := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(s, "/s"), "B"), "i"), int64(1)
	for suffix, f := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if cut, ok := strings.CutSuffix(text, suffix); ok {
			text, factor = cut, f
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err == nil && (n <= 0 || n > (1<<62)/factor) {
		err = errors.New("out of range")
	}
	return n * factor, err
}

// provenText is when the standbys of a volume were last proven equal; "" if it has none.
func provenText(v control.Volume, now time.Time) string {
	var parts []string
	ever := v.Proof != nil
	for _, sb := range v.Standbys {
		when := "never"
		if !sb.Proven.IsZero() {
			ever, when = true, ago(sb.Proven, now)+" ago"
		}
		parts = append(parts, fmt.Sprintf("%s %s", cut(string(sb.Node), nameWidth), when))
	}
	if len(parts) == 0 && !ever {
		return ""
	}
	text := fmt.Sprintf("\n%s proven equal by content: %s", v.Name, strings.Join(parts, ", "))
	if !ever {
		text += "; `revolve verify` does it"
	}
	if v.Proof != nil && v.Proof.Running {
		text += fmt.Sprintf("; a proof runs: %d files, %s", v.Proof.Files, size(v.Proof.Bytes))
	}
	return wrapped(text, "  ")
}
