package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type statusCommand struct {
	Watch bool `short:"w" aliases:"live" help:"Show it live, until q or Ctrl-C (? shows the keys); without a terminal, one block per change."`
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
	if c.Watch {
		return watchStatus(ctx, e)
	}
	s, err := control.Dial(e.state).Status(ctx)
	if err != nil {
		report(e, err)
		if s = noAnswer(err); !e.json {
			return exitWith(s.Verdict)
		}
	}
	if err := e.answer(s, statusText(s, time.Now())); err != nil {
		return err
	}
	return exitWith(s.Verdict)
}

// noAnswer is what is known when no agent answers: nothing.
func noAnswer(err error) control.Status {
	s := control.Status{AsOf: time.Now(), Master: control.Unknown, Verdict: control.Unknown, Reasons: []string{err.Error()},
		Nodes: []control.Node{}, VIPs: []control.VIP{}, Pairs: []control.Pair{}, Volumes: []control.Volume{}, Services: []control.Service{}, Beat: control.Beat{Refused: []string{}},
		Isolation: control.Isolation{Policy: control.Unknown, Patience: -1, References: []control.Reference{}}}
	if hint := problem.HintOf(err); hint != "" {
		s.Reasons = append(s.Reasons, hint)
	}
	return s
}

func exitWith(v string) error {
	if v == control.OK {
		return nil
	}
	return verdict(v)
}

// statusText is the status for people, at most 80 columns wide.
func statusText(s control.Status, now time.Time) string {
	var b strings.Builder
	b.WriteString(wrapped(fmt.Sprintf("%s: %s", s.Verdict, headline(s)), "  "))
	for _, r := range s.Reasons {
		b.WriteString(wrapped("  # "+r, "    "))
	}
	rows := [][]string{{"NODE", "STATE", "ROLE", "IN-SYNC", "ELIGIBLE", "LINKS UP", "SINCE"}}
	for _, n := range s.Nodes {
		name := cut(string(n.Name), nameWidth)
		if n.Name == s.Node {
			name += " *"
		}
		rows = append(rows, []string{name, n.State, n.Role, yesNo(n.InSync), eligibleText(n), linksText(n.Links), ago(n.Since, now)})
	}
	b.WriteString(table(rows))
	b.WriteString(pairsText(s))
	b.WriteString(qualityText(s))
	b.WriteString(limitText(s))
	rows = [][]string{{"ADDRESS", "HOLDER"}}
	for _, v := range s.VIPs {
		rows = append(rows, []string{v.Address, v.Holder})
	}
	b.WriteString(table(rows))
	b.WriteString(isolationText(s.Isolation))
	rows = [][]string{{"VOLUME", "FROM -> TO", "STATE", "LAG", "PENDING", "POSITION", "SINCE"}}
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			rows = append(rows, []string{cut(string(v.Name), nameWidth), fmt.Sprintf("%s -> %s", cut(s.Master, nameWidth), cut(string(sb.Node), nameWidth)), sb.State, countText(sb.LagMS, " ms"), countText(sb.Pending, ""), positionText(sb), ago(sb.Since, now)})
			if p := standbyProgress(sb); p != "" {
				rows = append(rows, []string{"  " + p})
			}
		}
	}
	b.WriteString(table(rows))
	for _, v := range s.Volumes {
		b.WriteString(provenText(v, now))
		b.WriteString(watchText(v))
	}
	for _, v := range s.Volumes {
		if x := v.Trash; x.Kept+x.Bytes+x.Skipped+x.Dropped > 0 {
			b.WriteString(wrapped(fmt.Sprintf("\ntrash of %s on %s: %d versions since start, %s held, %d skipped, %d gone early", v.Name, s.Node, x.Kept, size(x.Bytes), x.Skipped, x.Dropped), "  "))
		}
	}
	b.WriteString(servicesText(s, now))
	return b.String()
}

