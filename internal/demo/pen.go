package demo

import (
	"fmt"
	"io"
	"strings"
)

// pen writes the story for people: aligned, one line per event, colours only
// where they are wanted.
type pen struct {
	out   io.Writer
	color bool
	live  bool
	under bool // a passing line stands on the terminal
}

func newPen(o Options) *pen { return &pen{out: o.Out, color: o.Color, live: o.Live} }

// The few colours (ECMA-48, SGR).
const (
	sgrBold  = "1"
	sgrDim   = "2"
	sgrRed   = "31"
	sgrGreen = "32"
)

func (p *pen) paint(sgr, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (p *pen) line(format string, args ...any) {
	if p.under {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.under = false
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// coming shows on a terminal what is under way; the event's line replaces it.
func (p *pen) coming(name string) {
	if p.live {
		p.under = true
		fmt.Fprint(p.out, "\r\x1b[K         "+p.paint(sgrDim, name+" ..."))
	}
}

// opening draws the cluster.
func (p *pen) opening(s *story, source string) {
	names := s.t.plan.names
	var boxes, wires, feet strings.Builder
	for _, n := range names {
		wires.WriteString("──┬──")
		boxes.WriteString("  " + n + "  ")
		feet.WriteString("──┴──")
	}
	p.line("")
	p.line("  lan   %s──── %s  %s  the address that revolves", wires.String(), s.t.plan.vip4, s.t.plan.vip6)
	p.line("        %s     %d nodes, each with the volumes home and zones on %s", boxes.String(), len(names), s.t.machines[names[0]].node.FS())
	p.line("  fast  %s", feet.String())
	p.line("")
	p.line("  client  asks a name server through the address every 5 ms by IPv4, every 50 ms by IPv6")
	p.line("  judge   asks the whole link every %d ms which cards answer for the address", cardsEvery.Milliseconds())
	p.line("  writer  makes 100 changes/s in home on whoever is master")
	if source == "" {
		source = "made up: no Go installation found, and no --tree"
	}
	p.line("  tree    %s", source)
	p.line("  seed    %d", s.o.Seed)
	p.line("")
	p.line("%s", p.paint(sgrDim, fmt.Sprintf("  %6s  %-*s  %-62s  %s", "time", 3*s.t.plan.room, "nodes", "what happens", "measured")))
}

// ring shows the nodes, the master in brackets, a node without power as a dot.
func (p *pen) ring(s *story, master string) string {
	var b strings.Builder
	for _, n := range s.t.plan.names {
		switch {
		case n == master:
			b.WriteString(p.paint(sgrBold, "["+n+"]"))
		case !s.t.machines[n].node.On():
			b.WriteString(" · ")
		default:
			b.WriteString(" " + n + " ")
		}
	}
	b.WriteString(strings.Repeat("   ", max(0, s.t.plan.room-len(s.t.plan.names))))
	return b.String()
}

// event writes the line of an event, and below it what was wrong.
func (p *pen) event(s *story, ev *Event) {
	var m []string
	add := func(format string, v *float64) {
		if v != nil {
			m = append(m, fmt.Sprintf(format, *v))
		}
	}
	if ev.VIPGoneMS != nil {
		add("address gone after %.0f ms", ev.VIPGoneMS)
	}
	if ev.Name == "freeze" || ev.Name == "kill" {
		add("service back after %.0f ms", ev.BackMS)
	} else if ev.BlackoutMS != nil {
		add("silent %.0f ms", ev.BlackoutMS)
	}
	if ev.RPOChanges != nil {
		if *ev.RPOChanges == 0 {
			m = append(m, "no change lost")
		} else {
			m = append(m, fmt.Sprintf("%s behind (%.0f ms)", plural(*ev.RPOChanges, "change"), *ev.RPOMS))
		}
	}
	if ev.OffDisk != nil && *ev.OffDisk > 0 {
		m = append(m, plural(*ev.OffDisk, "file")+" gone with the power")
	}
	if ev.Kept != nil {
		m = append(m, plural(*ev.Kept, "file")+" kept aside and listed")
	}
	if ev.Lost != nil && *ev.Lost == 0 {
		m = append(m, "no answer lost")
	}
	if ev.SettleMS != nil && ev.Name != "tree" && ev.Name != "start" {
		add("in-sync after %.0f ms", ev.SettleMS)
	}
	if ev.SettleMS != nil && ev.Name != "start" && ev.Held() && !s.j.differ {
		m = append(m, "trees equal")
	}
	p.line("  %5.1fs  %s  %-62s  %s", ev.At, p.ring(s, ev.After), ev.Told, strings.Join(m, ", "))
	for _, b := range ev.Broken {
		p.line("          %s", p.paint(sgrRed, "BROKEN "+b))
	}
	if ev.Disturbed {
		p.line("          %s", p.paint(sgrDim, fmt.Sprintf("the machine itself stood still for %.0f ms; once more", *ev.StallMS)))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// closing writes the table of promises.
func (p *pen) closing(s *story, err error) {
	r := s.report
	p.line("")
	for _, pr := range r.Promises {
		state := fmt.Sprintf("%-9s", pr.State)
		switch pr.State {
		case stateHeld:
			state = p.paint(sgrGreen, state)
		case stateBroken:
			state = p.paint(sgrRed, state)
		default:
			state = p.paint(sgrDim, state)
		}
		p.line("  %s  %s  %-41s  %s", pr.ID, state, pr.Says, pr.Measured)
		for _, b := range pr.Broken {
			p.line("      %s", p.paint(sgrRed, b))
		}
	}
	p.line("")
	fidelity := "fidelity: " + r.Fidelity.Level
	if len(r.Fidelity.Reasons) > 0 {
		fidelity += fmt.Sprintf(" (%d reasons)", len(r.Fidelity.Reasons))
	}
	p.line("  %s", fidelity)
	for _, why := range r.Fidelity.Reasons {
		p.line("    - %s", why)
	}
	switch {
	case err != nil:
		p.line("  %s", p.paint(sgrRed, fmt.Sprintf("The story did not come to its end after %.0f s: %v", r.Seconds, err)))
	case r.Held:
		p.line("  %s", p.paint(sgrGreen, fmt.Sprintf("Every promise that was touched held. %.0f s.", r.Seconds)))
	default:
		p.line("  %s", p.paint(sgrRed, fmt.Sprintf("Not every promise held. %.0f s.", r.Seconds)))
	}
}

// stay tells how to look around from another terminal.
func (p *pen) stay(s *story) {
	t := s.t
	root := fmt.Sprintf("/proc/%d/root", t.stage.HostPID)
	first := t.plan.names[0]
	enter := "sudo nsenter -n -t %d"
	if t.stage.Mapped {
		enter = "nsenter -U --preserve-credentials -n -t %d"
	}
	program := s.programPath()
	p.line("")
	p.line("  The cluster stays up until Ctrl-C. From another terminal:")
	p.line("    %s status --state %s%s", program, root, t.plan.state(first))
	p.line("    %s switch %s --state %s%s", program, t.plan.names[len(t.plan.names)-1], root, t.plan.state(first))
	p.line("    %s divergent list --state %s%s", program, root, t.plan.state(first))
	p.line("    ls %s%s          (and the same below %s)", root, t.plan.volume(first, volHome), strings.Join(t.plan.names[1:], ", "))
	p.line("    ls %s%s/logs", root, t.plan.dir)
	for _, n := range t.plan.names {
		p.line("    "+enter+" ip addr          (node %s)", t.machines[n].node.HostPID(), n)
	}
	p.line("  and break something yourself: `kill -STOP` or `kill -9` the agents that `ps` shows.")
}
