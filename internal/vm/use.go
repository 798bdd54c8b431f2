package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
)

// This file is whether this node may be powered off: who needs it, who used it, and that nothing begins any more once it agreed to.

// Awake is what a node says of itself to whoever needs it.
type Awake struct {
	Token string        `json:"token"` // of this run of its agent: a node that was off meanwhile, or was upgraded, has another one
	Up    time.Duration `json:"up"`    // since its kernel started
	Uses  int           `json:"uses"`  // how often it was used for more than copies since its agent started
}

// HoldOrder says that the node that sends it needs this one.
type HoldOrder struct {
	For time.Duration `json:"for"` // 0: no more
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
	// shutFor is how long a node that agreed to power itself off begins nothing. One that is still there then was not powered off.
	shutFor = 10 * time.Minute
	maxUse  = 200 // bytes of what is told of a use
)

// use is what this node knows of itself. The engine's lock is for it, too.
type use struct {
	token string
	n     int
	last  string                       // what for
	held  map[cluster.NodeID]time.Time // who needs it, and until when
	shut  time.Time                    // nothing begins until then
}

func newUse() use {
	return use{token: bootID() + "/" + rand.Text(), held: map[cluster.NodeID]time.Time{}}
}

// Used takes note that somebody uses this node for more than copies. Who woke it for a copy then lets it stay on.
func (e *Engine) Used(what string) {
	e.change(func() { e.used(what) })
}

// used is Used. The caller has mu.
func (e *Engine) used(what string) {
	e.use.n++
	e.use.last = what[:min(len(what), maxUse)]
}

// heldBy takes in that another node needs this one, and says who this is.
func (e *Engine) heldBy(peer cluster.NodeID, o HoldOrder) (Awake, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if o.For <= 0 {
		delete(e.use.held, peer)
		return e.awake(), nil
	}
	if err := e.closed(); err != nil {
		return Awake{}, err
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
	return Awake{Token: e.use.token, Up: e.o.Uptime(), Uses: e.use.n}
}

// closed refuses to begin something on a node that powers itself off. The caller has mu.
func (e *Engine) closed() error {
	if !time.Now().Before(e.use.shut) {
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

// Shut has nothing begin on this node any more, so that it can be powered off, unless something speaks against that.
// It was ordered by a node's run if o is set; by is that node, whose own need is over. Reopen undoes it.
func (e *Engine) Shut(ctx context.Context, by cluster.NodeID, o *RestOrder) error {
	refuse := func(kind problem.Kind, why string) error {
		return &problem.Problem{Op: "power off", Kind: kind, Subject: string(e.o.Node), Err: errors.New(why), Hint: "see what runs where: revolve vm list"}
	}
	e.mu.Lock()
	err := e.closed()
	switch {
	case err != nil:
	case o != nil && o.Token != e.use.token:
		err = refuse(problem.StaleTerm, "it, or its agent, was started anew since")
	case o != nil && o.Uses != e.use.n:
		err = refuse(problem.StaleTerm, "somebody uses it: "+e.use.last)
	default:
		e.use.shut = time.Now().Add(shutFor) // first: what begins from now on is refused, and what began before is seen
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	if why := e.inUse(ctx, by); why != "" {
		e.Reopen()
		return refuse(problem.Conflict, why)
	}
	return nil
}

// Reopen lets things begin again.
func (e *Engine) Reopen() {
	e.change(func() { e.use.shut = time.Time{} })
}

// inUse says why this node must not be powered off: a machine that runs here, a copy that comes or goes, a start,
// another node that needs it. "" if nothing speaks against it.
func (e *Engine) inUse(ctx context.Context, by cluster.NodeID) string {
	if why := e.underWay(by); why != "" {
		return why
	}
	return Occupied(ctx, e.o.Host)
}

// Occupied says which machine runs on a node, whether or not the cluster keeps points of it; also that this cannot be known. "": none.
func Occupied(ctx context.Context, h interface {
	Machines(ctx context.Context) ([]libvirt.Machine, error)
}) string {
	list, err := h.Machines(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a node that only stores, or one whose libvirt was removed or stopped under its machines
		return emulators("/proc")
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
	return ""
}

func (e *Engine) underWay(by cluster.NodeID) string {
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
		if n != by && time.Now().Before(until) {
			return string(n) + " needs it for copies of machines"
		}
	}
	return ""
}

// emulators says that machines run that no libvirt can be asked about (proc(5), comm).
func emulators(proc string) string {
	list, err := os.ReadDir(proc)
	if err != nil {
		return "it cannot be seen what runs on it: " + err.Error()
	}
	for _, d := range list {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(proc, d.Name(), "comm")) // one that has ended runs no machine
		if name := strings.TrimSpace(string(comm)); strings.HasPrefix(name, "qemu-") || name == "kvm" {
			return "its libvirt is gone, and " + name + " runs on it"
		}
	}
	return ""
}

// uptime is how long this machine has been up, whatever the clock says: since its first process began, so that a
// container has one of its own (proc(5), stat: starttime). 0: it is not known.
func uptime() time.Duration {
	var t unix.Timespec
	b, err := os.ReadFile("/proc/1/stat")
	if err = errors.Join(err, unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)); err != nil {
		return 0
	}
	return max(0, time.Duration(t.Nano())-startOf(string(b)))
}

// startOf is when a process began, from the kernel's start; the longest there is if that is not said.
func startOf(stat string) time.Duration {
	const starttime, hertz = 22, 100                                    // the field, and its unit: USER_HZ is 100 on all machines that Go runs on
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // from the third on
	if len(fields) <= starttime-3 {
		return math.MaxInt64
	}
	ticks, err := strconv.ParseInt(fields[starttime-3], 10, 64)
	if err != nil || ticks < 0 || ticks > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(ticks) * time.Second / hertz
}
