package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/power"
	"revolve/internal/problem"
)

// This file is power: nodes are woken from here, and power themselves off when they are asked to.

const (
	orderOff = "power-off"
	// defaultOff is how a node powers itself off. The agent's own end is part of it, so nothing waits for that.
	defaultOff = "systemctl --no-block poweroff"
	// offWithin is how long a command may take to say that it cannot.
	offWithin = 10 * time.Second
)

// Power wakes a node, or has it power itself off.
func (b backend) Power(ctx context.Context, o control.PowerOrder) error {
	if !b.a.known(o.Node) {
		return &problem.Problem{Op: "power", Kind: problem.NotFound, Subject: string(o.Node), Err: errors.New("it is no node of this cluster"), Hint: "see their names: revolve status"}
	}
	b.a.o.Log.Info("ordered", "power", map[bool]string{true: "on", false: "off"}[o.On], "node", o.Node, "by", control.Caller(ctx))
	if o.On {
		return b.a.powerOn(ctx, o.Node)
	}
	return b.a.powerOff(ctx, o.Node)
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

// powerOff has a node power itself off: it knows best what speaks against it.
func (a *Agent) powerOff(ctx context.Context, node cluster.NodeID) error {
	if node == a.o.Node {
		return a.offHere(ctx)
	}
	_, err := a.send(ctx, node, orderFrame{What: orderOff})
	return err
}

// offHere powers this node off, if nothing speaks against it.
func (a *Agent) offHere(ctx context.Context) error {
	refuse := func(kind problem.Kind, why, hint string) error {
		return &problem.Problem{Op: "power off", Kind: kind, Subject: string(a.o.Node), Err: errors.New(why), Hint: hint}
	}
	if !a.mayBeOff(a.o.Node) {
		return refuse(problem.Invalid, "it is not on demand: its silence would be an alarm", "say in the configuration that off is a normal state of it: power: { mode: on-demand }")
	}
	if r := a.current(); !fresh(a.lastReport()) || r.Role == cluster.Master || r.Master == a.o.Node {
		return refuse(problem.Conflict, "it is master, or its election is not heard", "move the addresses first: revolve switch")
	}
	if why := a.syncing(); why != "" {
		return refuse(problem.Conflict, why, "wait until it is in-sync: revolve status --watch")
	}
	if a.vms != nil {
		if why := a.vms.InUse(ctx); why != "" {
			return refuse(problem.Conflict, why, "see what runs where: revolve vm list")
		}
	}
	cfg, _ := a.cfg().Node(a.o.Node)
	command := cmp.Or(cfg.Power.Off, defaultOff)
	a.o.Log.Info("powering off, as ordered", "command", command)
	if err := begin(command); err != nil {
		return refuse(problem.Unavailable, "the command failed: "+err.Error(), "try it by hand on that node; another one: power: { off: COMMAND }")
	}
	return nil
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

// begin runs a command that may end this program, and waits a while for whether it fails.
func begin(command string) error {
	var said bytes.Buffer
	c := exec.Command("sh", "-c", command)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Stdout, c.Stderr = &said, &said
	c.WaitDelay = time.Second
	ctx, cancel := context.WithTimeout(context.Background(), offWithin)
	defer cancel()
	if err := c.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
	defer stop()
	err := c.Wait()
	if text := strings.TrimSpace(strings.ToValidUTF8(said.String(), "?")); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text[:min(len(text), 300)])
	}
	return err
}

// nodePower is the power of other nodes, for whoever copies machines.
type nodePower struct{ a *Agent }

// On wakes a node.
func (p nodePower) On(ctx context.Context, node cluster.NodeID) error { return p.a.powerOn(ctx, node) }

// Off has it power itself off.
func (p nodePower) Off(ctx context.Context, node cluster.NodeID) error {
	return p.a.powerOff(ctx, node)
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
