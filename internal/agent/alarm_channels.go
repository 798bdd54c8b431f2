package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/alarm"
	"revolve/internal/alarm/deliver"
	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// This file is the ways of an alarm: out of the house, and between the nodes.

// serviceAlarms brings the books of two nodes together: one JSON frame each way.
const serviceAlarms = "alarms"

const (
	frameAlarms byte = 1
	// exchangeEvery is how often the node that speaks asks the others, exchangeWithin how long it waits for one.
	exchangeEvery  = 5 * time.Second
	exchangeWithin = 3 * time.Second
	// A channel that fails is tried again after the first, doubled up to the last.
	againFirst = 5 * time.Second
	againLast  = 5 * time.Minute
	// streamEvery is how often a channel that groups by itself is told all that stands; it forgets after five minutes.
	streamEvery = time.Minute
	// endedFor is how long it is told of what has ended.
	endedFor = 5 * time.Minute
)

// feed brings to one channel what is due there, while this node speaks.
func (a *Agent) feed(ctx context.Context, c *deliver.Channel) error {
	wait := time.Duration(0)
	for {
		err := a.bring(ctx, c)
		var again time.Duration
		wait, again = rest(c, err, wait)
		if !a.pause(ctx, a.alarms.due[c.Name], again, err != nil) {
			return nil
		}
	}
}

// rest is how long a channel is left alone after a delivery that ended so; wait is what its failures have come to.
func rest(c *deliver.Channel, err error, wait time.Duration) (next, again time.Duration) {
	var told *deliver.Wait
	var refused *deliver.Refused
	switch {
	case err == nil:
		return 0, streamEvery
	case errors.As(err, &refused) && !c.Whole: // that one message; the next one may be taken. One that is told all that stands gets the same again.
		return 0, againFirst
	case errors.As(err, &told):
		return wait, told.For
	}
	next = min(max(2*wait, againFirst), againLast)
	return next, next
}

// pause waits for a time, or until there may be something to do; a channel that failed is left alone for the whole of it.
func (a *Agent) pause(ctx context.Context, due chan struct{}, d time.Duration, whole bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	if whole {
		due = nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-due:
	case <-timer.C:
	}
	return true
}

