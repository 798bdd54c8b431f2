package demo

import (
	"fmt"
	"strings"
)

// promises makes the closing table of P1-P8 from the events and the tallies.
func (s *story) promises() []Promise {
	j := s.j
	two, both := s.t.holders.overlap(now()), s.t.cards.longest(0, now()).length()
	all := []Promise{
		{ID: "P1", Says: "one master", Measured: fmt.Sprintf("two answered for at most %.0f ms, two had it for %.0f (bound %.0f); longest silence: power cut %s, planned %s, address's link %s",
			ms(both), ms(two), ms(boundTwo), s.worst("power-cut", blackout), s.worst("switch", blackout), s.worst("vip-link", blackout))},
		{ID: "P2", Says: "a dead master loses the address", Measured: fmt.Sprintf("frozen: gone after %s, killed: %s (bound %.0f); service back after %s and %s (bound %.0f)",
			s.worst("freeze", vipGone), s.worst("kill", vipGone), ms(boundGone), s.worst("freeze", back), s.worst("kill", back), ms(boundBack))},
		{ID: "P3", Says: "old reigns are refused", Measured: fmt.Sprintf("%s of deposed masters%s", plural(j.unacked, "change"), s.unless("P3", ", none accepted"))},
		{ID: "P4", Says: "what was acknowledged stays", Measured: fmt.Sprintf("%d acknowledged changes and %d comparisons of trees%s", j.acked, j.looks, s.unless("P4", ": nothing missing or different"))},
		{ID: "P5", Says: "nothing is discarded", Measured: fmt.Sprintf("%d changes nobody had received: %d files kept and listed, %d gone from the cut disk itself", j.unacked, j.kept, j.offDisk)},
		{ID: "P6", Says: "overwritten and deleted files stay a while", State: stateNotShown, Measured: "not shown here: see the end-to-end stories"},
		{ID: "P7", Says: "a VM runs once", State: stateNotShown, Measured: "not shown here: it needs libvirt (docs/vms.md)"},
		{ID: "P8", Says: "power may go at any moment", Measured: fmt.Sprintf("%s%s", plural(s.count("return"), "power cut"), s.unless("P8", ", the node came back with everything it had acknowledged"))},
	}
	if two > boundTwo {
		all[0].Broken = append(all[0].Broken, fmt.Sprintf("two nodes had the address for %.0f ms", ms(two)))
	}
	for _, ev := range s.report.Events {
		for _, b := range ev.Broken {
			for i := range all {
				if text, ok := strings.CutPrefix(b, all[i].ID+": "); ok {
					all[i].Broken = append(all[i].Broken, ev.Name+": "+text)
				}
			}
		}
	}
	touched := map[string]bool{
		"P1": s.count("switch") > 0, "P2": s.count("kill") > 0, "P3": s.count("freeze") > 0,
		"P4": s.count("power-cut") > 0, "P5": s.count("return") > 0, "P8": s.count("return") > 0,
	}
	for i := range all {
		switch p := &all[i]; {
		case len(p.Broken) > 0:
			p.State = stateBroken
		case p.State != "":
			p.Broken = []string{}
		case touched[p.ID]:
			p.State, p.Broken = stateHeld, []string{}
		default:
			p.State, p.Broken, p.Measured = stateNotShown, []string{}, "the story did not come so far"
		}
	}
	return all
}

// unless is the text if nothing of the promise is broken.
func (s *story) unless(promise, text string) string {
	for _, ev := range s.report.Events {
		for _, b := range ev.Broken {
			if strings.HasPrefix(b, promise+": ") {
				return ""
			}
		}
	}
	return text
}

func blackout(e *Event) *float64 { return e.BlackoutMS }
func vipGone(e *Event) *float64  { return e.VIPGoneMS }
func back(e *Event) *float64     { return e.BackMS }

// worst is the largest measured value of all events of a kind, for people.
func (s *story) worst(kind string, value func(*Event) *float64) string {
	var worst *float64
	for i := range s.report.Events {
		e := &s.report.Events[i]
		if v := value(e); e.Name == kind && !e.Disturbed && v != nil && (worst == nil || *v > *worst) {
			worst = v
		}
	}
	if worst == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f ms", *worst)
}

func (s *story) count(kind string) int {
	n := 0
	for _, e := range s.report.Events {
		if e.Name == kind {
			n++
		}
	}
	return n
}
