package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// StopOrder is a wish that a machine is off.
type StopOrder struct {
	VM     string        `json:"vm"`
	Within time.Duration `json:"within"` // how long the guest may take; 3 minutes if 0
}

// Stopped is what was done.
type Stopped struct {
	VM   string         `json:"vm"`
	Node cluster.NodeID `json:"node"`
	Was  libvirt.State  `json:"was"`
	Took time.Duration  `json:"took"`
}

// maxWithin bounds how long a guest may be waited for.
const maxWithin = time.Hour

// guestTime is how long a guest gets.
func guestTime(wish time.Duration) time.Duration {
	if wish <= 0 {
		return shutdownWithin
	}
	return min(wish, maxWithin)
}

// Where is the node on which a machine runs, or else is paused, or else its home:
// that of the highest generation that anybody knows. problem.NotFound: nobody knows it.
func Where(vm string, views []View) (cluster.NodeID, error) {
	var home, paused cluster.NodeID
	highest := uint64(0)
	for _, v := range views {
		for _, s := range v.VMs {
			switch c := claimOf(s); {
			case s.VM != vm:
			case s.State == libvirt.Running: // a home that was fenced is paused
				return v.Node, nil
			case up(v.Node, s):
				paused = v.Node
			case s.Home != "" && (home == "" || c.Generation > highest):
				home, highest = s.Home, c.Generation
			case s.State != "" && home == "":
				home = v.Node
			}
		}
	}
	if paused != "" {
		home = paused
	}
	if home == "" {
		return "", &problem.Problem{Op: "find", Kind: problem.NotFound, Subject: vm, Err: errors.New("no node that answered knows it"), Hint: "see what there is: revolve vm list"}
	}
	return home, nil
}

// Stop has a machine shut down where it runs.
func (e *Engine) Stop(ctx context.Context, o StopOrder) (Stopped, error) {
	views, _ := e.Views(ctx, o.VM)
	on, err := Where(o.VM, views)
	if err != nil {
		return Stopped{}, err
	}
	v, err := e.have(ctx, on, Question{What: askStop, VM: o.VM, Stop: &o})
	if err != nil || v.Stopped == nil {
		return Stopped{}, noAnswer(err, "stop", o.VM)
	}
	return *v.Stopped, nil
}

func noAnswer(err error, op, vm string) error {
	if err == nil {
		err = &problem.Problem{Op: op, Kind: problem.Corrupt, Subject: vm, Err: errors.New("no answer to that")}
	}
	return err
}

// stopHere presses the power button and waits until the machine is off. It never
// pulls the plug: that is a person's decision.
func (e *Engine) stopHere(ctx context.Context, o StopOrder) (s Stopped, err error) {
	if err := points.CheckVM(o.VM); err != nil {
		return s, err
	}
	release, err := e.o.Store.Lock(o.VM) // a copy that is under way would start it again
	if err != nil {
		return s, err
	}
	defer release()
	if err := e.o.Store.Note(o.VM, stoppedFile, stopNote{time.Now().UTC()}); err != nil { // read by guards of agents before this one
		return s, err
	}
	e.dismissLeft(o.VM) // a guard of a guest that was deaf to its power button starts it when it is off
	began := time.Now()
	s = Stopped{VM: o.VM, Node: e.o.Node}
	if s.Was, err = e.o.Host.State(ctx, o.VM); err != nil || s.Was == libvirt.Off {
		return s, err
	}
	if s.Was == libvirt.Paused {
		return s, &problem.Problem{Op: "stop", Kind: problem.Conflict, Subject: o.VM, Err: errors.New("it is paused, and hears no power button"), Hint: e.goOn(o.VM)}
	}
	err = e.shutDown(ctx, o.VM, guestTime(o.Within), "have it answer the power button (acpid), or give it longer (--within 10m); without regard for the guest: virsh destroy "+o.VM)
	if s.Took = time.Since(began); err == nil {
		e.o.Log.Info("machine shut down", "vm", o.VM, "took", s.Took)
	}
	return s, err
}

// shutDown presses the power button of a machine and waits until it is off.
func (e *Engine) shutDown(ctx context.Context, vm string, within time.Duration, hint string) error {
	if err := e.o.Host.PressPower(ctx, vm); err != nil {
		return err
	}
	for late := time.Now().Add(within); ; {
		state, err := e.o.Host.State(ctx, vm)
		if err == nil && state == libvirt.Off || err != nil && problem.KindOf(err) == problem.NotFound {
			return nil // a machine that was only created, not defined, is gone when it is off
		}
		if time.Now().After(late) || ctx.Err() != nil {
			return &problem.Problem{Op: "shut down", Kind: problem.Timeout, Subject: vm, Err: fmt.Errorf("the guest is still %s after %s", state, within), Hint: hint}
		}
		time.Sleep(watchPoll)
	}
}
