package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/power"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

// Debt is what this node owes a machine that it holds still. It is durable before
// the machine is touched, and another process knows of it: whatever is killed
// meanwhile, the machine goes on.
type Debt struct {
	VM    string       `json:"vm"`
	Level points.Level `json:"level"`
	Since time.Time    `json:"since"`
	Boot  string       `json:"boot"` // of this machine: after another one nothing is owed
	// Stopped is the file that says when it was stopped on purpose last: what was owed before is owed no more.
	Stopped string `json:"stopped,omitempty"`
	// Adopting is the file that says that it is becoming what it was at a point; what is left of that to do comes first.
	Adopting string `json:"adopting,omitempty"`
}

// stoppedFile is a note beside the debt.
const stoppedFile = "stopped.json"

type stopNote struct {
	At time.Time `json:"at"`
}

// givenUp is whether the machine was stopped on purpose since. A guard may belong to an agent that is gone, so it is told by a file.
func (d *Debt) givenUp() bool {
	if d.Stopped == "" {
		return false
	}
	var n stopNote
	b, err := os.ReadFile(d.Stopped)
	return err == nil && json.Unmarshal(b, &n) == nil && n.At.After(d.Since)
}

const debtFile = "held-still.json"

// Bounds of holding a machine still.
const (
	shutdownWithin = 3 * time.Minute  // a guest gets so long to shut down, unless another time is ordered
	lateShutdown   = 10 * time.Minute // a guest that was asked to may still do it so much later; then it is started again
	payWithin      = 2 * time.Minute  // libvirt is asked for so long to let a machine go on
	payPoll        = 500 * time.Millisecond
	watchPoll      = 200 * time.Millisecond
)

// still does something while a machine is as its level asks; it is told the level
// that was reached. The machine goes on
// before still returns, whatever do says. It says how long the machine stood, and
// the level that was reached: a machine that is off anyway has the highest.
func (e *Engine) still(ctx context.Context, name string, level points.Level, within time.Duration, do func(points.Level) error) (stood time.Duration, reached points.Level, err error) {
	state, err := e.o.Host.State(ctx, name)
	if err != nil {
		return 0, level, err
	}
	switch {
	case state == libvirt.Off:
		if level, err = e.whileOff(ctx, name); err != nil {
			return 0, level, err
		}
		return 0, level, do(level)
	case state == libvirt.Paused: // it stands still already, by somebody else's will
		return 0, points.Suspend, do(points.Suspend)
	case state != libvirt.Running:
		return 0, level, &problem.Problem{Op: "take a point of", Kind: problem.Conflict, Subject: name, Err: fmt.Errorf("it is neither running nor off"), Hint: "see what it does: virsh domstate " + name}
	case level == points.Live:
		return 0, level, do(level)
	}
	d := Debt{VM: name, Level: level, Since: time.Now().UTC(), Boot: bootID(), Stopped: filepath.Join(e.o.Store.Dir(name), stoppedFile), Adopting: filepath.Join(e.o.Store.Dir(name), adoptFile)}
	if err := e.o.Store.Note(name, debtFile, d); err != nil {
		return 0, level, err
	}
	guard, err := e.startGuard(d)
	if err != nil {
		return 0, level, errors.Join(err, e.o.Store.Forget(name, debtFile))
	}
	announced := e.announce(name) // off for a while is not off: whoever asks is told that it starts here
	watched := false
	defer func() {
		if !watched {
			announced()
		}
	}()
	e.step("noted")
	began := time.Now()
	err = e.stop(ctx, d, within)
	deaf := err != nil && level == points.Shutdown // it was asked to, and may still do it
	e.step("stopped")
	if err == nil {
		err = do(level)
	}
	e.step("done")
	paid := e.admitting(name, func() error { return pay(context.WithoutCancel(ctx), e.o.Host, e.o.TPM, d) }) // also when nobody wants the point any more
	stood = time.Since(began)
	e.step("paid")
	if paid == nil {
		paid = e.o.Store.Forget(name, debtFile)
	}
	if paid == nil && !deaf {
		guard.dismiss()
	} else {
		watched = guard.cmd != nil
		e.leave(guard, name) // it watches on
	}
	return stood, level, errors.Join(err, paid)
}

