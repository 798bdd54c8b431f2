package agent

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/vm"
	"revolve/internal/vm/keep"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
	"revolve/internal/vm/transfer"
)

// openVMs makes ready what keeps points of virtual machines, where the cluster has
// any. A directory that cannot be used is no reason not to serve files.
func (a *Agent) openVMs() {
	var store *points.Store
	err := vm.CheckStorage(a.o.State, a.o.Config.VMStorage)
	if a.noVMs = noVMs(); err == nil && a.o.Config.VMStorage != "" {
		store, err = points.Open(a.o.Config.VMStorage)
	}
	if err := vm.NoteStorage(a.o.State, a.o.Config.VMStorage); err != nil {
		a.o.Log.Error("libvirt's hook will not find the points while this agent is down", "err", err)
	}
	if err == nil && store == nil {
		return
	}
	if err != nil {
		a.noVMs = err
		a.o.Log.Error("no points of virtual machines on this node", "err", err, "hint", problem.HintOf(err))
		return
	}
	a.o.Log.Info("points of virtual machines", "dir", a.o.Config.VMStorage, "tracker", store.Choice().Tracker, "why", store.Choice().Why)
	a.machines = newMachineLook(a.seeMachines)
	a.vms = vm.New(vm.Options{
		MayBeOff: a.mayBeOff, WereOn: a.wereOn, Keep: a.keeps, Schedules: a.schedules, State: a.o.State, Power: nodePower{a}, CaughtUp: func() bool { return a.inSync() == nil },
		Node: a.o.Node, Store: store, Host: libvirt.At(libvirt.DefaultSocket), TPM: tpm.Default(), Guard: a.o.Guard, Log: a.o.Log,
		Nodes: a.nodes,
		Dial: func(ctx context.Context, node cluster.NodeID, service string) (transfer.Conn, error) {
			return a.dial(ctx, node, service)
		},
	})
}

func (a *Agent) nodes() (names []cluster.NodeID) {
	for _, n := range a.cfg().Nodes {
		names = append(names, n.Name)
	}
	return names
}

// runVMs carries out what is ordered of machines.
func (a *Agent) runVMs(ctx context.Context) error {
	if a.vms == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.vms.Run(ctx) })
	if len(a.o.Config.Web.Listen) > 0 {
		g.Go(func() error { return a.machines.run(ctx) })
	}
	return g.Wait()
}

func (a *Agent) serveVMs(ctx context.Context, c *peer.Conn) error {
	if a.vms == nil {
		return errors.Join(a.noVMs, c.Close())
	}
	return a.vms.Handle(ctx, c, c.Service())
}

func noVMs() error {
	return &problem.Problem{Op: "ask about virtual machines", Kind: problem.NotFound, Err: errors.New("this cluster keeps no points of any"),
		Hint: "name a directory in the configuration, on the XFS or btrfs of the images: vm_storage: /var/lib/revolve/vms; then restart the agents"}
}