// qualityText is one line about the worst of the links: by loss, then by the gaps.
func qualityText(s control.Status) string {
	var worst *control.Quality
	where := ""
	for _, n := range s.Nodes {
		for _, l := range n.Links {
			if q := l.Quality; q != nil && (worst == nil || cmp.Or(cmp.Compare(q.Loss, worst.Loss), cmp.Compare(q.Gap, worst.Gap)) > 0) {
				worst, where = q, fmt.Sprintf("%s on %s", cut(string(n.Name), nameWidth), cut(string(l.Name), nameWidth))
			}
		}
	}
	if worst == nil {
		return ""
	}
	return wrapped(fmt.Sprintf("heartbeats, at worst (%s): loss %.1f %%, jitter %.1f ms, p99.9 gap %.0f ms", where, 100*worst.Loss, worst.Jitter, worst.Gap), "  ")
}

// servicesText is the table of the services, where there are any.
func servicesText(s control.Status, now time.Time) string {
	if len(s.Services) == 0 {
		return ""
	}
	rows := [][]string{{"SERVICE ON " + string(s.Node), "STATE", "REQUIRED", "RUN AS", "RESTARTS", "SINCE"}}
	for _, v := range s.Services {
		required := map[bool]string{true: "yes", false: "no"}[v.Required]
		rows = append(rows, []string{string(v.Name), v.State, required, cmp.Or(v.How, "-"), fmt.Sprint(v.Restarts), ago(v.Since, now)})
	}
	return table(rows)
}

// nameWidth is how much of a name a table shows: the rest of its row must fit beside it.
const nameWidth = 12

// table aligns columns below a heading, after an empty line; a row of one cell is a line of its own. What does not fit is cut, with a mark.
func table(rows [][]string) string {
	if len(rows) < 2 {
		return "" // nothing but a heading
	}
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if len(r) > 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	var b strings.Builder
	b.WriteByte('\n')
	for _, r := range rows {
		if len(r) == 1 {
			b.WriteString(wrapped(r[0], "    "))
			continue
		}
		var line strings.Builder
		for i, cell := range r {
			line.WriteString(cell)
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]+2-utf8.RuneCountInString(cell)))
			}
		}
		b.WriteString(cut(strings.TrimRight(line.String(), " "), textWidth) + "\n")
	}
	return b.String()
}

// cut shortens a line to a width.
func cut(line string, width int) string {
	if r := []rune(line); len(r) > width {
		return string(r[:max(0, width-1)]) + "…"
	}
	return line
}

func headline(s control.Status) string {
	switch s.Master {
	case "none":
		return "no node is master"
	case control.Unknown, "":
		return "who is master is unknown"
	}
	text := fmt.Sprintf("%s is master, term %d", s.Master, s.Term)
	insync, all := map[cluster.NodeID]bool{}, map[cluster.NodeID]bool{}
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			if _, seen := all[sb.Node]; !seen {
				insync[sb.Node] = true
			}
			all[sb.Node] = true
			insync[sb.Node] = insync[sb.Node] && sb.State == "in-sync"
		}
	}
	n := 0
	for _, yes := range insync {
		if yes {
			n++
		}
	}
	if len(all) > 0 {
		text += fmt.Sprintf("; %d of %d standbys in-sync", n, len(all))
	}
	return text
}

