package alarm

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"revolve/internal/cluster"
)

const (
	// groupWait is how long a group waits for what belongs to it: a failover, and what follows from it, is over by then.
	groupWait = 10 * time.Second
	// joinFor is how long an open group takes in what else arises.
	joinFor = 5 * time.Minute
	// newsEvery is the least time between two messages about the same group, unless it becomes worse.
	newsEvery = time.Minute
	// calm is how long an alarm has been gone before it is over; it doubles each time that it came back, up to calmMost.
	calm     = 30 * time.Second
	calmMost = 16 * time.Minute
	// What stands is told again.
	repeatCritical = 4 * time.Hour
	repeatWarning  = 24 * time.Hour
	// maxGroups and maxEntries bound the book: what a week of bad nights has.
	maxGroups  = 32
	maxEntries = 32
	keepGroups = 7 * 24 * time.Hour
	// MaxSilences bounds what people may silence at once.
	MaxSilences = 32
	// MaxSilence is the longest silence: one that is forgotten ends.
	MaxSilence = 30 * 24 * time.Hour
)

// Entry is an alarm of a group.
type Entry struct {
	Alarm
	Began  time.Time `json:"began"`
	Last   time.Time `json:"last"`            // it was seen last
	Closed time.Time `json:"closed,omitzero"` // it is over
	Again  int       `json:"again,omitempty"` // how often it came back
}

// Receipt is how far a channel has told a group.
type Receipt struct {
	Loud    int    `json:"loud"`
	News    int    `json:"news"`
	Edit    int    `json:"edit"`
	Message string `json:"message,omitempty"` // how the channel calls the message, if it can be edited
}

func (r Receipt) sum() int { return r.Loud + r.News + r.Edit }

// Group is what arose together: one message.
type Group struct {
	ID       string             `json:"id"`
	Began    time.Time          `json:"began"`
	Changed  time.Time          `json:"changed"`
	Resolved time.Time          `json:"resolved,omitzero"`
	Entries  []Entry            `json:"entries"`
	Receipts map[string]Receipt `json:"receipts,omitempty"` // by channel
	// Loud counts what deserves a message of its own (it began, became worse, stands for long), News what deserves one where
	// a message cannot be edited (more alarms, the end), Edit every change.
	Loud   int       `json:"loud"`
	News   int       `json:"news"`
	Edit   int       `json:"edit"`
	LoudAt time.Time `json:"loud_at,omitzero"`
	NewsAt time.Time `json:"news_at,omitzero"`
	Fresh  bool      `json:"fresh,omitempty"` // there is news that waits for its time
}

// Silence is an order not to tell of a kind, or of one alarm of it.
type Silence struct {
	Kind    string    `json:"kind"`              // "all": every alarm
	Subject string    `json:"subject,omitempty"` // "": all of the kind
	Until   time.Time `json:"until"`             // past: it was taken back
	By      string    `json:"by,omitempty"`
	Changed time.Time `json:"changed"`
}

// All is the kind of a silence for everything.
const All = "all"

// Matches reports whether the silence is about the alarm at that time.
func (x Silence) Matches(a Alarm, now time.Time) bool {
	return now.Before(x.Until) && (x.Kind == All || x.Kind == a.Kind) && (x.Subject == "" || x.Subject == a.Subject)
}

// Book is what the nodes share: what was told, and what shall not be.
type Book struct {
	Groups   []Group   `json:"groups"`
	Silences []Silence `json:"silences"`
	Tested   time.Time `json:"tested,omitzero"` // the last test alarm of the schedule
}

// Silenced is the end of the silence that is about the alarm, zero if none is.
func (b *Book) Silenced(a Alarm, now time.Time) (until time.Time) {
	for _, x := range b.Silences {
		if x.Matches(a, now) && x.Until.After(until) {
			until = x.Until
		}
	}
	return until
}

