package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// changeHere carries a change out on the master: a new generation, durable here,
// in force here, then told to everybody of the old list and of the new one.
func (a *Agent) changeHere(ctx context.Context, c control.Change) (*control.Changed, error) {
	a.changes.Lock()
	defer a.changes.Unlock()
	if err := a.untried(); err != nil {
		return nil, err
	}
	if c.Revoke != "" || c.Key { // a key that the node may know already is no new key
		if err := a.finishKey(ctx, cmp.Or(c.Revoke, c.Raise)); err != nil {
			return nil, err
		}
	}
	old, was := a.o.Roster.Current(), a.cfg()
	if c.Base != nil && *c.Base != old.Generation {
		return nil, &problem.Problem{Op: "change the configuration", Kind: problem.Conflict, Subject: was.Cluster,
			Err:  fmt.Errorf("generation %d is in force by now, and the change was made from generation %d", old.Generation, *c.Base),
			Hint: "nothing was changed; begin anew with what is in force: revolve config show"}
	}
	next := old.Clone()
	next.Follow(&old)
	done := &control.Changed{Added: []cluster.NodeID{}, Removed: []cluster.NodeID{}, Altered: []cluster.NodeID{}, Restart: []string{}, Anew: []string{}, Nodes: []control.Told{}}
	if err := a.edit(&next, was, c, done); err != nil {
		return nil, err
	}
	if err := a.checked(ctx, &next, old.Config, c, done); err != nil {
		return nil, err
	}
	same := next.Config == old.Config && len(done.Added)+len(done.Removed)+len(done.Altered)+len(done.Restart)+len(done.Anew) == 0
	if c.Config != "" && same || c.Raise != "" && next.Epochs[c.Raise] == old.Epochs[c.Raise] || c.DryRun {
		done.Generation = next.Generation
		if !c.DryRun {
			done.Generation = old.Generation
		}
		return done, nil
	}
	if err := a.enact(ctx, &next, was, done); err != nil {
		return nil, err
	}
	if c.Revoke != "" {
		done.Key = control.KeyChanged
		if err := a.insistKey(ctx, c.Revoke); err != nil {
			done.Key = control.KeyChanging
			a.o.Log.Warn("the heartbeat key is not changed everywhere yet; it goes on by itself", "err", err)
		}
	}
	if done.Generation, done.Trial = a.generation(), next.Trial != nil; done.Trial {
		done.Generation = next.Generation // it may be confirmed already
	}
	return done, nil
}

// enact puts a roster in force here, if it follows the one that is, and tells the others.
func (a *Agent) enact(ctx context.Context, next *roster.Roster, was *config.Config, done *control.Changed) error {
	next.By, next.At = a.o.Node, time.Now().UTC().Truncate(time.Second)
	cfg, err := config.Parse("the new configuration", []byte(next.Config))
	if err != nil {
		return err
	}
	taken, err := a.take(next, cfg)
	if err == nil && !taken {
		err = &problem.Problem{Op: "change the cluster", Kind: problem.Conflict, Subject: cfg.Cluster, Err: errors.New("another change came first, from the other half of a network that was split"),
			Hint: "nothing was changed; look at `revolve config show`, and type it again"}
	}
	if err != nil {
		return err
	}
	told := a.tellAll(ctx, was, cfg)
	if done != nil {
		done.Nodes = told
	}
	return nil
}

// tellAll pushes the roster to all nodes of both lists.
func (a *Agent) tellAll(ctx context.Context, lists ...*config.Config) []control.Told {
	var nodes []cluster.NodeID
	for _, l := range lists {
		for _, n := range l.Nodes {
			if n.Name != a.o.Node && !slices.Contains(nodes, n.Name) {
				nodes = append(nodes, n.Name)
			}
		}
	}
	told := make([]control.Told, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			told[i] = a.tellOne(ctx, n, lists)
			return nil
		})
	}
	_ = g.Wait()
	slices.SortFunc(told, func(x, y control.Told) int { return compareNames(x.Node, y.Node) })
	return told
}