func eligibleText(n control.Node) string {
	if n.Maintenance == control.Yes {
		return "maintenance"
	}
	return yesNo(n.Eligible)
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

// watchText is how a volume's changes are seen where it leads: the lag of the last hour, and what nothing notifies of.
func watchText(v control.Volume) string {
	var parts []string
	for _, sb := range v.Standbys {
		if sb.LagP99 > 0 {
			parts = append(parts, fmt.Sprintf("%s p50 %.1f ms, p99 %.1f ms", cut(string(sb.Node), nameWidth), sb.LagP50, sb.LagP99))
		}
	}
	text := ""
	if len(parts) > 0 {
		text = wrapped(fmt.Sprintf("\n%s, lag of the last hour: %s", v.Name, strings.Join(parts, "; ")), "  ")
	}
	if v.Live != nil && v.Live.Files > 0 {
		text += wrapped(fmt.Sprintf("%s: %d files are open for writing; a change of them that the kernel does not tell of is found within %.0f s", v.Name, v.Live.Files, math.Ceil(v.Live.Bound)), "  ")
	}
	if e := v.Events; e != nil && e.Foreign > 0 {
		text += wrapped(fmt.Sprintf("%s: of %d notifications %d were of changes elsewhere on its file system", v.Name, e.Read, e.Foreign), "  ")
	}
	return text
}

// limitText is how much this node may send over its links now, where that is limited.
func limitText(s control.Status) string {
	var limits []string
	for _, n := range s.Nodes {
		for _, l := range n.Links {
			if l.Limit > 0 {
				limits = append(limits, fmt.Sprintf("%s/s on %s", size(l.Limit), cut(string(l.Name), nameWidth)))
			}
		}
	}
	if len(limits) == 0 {
		return ""
	}
	return wrapped(fmt.Sprintf("sent from %s to standbys: at most %s now", s.Node, strings.Join(limits, ", ")), "  ")
}

// linksText counts the links that are up, and names the others.
func linksText(links []control.Link) string {
	up, text := 0, ""
	for _, l := range links {
		switch l.Up {
		case control.Yes:
			up++
		case control.No:
			text += fmt.Sprintf(", %s down", l.Name)
		default:
			text += fmt.Sprintf(", %s unknown", l.Name)
		}
	}
	if len(links) == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d%s", up, len(links), text)
}

// standbyProgress is how far a standby has come that does not have everything; "" if there is nothing to say.
func standbyProgress(s control.Standby) string {
	p := s.Progress
	switch {
	case s.Restless != nil:
		return restlessText(s.Restless)
	case p == nil && s.Owed > 0:
		return fmt.Sprintf("%d large files on the way", s.Owed)
	case p == nil || s.State == "in-sync" && s.Owed <= 0:
		return ""
	}
	return progressText(p)
}

// restlessText says what is behind because it never stands still.
func restlessText(r *control.Restless) string {
	text := fmt.Sprintf("%s is written without pause, and behind since %s", r.Path, r.Since.Local().Format(time.TimeOnly))
	if r.Files > 1 {
		text += fmt.Sprintf(" (with %d more)", r.Files-1)
	}
	return text
}

// progressText says what is done, of how much, how fast, and how long it will take; what is not known it does not guess.
func progressText(p *control.Progress) string {
	var parts []string
	if p.FilesTotal < 0 && p.Names > 0 {
		parts = append(parts, fmt.Sprintf("looked at %d names", p.Names))
	}
	if p.Files > 0 || p.FilesTotal > 0 {
		parts = append(parts, ofTotal(fmt.Sprint(p.Files), p.FilesTotal, fmt.Sprint(p.FilesTotal))+" files", ofTotal(size(p.Bytes), p.BytesTotal, size(int64(p.BytesTotal))))
	}
	if p.ChangesTotal > control.Count(p.Changes) {
		parts = append(parts, fmt.Sprintf("%d of %d changes", p.Changes, p.ChangesTotal))
	}
	if p.BytesPerSecond > 0 {
		parts = append(parts, size(p.BytesPerSecond)+"/s")
	}
	switch {
	case p.LeftSeconds >= 0:
		parts = append(parts, "about "+short(time.Duration(p.LeftSeconds)*time.Second)+" left")
	case p.FilesTotal < 0:
		parts = append(parts, "total not known yet")
	}
	return strings.Join(parts, ", ")
}

func ofTotal(n string, total control.Count, text string) string {
	if total < 0 {
		return n
	}
	return n + " of " + text
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
	return short(now.Sub(at))
}

// short is a duration in a few letters.
func short(d time.Duration) string {
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
