package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/vm"
)

// serviceOrder carries an operator's order to the master: one JSON frame each way.
const serviceOrder = "order"

type orderFrame struct {
	What string         `json:"what"` // switch, sync, hold
	To   cluster.NodeID `json:"to,omitempty"`
	On   bool           `json:"on,omitempty"` // hold; going: it stays on after all
	By   *history.Order `json:"by,omitempty"` // who orders it, and what for

	Stay   time.Duration `json:"stay,omitempty"`    // rehearse
	DryRun bool          `json:"dry_run,omitempty"` // rehearse

	Within time.Duration `json:"within,omitempty"` // sync: how long the caller waits; 0: he does not say

	Change *control.Change `json:"change,omitempty"` // members

	Rest *vm.RestOrder `json:"rest,omitempty"` // power-off: by a run; nil: by a person
	Word *goingWord    `json:"word,omitempty"` // going: when it was said
}

// word is when a node said that it goes; one that runs a version before this says nothing of it, and what it says last counts.
func (o *orderFrame) word() (w goingWord) {
	if o.Word != nil {
		w = *o.Word
	}
	return w
}

// orderChange asks the master for a new generation.
const orderChange = "members"

type answerFrame struct {
	Master cluster.NodeID `json:"master,omitempty"`
	Kind   problem.Kind   `json:"kind"`
	Op     string         `json:"op,omitempty"`
	Err    string         `json:"err,omitempty"`
	Hint   string         `json:"hint,omitempty"`

	Soon time.Duration `json:"soon,omitempty"` // it may pass by itself within that; an older version does not say

	Declined bool `json:"declined,omitempty"` // ordered: it would not take the addresses; an older version does not know the question

	Changed   *control.Changed   `json:"changed,omitempty"`
	Rehearsal *history.Rehearsal `json:"rehearsal,omitempty"`
}

// do carries an order out here if this node is the master, else there.
func (a *Agent) do(ctx context.Context, o orderFrame) (cluster.NodeID, error) {
	return a.doAt(ctx, a.current(), o)
}

// doAt is do with the master as it was reported.
func (a *Agent) doAt(ctx context.Context, r beat.Report, o orderFrame) (cluster.NodeID, error) {
	switch {
	case r.Role == cluster.Master:
		return a.doHere(ctx, o)
	case r.Master == "":
		return "", a.masterless(o.What)
	}
	return a.send(ctx, r.Master, o)
}

// send has another node carry an order out.
func (a *Agent) send(ctx context.Context, to cluster.NodeID, o orderFrame) (cluster.NodeID, error) {
	ans, err := a.ask(ctx, to, o)
	return ans.Master, err
}

// ask is send, for the whole answer.
func (a *Agent) ask(ctx context.Context, to cluster.NodeID, o orderFrame) (ans answerFrame, err error) {
	if err := a.question(ctx, to, serviceOrder, o, &ans); err != nil {
		return ans, err
	}
	if ans.Err != "" {
		return ans, soon(&problem.Problem{Op: cmp.Or(ans.Op, o.What), Kind: ans.Kind, Err: errors.New(ans.Err), Hint: ans.Hint}, min(ans.Soon, soonWithin))
	}
	return ans, nil
}

func (a *Agent) serveOrder(ctx context.Context, conn *peer.Conn) error {
	defer conn.Close()
	var o orderFrame
	err := readQuestion(conn, switchWithin, &o)
	if err != nil {
		return err
	}
	var ans answerFrame
	if o.By != nil && o.What != orderOrdered {
		o.By.Node = conn.Peer() // what it says of itself counts nothing
		if err := o.By.Check(); err != nil {
			return err
		}
	}
	if o.What == orderOff {
		by := whoOf(o.By)
		if o.By == nil {
			by = "a run of " + string(conn.Peer())
		}
		a.o.Log.Info("asked to power off", "by", by)
		err = a.offHere(ctx, o.Rest, by)
	} else if o.What == orderKeep {
		err = a.keepHere(o.By)
	} else if o.What == orderGoing {
		err = a.record.parts(conn.Peer(), o.On, o.word())
	} else if o.What == orderOrdered {
		err = a.orderedBy(conn.Peer(), o.By)
		ans.Declined = problem.KindOf(err) == problem.Unavailable
	} else if r := a.current(); o.What != orderHold && r.Role != cluster.Master {
		err = soon(&problem.Problem{Op: o.What, Kind: problem.Unavailable, Err: errors.New("this node is not the master any more"), Hint: "try again; revolve status says who is master now"}, toldWithin)
	} else if o.What == orderSpare {
		err = a.spare(conn.Peer(), o.On)
	} else if o.What == orderRehearse {
		var done history.Rehearsal
		done, err = a.rehearseHere(ctx, o)
		ans.Rehearsal = &done
	} else if o.What == orderChange && o.Change != nil {
		ans.Changed, err = a.changeHere(ctx, *o.Change)
	} else {
		ans.Master, err = a.doHere(ctx, o)
	}
	if err != nil {
		ans.Kind, ans.Err, ans.Hint, ans.Soon = problem.KindOf(err), err.Error(), problem.HintOf(err), passesIn(err)
	}
	return answer(conn, ans)
}