// whileOff is the level of a machine that is off: whose memory was saved stopped in the middle of its work, as one that is paused.
func (e *Engine) whileOff(ctx context.Context, name string) (points.Level, error) {
	saved, err := e.o.Host.Saved(ctx, name)
	if saved || err != nil {
		return points.Suspend, err
	}
	return points.Shutdown, nil
}

// stop brings a machine to its level.
func (e *Engine) stop(ctx context.Context, d Debt, within time.Duration) error {
	switch d.Level {
	case points.Suspend:
		return e.o.Host.Suspend(ctx, d.VM)
	case points.Freeze:
		n, err := e.o.Host.Freeze(ctx, d.VM)
		if err == nil && n == 0 {
			err = errors.New("the guest agent froze no file system")
		}
		if err != nil {
			return &problem.Problem{Op: "freeze", Kind: problem.Unavailable, Subject: d.VM, Err: err, Hint: "run qemu-guest-agent in the guest, or choose another level: --consistency suspend"}
		}
		return nil
	}
	return e.shutDown(ctx, d.VM, guestTime(within), "have it answer the power button (acpid), give it longer (--within 10m), or choose another level: --consistency freeze")
}

// pay lets a machine go on. What is done already is no error.
func pay(ctx context.Context, host Host, place tpm.Place, d Debt) error {
	ctx, cancel := context.WithTimeout(ctx, payWithin)
	defer cancel()
	for {
		err := payOnce(ctx, host, place, d)
		if err == nil || ctx.Err() != nil || problem.KindOf(err) == problem.NotFound {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(payPoll):
		}
	}
}

func payOnce(ctx context.Context, host Host, place tpm.Place, d Debt) error {
	state, err := host.State(ctx, d.VM)
	if err != nil {
		return err
	}
	switch {
	case d.Level == points.Freeze && state == libvirt.Running:
		return host.Thaw(ctx, d.VM)
	case state == libvirt.Paused:
		return host.Resume(ctx, d.VM)
	case state == libvirt.Off && d.Level == points.Shutdown:
		if err := finishNoted(ctx, host, place, d.VM, d.Adopting); err != nil {
			return err
		}
		return host.Start(ctx, d.VM)
	case state == libvirt.Other: // it is shutting down
		return &problem.Problem{Op: "start", Kind: problem.Unavailable, Subject: d.VM, Err: errors.New("it is shutting down")}
	}
	return nil
}

// payLate pays for a machine whose holder is gone: a guest that was asked to shut
// down may do so only now, and is started again then, once.
func payLate(ctx context.Context, host Host, place tpm.Place, d Debt) error {
	if d.Level != points.Shutdown {
		return pay(ctx, host, place, d)
	}
	for late := d.Since.Add(shutdownWithin + lateShutdown); ; {
		state, err := host.State(ctx, d.VM)
		switch {
		case d.givenUp():
			return nil
		case problem.KindOf(err) == problem.NotFound && err != nil:
			return err
		case err == nil && (state == libvirt.Off || state == libvirt.Paused):
			return pay(ctx, host, place, d)
		case time.Now().After(late):
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(payPoll):
		}
	}
}

// bootID names this boot of the machine (proc(5), random/boot_id).
func bootID() string { return power.Boot() }

// recover pays what a process before this one owed.
func (e *Engine) recover(ctx context.Context) {
	names, err := e.o.Store.VMs()
	if err != nil {
		e.o.Log.Error("machines that may stand still are not known", "err", err)
		return
	}
	for _, name := range names {
		if err := e.o.Store.Tidy(name); err != nil {
			e.o.Log.Error("what was left behind of a machine's points stays", "vm", name, "err", err)
		}
		e.strikeAll(ctx, name)
		if err := e.tidyUnused(ctx, name); err != nil {
			e.o.Log.Error("what was begun with disks that were made for a machine is not finished", "vm", name, "err", err)
		}
		var d Debt
		if ok, err := e.o.Store.Noted(name, debtFile, &d); err != nil || !ok || d.VM != name {
			continue
		}
		what, err := "it goes on", error(nil)
		announced := e.announce(name)
		if why := e.outdated(ctx, d); why != "" {
			what = "it is left as it is: " + why
		} else {
			err = e.admitting(name, func() error { return pay(ctx, e.o.Host, e.o.TPM, d) })
		}
		announced()
		if err == nil {
			err = e.o.Store.Forget(name, debtFile)
		}
		e.o.Log.Warn("a machine was held still by an agent that ended; "+what, "vm", name, "level", d.Level, "since", d.Since, "err", err)
	}
}

