package vm

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// AskService is what a node asks another for about machines: one question, one answer.
const AskService = "vm-ask/1"

// Question is what one node asks another.
type Question struct {
	What     string         `json:"what"` // look, or the order that is set
	VM       string         `json:"vm"`   // look: all if empty
	Start    *StartOrder    `json:"start,omitempty"`
	Stop     *StopOrder     `json:"stop,omitempty"`
	Restore  *RestoreOrder  `json:"restore,omitempty"`
	Rehearse *RehearseOrder `json:"rehearse,omitempty"`
	Prune    *PruneOrder    `json:"prune,omitempty"`
	Hold     *HoldOrder     `json:"hold,omitempty"`
}

// What a question may be.
const (
	askLook     = "look"
	askStart    = "start"
	askStop     = "stop"
	askRestore  = "restore"
	askRehearse = "rehearse"
	askPrune    = "prune"
	askSchedule = "schedule"
	askHold     = "hold"
)

// within is how long the answer may take.
func (q *Question) within() time.Duration {
	switch {
	case q.What == askLook, q.What == askSchedule, q.What == askHold:
		return askWithin
	case q.Stop != nil:
		return askWithin + guestTime(q.Stop.Within)
	case q.Restore != nil:
		return startWithin + guestTime(q.Restore.Within)
	case q.Rehearse != nil:
		return startWithin + guestTime(q.Rehearse.Within)
	}
	return startWithin
}

// Seen is what one node says of one machine.
type Seen struct {
	VM         string          `json:"vm"`
	State      libvirt.State   `json:"state,omitempty"`      // "": libvirt knows none of that name there
	Home       cluster.NodeID  `json:"home,omitempty"`       // as that node knows it
	Generation uint64          `json:"generation,omitempty"` // of its history there, whether or not a point was taken since
	Unread     string          `json:"unread,omitempty"`     // why that node cannot read what it wrote down of it
	Starting   bool            `json:"starting"`             // it is about to be started there
	Points     []points.Record `json:"points"`               // newest first; only the newest where all machines are asked for
}

// View is what one node says.
type View struct {
	Node      cluster.NodeID   `json:"node"`
	Libvirt   string           `json:"libvirt,omitempty"` // why libvirt there could not be asked
	VMs       []Seen           `json:"vms"`
	WereOn    []cluster.NodeID `json:"were_on,omitempty"` // nodes on demand that it last knew to be on
	Started   *Started         `json:"started,omitempty"`
	Stopped   *Stopped         `json:"stopped,omitempty"`
	Restored  *Restored        `json:"restored,omitempty"`
	Rehearsal *Rehearsal       `json:"rehearsal,omitempty"`
	Pruned    *Pruned          `json:"pruned,omitempty"`
	Scheduled []Scheduled      `json:"scheduled,omitempty"`
	Awake     *Awake           `json:"awake,omitempty"`
	Failed    *failure         `json:"failed,omitempty"`
}

type failure struct {
	Op      string       `json:"op"`
	Kind    problem.Kind `json:"kind"`
	Subject string       `json:"subject"`
	Error   string       `json:"error"`
	Hint    string       `json:"hint"`
}

func (f *failure) err() error {
	if f == nil {
		return nil
	}
	return &problem.Problem{Op: f.Op, Kind: f.Kind, Subject: f.Subject, Err: errors.New(f.Error), Hint: f.Hint}
}

func failureOf(err error) *failure {
	f := &failure{Kind: problem.KindOf(err), Error: err.Error(), Hint: problem.HintOf(err)}
	var p *problem.Problem
	if errors.As(err, &p) && p.Err != nil {
		f.Op, f.Subject, f.Error = p.Op, p.Subject, p.Err.Error()
	}
	return f
}

const (
	frameQuestion byte = 1
	frameView     byte = 2

	// askWithin bounds a question about what is; starting a machine clones its disks.
	askWithin   = 20 * time.Second
	startWithin = 5 * time.Minute
	askAtOnce   = 16 // nodes: all of a cluster
	maxSeen     = 32 // points of one machine that are told: a frame has a bound
)