func (a *Agent) doHere(ctx context.Context, o orderFrame) (cluster.NodeID, error) {
	switch o.What {
	case "switch":
		by := a.wanted(history.WhySwitch)
		if o.By != nil {
			by = *o.By
		}
		if by.Why == history.WhyRehearsal { // the way back: this node sees alarms that the other one does not
			if why, hint, _ := hindrance(backend{a}.Status(), false); why != "" {
				return "", &problem.Problem{Op: "end the rehearsal", Kind: problem.Unavailable, Err: errors.New(why), Hint: hint}
			}
		}
		return a.moveTo(ctx, o.To, by)
	case orderHold:
		return "", a.holdHere(o.On)
	case "sync":
		if o.Within > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, o.Within)
			defer cancel()
		}
		return a.o.Node, a.engine.Flush(ctx, "")
	}
	return "", &problem.Problem{Op: "carry out order", Kind: problem.Invalid, Subject: o.What, Err: errors.New("unknown order"),
		Hint: "run the same version of revolve on all nodes"}
}

func (a *Agent) current() beat.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.report
}

// switchTo hands the VIPs over to a standby; "" lets this node choose.
func (a *Agent) switchTo(ctx context.Context, to cluster.NodeID, by history.Order) (cluster.NodeID, error) {
	if a.external() {
		return "", placedByAnother("switch to", cmp.Or(string(to), "(any)"))
	}
	to, err := a.successor(to, inSyncAndWell)
	if err != nil || to == a.o.Node {
		return to, err
	}
	a.switching.Add(1) // no node is spared meanwhile
	defer a.switching.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, switchWithin)
	defer cancel()
	// The bulk of what is pending goes over while the addresses are still here, so that only the last moment's changes are left to flush.
	declined, err := readied(ctx, func(ctx context.Context) error { return a.announce(ctx, to, by) }, func(ctx context.Context) error { return a.brought(ctx, to) })
	if declined != nil {
		return "", declined
	}
	if err != nil && !a.disks.Ill() {
		return "", err
	}
	a.mu.Lock()
	a.orders++
	order := beat.SwitchOrder{ID: a.orders, To: to}
	a.order = order
	a.mu.Unlock()
	a.tell()
	for {
		a.mu.Lock()
		res, changed := a.report.SwitchResult, a.changed
		a.mu.Unlock()
		if res.ID == order.ID {
			if res.Err != "" {
				return "", unready(res.Err, &problem.Problem{Op: "switch to", Kind: problem.Unavailable, Subject: string(to), Err: errors.New(res.Err),
					Hint: "nothing changed; look at `revolve status`"})
			}
			return to, nil
		}
		select {
		case <-ctx.Done():
			return "", &problem.Problem{Op: "switch to", Kind: problem.Timeout, Subject: string(to), Err: errors.New("no answer within 5 s"), Hint: "look at `revolve status`"}
		case <-changed:
		}
	}
}

// readied tells the successor, and brings it everything meanwhile, unless it declines.
func readied(ctx context.Context, announce, bring func(context.Context) error) (declined, err error) {
	g, undeclined := errgroup.WithContext(ctx)
	g.Go(func() error { return announce(ctx) }) // with ctx: what it says counts also if it cannot have everything
	err = bring(undeclined)
	return g.Wait(), err
}

// inSyncAndWell is whether a node can take over, as it says.
func inSyncAndWell(p beat.PeerReport) bool {
	return p.State == beat.PeerAlive && p.Class == cluster.InSync && !p.Ill
}

// successor checks the wish, or chooses the fit candidate of highest priority.
func (a *Agent) successor(to cluster.NodeID, can func(beat.PeerReport) bool) (cluster.NodeID, error) {
	if to != "" && !a.known(to) {
		return "", &problem.Problem{Op: "switch to", Kind: problem.NotFound, Subject: string(to), Err: errors.New("it is not in the configuration"), Hint: "revolve status lists the nodes"}
	}
	if to == a.o.Node {
		return to, nil
	}
	r := a.current()
	var fit []cluster.NodeID
	for _, p := range r.Peers {
		n, ok := a.cfg().Node(p.Node)
		if ok && n.Candidate && can(p) && (to == "" || to == p.Node) {
			fit = append(fit, p.Node)
		}
	}
	if len(fit) == 0 {
		return "", soon(&problem.Problem{Op: "switch to", Kind: problem.Unavailable, Subject: cmp.Or(string(to), "(any)"),
			Err: fmt.Errorf("no standby%s is in-sync and well", suffix(to)), Hint: "wait until `revolve status` shows it as eligible"}, toldWithin)
	}
	slices.SortStableFunc(fit, func(x, y cluster.NodeID) int { return a.priority(y) - a.priority(x) })
	return fit[0], nil
}

func suffix(to cluster.NodeID) string {
	if to == "" {
		return ""
	}
	return " of that name"
}

func (a *Agent) priority(n cluster.NodeID) int {
	if node, ok := a.cfg().Node(n); ok {
		return node.Priority
	}
	return 0
}
