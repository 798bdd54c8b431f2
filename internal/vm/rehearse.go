package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

// RehearseOrder is a wish to know whether a machine would come up from a point.
type RehearseOrder struct {
	VM     string        `json:"vm"`
	Point  points.ID     `json:"point"`  // the newest that is there if empty
	Sign   string        `json:"sign"`   // a text that the guest's serial console shows when it is up
	Within time.Duration `json:"within"` // how long it may take; 3 minutes if 0
}

// Rehearsal is how it went.
type Rehearsal struct {
	VM    string           `json:"vm"`
	Node  cluster.NodeID   `json:"node"`
	Point points.ID        `json:"point"`
	Proof points.Rehearsed `json:"proof"`
}

const (
	// rehearsalPrefix begins the names of machines that only rehearse.
	rehearsalPrefix = points.RehearsalPrefix
	rehearsalDir    = "rehearsal-"
	rehearsalFile   = "rehearsal.json"
	consoleFile     = "console.log"
	loginSign       = "login:" // of getty(8): what a guest's console shows when it is up, if nothing else is said
	downWithin      = time.Minute
	maxSign         = 256       // bytes
	maxConsole      = 256 << 10 // bytes of its end that are looked through
	toldConsole     = 400       // bytes of it that a failure tells
	recordWithin    = time.Minute
	spareMemory     = 256 << 20 // bytes that a rehearsal leaves to others
)

// guestOnStage is a rehearsal that is under way, durable so that it does not outlive its agent's next start.
type guestOnStage struct {
	Name string     `json:"name"`
	Dir  string     `json:"dir"`
	TPM  *tpm.Which `json:"tpm,omitempty"` // of its own
}

// Rehearse boots a clone of a machine where a point of it lies: here, if there is one.
func (e *Engine) Rehearse(ctx context.Context, on cluster.NodeID, o RehearseOrder) (Rehearsal, error) {
	if on == "" {
		views, _ := e.Views(ctx, o.VM)
		for _, v := range views {
			for _, s := range v.VMs {
				if on == "" && s.VM == o.VM && (o.Point == "" && len(s.Points) > 0 || slices.ContainsFunc(s.Points, func(r points.Record) bool { return r.ID == o.Point })) {
					on = v.Node
				}
			}
		}
	}
	if on == "" {
		return Rehearsal{}, &problem.Problem{Op: "rehearse", Kind: problem.NotFound, Subject: o.VM, Err: errors.New("there is no such point of it on any node that answered"), Hint: "see what there is: revolve vm points " + o.VM}
	}
	v, err := e.have(ctx, on, Question{What: askRehearse, VM: o.VM, Rehearse: &o})
	if err != nil || v.Rehearsal == nil {
		return Rehearsal{}, noAnswer(err, "rehearse", o.VM)
	}
	return *v.Rehearsal, nil
}

// rehearseHere boots the clone, waits for a sign of life, shuts it down, and
// records on the point how it went. The point itself stays what it is.
func (e *Engine) rehearseHere(ctx context.Context, o RehearseOrder) (h Rehearsal, err error) {
	if len(o.Sign) > maxSign {
		return h, &problem.Problem{Op: "rehearse", Kind: problem.Invalid, Subject: o.VM[:min(len(o.VM), maxSign)], Err: fmt.Errorf("a sign of %d bytes, at most %d", len(o.Sign), maxSign), Hint: "name a shorter text that the console shows when the guest is up"}
	}
	r, g, text, err := e.stage(o)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, e.strike(context.WithoutCancel(ctx), r.VM, g)) }()
	console := filepath.Join(g.Dir, consoleFile)
	text, hasAgent, err := alone(text, g, console)
	if err == nil {
		err = os.WriteFile(console, nil, 0o600) // QEMU's user may not make files there
	}
	if err != nil {
		return h, err
	}
	h = Rehearsal{VM: r.VM, Node: e.o.Node, Point: r.ID, Proof: points.Rehearsed{At: time.Now().UTC()}}
	// Without an answer it may be on its way: a busy node is slow, and its sign is waited for.
	if err := e.o.Host.Create(ctx, text); err != nil && problem.KindOf(err) != problem.Timeout {
		return h, &problem.Problem{Op: "rehearse", Kind: problem.Unavailable, Subject: r.VM, Err: err, Hint: "this node's libvirt cannot run it; see why: journalctl -u libvirtd"}
	}
	e.step("on stage")
	h.Proof.By, err = e.signOfLife(ctx, g.Name, console, hasAgent, o)
	if h.Proof.Took = time.Since(h.Proof.At); ctx.Err() != nil {
		return h, &problem.Problem{Op: "rehearse", Kind: problem.Unavailable, Subject: r.VM, Err: ctx.Err(), Hint: "it was ended before its guest was up; say it again"}
	}
	if err != nil {
		h.Proof.Failed = err.Error()
	} else if err := e.shutDown(ctx, g.Name, downWithin, ""); err != nil {
		h.Proof.Unclean = true // it was up, and has to be ended
	}
	e.o.Log.Info("rehearsal", "vm", r.VM, "point", r.ID, "by", h.Proof.By, "took", h.Proof.Took, "failed", h.Proof.Failed)
	return h, e.locked(ctx, r.VM, func() error { return e.o.Store.SetRehearsed(r.VM, r.ID, h.Proof) })
}

