package cli

import (
	"fmt"
	"strings"

	"revolve/internal/control"
)

// isolationText is what the node would do that hears no other one, where that is
// anything but the usual: serve, as the last one left.
func isolationText(i control.Isolation) string {
	var parts []string
	if w := i.Witness; w != nil {
		parts = append(parts, fmt.Sprintf("witness %s %s", w.Address, witnessText(w)))
	}
	for _, r := range i.References {
		parts = append(parts, fmt.Sprintf("reference %s %s", r.Address, map[control.Tri]string{control.Yes: "answers", control.No: "silent"}[r.Up]+unknownText(r.Up)))
	}
	text := ""
	if i.Policy == "release" || len(parts) > 0 {
		text = wrapped("isolation: "+strings.Join(append([]string{i.Policy + isolatedText(i.Isolated)}, parts...), "; "), "  ")
	}
	if i.Patience > 1 {
		text += wrapped(fmt.Sprintf("damped: silence is borne %d times as long", i.Patience), "  ")
	}
	return text
}

func isolatedText(t control.Tri) string {
	if t == control.Yes {
		return " (isolated: it does not serve)"
	}
	return ""
}

func unknownText(t control.Tri) string {
	if t == control.NotKnown {
		return control.Unknown
	}
	return ""
}

// witnessText is the state of the witness, whom it lets lead, and how fast it is.
func witnessText(w *control.Witness) string {
	if w.State != "reachable" && w.State != "refusing" {
		return w.State
	}
	leads := "lets " + w.Leads + " lead"
	if w.Leads == "none" {
		leads = "lets nobody lead yet"
	}
	return fmt.Sprintf("%s (%s, %.1f ms)", w.State, leads, w.Took)
}
