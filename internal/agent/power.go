package agent

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/peer"
	"revolve/internal/power"
	"revolve/internal/problem"
	"revolve/internal/vm"
)

// This file is power: nodes are woken from here, and asked to power themselves off. How this one does that is in rest.go.

const (
	orderOff   = "power-off"
	orderKeep  = "power-keep"  // a person wants it on
	orderSpare = "power-spare" // asks the master whether it can spare the node that asks
	// defaultOff is how a node powers itself off. The agent's own end is part of it, so nothing waits for that.
	defaultOff = "systemctl --no-block poweroff"
	// askOffWithin bounds the conversation with a node that is to power itself off: it asks libvirt and the master, and waits for its command to fail.
	askOffWithin = time.Minute
	// keepEvery is how often it is looked whether a node has come that a person wants on.
	keepEvery = time.Second
	// keepWithin bounds that conversation: one node that hangs does not hold up another.
	keepWithin = 5 * time.Second
	// keepFor is how long one may take that a person had powered on.
	keepFor = 15 * time.Minute
)

// Power wakes a node, or has it power itself off.
func (b backend) Power(ctx context.Context, o control.PowerOrder) error {
	a := b.a
	if !a.known(o.Node) {
		return &problem.Problem{Op: "power", Kind: problem.NotFound, Subject: string(o.Node), Err: errors.New("it is no node of this cluster"), Hint: "see their names: revolve status"}
	}
	by := a.typed(ctx, history.WhyPower)
	a.o.Log.Info("ordered", "power", map[bool]string{true: "on", false: "off"}[o.On], "node", o.Node, "by", whoOf(by))
	there := nodePower(b).There(o.Node)
	switch {
	case !o.On:
		a.wants.drop(o.Node)
		err := a.powerOff(ctx, o.Node, nil, by)
		if err == nil && o.Node != a.o.Node && a.vms != nil {
			a.vms.PoweredOff(o.Node) // that it was on until then says nothing to who wakes it for a copy
		}
		return err
	case o.Node == a.o.Node:
		return a.keepHere(by)
	}
	if a.vms != nil {
		a.vms.Wanted(o.Node) // whoever woke it for a copy is to leave it on
	}
	if there {
		_, err := a.send(ctx, o.Node, orderFrame{What: orderKeep, By: by})
		return err
	}
	a.wants.add(o.Node, by)
	return a.powerOn(ctx, o.Node)
}

// wants are the nodes that are to be told, when they come, that a person wants them on.
type wants struct {
	mu    sync.Mutex
	nodes map[cluster.NodeID]want
}

type want struct {
	by    *history.Order
	until time.Duration // by the uptime
}

func (w *wants) add(n cluster.NodeID, by *history.Order) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes == nil {
		w.nodes = map[cluster.NodeID]want{}
	}
	w.nodes[n] = want{by, power.Uptime() + keepFor}
}

func (w *wants) list() map[cluster.NodeID]want {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.nodes, func(_ cluster.NodeID, x want) bool { return power.Uptime() > x.until })
	return maps.Clone(w.nodes)
}

func (w *wants) drop(n cluster.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, n)
}

// tellWanted tells nodes that have come since that a person wants them on: who typed it may not wait for that.
func (a *Agent) tellWanted(ctx context.Context) error {
	for {
		for n, w := range a.wants.list() {
			if !(nodePower{a}).There(n) {
				continue
			}
			within, cancel := context.WithTimeout(ctx, keepWithin)
			if _, err := a.send(within, n, orderFrame{What: orderKeep, By: w.by}); err == nil {
				a.wants.drop(n)
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(keepEvery):
		}
	}
}

// powerOn tells a node to power on. It does not wait for it.
func (a *Agent) powerOn(ctx context.Context, node cluster.NodeID) error {
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

// powerOff has a node power itself off: it knows best what speaks against it. run is nil where a person says it, by where a run does.
func (a *Agent) powerOff(ctx context.Context, node cluster.NodeID, run *vm.RestOrder, by *history.Order) error {
	if node == a.o.Node {
		return a.offHere(ctx, run, whoOf(by))
	}
	ctx, cancel := context.WithTimeout(ctx, askOffWithin)
	defer cancel()
	_, err := a.send(ctx, node, orderFrame{What: orderOff, Rest: run, By: by})
	return err
}

// keepHere takes note that a person wants this node on. It refuses if it is too late.
func (a *Agent) keepHere(by *history.Order) error {
	a.closing.Lock() // of this and closeHere one is first
	defer a.closing.Unlock()
	if a.rests() {
		return &problem.Problem{Op: "keep on", Kind: problem.Unavailable, Subject: string(a.o.Node), Err: errors.New("it is powering itself off"), Hint: "wait until it is off, and power it on again: revolve power on " + string(a.o.Node)}
	}
	if a.vms != nil {
		if err := a.vms.KeepOn(); err != nil {
			return err
		}
	}
	a.uses.Add(1)
	a.o.Log.Info("a person wants this node on", "by", whoOf(by))
	return nil
}

// used takes note that somebody uses this node.
func (a *Agent) used(what string) {
	a.uses.Add(1)
	if a.vms != nil {
		a.vms.Used(what)
	}
}

// usesSoFar is how often this node was used since its agent started, for more than what runs have copied to it.
func (a *Agent) usesSoFar() int64 {
	n := a.uses.Load()
	if a.vms != nil {
		n += int64(a.vms.Awake().Uses)
	}
	return n
}

// Ordered takes note that a person ordered something at this node: then it is in use.
func (b backend) Ordered(what string) { b.a.used("a person ordered something on it: " + what) }

// nodePower is the power of other nodes, for whoever copies machines.
type nodePower struct{ a *Agent }

// On wakes a node.
func (p nodePower) On(ctx context.Context, node cluster.NodeID) error { return p.a.powerOn(ctx, node) }

// Off has it power itself off.
func (p nodePower) Off(ctx context.Context, node cluster.NodeID, o vm.RestOrder) error {
	return p.a.powerOff(ctx, node, &o, nil)
}

// There reports whether it is heard.
func (p nodePower) There(node cluster.NodeID) bool {
	return slices.ContainsFunc(p.a.current().Peers, func(x beat.PeerReport) bool { return x.Node == node && x.State == beat.PeerAlive })
}

// HeardLately reports whether it is heard, or was within that time, or may have been: who was alive when this node's agent
// ended may have been on until that began anew.
func (p nodePower) HeardLately(node cluster.NodeID, within time.Duration) bool {
	for _, x := range p.a.current().Peers {
		switch {
		case x.Node != node:
			continue
		case x.State == beat.PeerAlive, x.State == beat.PeerSuspect:
			return true
		case x.State == beat.PeerUnknown:
			return time.Since(p.a.since) < within && p.a.record.lived(node)
		}
		return time.Since(x.Since) < within
	}
	return true
}