func compareNames(x, y cluster.NodeID) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// tellOne pushes to one node. One that was just removed is told by the paths of
// the list before, and leaves in order; if it does not hear it now, it hears it from the heartbeats.
func (a *Agent) tellOne(ctx context.Context, n cluster.NodeID, lists []*config.Config) control.Told {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	before := peer.Paths(lists[0], a.o.Node, n)
	elsewhere := func() error {
		conn, err := peer.Dial(ctx, a.id, peer.Anybody, before, serviceRoster)
		if err == nil {
			err = a.talk(ctx, conn, true)
		}
		return err
	}
	_, member := lists[len(lists)-1].Node(n)
	var err error
	switch {
	case !member:
		err = elsewhere()
	case len(before) > 0 && !slices.Equal(before, peer.Paths(lists[len(lists)-1], a.o.Node, n)):
		err = either(elsewhere, func() error { return a.exchange(ctx, n, true) })
	default:
		err = a.exchange(ctx, n, true)
	}
	if err != nil {
		return control.Told{Node: n, Why: err.Error()}
	}
	return control.Told{Node: n, Took: true}
}

// either does both at once, and fails if both do: a node whose address changes may be found at the former one still, or at the new one already.
func either(one, other func() error) error {
	var g errgroup.Group
	var first error
	g.Go(func() error { first = one(); return nil })
	second := other()
	_ = g.Wait() // it never fails
	if first == nil || second == nil {
		return nil
	}
	return second
}

// edit makes of the roster what the change asks for, or says why not.
func (a *Agent) edit(next *roster.Roster, was *config.Config, c control.Change, done *control.Changed) error {
	raise := func(n cluster.NodeID, epoch uint32) {
		if next.Epochs == nil {
			next.Epochs = map[cluster.NodeID]uint32{}
		}
		next.Epochs[n] = max(next.Epochs[n], epoch)
	}
	switch {
	case c.Config != "":
		cfg, err := config.Parse("the new configuration", []byte(c.Config))
		if err != nil {
			return err
		}
		next.Config, next.Tried = c.Config, ""
		return a.compare(was, cfg, done)
	case c.Revoke == a.o.Node:
		return &problem.Problem{Op: "revoke", Kind: problem.Conflict, Subject: string(c.Revoke), Err: errors.New("it is the master"), Hint: "move the addresses first: revolve switch"}
	case c.Revoke != "":
		raise(c.Revoke, a.o.Roster.Epoch(c.Revoke)+1)
		next.Keys.Next = newKey()
		return nil
	case c.Raise != "":
		raise(c.Raise, c.Epoch)
		if c.Key {
			next.Keys.Next = newKey()
		}
		return nil
	}
	return &problem.Problem{Op: "change the cluster", Kind: problem.Invalid, Err: errors.New("nothing is asked for")}
}

func newKey() *roster.Key {
	k := &roster.Key{}
	rand.Read(k[:]) // never fails: crypto/rand
	return k
}

