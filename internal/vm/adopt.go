package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

// adopt makes the machine of a point one of this node; its history goes on behind
// after. Making its disks may take long, so it is asked again whether it may. That
// its history goes on here is durable before libvirt knows of it. The state of its
// TPM is made ready before that, and takes its place afterwards by renaming: whatever
// is killed, the disks that libvirt knows and that state are of the same moment
// before the machine starts (finish).
func (e *Engine) adopt(ctx context.Context, r points.Record, after points.Point, may func() ([]View, error)) (s Started, err error) {
	if err := e.dropUnused(ctx, r.VM); err != nil {
		return s, err
	}
	if err := e.notSaved(ctx, r.VM); err != nil {
		return s, err
	}
	a := adopting{Dir: e.fresh(r.VM, livePrefix)}
	if err := e.o.Store.Note(r.VM, adoptFile, a); err != nil {
		return s, err
	}
	text, err := e.unpack(&r, a.Dir)
	e.step("unpacked")
	var views []View
	if err == nil {
		views, err = may()
	}
	if err == nil {
		err = e.notSaved(ctx, r.VM)
	}
	if err == nil {
		err = e.adoptTPM(r.VM, &a, text)
	}
	if err == nil {
		s = Started{VM: r.VM, Node: e.o.Node, Point: r, Generation: e.highest(r, views) + 1, Images: a.Dir}
		c := points.Chain{Last: after, Home: e.o.Node, Since: time.Now().UTC()}
		c.Last.Files, c.Last.Generation = nil, s.Generation
		err = e.o.Store.SetChain(r.VM, c)
	}
	if err != nil {
		return s, errors.Join(err, e.forgo(r.VM, a)) // nothing knows of it yet
	}
	e.step("promoted")
	if err := e.o.Host.Define(ctx, text); err != nil {
		return s, a.undefined(r.VM, err) // it may know of it all the same: dropUnused looks
	}
	e.step("defined")
	if err := a.placeTPM(ctx, e.o.Host, e.o.TPM, r.VM); err != nil {
		return s, err
	}
	return s, e.o.Store.Forget(r.VM, adoptFile)
}

// notSaved refuses a machine whose memory was saved: libvirt would have it go on with that memory, with the definition and the
// disks of then, whatever it was made meanwhile.
func (e *Engine) notSaved(ctx context.Context, vm string) error {
	saved, err := e.o.Host.Saved(ctx, vm)
	switch {
	case err != nil && problem.KindOf(err) == problem.NotFound:
		return nil
	case err != nil:
		return err
	case saved:
		return &problem.Problem{Op: "make a point the machine", Kind: problem.Conflict, Subject: vm, Err: errors.New("its memory was saved on " + string(e.o.Node) + ", and it would go on with that on the disks of then"),
			Hint: "on " + string(e.o.Node) + ": if that memory is not needed, virsh managedsave-remove " + vm + "; else let it go on and shut it down first: virsh start " + vm}
	}
	return nil
}

// adopting is a machine's new disks while libvirt does not know of them, durable
// before they are made, so that they do not stay if this process is killed.
type adopting struct {
	Dir string     `json:"dir"`
	TPM *tpm.Which `json:"tpm,omitempty"` // whose state was staged: with these disks no other one is used
}

const adoptFile = "adopting.json"

// undefined is that libvirt did not take the definition.
func (a adopting) undefined(vm string, err error) error {
	if a.TPM == nil {
		return err
	}
	return &problem.Problem{Op: "define", Kind: problem.KindOf(err), Subject: vm, Err: err, Hint: "it has a TPM, which needs an emulator on this node: apt install swtpm swtpm-tools"}
}

// adoptTPM makes the state of its TPM ready, if it has one.
func (e *Engine) adoptTPM(vm string, a *adopting, text string) error {
	d, err := readDomain(text)
	if err == nil {
		a.TPM, err = d.tpm()
	}
	if err != nil || a.TPM == nil {
		return err
	}
	if err := e.o.Store.Note(vm, adoptFile, a); err != nil {
		return err
	}
	return e.stageTPM(*a.TPM, a.Dir)
}

