package web

import (
	"cmp"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

// view is a snapshot in the words of the page.
type view struct {
	Cluster, Node string
	Title         string
	AsOf          stamp
	Verdict       verdict
	Reasons       [][]piece
	Ring          ring
	Nodes         []nodeRow
	Volumes       []volumeView
	Addresses     []addressRow
	Matrix        matrix
	Services      []serviceRow
	Machines      *machinesView // nil: the cluster has no machines
	Failovers     []failoverView
	Known         int // records of failovers, of which the newest are shown
	Generation    uint32
}

type stamp struct{ Machine, Shown string }

type verdict struct {
	Word, Mark string
	Says       string // the verdict as a sentence
	Headline   string // who is master, and how the standbys are
}

type nodeRow struct {
	Name             string
	Here, Master     bool
	State, Mark      string
	Role             string
	InSync, Eligible string
	Links, LinksMark string
	Heartbeats       string
	Since            string
}

type volumeView struct {
	Name, Path, State, Mark string
	Notes                   []string
	Proof                   string
	Standbys                []standbyRow
}

type standbyRow struct {
	From, To             string
	State, Mark          string
	Lag, Pending, Proven string
	Since, Progress      string
}

type addressRow struct{ Address, Holder, Mark string }

type serviceRow struct {
	Name, State, Mark, Required, How, Since, Error string
	Restarts                                       int
}

func newView(s Snapshot) *view {
	st, now := &s.Status, s.Status.AsOf
	v := &view{Cluster: st.Cluster, Node: string(st.Node), AsOf: stamp{now.Format(time.RFC3339), now.Format("15:04:05")}, Known: len(s.Records), Generation: st.Generation}
	v.Verdict = verdictOf(st)
	v.Title = fmt.Sprintf("%s · %s", orUnknown(st.Verdict), st.Cluster)
	for _, r := range st.Reasons {
		v.Reasons = append(v.Reasons, pieces(r))
	}
	v.Ring = ringOf(st)
	for _, n := range st.Nodes {
		v.Nodes = append(v.Nodes, nodeOf(n, st, now))
	}
	for _, x := range st.Volumes {
		v.Volumes = append(v.Volumes, volumeOf(x, st, now))
	}
	for _, a := range st.VIPs {
		v.Addresses = append(v.Addresses, addressOf(a))
	}
	v.Matrix = matrixOf(st)
	for _, x := range st.Services {
		v.Services = append(v.Services, serviceRow{Name: x.Name, State: orUnknown(x.State), Mark: serviceMark(x.State), How: x.How, Since: since(x.Since, now), Error: x.LastError,
			Required: map[bool]string{true: "required", false: "not required"}[x.Required], Restarts: x.Restarts})
	}
	v.Machines = machinesOf(s.VMs, now)
	v.Failovers = failoversOf(s.Records, now)
	return v
}

// verdictOf says in words how things are.
func verdictOf(st *control.Status) verdict {
	v := verdict{Word: orUnknown(st.Verdict), Mark: verdictMark(st.Verdict)}
	switch st.Verdict {
	case control.OK:
		v.Says = "All is well"
	case control.Warning:
		v.Says = plural(len(st.Reasons), "warning")
	case control.Critical:
		v.Says = "It needs you now"
	default:
		v.Word, v.Says = control.Unknown, "How it is, is unknown"
	}
	v.Headline = headline(st)
	return v
}

func headline(st *control.Status) string {
	text := ""
	switch st.Master {
	case "none":
		return "No node is master: nobody answers at the addresses."
	case control.Unknown, "":
		return "Who is master is unknown."
	default:
		text = fmt.Sprintf("%s is master", st.Master)
	}
	if n := standing(st); n.all > 0 {
		text += fmt.Sprintf("; %d of %s in-sync", n.inSync, plural(n.all, "standby"))
	}
	return text + "."
}

type tally struct{ inSync, all int }

// standing counts the standbys that are in-sync with every volume.
func standing(st *control.Status) (n tally) {
	well := map[cluster.NodeID]bool{}
	for _, v := range st.Volumes {
		for _, sb := range v.Standbys {
			before, seen := well[sb.Node]
			well[sb.Node] = sb.State == "in-sync" && (before || !seen)
		}
	}
	for _, yes := range well {
		n.all++
		if yes {
			n.inSync++
		}
	}
	return n
}

func nodeOf(n control.Node, st *control.Status, now time.Time) nodeRow {
	r := nodeRow{Name: string(n.Name), Here: n.Name == st.Node, Master: string(n.Name) == st.Master, State: orUnknown(n.State), Mark: nodeMark(n.State), Role: orUnknown(n.Role),
		InSync: triWord(n.InSync, "in-sync", "not in-sync"), Since: since(n.Since, now)}
	if r.Master || n.State != "alive" && r.Role == control.Unknown {
		r.Role = "" // said already, and not to be expected
	}
	r.Eligible = triWord(n.Eligible, "may lead", "may not lead")
	if n.WhyNot != "" {
		r.Eligible += ": " + n.WhyNot
	}
	if n.Maintenance == control.Yes {
		r.Eligible = "in maintenance"
	}
	if n.Hold == control.Yes {
		r.Eligible += "; on hold"
	}
	r.Links, r.LinksMark = linksText(n.Links)
	r.Heartbeats = heartbeats(n.Links)
	return r
}

// linksText counts the links that are up, and names the others.
func linksText(links []control.Link) (text, mark string) {
	if len(links) == 0 {
		return control.Unknown, unclear
	}
	up, rest := 0, ""
	mark = good
	for _, l := range links {
		switch l.Up {
		case control.Yes:
			up++
			continue
		case control.No:
			mark = warn
			rest += fmt.Sprintf(", %s down", l.Name)
		default:
			rest += fmt.Sprintf(", %s unknown", l.Name)
			if mark == good {
				mark = unclear
			}
		}
	}
	if up == 0 && mark == warn {
		mark = bad
	}
	return fmt.Sprintf("%d of %d up%s", up, len(links), rest), mark
}

// heartbeats is the worst of a node's links, as this node hears it.
func heartbeats(links []control.Link) string {
	var worst *control.Quality
	var name cluster.LinkID
	for _, l := range links {
		if q := l.Quality; q != nil && (worst == nil || cmp.Or(cmp.Compare(q.Loss, worst.Loss), cmp.Compare(q.Gap, worst.Gap)) > 0) {
			worst, name = q, l.Name
		}
	}
	if worst == nil {
		return ""
	}
	return fmt.Sprintf("%s: %.1f %% lost, jitter %.1f ms, p99.9 gap %.0f ms", name, 100*worst.Loss, worst.Jitter, worst.Gap)
}

func volumeOf(x control.Volume, st *control.Status, now time.Time) volumeView {
	v := volumeView{Name: string(x.Name), Path: x.Path, State: orUnknown(x.State), Mark: volumeMark(x.State), Proof: proofText(x.Proof, now)}
	note := func(text string) {
		if text != "" {
			v.Notes = append(v.Notes, text)
		}
	}
	note(x.Problem)
	note(x.Alarm)
	note(x.OnChange)
	if x.Owed > 0 {
		note(plural(x.Owed, "large file") + " on the way to " + string(st.Node))
	}
	if x.Divergent > 0 {
		note(plural(x.Divergent, "divergent change") + " kept aside on " + string(st.Node))
	}
	if t := x.Trash; t.Bytes > 0 || t.Kept > 0 {
		note(fmt.Sprintf("trash on %s holds %s", st.Node, size(t.Bytes)))
	}
	for _, sb := range x.Standbys {
		r := standbyRow{From: orUnknown(st.Master), To: string(sb.Node), State: orUnknown(sb.State), Mark: standbyMark(sb.State), Lag: lagText(sb.LagMS), Pending: countText(sb.Pending),
			Since: since(sb.Since, now), Progress: progressText(sb), Proven: "not yet"}
		if !sb.Proven.IsZero() {
			r.Proven = before(sb.Proven, now)
		} else if sb.State == control.Unknown {
			r.Proven = control.Unknown
		}
		v.Standbys = append(v.Standbys, r)
	}
	return v
}

func proofText(p *control.ProofStatus, now time.Time) string {
	switch {
	case p == nil:
		return "not proven from here yet"
	case p.Running:
		return fmt.Sprintf("a proof runs: %s of %s so far", size(p.Bytes), plural(int(p.Files), "file"))
	case p.Ended.IsZero():
		return "a proof was begun " + before(p.Began, now) + " and did not end"
	case p.Differences > 0:
		return fmt.Sprintf("last proof %s: %s left", before(p.Ended, now), plural(int(p.Differences), "difference"))
	}
	return fmt.Sprintf("proven equal %s: %s, %s", before(p.Ended, now), grouped(p.Files)+" files", size(p.Bytes))
}

// progressText is how far a standby has come that does not have everything.
func progressText(sb control.Standby) string {
	p := sb.Progress
	if p == nil || sb.State == "in-sync" && sb.Owed <= 0 {
		return ""
	}
	text := size(p.Bytes)
	if p.BytesTotal >= 0 {
		text += " of " + size(int64(p.BytesTotal))
	}
	text += " sent"
	if p.FilesTotal < 0 && p.Names > 0 {
		text = fmt.Sprintf("comparing: %s names looked at, ", grouped(p.Names)) + text
	}
	if p.BytesPerSecond > 0 {
		text += fmt.Sprintf(", %s/s", size(p.BytesPerSecond))
	}
	if p.LeftSeconds >= 0 {
		text += ", about " + long(time.Duration(p.LeftSeconds)*time.Second) + " left"
	}
	return text
}

func addressOf(a control.VIP) addressRow {
	r := addressRow{Address: a.Address, Holder: a.Holder, Mark: good}
	switch a.Holder {
	case "none":
		r.Holder, r.Mark = "nobody holds it", bad
	case control.Unknown, "":
		r.Holder, r.Mark = control.Unknown, unclear
	}
	return r
}