// outdated says why nothing is owed any more: this machine was off meanwhile, or
// the guest has been started on another node, where it must be the only one.
func (e *Engine) outdated(ctx context.Context, d Debt) string {
	if d.Boot != bootID() {
		return "this node was started anew since"
	}
	if d.givenUp() {
		return "it was stopped on purpose since"
	}
	views, _ := e.Views(ctx, d.VM)
	for _, v := range views {
		for _, s := range v.VMs {
			if v.Node != e.o.Node && s.VM == d.VM && (s.Starting || up(v.Node, s)) {
				return "it runs on " + string(v.Node)
			}
		}
	}
	return ""
}

// guard is the process that pays if this one dies.
type guard struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// startGuard starts it, in a session of its own, so that what ends this process does not end it.
func (e *Engine) startGuard(d Debt) (*guard, error) {
	if len(e.o.Guard) == 0 {
		return &guard{}, nil
	}
	e.collect()
	g := &guard{cmd: exec.Command(e.o.Guard[0], e.o.Guard[1:]...)}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := g.cmd.StdinPipe()
	if err == nil {
		g.in = in
		err = g.cmd.Start()
	}
	if err == nil {
		err = json.NewEncoder(in).Encode(d)
	}
	if err != nil {
		return nil, &problem.Problem{Op: "start the guard of", Kind: problem.Unavailable, Subject: d.VM, Err: err}
	}
	return g, nil
}

// dismiss tells it that nothing is owed any more.
func (g *guard) dismiss() {
	if g.cmd == nil {
		return
	}
	_, _ = io.WriteString(g.in, dismissed) // it sees the machine running, and ends as well
	g.leave()
	_ = g.cmd.Wait()
}

// leave closes the pipe: without the word before it, it pays.
func (g *guard) leave() {
	if g.in != nil {
		_ = g.in.Close()
	}
}

// leave lets a guard watch on; it is collected when it has ended, at the next one's start.
// Until then the machine counts as one that is being started here.
func (e *Engine) leave(g *guard, vm string) {
	g.leave()
	if g.cmd != nil {
		e.change(func() { e.left[g.cmd.Process.Pid] = vm })
	}
}

// dismissLeft ends the guards that watch on for a machine: who stops it on purpose does not want it started again.
func (e *Engine) dismissLeft(vm string) {
	e.change(func() {
		for pid, of := range e.left {
			if of != vm {
				continue
			}
			_ = unix.Kill(pid, unix.SIGKILL) // it was not collected, so the number is still its own
			for {
				if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
					break
				}
			}
			delete(e.left, pid)
			e.ended(vm)
		}
	})
}

// collect takes note of the guards that have ended.
func (e *Engine) collect() {
	e.change(func() {
		for pid, vm := range e.left {
			if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || err != nil {
				delete(e.left, pid)
				e.ended(vm)
			}
		}
	})
}

const dismissed = "paid\n"

// Guard is that process: it reads a debt, and waits until it is told that it was
// paid. If its parent ends without a word, it pays.
func Guard(ctx context.Context, in io.Reader, host Host, place tpm.Place) error {
	decoder := json.NewDecoder(in)
	var d Debt
	if err := decoder.Decode(&d); err != nil {
		return nil // the parent ended before it touched anything
	}
	rest, _ := io.ReadAll(io.LimitReader(io.MultiReader(decoder.Buffered(), in), 64))
	if string(trimmed(rest)) == "paid" {
		return nil
	}
	return payLate(ctx, host, place, d)
}

func trimmed(b []byte) []byte {
	for len(b) > 0 && (b[0] == '\n' || b[0] == ' ') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}
