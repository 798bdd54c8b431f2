package alarm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
)

// The states of a message.
const (
	Firing   = "firing"
	Resolved = "resolved"
	Tested   = "test"
)

// Message is a group as people read it.
type Message struct {
	Group    string         `json:"group"`
	Cluster  string         `json:"cluster"`
	Node     cluster.NodeID `json:"node"` // who tells it
	State    string         `json:"state"`
	Severity string         `json:"severity"`
	Title    string         `json:"title"`
	Lines    []string       `json:"lines"`
	Began    time.Time      `json:"began"`
	Resolved time.Time      `json:"resolved,omitzero"`
	Alarms   []Entry        `json:"alarms"`
}

// Text is the message without its title.
func (m Message) Text() string { return strings.Join(m.Lines, "\n") }

// maxLines bounds the alarms that a message lists; the others are counted.
const maxLines = 20

// Message is the group as it is now, told by node.
func (g *Group) Message(clusterName string, node cluster.NodeID, now time.Time) Message {
	m := Message{Group: g.ID, Cluster: clusterName, Node: node, State: Firing, Severity: g.Severity(), Began: g.Began, Resolved: g.Resolved, Alarms: slices.Clone(g.Entries)}
	slices.SortStableFunc(m.Alarms, func(a, b Entry) int { return order(a) - order(b) })
	open := 0
	for _, e := range m.Alarms {
		if e.Closed.IsZero() {
			open++
		}
	}
	switch {
	case !g.Resolved.IsZero():
		m.State = Resolved
		m.Title = fmt.Sprintf("%s: over after %s: %s", clusterName, span(g.Resolved.Sub(g.Began)), first(m.Alarms))
	case open > 0:
		m.Title = fmt.Sprintf("%s: %s: %s", clusterName, strings.ToUpper(m.Severity), first(m.Alarms))
	default:
		m.Title = fmt.Sprintf("%s: calming down: %s", clusterName, first(m.Alarms))
	}
	if more := max(open, 1) - 1; more > 0 && m.State == Firing {
		m.Title += fmt.Sprintf(" (and %d more)", more)
	}
	for i, e := range m.Alarms {
		if i == maxLines {
			m.Lines = append(m.Lines, fmt.Sprintf("... and %d more: revolve alarm list", len(m.Alarms)-i))
			break
		}
		m.Lines = append(m.Lines, e.line())
	}
	if m.State == Firing {
		m.Lines = append(m.Lines, fmt.Sprintf("since %s, told by %s; revolve status says how it is", g.Began.UTC().Format("2006-01-02 15:04:05 UTC"), node))
	}
	return m
}

// line says state in a word, so that neither a colour nor a sign is needed.
func (e Entry) line() string {
	if !e.Closed.IsZero() {
		return fmt.Sprintf("over: %s: %s (for %s)", e.Kind, e.Text, span(e.Closed.Sub(e.Began)))
	}
	return fmt.Sprintf("%s: %s: %s", e.Severity, e.Kind, e.Text)
}

// order puts what stands first, then the worse.
func order(e Entry) int {
	if e.Closed.IsZero() {
		return rank(e.Alarm)
	}
	return 2*len(Kinds()) + rank(e.Alarm)
}

func first(entries []Entry) string {
	if len(entries) == 0 {
		return "nothing"
	}
	return plain(entries[0].Text, 100)
}

// span is a time as people say it: two units.
func span(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return d.String()
}

// TestMessage proves that alarms arrive.
func TestMessage(clusterName string, node cluster.NodeID, now time.Time) Message {
	k, _ := KindOf(Test)
	e := Entry{Alarm: Alarm{Kind: Test, Severity: Warning, Text: "a test: alarms of " + clusterName + " arrive here", Node: string(node)}, Began: now, Last: now, Closed: now}
	return Message{Group: fmt.Sprintf("test-%d-%s", now.UnixMilli(), node), Cluster: clusterName, Node: node, State: Tested, Severity: Warning,
		Title: clusterName + ": a test alarm", Lines: []string{k.Means + ".", fmt.Sprintf("sent by %s at %s", node, now.UTC().Format("2006-01-02 15:04:05 UTC"))}, Began: now, Resolved: now, Alarms: []Entry{e}}
}

// What is to be done for a group on a channel.
const (
	Nothing = iota
	Post    // a message of its own
	Update  // the message that is there is edited
)

// Due is what a channel still has to do for the group; edits: its messages can be edited.
func (g *Group) Due(channel string, edits bool) int {
	r, owed := g.Receipts[channel]
	switch {
	case g.Loud == 0 || !owed && !g.Resolved.IsZero(): // the channel was not there while it stood
		return Nothing
	case g.Loud > r.Loud:
		return Post
	case edits && r.Message != "" && g.Edit > r.Edit:
		return Update
	case (!edits || r.Message == "") && g.News > r.News: // a place that refused the message has none to edit
		return Post
	}
	return Nothing
}

// Done takes note that a channel has told the group as it was in message.
func (b *Book) Done(channel string, told Group, message string) {
	for i := range b.Groups {
		if b.Groups[i].ID != told.ID {
			continue
		}
		receipts := map[string]Receipt{}
		maps.Copy(receipts, b.Groups[i].Receipts)
		receipts[channel] = Receipt{Loud: told.Loud, News: told.News, Edit: told.Edit, Message: plain(message, maxName)}
		b.Groups[i].Receipts = receipts
	}
}

// Bounds of a book that another node tells.
const (
	maxChannels = 64
	maxCount    = 1 << 30
)

// Sane cuts a book of another node down to what one may be.
func (b Book) Sane(now time.Time) Book {
	out := Book{Tested: past(b.Tested, now)}
	for _, g := range b.Groups[:min(len(b.Groups), maxGroups)] {
		if g.ID = plain(g.ID, maxName); g.ID == "" || len(g.Receipts) > maxChannels || g.Loud < 0 || g.News < 0 || g.Edit < 0 || max(g.Loud, g.News, g.Edit) > maxCount {
			continue
		}
		if !g.Resolved.IsZero() && now.Sub(g.Resolved) > keepGroups {
			continue // forgotten here already: it must not come back from there
		}
		g.Began, g.Changed, g.Resolved, g.LoudAt, g.NewsAt = past(g.Began, now), past(g.Changed, now), past(g.Resolved, now), past(g.LoudAt, now), past(g.NewsAt, now)
		var entries []Entry
		for _, e := range g.Entries[:min(len(g.Entries), maxEntries)] {
			a, known := e.Sane()
			if !known {
				continue
			}
			entries = append(entries, Entry{Alarm: a, Began: past(e.Began, now), Last: past(e.Last, now), Closed: past(e.Closed, now), Again: min(max(e.Again, 0), 100)})
		}
		receipts := map[string]Receipt{}
		for c, r := range g.Receipts {
			r.Message = plain(r.Message, maxName)
			receipts[plain(c, maxName)] = r
		}
		g.Entries, g.Receipts = entries, receipts
		if len(entries) > 0 || !g.Resolved.IsZero() {
			out.Groups = append(out.Groups, g)
		}
	}
	for _, x := range b.Silences[:min(len(b.Silences), MaxSilences)] {
		if _, known := KindOf(x.Kind); known || x.Kind == All {
			x.Subject, x.By, x.Changed = plain(x.Subject, maxName), plain(x.By, maxName), past(x.Changed, now)
			if most := now.Add(MaxSilence); x.Until.After(most) {
				x.Until = most
			}
			out.Silences = append(out.Silences, x)
		}
	}
	return out
}

// past is a time, at most now: a clock that is ahead elsewhere does not win for ever.
func past(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