// Handle serves one connection of a peer.
func (e *Engine) Handle(ctx context.Context, c transfer.Conn, service string) error {
	if service == transfer.Service {
		done, err := e.enter(&e.receiving)
		if err != nil {
			return errors.Join(err, c.Close())
		}
		defer done()
		return transfer.Receive(ctx, c, transfer.Receiving{Store: e.o.Store, Node: e.o.Node, Log: e.o.Log})
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetReadDeadline(time.Now().Add(askWithin)); err != nil {
		return err
	}
	kind, b, err := c.Read()
	if err != nil {
		return err
	}
	var q Question
	if err := json.Unmarshal(b, &q); err != nil || kind != frameQuestion {
		return &problem.Problem{Op: "answer", Kind: problem.Corrupt, Subject: string(c.Peer()), Err: errors.New("that is no question about machines")}
	}
	out, err := json.Marshal(e.reply(ctx, c.Peer(), q))
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(askWithin)); err != nil {
		return err
	}
	if err := errors.Join(c.Write(frameView, out), c.Flush()); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(askWithin))
	_, _, _ = c.Read() // until the other end has read it
	return nil
}

// reply answers another node.
func (e *Engine) reply(ctx context.Context, peer cluster.NodeID, q Question) View {
	if q.What != askHold {
		return e.answer(ctx, q)
	}
	a, err := e.heldBy(peer, q.Hold)
	v := View{Node: e.o.Node, VMs: []Seen{}, Awake: &a}
	if err != nil {
		v.Failed = failureOf(err)
	}
	return v
}

func (e *Engine) answer(ctx context.Context, q Question) View {
	v := View{Node: e.o.Node, VMs: []Seen{}}
	switch q.What {
	case askLook:
		return e.Local(ctx, q.VM)
	case askSchedule:
		v.Scheduled = e.Scheduled(time.Now())
		return v
	}
	leave, err := e.enter(&e.serving)
	if err != nil {
		v.Failed = failureOf(err)
		return v
	}
	defer leave()
	if q.What != askPrune {
		e.Used(q.What + " of " + q.VM)
	}
	switch {
	case q.What == askStart && q.Start != nil:
		v.Started, err = done(e.StartHere(ctx, *q.Start))
	case q.What == askStop && q.Stop != nil:
		v.Stopped, err = done(e.stopHere(ctx, *q.Stop))
	case q.What == askRestore && q.Restore != nil:
		v.Restored, err = done(e.restoreHere(ctx, *q.Restore))
	case q.What == askRehearse && q.Rehearse != nil:
		v.Rehearsal, err = done(e.rehearseHere(ctx, *q.Rehearse))
	case q.What == askPrune && q.Prune != nil:
		v.Pruned, err = done(e.pruneHere(ctx, *q.Prune))
	default:
		err = &problem.Problem{Op: "answer", Kind: problem.Invalid, Err: errors.New("an unknown question"), Hint: "the nodes have different versions: bring them to the same one"}
	}
	if err != nil {
		v.Failed = failureOf(err)
	}
	return v
}

// done is what was done, or nothing.
func done[T any](what T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return &what, nil
}

// Local is what this node knows of its machines, or of one.
func (e *Engine) Local(ctx context.Context, only string) View {
	v := View{Node: e.o.Node, VMs: []Seen{}}
	if e.o.WereOn != nil {
		v.WereOn = e.o.WereOn()
	}
	states := map[string]libvirt.State{}
	e.collect()
	e.mu.Lock()
	starting := maps.Clone(e.starting) // before libvirt is asked: a start that ends meanwhile is seen one way or the other
	for name, until := range e.hooked {
		if time.Now().Before(until) {
			starting[name]++
		} else {
			delete(e.hooked, name)
		}
	}
	e.mu.Unlock()
	list, err := e.o.Host.Machines(ctx)
	if err != nil {
		v.Libvirt = err.Error()
	}
	for _, m := range list {
		if !strings.HasPrefix(m.Name, rehearsalPrefix) {
			states[m.Name] = m.State
		}
	}
	names, err := e.o.Store.VMs()
	if err != nil {
		v.Failed = failureOf(err)
	}
	for _, n := range names {
		if _, known := states[n]; !known {
			states[n] = ""
		}
	}
	for name, state := range states {
		if only != "" && name != only {
			continue
		}
		s := e.records(name)
		if s.State = state; only == "" {
			s.Points = brief(s.Points)
		}
		e.mu.Lock()
		s.Starting = starting[name]+e.starting[name] > 0
		e.mu.Unlock()
		v.VMs = append(v.VMs, s)
	}
	return v
}

