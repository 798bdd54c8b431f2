package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/power"
	"revolve/internal/problem"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
)

// This file is power: nodes are woken from here, and power themselves off when they are asked to.

const (
	orderOff  = "power-off"
	orderKeep = "power-keep" // a person wants it on
	// defaultOff is how a node powers itself off. The agent's own end is part of it, so nothing waits for that.
	defaultOff = "systemctl --no-block poweroff"
	// askOffWithin bounds the conversation with a node that is to power itself off: it asks libvirt, and waits for its command to fail.
	askOffWithin = time.Minute
	// restFor is how long a node that agreed leads no more. One that is still there then was not powered off.
	restFor = 10 * time.Minute
	// backWithin is how long the election may take to know; it reports several times a second.
	backWithin = 5 * time.Second
	// peopleEvery is how often it is looked who is logged in: who comes and goes in between is not seen.
	peopleEvery = 10 * time.Second
)

// Power wakes a node, or has it power itself off.
func (b backend) Power(ctx context.Context, o control.PowerOrder) error {
	if !b.a.known(o.Node) {
		return &problem.Problem{Op: "power", Kind: problem.NotFound, Subject: string(o.Node), Err: errors.New("it is no node of this cluster"), Hint: "see their names: revolve status"}
	}
	b.a.o.Log.Info("ordered", "power", map[bool]string{true: "on", false: "off"}[o.On], "node", o.Node, "by", control.Caller(ctx))
	there, _ := nodePower(b).Ready(o.Node)
	switch {
	case o.On && o.Node == b.a.o.Node:
		b.a.keepHere()
		return nil
	case o.On && there: // whoever woke it for a copy is to leave it on
		_, err := b.a.send(ctx, o.Node, orderFrame{What: orderKeep})
		return err
	case o.On:
		return b.a.powerOn(ctx, o.Node)
	}
	return b.a.powerOff(ctx, o.Node, nil)
}

// powerOn tells a node to power on. It does not wait for it.
func (a *Agent) powerOn(ctx context.Context, node cluster.NodeID) error {
	if node == a.o.Node {
		return nil // it says so itself
	}
	cfg, _ := a.cfg().Node(node)
	return power.On(ctx, string(node), wayOf(cfg.Power), a.sharedWith(node))
}

func wayOf(p config.Power) (w power.Way) {
	w.Command = p.On
	if mac, err := net.ParseMAC(p.Wake); err == nil {
		w.Wake = mac
	}
	if p.IPMI.Address.IsValid() {
		w.IPMI = &power.IPMI{Host: p.IPMI.Address.Addr().String(), Port: int(p.IPMI.Address.Port()), User: p.IPMI.User, PasswordFile: p.IPMI.PasswordFile}
	}
	return w
}

// sharedWith are this node's addresses on the links that another one has, too.
func (a *Agent) sharedWith(node cluster.NodeID) (own []netip.Addr) {
	for _, p := range peer.Paths(a.cfg(), a.o.Node, node) {
		own = append(own, p.Local)
	}
	return own
}

// powerOff has a node power itself off: it knows best what speaks against it. run is nil where a person says it.
func (a *Agent) powerOff(ctx context.Context, node cluster.NodeID, run *vm.RestOrder) error {
	if node == a.o.Node {
		return a.offHere(ctx, "", run)
	}
	ctx, cancel := context.WithTimeout(ctx, askOffWithin)
	defer cancel()
	_, err := a.send(ctx, node, orderFrame{What: orderOff, Rest: run})
	return err
}

// refuseOff is why this node stays on.
func (a *Agent) refuseOff(kind problem.Kind, why, hint string) error {
	return &problem.Problem{Op: "power off", Kind: kind, Subject: string(a.o.Node), Err: errors.New(why), Hint: hint}
}

// offHere powers this node off, if nothing speaks against it. First nothing begins here any more; then it is looked
// what there is: so nothing comes between. by is the node whose run orders it.
func (a *Agent) offHere(ctx context.Context, by cluster.NodeID, run *vm.RestOrder) error {
	if err := a.mayRest(); err != nil {
		return err
	}
	people, err := a.people.look(a)
	if err := a.shut(ctx, by, run); err != nil {
		return err
	}
	switch {
	case run == nil: // whoever types it is logged in, too
		err = nil
	case err != nil:
		err = a.refuseOff(problem.Conflict, "it cannot be seen whether somebody is logged in on it: "+err.Error(), "")
	case len(people) > 0:
		err = a.refuseOff(problem.Conflict, people[0]+" is logged in on it", "power it off by hand when nobody needs it: revolve power off "+string(a.o.Node))
	case a.vms == nil:
		err = a.refuseOff(problem.Conflict, "it keeps no points, so it is not known what it was woken for", "")
	}
	if err == nil {
		err = a.stepBack(ctx)
	}
	cfg, _ := a.cfg().Node(a.o.Node)
	if command := cmp.Or(cfg.Power.Off, defaultOff); err == nil {
		a.o.Log.Info("powering off, as ordered", "command", command, "by", by)
		if err = power.Begin(ctx, command); err != nil {
			err = a.refuseOff(problem.Unavailable, "the command failed: "+err.Error(), "try it by hand on that node; another one: power: { off: COMMAND }")
		}
	}
	if err != nil {
		a.comeBack()
	}
	return err
}