// forgo removes what was made for a machine that libvirt does not know of.
func (e *Engine) forgo(vm string, a adopting) error {
	var err error
	if a.TPM != nil {
		err = e.o.TPM.Drop(*a.TPM)
	}
	if err = errors.Join(err, os.RemoveAll(a.Dir)); err != nil {
		return err
	}
	return e.o.Store.Forget(vm, adoptFile)
}

// finish does what is left to do of an adoption before its machine may start. used
// is whether libvirt knows of its disks. It may be done by several processes.
func (a adopting) finish(ctx context.Context, host Host, place tpm.Place, vm string) (used bool, err error) {
	text, err := host.Definition(ctx, vm)
	var d domain
	if err == nil {
		d, err = readDomain(text)
	} else if problem.KindOf(err) == problem.NotFound {
		err = nil
	}
	if err != nil {
		return false, err
	}
	used = strings.HasPrefix(d.OS.NVRAM, a.Dir+"/") || slices.ContainsFunc(d.Disks, func(disk domainDisk) bool { return strings.HasPrefix(disk.Source.File, a.Dir+"/") })
	if used {
		err = a.placeTPM(ctx, host, place, vm)
	}
	return used, err
}

// placeTPM has the state that was staged take its place, if that is not done. Where no hook asks, libvirt may have started the machine
// meanwhile: then it goes on with the state with which it began, and the staged one waits until it is off.
func (a adopting) placeTPM(ctx context.Context, host Host, place tpm.Place, vm string) error {
	if a.TPM == nil {
		return nil
	}
	staged, err := place.Staged(*a.TPM)
	if err != nil {
		return err
	}
	if staged != "" {
		state, err := host.State(ctx, vm)
		if err == nil && state != libvirt.Off {
			err = &problem.Problem{Op: "put in place state of TPM", Kind: problem.Conflict, Subject: vm, Err: fmt.Errorf("it has its disks of a point and is %s already, with the TPM that it had before", state),
				Hint: "have it shut down, and start it with both: revolve vm start " + vm + " --as-it-is, on this node"}
		}
		if err == nil {
			err = keepMeanwhile(place.File(*a.TPM), a.Dir, staged)
		}
		if err != nil {
			return err
		}
	}
	return place.Swap(*a.TPM)
}

// finishNoted is finish for what a file says, if it is there.
func finishNoted(ctx context.Context, host Host, place tpm.Place, vm, name string) error {
	b, err := os.ReadFile(name)
	if name == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var a adopting
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.TPM != nil {
		_, err = a.finish(ctx, host, place, vm)
	}
	return err
}

// dropUnused removes the disks that a process before this one made for a machine
// that libvirt was never told of. The caller has the machine's Lock.
func (e *Engine) dropUnused(ctx context.Context, vm string) error {
	var a adopting
	if ok, err := e.o.Store.Noted(vm, adoptFile, &a); err != nil || !ok {
		return err
	}
	used, err := a.finish(ctx, e.o.Host, e.o.TPM, vm)
	if err != nil {
		return err
	}
	if ours := filepath.Dir(a.Dir) == e.o.Store.Dir(vm) && strings.HasPrefix(filepath.Base(a.Dir), livePrefix); ours && !used {
		return e.forgo(vm, a)
	}
	return e.o.Store.Forget(vm, adoptFile)
}

// tidyUnused is dropUnused at the agent's start.
func (e *Engine) tidyUnused(ctx context.Context, vm string) error {
	var a adopting
	if ok, err := e.o.Store.Noted(vm, adoptFile, &a); err != nil || !ok {
		return err
	}
	return e.locked(ctx, vm, func() error { return e.dropUnused(ctx, vm) })
}

// halfAdopted refuses a start while a machine's disks and the state of its TPM may be of different moments.
func (e *Engine) halfAdopted(vm string) error {
	var a adopting
	if ok, err := e.o.Store.Noted(vm, adoptFile, &a); err != nil || !ok || a.TPM == nil {
		return err
	}
	return &problem.Problem{Op: "start", Kind: problem.Conflict, Subject: vm, Err: errors.New("it is being made what it was at a point, and that did not come to its end"),
		Hint: "have that finished: revolve vm start " + vm + " --on " + string(e.o.Node) + " --as-it-is"}
}
