package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// This file is whether this node may be powered off: who needs it, who used it, and that nothing begins any more once it agreed to.

// Awake is what a node says of itself to whoever needs it.
type Awake struct {
	Token   string        `json:"token"`             // of this run of its agent: a node that was off meanwhile, or was upgraded, has another one
	Up      time.Duration `json:"up"`                // since its kernel started
	Uses    int           `json:"uses"`              // how often it was used for more than schedules' copies since its agent started
	Leaving bool          `json:"leaving,omitempty"` // it agreed to power itself off

	CaughtUp bool `json:"caught_up,omitempty"` // its volumes are
}

// HoldOrder says that the node that sends it needs this one.
type HoldOrder struct {
	For    time.Duration `json:"for"`              // 0: no more
	Person bool          `json:"person,omitempty"` // for what a person ordered: that is a use
}

// RestOrder is what a run knows of a node that it has power itself off.
type RestOrder struct {
	Token string `json:"token"` // as it was when the run met it
	Uses  int    `json:"uses"`
}

const (
	// holdFor is how long a node is held, and holdAgain how often that is said anew: a home that dies lets it go.
	holdFor    = 5 * time.Minute
	holdAgain  = time.Minute
	holdAtMost = 10 * time.Minute
	holdSoon   = 5 * time.Second // how soon it is said to a node that did not hear it
	maxUse     = 200             // bytes of what is told of a use
)

// use is what this node knows of itself. The engine's lock is for it, too.
type use struct {
	token string
	n     int
	last  string                       // what for
	held  map[cluster.NodeID]time.Time // who needs it, and until when
	shut  time.Duration                // nothing begins until the machine has been up for so long
}

func newUse() use {
	return use{token: bootID() + "/" + rand.Text(), held: map[cluster.NodeID]time.Time{}}
}

// Used takes note that somebody uses this node for more than copies. Who woke it for a copy then lets it stay on.
func (e *Engine) Used(what string) {
	e.change(func() { e.used(what) })
}

// wantedOn is what is told of a node that a person wants on.
const wantedOn = "a person wants it on"

// KeepOn is Used by a person who wants this node on. It refuses if it is too late.
func (e *Engine) KeepOn() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.closed(); err != nil {
		return err
	}
	e.used(wantedOn)
	return nil
}

// used is Used. The caller has mu.
func (e *Engine) used(what string) {
	e.use.n++
	e.use.last = what[:min(len(what), maxUse)]
}

// heldBy takes in that another node needs this one, or does not any more, and says how this one is. Without an order it only says that.
func (e *Engine) heldBy(peer cluster.NodeID, o *HoldOrder) (Awake, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if o == nil {
		return e.awake(), nil
	}
	if o.For <= 0 {
		delete(e.use.held, peer)
		return e.awake(), nil
	}
	if err := e.closed(); err != nil {
		return e.awake(), err
	}
	if o.Person {
		e.used("a person had machines copied to it from " + string(peer))
	}
	e.use.held[peer] = time.Now().Add(min(o.For, holdAtMost))
	return e.awake(), nil
}

// Awake is what this node says of itself.
func (e *Engine) Awake() Awake {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.awake()
}

// awake is Awake. The caller has mu.
func (e *Engine) awake() Awake {
	return Awake{Token: e.use.token, Up: e.o.Uptime(), Uses: e.use.n, Leaving: e.closed() != nil, CaughtUp: e.o.CaughtUp == nil || e.o.CaughtUp()}
}

// closed refuses to begin something on a node that powers itself off. The caller has mu.
func (e *Engine) closed() error {
	if e.o.Uptime() >= e.use.shut { // by a clock that goes on while the machine sleeps
		return nil
	}
	return &problem.Problem{Op: "begin", Kind: problem.Unavailable, Subject: string(e.o.Node), Err: errors.New("it is powering itself off"), Hint: "power it on again: revolve power on " + string(e.o.Node)}
}

// open is closed, for who has no lock.
func (e *Engine) open() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed()
}

// enter counts something that is under way here, unless this node powers itself off.
func (e *Engine) enter(n *int) (done func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.closed(); err != nil {
		return nil, err
	}
	*n++
	return func() { e.change(func() { *n-- }) }, nil
}

// Close has nothing begin on this node any more, until the machine has been up for so long: it is to be powered off. Reopen undoes it.
func (e *Engine) Close(until time.Duration) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.closed(); err != nil {
		return err
	}
	e.use.shut = until
	return nil
}

// Reopen lets things begin again.
func (e *Engine) Reopen() {
	e.change(func() { e.use.shut = 0 })
}

// MayRest says what speaks against powering this node off: a machine that runs here or is owed its start, a copy that
// comes or goes, a start, a node that needs this one. o is set if a node's run orders it: then it also has to be as that
// run met it (else StaleTerm: it never will be again). Once Close was called, what is not here does not come any more.
func (e *Engine) MayRest(ctx context.Context, o *RestOrder) error {
	if err := e.AsItCame(o); err != nil {
		return err
	}
	e.collect() // a guard that has ended starts nothing
	if why := e.underWay(); why != "" {
		return e.refuseRest(problem.Conflict, why)
	}
	if why, hint := e.owing(ctx); why != "" {
		return &problem.Problem{Op: "power off", Kind: problem.Conflict, Subject: string(e.o.Node), Err: errors.New(why), Hint: hint}
	}
	if why := Occupied(ctx, e.o.Host, e.o.Proc); why != "" {
		return e.refuseRest(problem.Conflict, why)
	}
	return nil
}