// bring does what is due on a channel.
func (a *Agent) bring(ctx context.Context, c *deliver.Channel) error {
	x := a.alarms
	if c.Whole {
		return a.stream(ctx, c)
	}
	for {
		x.mu.Lock()
		group, todo, test := x.next(c), alarm.Nothing, x.speaks && x.testing[c.Name]
		var message alarm.Message
		edit := ""
		if group != nil {
			if todo = group.Due(c.Name, c.Edits); todo == alarm.Update {
				edit = group.Receipts[c.Name].Message
			}
			message = group.Message(a.o.Config.Cluster, a.o.Node, time.Now())
		}
		x.mu.Unlock()
		switch {
		case todo != alarm.Nothing:
		case test:
			message = alarm.TestMessage(a.o.Config.Cluster, a.o.Node, time.Now())
		default:
			return nil
		}
		id, err := c.Deliver(ctx, message, edit)
		if ctx.Err() != nil {
			return nil
		}
		a.went(c.Name, err)
		var refused *deliver.Refused
		if errors.As(err, &refused) { // for good: no other message waits behind it
			id = edit
			a.dropped(c.Name, message, err)
		} else if err != nil {
			return err
		}
		x.mu.Lock()
		if todo != alarm.Nothing {
			x.st.Book.Done(c.Name, *group, id)
		} else {
			delete(x.testing, c.Name)
		}
		poke(x.save)
		x.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// dropped counts a message that a channel refuses for good.
func (a *Agent) dropped(channel string, m alarm.Message, why error) {
	x := a.alarms
	x.mu.Lock()
	r := x.results[channel]
	r.Dropped++
	r.DroppedAt, r.DroppedWhy = time.Now(), clean(why.Error())
	x.results[channel] = r
	x.mu.Unlock()
	a.o.Log.Error("a message about alarms was refused for good, and is dropped", "channel", channel, "title", m.Title, "state", m.State, "why", why, "hint", problem.HintOf(why))
}

// next is a copy of the first group that is due on the channel, nil if none is or this node does not speak.
func (x *alarms) next(c *deliver.Channel) *alarm.Group {
	if !x.speaks {
		return nil
	}
	for _, g := range x.st.Book.Groups {
		if g.Due(c.Name, c.Edits) != alarm.Nothing {
			return &g
		}
	}
	return nil
}

// stream tells a channel that groups by itself all that stands, and what ended lately.
func (a *Agent) stream(ctx context.Context, c *deliver.Channel) error {
	x, now := a.alarms, time.Now()
	x.mu.Lock()
	speaks, test := x.speaks, x.testing[c.Name]
	entries := x.standing(now)
	if test {
		entries = append(entries, alarm.TestMessage(a.o.Config.Cluster, a.o.Node, now).Alarms...)
	}
	x.mu.Unlock()
	if !speaks {
		return nil
	}
	err := c.Stream(ctx, a.o.Config.Cluster, entries)
	if ctx.Err() != nil {
		return nil
	}
	a.went(c.Name, err)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.testing, c.Name)
	for _, g := range x.st.Book.Groups {
		if r := g.Receipts[c.Name]; g.Loud > r.Loud {
			x.st.Book.Done(c.Name, g, "")
		}
	}
	return nil
}

// standing is what stands and is not silenced, and what ended lately.
func (x *alarms) standing(now time.Time) (entries []alarm.Entry) {
	for _, g := range x.st.Book.Groups {
		for _, e := range g.Entries {
			over := !e.Closed.IsZero() || !g.Resolved.IsZero()
			if over && now.Sub(e.Last) < endedFor || !over && x.st.Book.Silenced(e.Alarm, now).IsZero() {
				entries = append(entries, e)
			}
		}
	}
	return entries
}

// went takes note of how a delivery went, and says it.
func (a *Agent) went(channel string, err error) control.AlarmChannel {
	x := a.alarms
	x.mu.Lock()
	defer x.mu.Unlock()
	r, before := x.results[channel], x.results[channel].Error
	if err == nil {
		r.Arrived, r.Error = time.Now(), ""
	} else {
		r.Failed, r.Error = time.Now(), clean(err.Error())
	}
	x.results[channel] = r
	if r.Error != before {
		a.o.Log.Info("alarms", "channel", channel, "accepted", err == nil, "why", r.Error)
	}
	return r
}

// beatOutside tells a dead-man's switch that somebody here can still speak.
func (a *Agent) beatOutside(ctx context.Context, c *deliver.Channel) error {
	x := a.alarms
	for {
		speaks, well, text := x.pulse(time.Now(), a.o.Config.Cluster, a.o.Node)
		again := alarmsEvery
		if speaks {
			err := c.Beat(ctx, well, text)
			if ctx.Err() != nil {
				return nil
			}
			a.went(c.Name, err)
			again = c.Every()
		}
		if !a.pause(ctx, nil, again, true) {
			return nil
		}
	}
}

// TestAlarm sends a test over every channel of this node, at once.
func (b backend) TestAlarm(ctx context.Context) ([]control.AlarmChannel, error) {
	a, x := b.a, b.a.alarms
	if len(x.channels)+len(x.beats) == 0 {
		return nil, &problem.Problem{Op: "test alarms", Kind: problem.NotFound, Subject: a.o.Config.Cluster, Err: errors.New("the configuration says nowhere where alarms go"), Hint: "alarms: [ { ntfy: { url: https://ntfy.sh/TOPIC } } ]; see docs/operations.md"}
	}
	message := alarm.TestMessage(a.o.Config.Cluster, a.o.Node, time.Now())
	results := make([]control.AlarmChannel, len(x.channels)+len(x.beats))
	var g errgroup.Group
	for i, c := range x.channels {
		g.Go(func() error {
			_, err := c.Deliver(ctx, message, "")
			results[i] = a.went(c.Name, err)
			return nil
		})
	}
	for i, c := range x.beats {
		g.Go(func() error {
			results[len(x.channels)+i] = a.went(c.Name, c.Beat(ctx, true, message.Title))
			return nil
		})
	}
	_ = g.Wait() // what failed is in the results
	return results, ctx.Err()
}

// alarmsFrame is what two nodes tell each other.
type alarmsFrame struct {
	Book json.RawMessage `json:"book"`
	Own  []alarm.Alarm   `json:"own"` // what only the one who sends it can know
}

// exchangeAlarms has the node that speaks ask the others what only they know, and share its book with them.
func (a *Agent) exchangeAlarms(ctx context.Context) error {
	tick := time.NewTicker(exchangeEvery)
	defer tick.Stop()
	for {
		ordered := false
		select {
		case <-ctx.Done():
			return nil
		case <-a.alarms.exchange:
			ordered = true
		case <-tick.C:
		}
		a.alarms.mu.Lock()
		speaks := a.alarms.speaks
		a.alarms.mu.Unlock()
		if !speaks && !ordered {
			continue
		}
		var g errgroup.Group
		for _, p := range a.current().Peers {
			if p.State == beat.PeerAlive {
				g.Go(func() error {
					if err := a.askAlarms(ctx, p.Node); err != nil && ctx.Err() == nil {
						a.o.Log.Debug("alarms are not exchanged", "with", p.Node, "err", err)
					}
					return nil
				})
			}
		}
		_ = g.Wait() // it never fails
	}
}

func (a *Agent) askAlarms(ctx context.Context, node cluster.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeWithin)
	defer cancel()
	c, err := a.dial(ctx, node, serviceAlarms)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := a.tellAlarms(c); err != nil {
		return err
	}
	return a.takeAlarms(c)
}

