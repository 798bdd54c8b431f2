package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

const (
	// unitEvery is how often a unit is looked at: a question to systemd takes less than a millisecond.
	unitEvery = 500 * time.Millisecond
	// unitAsk bounds one question to systemd.
	unitAsk = 5 * time.Second
	// bootedDir is there if systemd is the machine's init (sd_booted(3)).
	bootedDir = "/run/systemd/system"
)

// NoSystemd is why a unit cannot run on a machine, and what to do about it.
const (
	NoSystemd     = "systemd does not run on this machine, so the unit cannot be started"
	NoSystemdHint = "add exec: with the command that runs the service in the foreground (it is used where systemd is not), such as exec: \"named -f -u bind\""
)

// Booted reports whether systemd runs on this machine.
func Booted() bool {
	_, err := os.Stat(bootedDir)
	return err == nil
}

// manager is what runs units.
type manager interface {
	present() bool
	connect(ctx context.Context) (units, error)
}

// units is a connection to it.
type units interface {
	// start asks for the unit to be started, and does not wait until it is.
	start(ctx context.Context, unit string) error
	look(ctx context.Context, unit string) (unitState, error)
	close()
}

// unitState is what systemd says of a unit (org.freedesktop.systemd1(5)).
type unitState struct {
	load, active, result string
	busy                 bool // a job for it waits or runs: what is active is not the last word
	restarts             int  // by systemd itself
}

// systemd is the machine's own, asked over the system's bus or, as root, over its own socket.
type systemd struct{}

func (systemd) present() bool { return Booted() }

func (systemd) connect(ctx context.Context) (units, error) {
	c, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return &bus{c}, nil
}

type bus struct{ *dbus.Conn }

func (b *bus) close() { b.Close() }

func (b *bus) start(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, unitAsk)
	defer cancel()
	_, err := b.StartUnitContext(ctx, unit, "replace", nil)
	return err
}

func (b *bus) look(ctx context.Context, unit string) (s unitState, err error) {
	ctx, cancel := context.WithTimeout(ctx, unitAsk)
	defer cancel()
	p, err := b.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return s, err
	}
	s.load, _ = p["LoadState"].(string)
	s.active, _ = p["ActiveState"].(string)
	if job, ok := p["Job"].([]any); ok && len(job) > 0 {
		id, _ := job[0].(uint32)
		s.busy = id != 0
	}
	if p, err := b.GetUnitTypePropertiesContext(ctx, unit, "Service"); err == nil { // a socket or target has none
		s.result, _ = p["Result"].(string)
		n, _ := p["NRestarts"].(uint32)
		s.restarts = int(n)
	}
	return s, nil
}

// keepUnit starts the unit and watches it. It never stops it: neither when an
// address leaves nor when the agent ends. A unit that was stopped by somebody
// stays stopped; one that failed is started again.
func (v *service) keepUnit(ctx context.Context) {
	if !v.o.manager.present() {
		v.fell(errors.New(NoSystemd + "; " + NoSystemdHint))
		return
	}
	w := unitWatch{v: v}
	var again backoff
	for ctx.Err() == nil {
		began := time.Now()
		err := w.connected(ctx)
		if ctx.Err() != nil {
			return
		}
		v.change(func(now time.Time) error {
			v.health.blind(now)
			return reasonf("systemd cannot be asked: %w", err)
		})
		v.launch()
		select {
		case <-ctx.Done():
		case <-time.After(again.next(time.Since(began))):
		}
	}
}

// unitWatch draws the conclusions from what a unit does.
type unitWatch struct {
	v        *service
	units    units
	accepted bool // systemd has taken a start
	up       bool
	upAt     time.Time
	failed   bool
	again    backoff
	next     time.Time // no start before
	restarts int       // by systemd that were counted already
	counted  bool
}

// connected is one connection to systemd.
func (w *unitWatch) connected(ctx context.Context) (err error) {
	if w.units, err = w.v.o.manager.connect(ctx); err != nil {
		return err
	}
	defer w.units.close()
	tick := time.NewTicker(unitEvery)
	defer tick.Stop()
	for {
		s, err := w.units.look(ctx, w.v.c.Unit)
		if err != nil {
			return err
		}
		w.saw(ctx, s, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *unitWatch) saw(ctx context.Context, s unitState, now time.Time) {
	w.count(s.restarts)
	unit := w.v.c.Unit
	was := w.up
	w.up = s.active == "active" || s.active == "reloading" || s.active == "refreshing"
	switch {
	case w.up:
		if !was {
			w.upAt = now
		}
		w.failed, w.accepted = false, true
		w.v.rose()
	case s.active == "activating" || s.busy:
		if was {
			w.v.fell(reasonf("unit %s is %s", unit, s.active))
		}
	case s.active == "failed" && w.accepted && !w.failed:
		lived := time.Duration(0)
		if was {
			lived = now.Sub(w.upAt)
		}
		w.failed, w.next = true, now.Add(w.again.next(lived))
		w.v.fell(reasonf("unit %s has failed (%s); see `journalctl -u %s`", unit, s.result, unit))
	case s.active == "failed" || !w.accepted:
		if !now.Before(w.next) {
			w.start(ctx, s, now)
		}
	case w.upAt.IsZero():
		w.v.fell(reasonf("unit %s was started and is %s all the same; see `systemctl status %s`", unit, s.active, unit))
	default:
		w.v.fell(reasonf("unit %s is %s, because somebody stopped it; `systemctl start %s`", unit, s.active, unit))
	}
}

// count takes over the restarts that systemd did itself; a start by hand begins its count anew.
func (w *unitWatch) count(restarts int) {
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	if w.counted && restarts > w.restarts {
		w.v.restarts += restarts - w.restarts
		w.v.life++ // between two looks it was another process
	}
	w.restarts, w.counted = restarts, true
}

func (w *unitWatch) start(ctx context.Context, s unitState, now time.Time) {
	v := w.v
	if w.failed {
		v.mu.Lock()
		v.restarts++
		v.mu.Unlock()
	}
	w.failed = false
	err := w.units.start(ctx, v.c.Unit)
	w.accepted = err == nil
	if err != nil {
		hint := ""
		if s.load == "not-found" {
			hint = "; install what brings it, or correct the name"
		}
		w.next = now.Add(w.again.next(0))
		v.fell(fmt.Errorf("unit %s cannot be started: %w%s", v.c.Unit, err, hint))
	}
	v.launch()
}

// Loaded is what systemd says of a unit's file: "loaded", "not-found", "masked".
func Loaded(ctx context.Context, unit string) (string, error) {
	u, err := systemd{}.connect(ctx)
	if err != nil {
		return "", err
	}
	defer u.close()
	s, err := u.look(ctx, unit)
	return s.load, err
}