// brief is what is told of a machine where all are asked for: its newest point,
// and not where that comes from. A frame has a bound, and a node may have many machines.
func brief(list []points.Record) []points.Record {
	newest := newestOf(list)
	if newest == nil {
		return list[:min(len(list), 1)]
	}
	r := *newest
	r.Ancestors = []points.ID{}
	return []points.Record{r}
}

// records is what is written down here of a machine; libvirt is not asked.
func (e *Engine) records(name string) Seen {
	s := Seen{VM: name, Points: []points.Record{}}
	list, err := e.o.Store.List(name)
	if err != nil {
		s.Unread = err.Error()
	}
	if len(list) > 0 {
		s.Points = list[:min(len(list), maxSeen)]
	}
	newest := newestOf(list)
	if newest != nil {
		s.Home = newest.Node
	}
	c, ok, err := e.o.Store.Chain(name)
	if err != nil {
		s.Unread = err.Error()
	}
	if ok {
		s.Home, s.Generation = c.Home, c.Last.Generation
		if newest != nil && newest.Newer(&c.Last) {
			s.Home = newest.Node // it was started elsewhere since
		}
	}
	return s
}

// have puts a question to a node, this one or another.
func (e *Engine) have(ctx context.Context, on cluster.NodeID, q Question) (View, error) {
	if on != e.o.Node {
		return e.Ask(ctx, on, q)
	}
	v := e.answer(ctx, q)
	return v, v.Failed.err()
}

// Ask puts a question to another node.
func (e *Engine) Ask(ctx context.Context, node cluster.NodeID, q Question) (v View, err error) {
	within := q.within()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := e.o.Dial(ctx, node, AskService)
	if err != nil {
		return v, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	b, err := json.Marshal(q)
	if err != nil {
		return v, err
	}
	if err := errors.Join(c.SetReadDeadline(time.Now().Add(within)), c.Write(frameQuestion, b), c.Flush()); err != nil {
		return v, err
	}
	kind, b, err := c.Read()
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil || kind != frameView || v.Node != node {
		return v, &problem.Problem{Op: "ask about machines", Kind: problem.Corrupt, Subject: string(node), Err: errors.New("that is no answer")}
	}
	return v, v.Failed.err()
}

// Views are what every node says of a machine ("": all). Who did not answer is in silent.
func (e *Engine) Views(ctx context.Context, name string) (views []View, silent map[cluster.NodeID]error) {
	here := e.Local(ctx, name)
	others, silent := e.ask(ctx, name)
	return append([]View{here}, others...), silent
}

// isOff reports whether a node that is silent is known to be off: it is on demand, and neither this node nor any that
// answers last knew it to be on. One that was on may be cut off.
func (e *Engine) isOff(n cluster.NodeID, views []View) bool {
	return e.o.MayBeOff(n) && (e.o.WereOn == nil || !slices.Contains(e.o.WereOn(), n)) &&
		!slices.ContainsFunc(views, func(v View) bool { return slices.Contains(v.WereOn, n) })
}

// ask asks all other nodes how machines are.
func (e *Engine) ask(ctx context.Context, name string) (views []View, silent map[cluster.NodeID]error) {
	return e.askAll(ctx, Question{What: askLook, VM: name})
}

// askAll asks all other nodes at once: one that is off costs its time only once.
func (e *Engine) askAll(ctx context.Context, q Question) (views []View, silent map[cluster.NodeID]error) {
	silent = map[cluster.NodeID]error{}
	nodes := slices.DeleteFunc(slices.Clone(e.o.Nodes()), func(n cluster.NodeID) bool { return n == e.o.Node })
	answers, failed := make([]View, len(nodes)), make([]error, len(nodes))
	var g errgroup.Group
	g.SetLimit(askAtOnce)
	for i, n := range nodes {
		g.Go(func() error {
			answers[i], failed[i] = e.Ask(ctx, n, q)
			return nil
		})
	}
	_ = g.Wait()
	for i, n := range nodes {
		if failed[i] != nil {
			silent[n] = failed[i]
			continue
		}
		views = append(views, answers[i])
	}
	return views, silent
}