// Silence takes an order into the book; one about the same replaces it.
func (b *Book) Silence(x Silence) {
	b.Silences = slices.DeleteFunc(b.Silences, func(y Silence) bool { return y.Kind == x.Kind && y.Subject == x.Subject })
	b.Silences = append(b.Silences, x)
	if over := len(b.Silences) - MaxSilences; over > 0 {
		slices.SortStableFunc(b.Silences, func(x, y Silence) int { return x.Until.Compare(y.Until) })
		b.Silences = b.Silences[over:]
	}
}

// State is a node's: the book, and since when what it sees has lasted.
type State struct {
	Book  Book
	since map[string]time.Time
	spoke bool // at the last moment
}

// Input is a moment.
type Input struct {
	Now    time.Time
	Node   cluster.NodeID
	Speaks bool
	Found  []Alarm // here, and told by the others
	// Channels are those that there are: a group is told where it could have been heard of.
	Channels []string
}

// Step takes a moment into the state. It reports whether the book changed.
func Step(st *State, in Input) (changed bool) {
	ripe, seen := st.ripen(in)
	began := in.Speaks && !st.spoke
	if st.spoke = in.Speaks; !in.Speaks {
		return false
	}
	changed = st.Book.dropTwins(in.Now)
	for i := range st.Book.Groups {
		g := &st.Book.Groups[i]
		if began {
			g.seenUntil(in.Now)
		}
		if g.Resolved.IsZero() {
			changed = g.follow(in.Now, seen) || changed
		}
	}
	for _, a := range ripe {
		changed = st.Book.open(a, in) || changed
	}
	for i := range st.Book.Groups {
		st.Book.Groups[i].address(in.Channels)
		changed = st.Book.Groups[i].speak(&st.Book, in.Now) || changed
	}
	return st.Book.forget(in.Now) || changed
}

// ripen remembers since when each alarm lasts, and gives those that have lasted long enough.
func (st *State) ripen(in Input) (ripe []Alarm, seen map[string]Alarm) {
	seen = map[string]Alarm{}
	since := map[string]time.Time{}
	for _, a := range in.Found {
		key := a.Key()
		if _, twice := seen[key]; twice {
			continue
		}
		seen[key], since[key] = a, in.Now
		if t, known := st.since[key]; known && !t.After(in.Now) {
			since[key] = t
		}
		if in.Now.Sub(since[key]) >= a.After {
			ripe = append(ripe, a)
		}
	}
	st.since = since
	return ripe, seen
}

// dropTwins leaves an alarm in one group, if two nodes that spoke at the same time have each begun one with it: in the older one.
func (b *Book) dropTwins(now time.Time) (changed bool) {
	in := map[string]bool{}
	for i := range b.Groups {
		g := &b.Groups[i]
		if !g.Resolved.IsZero() {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(g.Entries), func(e Entry) bool { return in[e.Key()] })
		for _, e := range rest {
			in[e.Key()] = true
		}
		if len(rest) == len(g.Entries) {
			continue
		}
		if g.Entries = rest; len(rest) == 0 {
			g.Resolved = now
		}
		g.edit(now)
		changed = true
	}
	return changed
}

// Well reports whether nothing critical stands of which people are to be told.
func (b *Book) Well(now time.Time) bool {
	for _, g := range b.Groups {
		for _, e := range g.Entries {
			if g.Resolved.IsZero() && e.Closed.IsZero() && e.Severity == Critical && b.Silenced(e.Alarm, now).IsZero() {
				return false
			}
		}
	}
	return true
}

// seenUntil has what stands count as seen until now: who begins to speak does not know yet what only others see.
func (g *Group) seenUntil(now time.Time) {
	for i := range g.Entries {
		if e := &g.Entries[i]; e.Closed.IsZero() {
			e.Last = now
		}
	}
}