// stage makes the clone's disks. Other nodes' copies may come while it rehearses.
func (e *Engine) stage(o RehearseOrder) (r points.Record, g guestOnStage, text string, err error) {
	if err := points.CheckVM(o.VM); err != nil {
		return r, g, "", err
	}
	release, err := e.o.Store.Lock(o.VM)
	if err != nil {
		return r, g, "", err
	}
	defer release()
	if on, err := e.o.Store.Noted(o.VM, rehearsalFile, &g); on || err != nil {
		return r, g, "", errors.Join(err, &problem.Problem{Op: "rehearse", Kind: problem.Conflict, Subject: o.VM, Err: errors.New("it is being rehearsed here already"), Hint: "wait for it: revolve vm points " + o.VM})
	}
	if r, err = e.pick(o.VM, o.Point); err != nil {
		return r, g, "", err
	}
	g.Name = rehearsalPrefix + string(points.NewID(time.Now()))
	g.Dir = e.fresh(r.VM, rehearsalDir)
	if err = e.o.Store.Note(o.VM, rehearsalFile, g); err != nil { // first: whatever is killed, it is removed
		return r, g, "", err
	}
	if text, err = e.unpack(&r, g.Dir); err == nil {
		e.step("staged")
		err = enoughMemory(text)
	}
	if err == nil {
		err = e.cloneTPM(o.VM, &g, text)
	}
	if err != nil {
		return r, g, "", errors.Join(err, e.clear(o.VM, g))
	}
	return r, g, text, nil
}

// strike ends the clone, if it is there, and removes what was made for it.
func (e *Engine) strike(ctx context.Context, vm string, g guestOnStage) error {
	err := e.o.Host.Destroy(ctx, g.Name)
	if problem.KindOf(err) == problem.NotFound {
		err = nil
	}
	if err != nil {
		return err // it may still use its disks; the next start of the agent tries again
	}
	return e.clear(vm, g)
}

// clear removes what was made for a clone that does not run.
func (e *Engine) clear(vm string, g guestOnStage) error {
	var err error
	if g.TPM != nil {
		err = e.o.TPM.Strike(*g.TPM)
	}
	return errors.Join(err, os.RemoveAll(g.Dir), e.o.Store.Forget(vm, rehearsalFile))
}

// cloneTPM gives the clone the state of its TPM under a UUID of its own: what its
// guest changes there is no more the machine's than its disks are.
func (e *Engine) cloneTPM(vm string, g *guestOnStage, text string) error {
	d, err := readDomain(text)
	if err != nil {
		return err
	}
	w, err := d.tpm()
	if err != nil || w == nil {
		return err
	}
	content, err := takeTPM(g.Dir)
	if err != nil {
		return err
	}
	g.TPM = &tpm.Which{UUID: newUUID(), Version: w.Version}
	if err := e.o.Store.Note(vm, rehearsalFile, *g); err != nil {
		return err
	}
	return e.o.TPM.Clone(*g.TPM, content)
}

// newUUID is a random one (RFC 9562, section 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// locked does something with a machine's Lock, waiting for a copy that is under way.
func (e *Engine) locked(ctx context.Context, vm string, do func() error) error {
	for late := time.Now().Add(recordWithin); ; {
		release, err := e.o.Store.Lock(vm)
		if err == nil {
			defer release()
			return do()
		}
		if problem.KindOf(err) != problem.Conflict || time.Now().After(late) || !e.wait(ctx, watchPoll) {
			return err
		}
	}
}

// signOfLife waits until the guest's agent answers, or its console shows the sign.
func (e *Engine) signOfLife(ctx context.Context, name, console string, hasAgent bool, o RehearseOrder) (by string, err error) {
	sign, within := o.Sign, guestTime(o.Within)
	if sign == "" {
		sign = loginSign
	}
	for late := time.Now().Add(within); ; {
		said := endOf(console)
		if bytes.Contains(said, []byte(sign)) {
			return "console", nil
		}
		if hasAgent && o.Sign == "" && e.o.Host.Ping(ctx, name) == nil {
			return "agent", nil
		}
		state, err := e.o.Host.State(ctx, name)
		if problem.KindOf(err) == problem.NotFound && err != nil || err == nil && state == libvirt.Off {
			return "", fmt.Errorf("it ended by itself; its console ends with %q", lastOf(said))
		}
		if time.Now().After(late) {
			return "", fmt.Errorf("no sign of life within %s (agent: %v, console without %q, ends with %q)", within, hasAgent, sign, lastOf(said))
		}
		if !e.wait(ctx, watchPoll) {
			return "", ctx.Err()
		}
	}
}

// endOf is the end of a file that grows.
func endOf(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	b := make([]byte, min(info.Size(), maxConsole))
	n, _ := f.ReadAt(b, info.Size()-int64(len(b)))
	return b[:n]
}

func lastOf(b []byte) string {
	return strings.TrimSpace(string(b[max(0, len(b)-toldConsole):]))
}

// strikeAll ends the rehearsals of a process before this one.
func (e *Engine) strikeAll(ctx context.Context, vm string) {
	var g guestOnStage
	on, err := e.o.Store.Noted(vm, rehearsalFile, &g)
	if err != nil || !on || !strings.HasPrefix(g.Name, rehearsalPrefix) || filepath.Dir(g.Dir) != e.o.Store.Dir(vm) {
		return
	}
	e.o.Log.Warn("a rehearsal was cut short by the agent's end", "vm", vm, "err", e.strike(ctx, vm, g))
}