// VMs answers about virtual machines, or takes an order.
func (b backend) VMs(ctx context.Context, q control.VMQuery) (out control.VMAnswer, err error) {
	e := b.a.vms
	out.Node = b.a.o.Node
	if e == nil && q.Hook && b.a.o.Config.VMStorage == "" {
		return out, nil // no machine here is one of the cluster's
	}
	if e == nil {
		return out, b.a.noVMs
	}
	if q.Replicate != nil || q.Start != nil || q.Stop != nil || q.Restore != nil || q.Rehearse != nil || q.Prune != nil {
		b.Ordered("vms")
	}
	switch {
	case q.Replicate != nil:
		return out, b.a.orderCopies(&out, *q.Replicate)
	case q.Job != "":
		j, ok := e.Look(q.Job)
		if !ok {
			return out, &problem.Problem{Op: "look at order", Kind: problem.NotFound, Subject: q.Job, Err: errors.New("the agent knows none of it; it was restarted since"), Hint: "order it again"}
		}
		out.Job = &j
	case q.Plan != nil:
		p, err := e.Plan(ctx, q.VM, b.a.targetsOf(q.VM, q.Plan))
		out.Plan = &p
		return out, err
	case q.Start != nil:
		s, err := e.Start(ctx, q.On, *q.Start)
		out.Started = &s
		return out, err
	case q.Hook:
		return out, e.MayStart(ctx, q.VM)
	case q.Stop != nil:
		s, err := e.Stop(ctx, *q.Stop)
		out.Stopped = &s
		return out, err
	case q.Restore != nil:
		s, err := e.Restore(ctx, *q.Restore)
		out.Restored = &s
		return out, err
	case q.Rehearse != nil:
		if q.On != "" && !b.a.known(q.On) {
			return out, &problem.Problem{Op: "rehearse on", Kind: problem.NotFound, Subject: string(q.On), Err: errors.New("it is no node of this cluster"), Hint: "see their names: revolve status"}
		}
		s, err := e.Rehearse(ctx, q.On, *q.Rehearse)
		out.Rehearsal = &s
		return out, err
	case q.Scheduled:
		b.a.scheduled(ctx, &out)
	case q.Prune != nil:
		pruned, silent := e.Prune(ctx, *q.Prune)
		out.Pruned, out.Silent = pruned, silentOf(silent)
	default:
		views, silent := e.Views(ctx, q.VM)
		out.Views, out.Silent = views, silentOf(silent)
	}
	return out, nil
}

func silentOf(silent map[cluster.NodeID]error) (list []control.Silent) {
	for n, err := range silent {
		list = append(list, control.Silent{Node: n, Why: err.Error()})
	}
	slices.SortFunc(list, func(x, y control.Silent) int { return cmpNode(x.Node, y.Node) })
	return list
}

func cmpNode(a, b cluster.NodeID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// orderCopies fills in what the configuration says of each machine, and orders them one by one where they differ.
func (a *Agent) orderCopies(out *control.VMAnswer, o vm.Order) error {
	if len(o.VMs) == 0 {
		for _, m := range a.cfg().VMs {
			o.VMs = append(o.VMs, m.Name)
		}
	}
	for _, n := range o.Targets {
		if !a.known(n) || n == a.o.Node {
			return &problem.Problem{Op: "replicate to", Kind: problem.NotFound, Subject: string(n), Err: errors.New("it is no other node of this cluster")}
		}
	}
	o.Plans = map[string]vm.Plans{}
	for _, name := range o.VMs {
		plan := vm.Plans{Targets: a.targetsOf(name, o.Targets), Level: o.Level}
		if plan.Level == "" {
			plan.Level = points.Suspend
			if m := a.configured(name); m >= 0 {
				plan.Level = points.Level(a.cfg().VMs[m].Consistency)
			}
		}
		o.Plans[name] = plan
	}
	j, err := a.vms.Order(o)
	if err == nil {
		c, _ := a.vms.Look(j)
		out.Job = &c
	}
	return err
}

// keeps are the rules of the configuration for a machine's points.
func (a *Agent) keeps(name string) keep.Rules {
	if i := a.configured(name); i >= 0 {
		k := a.cfg().VMs[i].Keep
		return keep.Rules{Last: k.Last, Daily: k.Daily, Weekly: k.Weekly, Monthly: k.Monthly}
	}
	return keep.Rules{}
}

func (a *Agent) configured(name string) int {
	for i, m := range a.cfg().VMs {
		if m.Name == name {
			return i
		}
	}
	return -1
}

// targetsOf are the nodes that get points of a machine: those that were named, else those of the configuration.
func (a *Agent) targetsOf(name string, named []cluster.NodeID) []cluster.NodeID {
	if len(named) > 0 {
		return named
	}
	if i := a.configured(name); i >= 0 {
		return slices.DeleteFunc(slices.Clone(a.cfg().VMs[i].Nodes), func(n cluster.NodeID) bool { return n == a.o.Node })
	}
	return nil
}
