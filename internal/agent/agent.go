// Package agent runs one node: it turns the configuration into tasks under one
// supervisor, starts them in order and stops them in reverse.
//
// The tasks are the beat process (heartbeats, election, VIPs), the mirror, the
// listener for peers, the local API, and the glue between them. The agent
// decides nothing that a pure core can decide, and touches nothing that one of
// its tasks owns.
//
//	err := agent.Run(ctx, agent.Options{Config: cfg, Node: "a", State: dir, Log: log, Beat: []string{exe, "beat"}})
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/election"
	"revolve/internal/failover/history"
	"revolve/internal/mirror"
	"revolve/internal/mirror/apply"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
	"revolve/internal/sdnotify"
	"revolve/internal/service"
	"revolve/internal/vm"
)

// Options say which node to run.
type Options struct {
	Config *config.Config // that the node starts with: Roster's
	File   string         // the node's own configuration file, "" if it has none
	Roster *roster.Store
	Node   cluster.NodeID
	State  string
	Beat   []string // argv of the beat process
	Guard  []string // argv of the process that lets a held machine go on (vm.Guard)
	Log    *slog.Logger
	Notify *sdnotify.Notifier // who wants to know that the node lives; nil: nobody
}

// Agent is one running node.
type Agent struct {
	o        Options
	self     *config.Node
	id       *peer.Identity
	record   *record
	beat     *beat.Beat
	engine   *mirror.Engine
	vms      *vm.Engine   // nil: there are no points of machines here
	noVMs    error        // why
	machines *machineLook // nil: there are none to show
	hooks    map[cluster.VolumeID]*service.Hook
	daemon   *service.Services
	since    time.Time

	handovers chan beat.Handover
	history   *history.Store[history.Record]
	rehearsed *history.Store[history.Rehearsal]
	disks     disks
	unfit     atomic.Bool // a disk is ill, and there is nobody to hand over to in order
	looks     *looker
	turns     chan turned
	clients   clientele
	alarms    *alarms
	arrivals  chan arrival
	firsts    chan first
	announced announced

	drills     chan drill
	rehearsing atomic.Bool                   // one rehearsal at a time
	drilling   atomic.Pointer[history.Order] // who ordered the one that is carried out here
	standing   atomic.Pointer[standing]
	telling    sync.Mutex // words are composed and said in one order

	left       chan error  // why this node is no member any more
	asked      atomic.Bool // the others were asked for a newer roster; it does not lead before
	taking     sync.Mutex  // one roster is taken at a time
	changes    sync.Mutex  // one change of the cluster is carried out at a time
	renewal    atomic.Pointer[string]
	witness    *beat.Witness // nil: there is none
	trial      trying
	ending     atomic.Bool                   // it wants to end: another engine is to move the VIPs away first
	resting    atomic.Pointer[time.Duration] // until this machine has been up for so long it is about to be off: it begins nothing, and leads no more
	closing    sync.Mutex
	goingOff   atomic.Bool                  // this node is being closed: it writes down that it is to be off
	switching  atomic.Int32                 // planned switches that were begun here
	runs       func(context.Context) string // which machine does here; nil: it is looked
	asksMaster func(context.Context) error  // whether it can spare this node; nil: it is asked
	people     people
	uses       atomic.Int64 // how often somebody used this node; vms counts its own
	wants      wants
	farewell   farewell
	says       func(context.Context, cluster.NodeID, orderFrame) error // to another node; nil: over the network
	spared     spared                                                  // by this node as master

	mu       sync.Mutex
	report   beat.Report
	reported time.Time
	flushed  uint64 // last handover whose flush is done
	flushing uint64
	orders   uint64
	order    beat.SwitchOrder
	changed  chan struct{} // closed at the next report

	words, reports atomic.Uint64 // said to the beat process, and taken in from it
	said           atomic.Int64  // when the last word was, in ns after since
	stood          chan struct{} // the mirror was asked how it stands

	failovers map[string]int64 // reigns begun here since the start, by cause
}

