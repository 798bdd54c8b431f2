package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/alarm"
	"revolve/internal/alarm/deliver"
	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

// This file is the host of the alarms: it looks once a second, keeps the book, and hands what is due to the channels.

const (
	// alarmsEvery is how often it is looked.
	alarmsEvery = time.Second
	// lookLate is how long ago it was looked when nobody may say any more that all is well.
	lookLate = 15 * time.Second
	// toldFor is how long what another node told of itself counts: some exchanges may be lost.
	toldFor = 20 * time.Second
	// maxBook is the size of a book on disk and between nodes.
	maxBook = 900 << 10
)

// alarms is what the agent knows about alarms.
type alarms struct {
	channels, beats []*deliver.Channel

	mu      sync.Mutex
	st      alarm.State
	speaks  bool
	well    bool // nothing critical stands that is not silenced
	looked  time.Time
	verdict string
	own     []alarm.Alarm // what only this node can know
	told    map[cluster.NodeID]toldAlarms
	results map[string]control.AlarmChannel
	testing map[string]bool // the channels that owe a test of the schedule

	due      map[string]chan struct{} // by channel: there may be something to do
	save     chan struct{}
	exchange chan struct{}
}

// toldAlarms is what another node said of itself.
type toldAlarms struct {
	at   time.Time
	list []alarm.Alarm
}

func (a *Agent) bookPath() string { return filepath.Join(a.o.State, "alarms.json") }

// openAlarms reads the book. One that cannot be read is begun anew: the worst is a message told twice.
func (a *Agent) openAlarms() {
	x := &alarms{channels: deliver.Channels(a.o.Config.Alarms), beats: deliver.Heartbeats(a.o.Config.Alarms), well: true, looked: time.Now(), told: map[cluster.NodeID]toldAlarms{},
		results: map[string]control.AlarmChannel{}, testing: map[string]bool{}, due: map[string]chan struct{}{}, save: make(chan struct{}, 1), exchange: make(chan struct{}, 1)}
	for _, c := range slices.Concat(x.channels, x.beats) {
		x.due[c.Name] = make(chan struct{}, 1)
		x.results[c.Name] = control.AlarmChannel{Name: c.Name}
	}
	a.alarms = x
	b, err := os.ReadFile(a.bookPath())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var book alarm.Book
	if err == nil {
		err = json.Unmarshal(b, &book)
	}
	if err != nil {
		a.o.Log.Warn("what was told of alarms is not known any more; messages may come twice", "file", a.bookPath(), "err", err)
		return
	}
	x.st.Book = book.Sane(time.Now())
}

// alarming runs everything about alarms until ctx ends.
func (a *Agent) alarming(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.watchAlarms(ctx) })
	g.Go(func() error { return a.keepBook(ctx) })
	if len(a.alarms.channels)+len(a.alarms.beats) > 0 {
		g.Go(func() error { return a.exchangeAlarms(ctx) })
	}
	for _, c := range a.alarms.channels {
		g.Go(func() error { return a.feed(ctx, c) })
	}
	for _, c := range a.alarms.beats {
		g.Go(func() error { return a.beatOutside(ctx, c) })
	}
	return g.Wait()
}

func (a *Agent) watchAlarms(ctx context.Context) error {
	tick := time.NewTicker(alarmsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			a.lookForAlarms(backend{a}.Status(), now)
		}
	}
}

// lookForAlarms takes one status into the book.
func (a *Agent) lookForAlarms(s control.Status, now time.Time) {
	found := alarm.Find(s)
	x := a.alarms
	x.mu.Lock()
	defer x.mu.Unlock()
	spoke := x.speaks
	x.own, x.speaks, x.verdict = alarm.Own(found, a.o.Node), alarm.Speaks(s), s.Verdict
	if !x.speaks { // another node's turn: what failed here is no news any more
		for name, r := range x.results {
			r.Error = ""
			x.results[name] = r
		}
	}
	for node, t := range x.told {
		if now.Sub(t.at) < toldFor {
			found = append(found, t.list...)
		} else {
			delete(x.told, node)
		}
	}
	changed := alarm.Step(&x.st, alarm.Input{Now: now, Node: a.o.Node, Speaks: x.speaks, Found: found, Channels: x.names()})
	w := a.o.Config.AlarmTest
	if x.speaks && w.Open(now) && x.st.Book.Tested.Before(w.Opened(now)) {
		x.st.Book.Tested, changed = now, true
		for _, c := range x.channels {
			x.testing[c.Name] = true
		}
	}
	x.well, x.looked = x.st.Book.Well(now), now
	if changed || x.speaks && !spoke { // who spoke before may not have come to it
		x.wake()
	}
}

// names are the channels that messages go to.
func (x *alarms) names() (list []string) {
	for _, c := range x.channels {
		list = append(list, c.Name)
	}
	return list
}