// serveAlarms answers the node that speaks.
func (a *Agent) serveAlarms(c *peer.Conn) error {
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(exchangeWithin)); err != nil {
		return err
	}
	if err := a.takeAlarms(c); err != nil {
		return err
	}
	return a.tellAlarms(c)
}

func (a *Agent) tellAlarms(c *peer.Conn) error {
	x := a.alarms
	f := alarmsFrame{Book: x.packed()}
	x.mu.Lock()
	f.Own = x.own
	x.mu.Unlock()
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return errors.Join(c.Write(frameAlarms, b), c.Flush())
}

// maxParts is how many commas a frame may have: a full book has a quarter of it, and a
// small element becomes 200 bytes of memory.
const maxParts = 1 << 16

// takeAlarms checks what another node says, and takes it.
func (a *Agent) takeAlarms(c *peer.Conn) error {
	kind, b, err := c.Read()
	if err != nil {
		return err
	}
	var f alarmsFrame
	var book alarm.Book
	if bytes.Count(b, []byte{','}) > maxParts {
		err = errors.New("it has too many parts")
	} else if err = json.Unmarshal(b, &f); err == nil {
		err = json.Unmarshal(f.Book, &book)
	}
	if err != nil || kind != frameAlarms {
		return &problem.Problem{Op: "read the alarms of", Kind: problem.Corrupt, Subject: string(c.Peer()), Err: errors.Join(err, errors.New("they are none")), Hint: "run the same version of revolve on all nodes"}
	}
	now, x := time.Now(), a.alarms
	var list []alarm.Alarm
	for _, told := range f.Own[:min(len(f.Own), alarm.MaxFound)] {
		if told, known := told.Sane(); known {
			told.Node = string(c.Peer()) // it speaks of itself only
			list = append(list, told)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	before, _ := json.Marshal(x.st.Book)
	x.st.Book = alarm.Merge(x.st.Book, book.Sane(now))
	x.told[c.Peer()] = toldAlarms{at: now, list: list}
	if after, _ := json.Marshal(x.st.Book); string(after) != string(before) {
		x.wake()
	}
	return nil
}
