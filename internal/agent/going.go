package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/power"
	"revolve/internal/vm"
)

// This file is a node on demand that says goodbye, so that its silence is known to mean that it is off. One that falls
// silent without a word may have been cut off, and may run machines: it counts as silent like any other node.

const (
	orderGoing = "going"
	// goingWithin is how long the others may take to write it down. Who does not takes this node for silent.
	goingWithin = 2 * time.Second
	// staysEvery is how often those are told again that this node stays who were told that it goes, and did not answer since.
	staysEvery = time.Second
)

// goingWord orders what a node says of its end: of two words that it says soon after each other, the first may come last.
type goingWord struct {
	System string        `json:"system"` // which run of it
	At     time.Duration `json:"at"`     // by its uptime
}

func newWord() goingWord { return goingWord{System: power.System(), At: power.Uptime()} }

// before reports whether the same run of a node said it earlier.
func (w goingWord) before(other goingWord) bool {
	return w.System != "" && w.System == other.System && w.At < other.At
}

// farewell is whom this node has told that it goes, and whom it owes the word that it stays after all.
type farewell struct {
	mu    sync.Mutex
	told  []cluster.NodeID // also who did not answer: it may have heard it
	owed  []cluster.NodeID
	stays goingWord
}

// goes takes note of whom it is said to now. Who was told before, and does not know yet that this was taken back, believes it all along.
func (f *farewell) goes(nodes []cluster.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = slices.Concat(f.told, f.owed, nodes)
	slices.Sort(f.told)
	f.told, f.owed = slices.Compact(f.told), nil
}

// turnsBack takes it back. It comes before anything here may begin again: another goodbye, of the next order, is a later word.
func (f *farewell) turnsBack() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.told) > 0 {
		f.told, f.owed, f.stays = nil, f.told, newWord()
	}
}

// debt is who is still to be told. After restFor nobody is: they have seen it themselves (record.setAlive).
func (f *farewell) debt() ([]cluster.NodeID, goingWord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if power.Uptime() >= f.stays.At+restFor {
		f.owed = nil
	}
	return slices.Clone(f.owed), f.stays
}

func (f *farewell) heard(n cluster.NodeID, word goingWord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if word == f.stays {
		f.owed = slices.DeleteFunc(f.owed, func(o cluster.NodeID) bool { return o == n })
	}
}

// goes tells every node that is heard that this one powers itself off: nothing runs here, and nothing begins any more. Whom
// this node leaves on it does not forget: when it returns, it knows of their goodbyes only those that it heard.
func (a *Agent) goes(ctx context.Context) {
	nodes := alive(a.current())
	a.farewell.goes(nodes)
	for n, err := range a.tellGoing(ctx, nodes, false, newWord()) {
		if err != nil {
			a.o.Log.Warn("a node does not know that this one powers itself off, and will take it for silent", "node", n, "err", err)
		}
	}
}

// stays tells those to whom it was said that it was taken back.
func (a *Agent) stays() {
	for n, err := range a.tellStays(context.Background()) {
		if err != nil {
			a.o.Log.Warn("a node may believe that this one is off; it is told again", "node", n, "err", err)
		}
	}
}

// tellStays tells those that are owed it and are heard.
func (a *Agent) tellStays(ctx context.Context) map[cluster.NodeID]error {
	owed, word := a.farewell.debt()
	there := alive(a.current())
	owed = slices.DeleteFunc(owed, func(n cluster.NodeID) bool { return !slices.Contains(there, n) })
	answers := a.tellGoing(ctx, owed, true, word)
	for n, err := range answers {
		if err == nil {
			a.farewell.heard(n, word)
		}
	}
	return answers
}

// staysTold goes on telling them: a node that takes this one for off would let a machine start that runs here.
func (a *Agent) staysTold(ctx context.Context) error {
	tick := time.NewTicker(staysEvery)
	defer tick.Stop()
	for {
		for n, err := range a.tellStays(ctx) {
			a.o.Log.Debug("a node was told again that this one stays", "node", n, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tellGoing says to all of them at once which it is.
func (a *Agent) tellGoing(ctx context.Context, nodes []cluster.NodeID, stays bool, word goingWord) map[cluster.NodeID]error {
	ctx, cancel := context.WithTimeout(ctx, goingWithin)
	defer cancel()
	say := a.says
	if say == nil {
		say = func(ctx context.Context, n cluster.NodeID, o orderFrame) error {
			_, err := a.send(ctx, n, o)
			return err
		}
	}
	errs := make([]error, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			errs[i] = say(ctx, n, orderFrame{What: orderGoing, On: stays, Word: &word})
			return nil
		})
	}
	_ = g.Wait() // it never fails
	answers := map[cluster.NodeID]error{}
	for i, n := range nodes {
		answers[n] = errs[i]
	}
	return answers
}

// goesWithSystem says goodbye when the system is shut down by somebody else, if no machine runs here.
func (a *Agent) goesWithSystem(ctx context.Context) error {
	<-ctx.Done()
	if !a.mayBeOff(a.o.Node) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*goingWithin)
	defer cancel()
	if power.Stopping(ctx) && a.nothingRuns(ctx) { // libvirt may have been stopped before
		a.o.Log.Info("the system is shut down: the others are told that this node will be off")
		a.goes(ctx)
	}
	return nil
}

func (a *Agent) nothingRuns(ctx context.Context) bool {
	if a.runs != nil {
		return a.runs(ctx) == ""
	}
	return vm.Emulators(vm.Proc) == ""
}

// wereOn are the nodes on demand that this one last knew to be on.
func (a *Agent) wereOn() (nodes []cluster.NodeID) {
	for _, n := range a.record.on() {
		if a.mayBeOff(n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}