// follow closes what has been gone for long enough, and opens again what came back.
func (g *Group) follow(now time.Time, seen map[string]Alarm) (changed bool) {
	for i := range g.Entries {
		e := &g.Entries[i]
		a, here := seen[e.Key()]
		switch {
		case here && e.Closed.IsZero():
			e.Last, e.Text = now, a.Text
			if a.Severity != e.Severity {
				if e.Severity = a.Severity; a.Severity == Critical {
					g.loud(now)
				}
				changed = true
			}
		case here: // before the group's end: the same trouble
			e.Last, e.Closed, changed = now, time.Time{}, true
			e.Again++
		case e.Closed.IsZero() && now.Sub(e.Last) >= e.calm():
			e.Closed, changed = now, true
		}
	}
	if changed {
		g.edit(now)
	}
	return changed
}

func (e *Entry) calm() time.Duration { return min(calm<<min(e.Again, 10), calmMost) }

func (g *Group) edit(now time.Time) { g.Edit, g.Changed = g.Edit+1, now }

func (g *Group) loud(now time.Time) {
	if g.Loud > 0 { // before its first message it is one message anyway
		g.Loud, g.LoudAt = g.Loud+1, now
	}
}

// open puts an alarm into a group, unless it is in one or silenced.
func (b *Book) open(a Alarm, in Input) bool {
	var into *Group
	for i := range b.Groups {
		g := &b.Groups[i]
		if !g.Resolved.IsZero() {
			continue
		}
		if slices.ContainsFunc(g.Entries, func(e Entry) bool { return e.Key() == a.Key() }) {
			return false
		}
		if in.Now.Sub(g.Began) < joinFor && len(g.Entries) < maxEntries {
			into = g
		}
	}
	if !b.Silenced(a, in.Now).IsZero() {
		return false
	}
	if into == nil {
		if len(b.Groups) >= maxGroups && !b.dropResolved() {
			return false
		}
		b.Groups = append(b.Groups, Group{ID: fmt.Sprintf("%d-%s", in.Now.UnixMilli(), in.Node), Began: in.Now, Receipts: map[string]Receipt{}})
		into = &b.Groups[len(b.Groups)-1]
	}
	if into.Severity() != Critical && a.Severity == Critical {
		into.loud(in.Now)
	}
	into.Entries = append(into.Entries, Entry{Alarm: a, Began: in.Now, Last: in.Now})
	into.Fresh = true
	into.edit(in.Now)
	return true
}

// address has every channel owe a group that stands: one that is new later is not told of its end.
func (g *Group) address(channels []string) {
	for _, c := range channels {
		if _, there := g.Receipts[c]; there || !g.Resolved.IsZero() {
			continue
		}
		receipts := map[string]Receipt{c: {}} // copies of the group are read elsewhere
		maps.Copy(receipts, g.Receipts)
		g.Receipts = receipts
	}
}

// Told reports whether some channel has told the group.
func (g *Group) Told() bool {
	for _, r := range g.Receipts {
		if r.sum() > 0 {
			return true
		}
	}
	return false
}

// dropResolved makes room: the oldest group that is over goes.
func (b *Book) dropResolved() bool {
	i := slices.IndexFunc(b.Groups, func(g Group) bool { return !g.Resolved.IsZero() })
	if i >= 0 {
		b.Groups = slices.Delete(b.Groups, i, i+1)
	}
	return i >= 0
}

// Severity is the worst of what stands in the group.
func (g *Group) Severity() string {
	for _, e := range g.Entries {
		if e.Severity == Critical && e.Closed.IsZero() {
			return Critical
		}
	}
	return Warning
}

// stands reports whether something in the group is open and not silenced.
func (g *Group) stands(b *Book, now time.Time) (open, heard bool) {
	for _, e := range g.Entries {
		if e.Closed.IsZero() {
			open = true
			heard = heard || b.Silenced(e.Alarm, now).IsZero()
		}
	}
	return open, heard
}