// pulse is what a dead-man's switch hears at that time: that all is well only if it was looked lately.
func (x *alarms) pulse(now time.Time, cluster string, node cluster.NodeID) (speaks, well bool, text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	text = fmt.Sprintf("%s: %s, says %s", cluster, x.verdict, node)
	if age := now.Sub(x.looked); age > lookLate {
		return x.speaks, false, fmt.Sprintf("%s; but it was looked %s ago: something holds the agent up", text, age.Round(time.Second))
	}
	return x.speaks, x.well, text
}

// wake has the book saved and the channels look.
func (x *alarms) wake() {
	for _, c := range x.due {
		poke(c)
	}
	poke(x.save)
}

// poke wakes whoever waits on c, or will.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keepBook writes the book when it changes, apart from everything else: an ill disk is what alarms are for.
func (a *Agent) keepBook(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.alarms.save:
		}
		b := a.alarms.packed()
		if err := writeDurably(a.bookPath(), b); err != nil {
			a.o.Log.Warn("what was told of alarms is not written down; after a restart messages may come twice", "err", err)
		}
	}
}

// packed is the book as JSON, within its bound: what is over goes first.
func (x *alarms) packed() []byte {
	x.mu.Lock()
	book := x.st.Book
	book.Groups = slices.Clone(book.Groups)
	b, err := json.Marshal(book)
	x.mu.Unlock()
	for err == nil && len(b) > maxBook && len(book.Groups) > 0 {
		i := max(0, slices.IndexFunc(book.Groups, func(g alarm.Group) bool { return !g.Resolved.IsZero() }))
		book.Groups = slices.Delete(book.Groups, i, i+1)
		b, err = json.Marshal(book)
	}
	if err != nil {
		return []byte("{}")
	}
	return b
}

// alarmStatus is what the status says of alarms.
func (a *Agent) alarmStatus(now time.Time) control.Alarms {
	x := a.alarms
	out := control.Alarms{Open: []control.AlarmEntry{}, Silences: []control.AlarmSilence{}, Channels: []control.AlarmChannel{}}
	x.mu.Lock()
	defer x.mu.Unlock()
	out.Speaks, out.Tested = x.speaks, x.st.Book.Tested
	for i := range x.st.Book.Groups {
		g := &x.st.Book.Groups[i]
		for _, e := range g.Entries {
			if e.Closed.IsZero() && g.Resolved.IsZero() {
				out.Open = append(out.Open, control.AlarmEntry{Kind: e.Kind, Subject: e.Subject, Severity: e.Severity, Text: e.Text, Since: e.Began, Seen: e.Last, Told: g.Told(), Silenced: x.st.Book.Silenced(e.Alarm, now)})
			}
		}
	}
	for _, s := range x.st.Book.Silences {
		if now.Before(s.Until) {
			out.Silences = append(out.Silences, control.AlarmSilence{Kind: s.Kind, Subject: s.Subject, Until: s.Until, By: s.By})
		}
	}
	for _, c := range slices.Concat(x.channels, x.beats) {
		out.Channels = append(out.Channels, x.results[c.Name])
	}
	return out
}

// alarmReasons is what is wrong with the ways out of the house.
func alarmReasons(s *control.Status) (reasons []string) {
	for _, c := range s.Alarms.Channels {
		if c.Error != "" {
			reasons = append(reasons, fmt.Sprintf("alarms do not go out over %s: %s; try it: revolve alarm test", c.Name, c.Error))
		}
	}
	return reasons
}

// Silence takes an order about a silence into the book, and tells the other nodes.
func (b backend) Silence(ctx context.Context, o control.SilenceOrder) error {
	refuse := func(what, hint string) error {
		return &problem.Problem{Op: "silence", Kind: problem.Invalid, Subject: o.Kind, Err: errors.New(what), Hint: hint}
	}
	if _, known := alarm.KindOf(o.Kind); !known && o.Kind != alarm.All {
		return refuse("there is no such alarm", "revolve alarm list shows what stands; docs/operations.md lists all; all is everything")
	}
	if o.For < 0 || o.For > alarm.MaxSilence {
		return refuse("it is silenced for at most 30 days", "choose a shorter time: --for 12h")
	}
	now, x := time.Now(), b.a.alarms
	by := string(b.a.o.Node)
	if who := control.Caller(ctx); who != "" {
		by = who + " on " + by
	}
	x.mu.Lock()
	x.st.Book.Silence(alarm.Silence{Kind: o.Kind, Subject: o.Subject, Until: now.Add(o.For), By: by, Changed: now})
	x.wake()
	x.mu.Unlock()
	poke(x.exchange)
	b.a.o.Log.Info("ordered", "silence", o.Kind, "subject", o.Subject, "for", o.For, "by", by)
	return nil
}