// Run runs the node until ctx ends or something that cannot be repaired breaks.
func Run(ctx context.Context, o Options) error {
	a, release, err := prepare(o)
	if err != nil {
		return err
	}
	defer release()
	listener, err := peer.Listen(ctx, a.id, a.known, peer.ListenAddrs(o.Config, o.Node), o.Log)
	if err != nil {
		return err
	}
	listener.Newcomers(a.authority().Serve)
	a.hooks = a.volumeHooks()
	a.daemon = service.New(service.Options{Services: o.Config.Services, Dir: filepath.Join(o.State, "services"), Log: o.Log,
		Env: func() []string { return []string{"REVOLVE_NODE=" + string(o.Node)} }})
	a.engine, err = mirror.New(a.mirrorOptions())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// Services run before the node listens for a role, and end after its addresses have gone.
	daemons, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return a.daemon.Run(daemons) })
	select {
	case <-a.daemon.Settled():
		err = a.play(ctx, listener)
	case <-ctx.Done():
		err = listener.Close()
	}
	stop()
	return errors.Join(err, g.Wait())
}

// play takes part in the election and in the mirror until ctx ends.
func (a *Agent) play(ctx context.Context, listener *peer.Listener) (err error) {
	// The beat process ends first: addresses go before anything else stops (design, section 4).
	beatCtx, stopBeat := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeat()
	a.unmute()
	a.beat, err = beat.Start(beatCtx, a.o.Beat, a.beatConfig(), a.o.Log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	return a.tasks(ctx, beatCtx, stopBeat, listener)
}

func (a *Agent) tasks(ctx, beatCtx context.Context, stopBeat func(), listener *peer.Listener) error {
	g, gctx := errgroup.WithContext(context.WithoutCancel(ctx))
	rest, stopRest := context.WithCancel(gctx)
	g.Go(func() error {
		defer stopRest() // when the beat has ended, in order or not, everything ends
		return a.beat.Run(beatCtx)
	})
	g.Go(func() error { return a.export(rest) })
	g.Go(func() error { // a wish to end, or another task's failure, ends the beat first
		select {
		case <-ctx.Done():
		case <-gctx.Done():
		case <-rest.Done():
		}
		if a.trial.anew().IsZero() || ctx.Err() != nil {
			a.o.Notify.Stopping() // not if it starts anew: systemd would wait for an end that does not come
		}
		a.yieldTo(gctx)
		stopBeat()
		return nil
	})
	g.Go(func() error { return a.watchReports(rest) })
	g.Go(func() error { return a.flushes(rest) })
	g.Go(func() error { return a.keepStanding(rest) })
	g.Go(func() error { return a.giveLeave(rest) })
	g.Go(func() error { return a.liveness(rest) })
	g.Go(func() error { return a.relax(rest) })
	g.Go(func() error { return a.giveBack(rest) })
	g.Go(func() error { return a.minds(rest) })
	g.Go(func() error { return a.failback(rest) })
	g.Go(func() error { return a.remember(rest) })
	g.Go(func() error { return a.members(rest) })
	g.Go(func() error { return a.seek(rest) })
	g.Go(func() error { return a.trials(rest) })
	g.Go(func() error { return a.renewals(rest) })
	g.Go(func() error { return a.records(rest) })
	g.Go(func() error { return a.followClients(rest) })
	g.Go(func() error { return a.welcome(rest) })
	g.Go(func() error { return a.departures(rest) })
	g.Go(func() error { return a.rehearsals(rest) })
	g.Go(func() error { return a.looks.run(rest) })
	g.Go(func() error { return a.minding(rest) })
	g.Go(func() error { return a.alarming(rest) })
	g.Go(func() error { return a.engine.Run(rest) })
	g.Go(func() error { return a.runVMs(rest) })
	g.Go(func() error { return a.watchRest(rest) })
	g.Go(func() error { return a.tellWanted(rest) })
	g.Go(func() error { return a.goesWithSystem(rest) })
	g.Go(func() error { return a.staysTold(rest) })
	for _, h := range a.hooks {
		g.Go(func() error { return h.Run(rest) })
	}
	g.Go(func() error { return listener.Serve(rest, a.serve) })
	g.Go(func() error { return control.Serve(rest, control.Socket(a.o.State), backend{a}, a.o.Log) })
	if len(a.o.Config.Web.Listen) > 0 {
		g.Go(func() error { return a.page(rest) })
	}
	a.o.Log.Info("running", "cluster", a.o.Config.Cluster, "node", a.o.Node, "state", a.o.State)
	err := g.Wait()
	if err == nil && ctx.Err() == nil {
		err = errors.New("the beat process ended")
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	a.o.Log.Info("stopped", "err", err)
	return err
}

// prepare reads and checks everything that can be wrong before anything starts.
func prepare(o Options) (*Agent, func(), error) {
	if why := o.Roster.Out(); why != "" {
		return nil, nil, outProblem(o.Node, o.State, why)
	}
	self, ok := o.Config.Node(o.Node)
	if !ok {
		names := make([]string, 0, len(o.Config.Nodes))
		for _, n := range o.Config.Nodes {
			names = append(names, string(n.Name))
		}
		return nil, nil, &problem.Problem{Op: "run node", Kind: problem.NotFound, Subject: string(o.Node),
			Err: errors.New("it is not in the configuration"), Hint: fmt.Sprintf("name one of %v with --node", names)}
	}
	for _, w := range o.Config.Warnings {
		o.Log.Warn(w)
	}
	release, err := lock(o.State)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*Agent, func(), error) {
		release()
		return nil, nil, err
	}
	if peer.HasCA(o.State) {
		if err := peer.RenewOwn(o.State, time.Now()); err != nil {
			return fail(err)
		}
	}
	id, err := peer.LoadIdentity(o.State)
	if err != nil {
		return fail(err)
	}
	if id.Node != o.Node || id.Cluster != o.Config.Cluster {
		return fail(&problem.Problem{Op: "run node", Kind: problem.Conflict, Subject: string(o.Node),
			Err:  fmt.Errorf("the identity in %s is that of %v, the configuration is of cluster %q", o.State, id, o.Config.Cluster),
			Hint: "use the state directory that `revolve init` or `revolve join` made for this node"})
	}
	if w := id.Warning(time.Now()); w != "" {
		o.Log.Warn(w)
	}
	third, err := witnessOf(o.Config)
	if err != nil {
		return fail(err)
	}
	rec, err := openRecord(o.State)
	if err != nil {
		return fail(err)
	}
	a := &Agent{o: o, self: self, id: id, record: rec, witness: third, since: time.Now(), changed: make(chan struct{}), stood: make(chan struct{}, 1), handovers: make(chan beat.Handover, 1), left: make(chan error, 1),
		turns: make(chan turned, turnsAhead), arrivals: make(chan arrival, 1), firsts: make(chan first, firstsLate),
		drills: make(chan drill, 1)}
	a.looks = newLooker(a.seeing)
	a.openDisks()
	a.openAlarms()
	if err := errors.Join(a.openHistory(), a.openRehearsals()); err != nil {
		return fail(err)
	}
	a.openVMs()
	a.restAgain()
	id.Watch(a.counts, a.generation)
	a.order.ID, a.orders = 0, uint64(time.Now().UnixNano()) // ids of orders differ between runs
	return a, release, nil
}

const (
	// lockPatience is how long a start waits for the agent before it: one that was killed holds its lock until the
	// kernel has taken it apart, which was seen to take longer than a restart.
	lockPatience = 2 * time.Second
	lockPoll     = 20 * time.Millisecond
)

// lock makes sure that one agent uses a state directory.
func lock(state string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(state, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &problem.Problem{Op: "open state directory", Kind: problem.Permission, Subject: state, Err: errors.New("not allowed"),
			Hint: "run the agent as root (sudo), or give its user the directory: chown -R USER " + state}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a disk that is full or mounted read-only
		return nil, &problem.Problem{Op: "open state directory", Kind: problem.Unavailable, Subject: state, Err: err}
	}
	if err != nil {
		return nil, &problem.Problem{Op: "open state directory", Kind: problem.NotFound, Subject: state, Err: err,
			Hint: "make it with `revolve init` (first node) or `revolve join` (others), or name it with --state"}
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for late := time.Now().Add(lockPatience); err != nil && time.Now().Before(late); time.Sleep(lockPoll) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(&problem.Problem{Op: "lock state directory", Kind: problem.Conflict, Subject: state,
			Err: ErrInUse, Hint: "stop that one first, or give each node its own --state"}, f.Close())
	}
	return func() { f.Close() }, nil
}

// known are the members, and while a configuration without them is only tried, those that it would remove.
func (a *Agent) known(n cluster.NodeID) bool {
	_, ok := a.cfg().Node(n)
	if former := a.o.Roster.Former(); !ok && former != nil {
		_, ok = former.Node(n)
	}
	return ok
}

func (a *Agent) mirrorOptions() mirror.Options {
	var volumes []mirror.VolumeConfig
	for _, v := range a.o.Config.Volumes {
		volumes = append(volumes, mirror.VolumeConfig{
			Name: v.Name, Path: a.o.Config.VolumePath(a.o.Node, v.Name), Exclude: v.Exclude, TrashAge: v.Trash,
			TrashEvery: v.TrashEvery, TrashQuota: apply.Quota(v.TrashQuota), SyncFull: v.Sync == config.SyncFull,
		})
	}
	return mirror.Options{Node: a.o.Node, State: a.o.State, Volumes: volumes, Terms: a.record, Dial: a.dialVolume, Changed: a.volumeChanged, Bandwidth: a.bandwidth, Log: a.o.Log}
}

// bandwidth is how much may be sent over a link now, as the configuration in force says.
func (a *Agent) bandwidth(link cluster.LinkID, now time.Time) int64 {
	return a.cfg().Bandwidth[link].At(now)
}

// volumeHooks are the commands that the volumes' changes call for.
func (a *Agent) volumeHooks() map[cluster.VolumeID]*service.Hook {
	hooks := map[cluster.VolumeID]*service.Hook{}
	for _, v := range a.o.Config.Volumes {
		if v.OnChange == "" {
			continue
		}
		hooks[v.Name] = service.NewHook(service.HookOptions{Volume: v.Name, Command: v.OnChange, Log: a.o.Log, Env: func() []string {
			role := "standby"
			if a.leads() {
				role = "master"
			}
			return []string{"REVOLVE_VOLUME=" + string(v.Name), "REVOLVE_PATH=" + a.o.Config.VolumePath(a.o.Node, v.Name),
				"REVOLVE_NODE=" + string(a.o.Node), "REVOLVE_ROLE=" + role}
		}})
	}
	return hooks
}

func (a *Agent) volumeChanged(volume cluster.VolumeID, paths ...string) {
	if h := a.hooks[volume]; h != nil {
		h.Changed(paths...)
	}
}

// leads reports whether this node is the master, as the beat process said last.
func (a *Agent) leads() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.report.Role == cluster.Master
}