// shut has nothing begin here any more. Machines run on a node that keeps no points, too.
func (a *Agent) shut(ctx context.Context, by cluster.NodeID, run *vm.RestOrder) error {
	if a.vms != nil {
		return a.vms.Shut(ctx, by, run)
	}
	if why := vm.Occupied(ctx, libvirt.At(libvirt.DefaultSocket)); why != "" {
		return a.refuseOff(problem.Conflict, why, "see what runs there: virsh list")
	}
	return nil
}

// mayRest is what does not change by this node's looking at it.
func (a *Agent) mayRest() error {
	if !a.mayBeOff(a.o.Node) {
		return a.refuseOff(problem.Invalid, "it is not on demand: its silence would be an alarm", "say in the configuration that off is a normal state of it: power: { mode: on-demand }")
	}
	if err := a.leadsNot(); err != nil {
		return err
	}
	if why := a.syncing(); why != "" {
		return a.refuseOff(problem.Conflict, why, "wait until it is in-sync: revolve status --watch")
	}
	return nil
}

// leadsNot refuses unless it is known that another node is master.
func (a *Agent) leadsNot() error {
	switch r := a.current(); {
	case !fresh(a.lastReport()):
		return a.refuseOff(problem.Conflict, "its election is not heard, so it may be master", "look at it there: revolve status")
	case r.Role == cluster.Master || r.Master == a.o.Node:
		return a.refuseOff(problem.Conflict, "it is master", "move the addresses first: revolve switch")
	case r.Master == "":
		return a.refuseOff(problem.Conflict, "it hears no master, so it may have to be it", "wait until there is one: revolve status --watch")
	}
	return nil
}

// stepBack has this node become master no more, and waits until the election knows.
func (a *Agent) stepBack(ctx context.Context) error {
	until := time.Now().Add(restFor)
	a.resting.Store(&until)
	a.tell()
	ctx, cancel := context.WithTimeout(ctx, backWithin)
	defer cancel()
	for {
		a.mu.Lock()
		r, changed := a.report, a.changed
		a.mu.Unlock()
		if err := a.leadsNot(); err != nil {
			return err
		}
		if r.Class == cluster.Barred {
			return nil
		}
		select {
		case <-ctx.Done():
			return a.refuseOff(problem.Unavailable, "its election does not say that it can be spared", "try it again")
		case <-changed:
		}
	}
}

// comeBack takes part again: it is not powered off.
func (a *Agent) comeBack() {
	a.resting.Store(nil)
	if a.vms != nil {
		a.vms.Reopen()
	}
	a.tell()
}

// rests reports whether this node agreed to power itself off not long ago.
func (a *Agent) rests() bool {
	t := a.resting.Load()
	return t != nil && time.Now().Before(*t)
}

// syncing says that this node is not in-sync: what powers it off now has it catch up later.
func (a *Agent) syncing() string {
	if len(a.cfg().Volumes) == 0 {
		return ""
	}
	if r := a.current(); r.Class != cluster.InSync {
		return fmt.Sprintf("its volumes are not caught up: it is %v", r.Class)
	}
	return ""
}

func (a *Agent) lastReport() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reported
}

// keepHere takes note that a person wants this node on.
func (a *Agent) keepHere() {
	if a.vms != nil {
		a.vms.Used("a person powered it on")
	}
}

// people are those who are logged in here.
type people struct {
	mu   sync.Mutex
	seen []string
	who  func() ([]string, error) // nil: the system says it
}

// look says who is logged in now, and takes note of those who were not when it was looked last.
func (p *people) look(a *Agent) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.who
	if who == nil {
		who = power.LoggedIn
	}
	list, err := who()
	for _, s := range list {
		if !slices.Contains(p.seen, s) && a.vms != nil {
			a.vms.Used(s + " is logged in")
		}
	}
	if err == nil {
		p.seen = list
	}
	return list, err
}

// watchPeople takes note of who logs in on a node that others wake and power off.
func (a *Agent) watchPeople(ctx context.Context) error {
	tick := time.NewTicker(peopleEvery)
	defer tick.Stop()
	for {
		if a.mayBeOff(a.o.Node) {
			if _, err := a.people.look(a); err != nil {
				a.o.Log.Debug("it cannot be seen who is logged in", "err", err) // who asks for its end is told
			}
		}
		if t := a.resting.Load(); t != nil && !time.Now().Before(*t) && a.resting.CompareAndSwap(t, nil) {
			a.o.Log.Error("this node agreed to power itself off, and is still here; it takes part again", "hint", "try its command by hand: power.off of the configuration")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// nodePower is the power of other nodes, for whoever copies machines.
type nodePower struct{ a *Agent }

// On wakes a node.
func (p nodePower) On(ctx context.Context, node cluster.NodeID) error { return p.a.powerOn(ctx, node) }

// Off has it power itself off.
func (p nodePower) Off(ctx context.Context, node cluster.NodeID, o vm.RestOrder) error {
	return p.a.powerOff(ctx, node, &o)
}

// Ready reports whether it is there, and whether its volumes are caught up.
func (p nodePower) Ready(node cluster.NodeID) (there, caughtUp bool) {
	for _, x := range p.a.current().Peers {
		if x.Node == node {
			there = x.State == beat.PeerAlive
			return there, there && (x.Class == cluster.InSync || len(p.a.cfg().Volumes) == 0)
		}
	}
	return false, false
}