// compare says what a new configuration changes, and refuses what cannot change
// while the cluster serves.
func (a *Agent) compare(was, now *config.Config, done *control.Changed) error {
	refuse := func(what, hint string) error {
		return &problem.Problem{Op: "change the configuration", Kind: problem.Conflict, Subject: now.Cluster, Err: errors.New(what), Hint: hint}
	}
	stop := "nothing was changed; stop all agents, change the file on every node, and remove roster.json from the state directories"
	switch {
	case was.Cluster != now.Cluster:
		return refuse(fmt.Sprintf("the cluster's name is %s, not %s", was.Cluster, now.Cluster), "check which cluster the file is for")
	case was.Port != now.Port:
		return refuse("the port cannot change while the cluster serves", stop)
	case !reflect.DeepEqual(electing(was.Failover), electing(now.Failover)):
		return refuse("`failover` cannot change while the cluster serves (but its windows can)", stop)
	case !slices.Equal(was.VIPs, now.VIPs) && was.Failover.Engine == config.EngineExternal:
		return refuse("`vips` cannot change while another engine places them", stop)
	}
	if !slices.Equal(was.VIPs, now.VIPs) {
		done.Anew = append(done.Anew, "vips")
	}
	if !slices.Equal(linksOf(was), linksOf(now)) {
		done.Anew = append(done.Anew, fmt.Sprintf("the links, %v instead of %v", linksOf(now), linksOf(was)))
	}
	if _, ok := now.Node(a.o.Node); !ok {
		return refuse(fmt.Sprintf("node %s is the master", a.o.Node), "move the addresses first: revolve switch")
	}
	for _, n := range now.Nodes {
		o, ok := was.Node(n.Name)
		switch {
		case !ok:
			done.Added = append(done.Added, n.Name)
		case !slices.Equal(sortedLinks(o.Links), sortedLinks(n.Links)):
			done.Anew = append(done.Anew, fmt.Sprintf("nodes.%s.links", n.Name))
			done.Altered = append(done.Altered, n.Name)
		case !reflect.DeepEqual(*o, n):
			done.Altered = append(done.Altered, n.Name)
		}
		if ok && !reflect.DeepEqual(o.Paths, n.Paths) {
			done.Restart = append(done.Restart, fmt.Sprintf("nodes.%s.paths", n.Name))
		}
	}
	for _, n := range was.Nodes {
		if _, ok := now.Node(n.Name); !ok {
			done.Removed = append(done.Removed, n.Name)
		}
	}
	done.Restart = append(done.Restart, restarts(was, now)...)
	return nil
}

// electing is what the nodes must agree on at every moment: all of failover but when its windows are.
func electing(f config.Failover) config.Failover {
	f.Failback, f.Rehearsal = config.Window{}, config.Window{}
	return f
}

// restarts are the keys that an agent reads when it starts.
func restarts(was, now *config.Config) (keys []string) {
	for _, k := range []struct {
		key      string
		was, now any
	}{
		{"failover.failback", was.Failover.Failback, now.Failover.Failback}, {"failover.rehearsal", was.Failover.Rehearsal, now.Failover.Rehearsal},
		{"volumes", was.Volumes, now.Volumes}, {"services", was.Services, now.Services}, {"web", was.Web, now.Web},
		{"alarms", was.Alarms, now.Alarms}, {"alarm_test", was.AlarmTest, now.AlarmTest}, {"vm_storage", was.VMStorage, now.VMStorage},
	} {
		if !reflect.DeepEqual(k.was, k.now) {
			keys = append(keys, k.key)
		}
	}
	return keys
}

func linksOf(c *config.Config) (links []cluster.LinkID) {
	for _, n := range c.Nodes {
		for _, l := range n.Links {
			links = append(links, l.Name)
		}
	}
	slices.Sort(links)
	return slices.Compact(links)
}

// finishKey brings a change of the heartbeat key to its end: first every node
// that lives accepts the new key, then every one sends with it, then the former
// one is retired. except is a node that is out.
func (a *Agent) finishKey(ctx context.Context, except cluster.NodeID) error {
	for {
		r := a.o.Roster.Current()
		if !r.Keys.Changing() {
			return nil
		}
		if err := a.confirmed(ctx, except); err != nil {
			return err
		}
		next := r.Clone()
		next.Follow(&r)
		k := &next.Keys
		if k.Next != nil {
			former := roster.Key(a.id.HeartbeatKey)
			if k.Send != nil {
				former = *k.Send
			}
			k.Send, k.Next, k.Former = k.Next, nil, &former
		} else {
			k.Retired = append([]roster.Key{*k.Former}, k.Retired...)
			k.Retired = k.Retired[:min(len(k.Retired), roster.MaxRetired)]
			k.Former = nil
		}
		if err := a.enact(ctx, &next, a.cfg(), nil); err != nil {
			return err
		}
	}
}