// speak decides whether the group deserves a message now.
func (g *Group) speak(b *Book, now time.Time) (changed bool) {
	if !g.Resolved.IsZero() {
		return false
	}
	open, heard := g.stands(b, now)
	again := repeatWarning
	if g.Severity() == Critical {
		again = repeatCritical
	}
	switch {
	case !open && g.Loud == 0: // it was over, or silenced, before anybody was told
		g.Resolved, g.Changed = now, now
		return true
	case !open:
		g.Resolved, g.Fresh = now, false
		g.News, g.NewsAt = g.News+1, now
	case !heard:
		return false
	case g.Loud == 0 && now.Sub(g.Began) >= groupWait:
		g.Loud, g.LoudAt, g.NewsAt, g.Fresh = 1, now, now, false
	case g.Loud > 0 && now.Sub(g.LoudAt) >= again:
		g.Loud, g.LoudAt = g.Loud+1, now
	case g.Loud > 0 && g.Fresh && now.Sub(g.NewsAt) >= newsEvery:
		g.News, g.NewsAt, g.Fresh = g.News+1, now, false
	default:
		return false
	}
	g.edit(now)
	return true
}

// forget removes what is over and old.
func (b *Book) forget(now time.Time) bool {
	groups, silences := len(b.Groups), len(b.Silences)
	b.Groups = slices.DeleteFunc(b.Groups, func(g Group) bool { return !g.Resolved.IsZero() && now.Sub(g.Resolved) > keepGroups })
	b.Silences = slices.DeleteFunc(b.Silences, func(x Silence) bool { return now.Sub(x.Until) > 24*time.Hour && now.Sub(x.Changed) > 24*time.Hour })
	return len(b.Groups) != groups || len(b.Silences) != silences
}

// Merge brings two books together: of what both have, what changed last counts. The result does not depend on the order.
func Merge(a, b Book) Book {
	byID := map[string]Group{}
	for _, g := range append(slices.Clone(a.Groups), b.Groups...) {
		old, both := byID[g.ID]
		if !both {
			byID[g.ID] = g
			continue
		}
		receipts := maps.Clone(old.Receipts)
		if receipts == nil {
			receipts = map[string]Receipt{}
		}
		for c, r := range g.Receipts {
			if had, there := receipts[c]; !there || r.sum() > had.sum() {
				receipts[c] = r
			}
		}
		last := lastSeen(old.Entries, g.Entries)
		if cmp.Or(g.Changed.Compare(old.Changed), cmp.Compare(g.Edit, old.Edit)) > 0 {
			old = g
		}
		old.Entries = slices.Clone(old.Entries)
		for i := range old.Entries {
			old.Entries[i].Last = last[old.Entries[i].Key()]
		}
		old.Receipts = receipts
		byID[g.ID] = old
	}
	out := Book{Tested: a.Tested}
	if b.Tested.After(a.Tested) {
		out.Tested = b.Tested
	}
	out.Groups = slices.SortedFunc(maps.Values(byID), func(x, y Group) int { return cmp.Or(x.Began.Compare(y.Began), cmp.Compare(x.ID, y.ID)) })
	for len(out.Groups) > maxGroups && out.dropResolved() {
	}
	out.Groups = out.Groups[max(0, len(out.Groups)-maxGroups):]
	for _, x := range append(slices.Clone(a.Silences), b.Silences...) {
		i := slices.IndexFunc(out.Silences, func(y Silence) bool { return y.Kind == x.Kind && y.Subject == x.Subject })
		if i < 0 || x.Changed.After(out.Silences[i].Changed) {
			out.Silence(x)
		}
	}
	return out
}

// lastSeen is when each alarm was seen last by either.
func lastSeen(lists ...[]Entry) map[string]time.Time {
	last := map[string]time.Time{}
	for _, e := range slices.Concat(lists...) {
		if e.Last.After(last[e.Key()]) {
			last[e.Key()] = e.Last
		}
	}
	return last
}