func (a *Agent) beatConfig() beat.Config {
	timers, _ := election.Profile(a.o.Config.Failover.Profile) // the configuration checked the name
	m := a.record.memory()
	key, accept, retired := a.heartbeatKeys()
	c := beat.Config{
		Cluster: a.o.Config.Cluster, Self: a.o.Node, Key: key, Accept: accept, Retired: retired, Stamp: a.stamp(), Port: a.o.Config.Port, Timers: timers,
		Boot: beat.Boot{SeenTerm: m.Seen, Reserved: m.Reserved, MaybeFresher: m.Alive, Virgin: m.Seen == 0},
	}
	for _, n := range a.cfg().Nodes {
		bn := beat.Node{ID: n.Name, Candidate: n.Candidate, Priority: n.Priority, OnDemand: a.mayBeOff(n.Name) && a.record.settled()}
		for _, l := range sortedLinks(n.Links) {
			bn.Links = append(bn.Links, beat.Link{ID: l.Name, Addr: l.Addr})
		}
		c.Nodes = append(c.Nodes, bn)
	}
	for _, v := range a.o.Config.VIPs {
		c.VIPs = append(c.VIPs, beat.VIP{Prefix: v.Prefix, Link: v.Link})
	}
	c.Witness, c.References = a.witness, a.o.Config.Failover.References
	if a.o.Config.Failover.Isolation == config.IsolationRelease {
		c.Isolation = election.Release
	}
	if c.External = a.external(); c.External { // beacons count them in this order, on every node
		slices.SortFunc(c.VIPs, func(x, y beat.VIP) int { return x.Prefix.Addr().Compare(y.Prefix.Addr()) })
	}
	return c
}

// dial connects to a node, over a link on which it is heard if there is one.
func (a *Agent) dial(ctx context.Context, to cluster.NodeID, service string) (*peer.Conn, error) {
	paths := peer.Paths(a.cfg(), a.o.Node, to)
	heard := a.heardLinks(to)
	slices.SortStableFunc(paths, func(x, y peer.Path) int { return boolInt(heard[y.Link]) - boolInt(heard[x.Link]) })
	conn, err := peer.Dial(ctx, a.id, to, paths, service)
	if err != nil {
		a.refused(err)
	}
	return conn, err
}

// dialVolume is dial for the mirror.
func (a *Agent) dialVolume(ctx context.Context, to cluster.NodeID, service string) (mirror.Conn, error) {
	conn, err := a.dial(ctx, to, service)
	if err != nil {
		return nil, err // not a nil connection in an interface
	}
	return conn, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (a *Agent) heardLinks(node cluster.NodeID) map[cluster.LinkID]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	heard := map[cluster.LinkID]bool{}
	for _, p := range a.report.Peers {
		if p.Node == node {
			for _, l := range p.Links {
				heard[l.ID] = l.Heard
			}
		}
	}
	return heard
}