// AsItCame refuses a node's run if this node is not as that run met it. Nothing is asked for that.
func (e *Engine) AsItCame(o *RestOrder) error {
	now := e.Awake()
	switch {
	case o == nil:
	case o.Token != now.Token:
		return e.refuseRest(problem.StaleTerm, "it, or its agent, was started anew since")
	case o.Uses != now.Uses:
		return e.refuseRest(problem.StaleTerm, "somebody uses it: "+e.lastUse())
	}
	return nil
}

func (e *Engine) refuseRest(kind problem.Kind, why string) error {
	return &problem.Problem{Op: "power off", Kind: kind, Subject: string(e.o.Node), Err: errors.New(why), Hint: "see what runs where: revolve vm list"}
}

func (e *Engine) lastUse() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.use.last
}

// owing says which machine was held still for a copy and has not been let go on, and what to do: what this node owes it is void after its next start.
func (e *Engine) owing(ctx context.Context) (why, hint string) {
	names, err := e.o.Store.VMs()
	if err != nil {
		return "it cannot be seen whether a machine is owed its start: " + err.Error(), "look at the storage of points: mounted? readable?"
	}
	for _, name := range names {
		var d Debt
		owed, err := e.o.Store.Noted(name, debtFile, &d)
		file := filepath.Join(e.o.Store.Dir(name), debtFile)
		switch {
		case err != nil:
			return "it cannot be seen whether " + name + " is owed its start: " + err.Error(), "look at " + file
		case owed && d.Boot == bootID() && !d.givenUp() && !e.goesOn(ctx, d):
			return name + " was held still for a copy, and is owed its start", "have it go on (virsh domstate " + name + "; virsh start, resume or domfsthaw); then, or if it is to be off: rm " + file
		}
	}
	return "", ""
}

// goesOn strikes out what is owed to a machine that is seen running: somebody else let it go on. A file system that is frozen
// is not seen, and a guest that was asked to shut down may still do it for a while.
func (e *Engine) goesOn(ctx context.Context, d Debt) bool {
	late := d.Since.Add(shutdownWithin + lateShutdown)
	if d.Level == points.Freeze || !time.Now().After(late) {
		return false
	}
	release, err := e.o.Store.Lock(d.VM)
	if err != nil {
		return false // a copy is being made of it
	}
	defer release()
	state, err := e.o.Host.State(ctx, d.VM)
	if err != nil || state != libvirt.Running {
		return false
	}
	if err := e.o.Store.Forget(d.VM, debtFile); err != nil {
		e.o.Log.Warn("what a machine was owed stays written down, though it runs", "vm", d.VM, "err", err)
		return false
	}
	e.o.Log.Info("a machine that was held still for a copy runs: it is owed nothing any more", "vm", d.VM, "since", d.Since)
	return true
}

// Occupied says which machine runs on a node, whether or not the cluster keeps points of it; also that this cannot be known. "": none.
func Occupied(ctx context.Context, h interface {
	Machines(ctx context.Context) ([]libvirt.Machine, error)
}, proc string) string {
	list, err := h.Machines(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a node that only stores, or one whose libvirt was removed or stopped under its machines
	case errors.Is(err, unix.ECONNREFUSED):
		return "its libvirt does not answer, and machines may run on without it"
	case err != nil:
		return "its libvirt cannot be asked what runs: " + err.Error()
	}
	for _, m := range list {
		if m.State != libvirt.Off {
			return fmt.Sprintf("machine %s is %s on it", m.Name, m.State)
		}
	}
	return Emulators(proc) // also those of a person's own libvirt (qemu:///session), or of none
}

func (e *Engine) underWay() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, j := range e.jobs {
		if !j.Ended {
			return "copies of machines are ordered on it"
		}
	}
	for vm := range e.starting {
		return vm + " is being started on it"
	}
	for vm, until := range e.hooked {
		if time.Now().Before(until) {
			return vm + " is being started on it"
		}
	}
	switch {
	case e.receiving > 0:
		return "points of machines come to it"
	case e.serving > 0:
		return "it carries out an order about a machine"
	}
	for n, until := range e.use.held {
		if time.Now().Before(until) {
			return string(n) + " needs it for copies of machines"
		}
	}
	return ""
}

// Proc is where processes are seen.
const Proc = "/proc"

// Emulators says that machines run that the system's libvirt says nothing of (proc(5), comm). A guest's agent (qemu-ga) and tools are none.
func Emulators(proc string) string {
	list, err := os.ReadDir(proc)
	if err != nil {
		return "it cannot be seen what runs on it: " + err.Error()
	}
	for _, d := range list {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(proc, d.Name(), "comm")) // one that has ended runs no machine
		if name := strings.TrimSpace(string(comm)); strings.HasPrefix(name, "qemu-system-") || name == "kvm" || name == "qemu-kvm" {
			return "its libvirt says nothing of it, but " + name + " runs on it"
		}
	}
	return ""
}
