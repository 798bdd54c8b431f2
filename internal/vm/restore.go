package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// RestoreOrder is a wish that a machine is again what it was at a point.
type RestoreOrder struct {
	VM      string        `json:"vm"`
	Point   points.ID     `json:"point"`
	Confirm string        `json:"confirm"` // the machine's name, typed by a person
	Within  time.Duration `json:"within"`  // how long its guest may take to shut down; 3 minutes if 0
}

// Restored is what was done.
type Restored struct {
	Started
	Kept  points.ID     `json:"kept"`  // what the machine was until then
	State libvirt.State `json:"state"` // it runs again if it ran before
	Stood time.Duration `json:"stood"`
}

// Restore goes back to a point on the machine's home.
func (e *Engine) Restore(ctx context.Context, o RestoreOrder) (Restored, error) {
	views, _ := e.Views(ctx, o.VM)
	on, err := Where(o.VM, views)
	if err != nil {
		return Restored{}, err
	}
	v, err := e.have(ctx, on, Question{What: askRestore, VM: o.VM, Restore: &o})
	if err != nil || v.Restored == nil {
		return Restored{}, noAnswer(err, "restore", o.VM)
	}
	return *v.Restored, nil
}

// restoreHere shuts the machine down, keeps what it is as a point, and gives it the
// disks and the definition of another one. Its history goes on behind what was
// kept, so the next copies are deltas, and no node takes it for another machine.
// Whatever fails or is killed meanwhile, a machine that ran runs again.
func (e *Engine) restoreHere(ctx context.Context, o RestoreOrder) (s Restored, err error) {
	if err := points.CheckVM(o.VM); err != nil {
		return s, err
	}
	if o.Confirm != o.VM {
		return s, &problem.Problem{Op: "restore", Kind: problem.Conflict, Subject: o.VM, Err: errors.New("what it wrote since that point is taken from it (and kept as a point)"), Hint: "type its name: --confirm " + o.VM}
	}
	release, err := e.o.Store.Lock(o.VM)
	if err != nil {
		return s, err
	}
	defer release()
	defer e.announce(o.VM)()
	may := func() ([]View, error) {
		views, silent := e.Views(ctx, o.VM)
		if err := e.sighted(o, views, silent); err != nil {
			return views, err
		}
		return views, Judge(StartOrder{VM: o.VM, Point: o.Point, Confirm: o.Confirm}, e.o.Node, offHere(views, e.o.Node, o.VM), slices.Collect(maps.Keys(silent)))
	}
	if _, err := may(); err != nil {
		return s, err
	}
	if err := e.notSaved(ctx, o.VM); err != nil {
		return s, err
	}
	r, err := e.o.Store.Get(o.VM, o.Point)
	if err != nil {
		return s, err
	}
	src, err := e.prepare(ctx, o.VM)
	if err != nil {
		return s, err
	}
	defer func() { src.Close() }()
	if i := slices.IndexFunc(src.Files, func(f points.SourceFile) bool { return !f.Kept }); i >= 0 {
		return s, &problem.Problem{Op: "restore", Kind: problem.Invalid, Subject: o.VM, Err: fmt.Errorf("what it is now cannot be kept as a point here: %s", src.Files[i].Why),
			Hint: "shut it down and start it from the point; its disks stay where they are: revolve vm start " + o.VM + " --on " + string(e.o.Node) + " --point " + string(o.Point)}
	}
	stood, _, err := e.still(ctx, o.VM, points.Shutdown, guestTime(o.Within), func(reached points.Level) error {
		if reached != points.Shutdown {
			return &problem.Problem{Op: "restore", Kind: problem.Conflict, Subject: o.VM, Err: errors.New("it is paused"), Hint: e.goOn(o.VM)}
		}
		src.Level = reached
		if err := e.keepNow(src); err != nil {
			return err
		}
		e.step("kept")
		s.Started, err = e.adopt(ctx, r, src.Point, may)
		return err
	})
	if err != nil {
		return s, err
	}
	s.Kept, s.Stood = src.ID, stood
	s.State, err = e.o.Host.State(ctx, o.VM)
	e.o.Log.Warn("machine went back to a point", "vm", o.VM, "point", r.ID, "kept", s.Kept, "generation", s.Generation)
	return s, err
}

// sighted refuses while a node cannot be asked whether it runs there. The name that
// was typed says that this machine may lose what it wrote, not that it runs nowhere
// else; that is said to vm start. A node on demand that said goodbye is off.
func (e *Engine) sighted(o RestoreOrder, views []View, silent map[cluster.NodeID]error) error {
	var blind []cluster.NodeID
	for n := range silent {
		if !e.isOff(n, views) {
			blind = append(blind, n)
		}
	}
	for _, v := range views {
		unread := slices.ContainsFunc(v.VMs, func(s Seen) bool { return s.VM == o.VM && s.Unread != "" })
		if v.Node != e.o.Node && (v.Libvirt != "" || unread) {
			blind = append(blind, v.Node)
		}
	}
	if len(blind) == 0 {
		return nil
	}
	return e.withWord(&problem.Problem{Op: "restore", Kind: problem.Conflict, Subject: o.VM, Err: fmt.Errorf("%s %w", list(blind), errBlind),
		Hint: "restore when it answers; or make sure that it does not run there, and say so: revolve vm stop " + o.VM + ", then revolve vm start " + o.VM + " --on " + string(e.o.Node) + " --point " + string(o.Point) + " --confirm " + o.VM}, blind, views)
}

// keepNow takes the point of what a machine is: nothing of it is taken from anybody if that fails.
func (e *Engine) keepNow(src *points.Source) error {
	if err := src.Clone(); err != nil {
		return err
	}
	return e.settle(src)
}

// offHere is what is seen of a machine that this node itself is going to shut down.
func offHere(views []View, here cluster.NodeID, vm string) []View {
	out := slices.Clone(views)
	for i := range out {
		if out[i].Node != here {
			continue
		}
		out[i].VMs = slices.Clone(out[i].VMs)
		for k := range out[i].VMs {
			if out[i].VMs[k].VM == vm && out[i].VMs[k].State != "" {
				out[i].VMs[k].State = libvirt.Off
			}
		}
	}
	return out
}