// insistKey is finishKey, tried for a while: a node that went off this very moment
// counts as alive until its silence is long enough.
func (a *Agent) insistKey(ctx context.Context, except cluster.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, keyWithin)
	defer cancel()
	for {
		err := a.finishKey(ctx, except)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(keyPause):
		}
	}
}

const (
	// keyWithin is how long a revocation waits for the key to be changed everywhere; the master goes on after it.
	keyWithin = 6 * time.Second
	keyPause  = 200 * time.Millisecond
)

// confirmed returns nil when every member that is heard has this generation.
func (a *Agent) confirmed(ctx context.Context, except cluster.NodeID) error {
	heard := alive(a.current())
	var g errgroup.Group
	var mu sync.Mutex
	var missing []error
	for _, n := range heard {
		if _, member := a.cfg().Node(n); n == except || !member {
			continue
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, tellWithin)
			defer cancel()
			if err := a.exchange(ctx, n, true); err != nil && problem.KindOf(err) != problem.Permission { // one that is out has nothing to confirm
				mu.Lock()
				defer mu.Unlock()
				missing = append(missing, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(missing...)
}

// unfinished goes on with what a master before this one, or a node that did not
// confirm in time, left unfinished.
func (a *Agent) unfinished(ctx context.Context) {
	if _, on := a.o.Roster.Trial(); on || !a.leads() || !a.o.Roster.Current().Keys.Changing() || !a.changes.TryLock() {
		return
	}
	defer a.changes.Unlock()
	if _, on := a.o.Roster.Trial(); on {
		return // it began in between, and nothing else changes now
	}
	if err := a.finishKey(ctx, ""); err != nil {
		a.o.Log.Warn("the heartbeat key is not changed everywhere yet", "err", err)
	}
}

// Change carries a change out, wherever the master is.
func (b backend) Change(ctx context.Context, c control.Change) (control.Changed, error) {
	done, err := b.a.change(ctx, c)
	if err != nil {
		return control.Changed{}, err
	}
	return *done, nil
}

// change has the master carry a change out, and waits until this node has it too.
func (a *Agent) change(ctx context.Context, c control.Change) (*control.Changed, error) {
	r := a.current()
	switch {
	case r.Role == cluster.Master:
		return a.changeHere(ctx, c)
	case r.Master == "":
		return nil, &problem.Problem{Op: "change the cluster", Kind: problem.Unavailable, Err: errors.New("there is no master now"), Hint: "look at `revolve status`"}
	}
	if c.Config != "" && c.Deadline > 0 && !c.DryRun { // a master of an older version would ignore the deadline, and change everything for good
		if _, err := a.askTrial(ctx, r.Master, trialFrame{Config: c.Config}); err != nil {
			return nil, &problem.Problem{Op: "check the configuration on node", Kind: problem.Unavailable, Subject: string(r.Master), Err: err,
				Hint: "nothing was changed; look at revolve status, and try again; a master of an older version tries nothing: upgrade it first, or do without (--deadline 0)"}
		}
	}
	ans, err := a.ask(ctx, r.Master, orderFrame{What: orderChange, Change: &c})
	if err != nil {
		return nil, err
	}
	if ans.Changed == nil {
		return nil, &problem.Problem{Op: "change the cluster", Kind: problem.Corrupt, Subject: string(r.Master), Err: errors.New("no answer in its answer")}
	}
	return ans.Changed, nil
}

// Configuration is the one in force.
func (b backend) Configuration() control.Configuration {
	r := b.a.o.Roster.Current()
	c := control.Configuration{Generation: r.Generation, Config: r.Config, TurnedBack: r.Tried != ""}
	if left, on := b.a.o.Roster.Trial(); on {
		c.Trial = &control.Trial{Left: max(left, 0).Seconds(), WaitsFor: b.a.trial.waitsFor()}
	}
	return c
}
