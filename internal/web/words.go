package web

import (
	"fmt"
	"strings"
	"time"

	"revolve/internal/control"
	"revolve/internal/failover/history"
)

// The shapes that stand for states beside their words. What is not one of the known
// words is unknown: nothing that this version does not understand looks well.
const (
	good    = "ok"
	warn    = "warn"
	bad     = "bad"
	off     = "off"
	unclear = "unknown"
)

func nodeMark(state string) string {
	return lookup(state, map[string]string{"alive": good, "suspect": warn, "dead": bad, "off": off})
}

func standbyMark(state string) string {
	return lookup(state, map[string]string{"in-sync": good, "lagging": warn, "catching-up": warn})
}

func volumeMark(state string) string {
	return lookup(state, map[string]string{"leading": good, "following": good, "waiting": warn, "broken": bad, "paused": bad})
}

func serviceMark(state string) string {
	return lookup(state, map[string]string{"healthy": good, "starting": warn, "ill": bad})
}

func verdictMark(verdict string) string {
	return lookup(verdict, map[string]string{control.OK: good, control.Warning: warn, control.Critical: bad})
}

func lookup(word string, marks map[string]string) string {
	if m, ok := marks[word]; ok {
		return m
	}
	return unclear
}

func triWord(t control.Tri, yes, no string) string {
	switch t {
	case control.Yes:
		return yes
	case control.No:
		return no
	}
	return control.Unknown
}

func orUnknown(word string) string {
	if word == "" {
		return control.Unknown
	}
	return word
}

// long is a duration as one says it.
func long(d time.Duration) string {
	switch {
	case d < time.Second:
		return "a moment"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

func since(at, now time.Time) string {
	if at.IsZero() {
		return control.Unknown
	}
	return long(now.Sub(at))
}

func before(at, now time.Time) string {
	if at.IsZero() {
		return control.Unknown
	}
	return long(now.Sub(at)) + " ago"
}

// lagText is how far behind a standby is.
func lagText(ms control.Count) string {
	switch {
	case ms < 0:
		return control.Unknown
	case ms < 1000:
		return fmt.Sprintf("%d ms", ms)
	case ms < 120_000:
		return fmt.Sprintf("%.1f s", float64(ms)/1000)
	}
	return long(time.Duration(ms) * time.Millisecond)
}

func millis(p *float64) string {
	switch {
	case p == nil:
		return control.Unknown
	case *p < 10_000:
		return fmt.Sprintf("%.0f ms", *p)
	}
	return fmt.Sprintf("%.1f s", *p/1000)
}

func countText(c control.Count) string {
	if c < 0 {
		return control.Unknown
	}
	return grouped(int64(c))
}

// grouped is a number with thin spaces between its thousands.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u2009" + s[i:]
	}
	return s
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func size(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// causeText is why a reign ended, in a sentence.
func causeText(r history.Record) string {
	from := orUnknown(string(r.From))
	switch r.Cause {
	case history.CauseSilence:
		return from + " was heard no more"
	case history.CauseSwitch:
		text := from + " handed over"
		if r.Ordered != nil {
			text += map[string]string{history.WhySwitch: ", as ordered", history.WhyRehearsal: ", in a rehearsal", history.WhyMaintenance: " for maintenance",
				history.WhyFailback: ", back to the node of higher priority", history.WhyIll: ", being ill"}[r.Ordered.Why]
		}
		return text
	case history.CauseStopped:
		return from + " was stopped in order"
	case history.CauseAside:
		return from + " stepped aside"
	case history.CauseReleased:
		return from + " gave the addresses up"
	case history.CauseFenced:
		return from + " was late, and deleted its own addresses"
	case history.CauseStart:
		return "no master was known: a start"
	case history.CauseAgain:
		return "it had been master itself"
	case history.CauseMet:
		return "two masters met, and this one stayed"
	}
	return "cause " + r.Cause
}

// piece is a part of a text: words, or a command to type.
type piece struct {
	Text string
	Code bool
}

// pieces splits a text where it quotes commands by backticks.
func pieces(text string) (out []piece) {
	for i, p := range strings.Split(text, "`") {
		if p != "" {
			out = append(out, piece{p, i%2 == 1})
		}
	}
	return out
}

// cut shortens a name to so many letters.
func cut(name string, n int) string {
	if r := []rune(name); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return name
}
