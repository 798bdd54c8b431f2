package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// without is a host on which one machine cannot be looked at.
type without struct {
	*fakeHost
	vm atomic.Value
}

func (h *without) Definition(ctx context.Context, name string) (string, error) {
	if name == h.vm.Load() {
		return "", errors.New("no definition")
	}
	return h.fakeHost.Definition(ctx, name)
}

// replicate -p powers a node off once, when the last machine has come, and not if one of them has not.
func TestPoweroffAfterTheLast(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "Sun 03:00", 0)
		p := newPlug(l)
		e := l.engine()
		host := &without{fakeHost: l.host}
		host.vm.Store("n")
		e.o.Host = host
		beside(t, e, func() {
			time.Sleep(time.Minute)
			for _, vms := range [][]string{{"m", "n"}, {"n", "m"}} {
				j := l.orderTo(e, Order{VMs: vms, Poweroff: true})
				if a := j.lastOn("b"); a == nil || !strings.Contains(a.StaysOn, "it does not have the copy of n") || a.PoweredOff {
					t.Errorf("%v: %+v", vms, a)
				}
			}
			p.heard(t, "")
			host.vm.Store("")
			j := l.orderTo(e, Order{VMs: []string{"m", "n"}, Poweroff: true})
			for i, w := range j.VMs {
				if w.Error != "" || w.Nodes[0].PoweredOff != (i == 1) || w.Nodes[0].StaysOn != "" {
					t.Errorf("%s: %+v", w.VM, w)
				}
			}
		})
		p.heard(t, "off with 3 points")
	})
}

// A node that others are to copy to by another order stays on; so does one that was not there when the order began.
func TestPoweroffWaitsForOthers(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	e.o.Power = &plug{}
	order := Order{VMs: []string{"m"}, Poweroff: true, Plans: map[string]Plans{"m": {Targets: []cluster.NodeID{"b"}}}}
	j := &Job{Order: order, VMs: []Work{{VM: "m", Nodes: []Arrival{{Node: "b", Record: &points.Record{}}}}}, party: party{met: map[cluster.NodeID]Awake{}}}
	other := &Job{Order: Order{VMs: []string{"n"}, Plans: map[string]Plans{"n": {Targets: []cluster.NodeID{"b"}}}}}
	e.jobs = []*Job{j, other}
	for _, want := range []string{"it was not there when the order began", "another order copies n to it", ""} {
		err := e.spares(j, "b")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		other.Ended = len(j.party.met) > 0
		j.party.met["b"] = Awake{Token: "x"}
	}
}

// A node is powered off only as it came of being woken: what a person did to it meanwhile leaves it on.
func TestWokenAndUsedSince(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		restart := func(l *scheduledLab) {
			fresh := newUse()
			l.b.change(func() { l.b.use = fresh })
		}
		for what, c := range map[string]struct {
			meanwhile func(l *scheduledLab, p *plug)
			off       bool
		}{
			"nothing":                  {func(*scheduledLab, *plug) {}, true},
			"somebody logged in":       {func(l *scheduledLab, _ *plug) { l.b.Used("x is logged in") }, false},
			"a person powered it on":   {func(l *scheduledLab, _ *plug) { l.b.Used("a person powered it on") }, false},
			"its agent was restarted":  {func(l *scheduledLab, _ *plug) { restart(l) }, false},
			"off and on again by hand": {func(l *scheduledLab, p *plug) { l.unheard.Store(true); p.start() }, false},
			"a rehearsal was made on it": {func(l *scheduledLab, _ *plug) {
				l.b.answer(t.Context(), Question{What: askRehearse, Rehearse: &RehearseOrder{VM: "nobody"}})
			}, false},
			"it was asked how it is": {func(l *scheduledLab, _ *plug) { l.b.answer(t.Context(), Question{What: askLook}) }, true},
		} {
			l := newScheduledLab(t, sub(t, a, what), sub(t, b, what), "every 2h", time.Hour)
			p := newPlug(l)
			l.unheard.Store(true)
			l.list[0].Wake = true
			l.runsOnB(libvirt.Running) // so that it stays on for a while
			before(2*time.Hour, time.Minute)
			e := l.engine()
			beside(t, e, func() {
				time.Sleep(10 * time.Minute)
				if len(l.points()) != 1 {
					t.Errorf("%s: %v", what, l.points())
				}
				c.meanwhile(l, p)
				l.runsOnB(libvirt.Off)
				time.Sleep(10 * time.Minute)
			})
			if p.heard(t, map[bool]string{true: "on, off with 1 points", false: "on"}[c.off]); len(e.ledger.all()) != 0 {
				t.Errorf("%s: %v", what, e.ledger.all())
			}
		}
	})
}

// Who was on before it was woken, or comes long after, is not this run's.
func TestNotOfBeingWoken(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		for _, what := range []string{"it was on, and not heard", "it comes half an hour later"} {
			l := newScheduledLab(t, sub(t, a, what), sub(t, b, what), "every 12h", 0)
			p := newPlug(l)
			p.lost = 1000
			l.unheard.Store(true)
			l.list[0].Wake = true
			before(12*time.Hour, time.Minute)
			e := l.engine()
			beside(t, e, func() {
				if what == "it comes half an hour later" {
					time.Sleep(30 * time.Minute)
					p.start()
				} else {
					time.Sleep(4 * time.Minute)
					l.unheard.Store(false)
				}
				time.Sleep(time.Hour)
			})
			p.mu.Lock()
			if said := strings.Join(p.said, ", "); len(l.points()) != 1 || strings.Contains(said, "off") {
				t.Errorf("%s: %v, %s", what, l.points(), said)
			}
			p.mu.Unlock()
			if left := e.ledger.all(); len(left) != 0 {
				t.Errorf("%s: %v", what, left)
			}
		}
	})
}

// That a node is woken is durable before it is, and one of which that cannot be written is not woken.
func TestWokenIsWrittenBefore(t *testing.T) {
	dir := t.TempDir()
	e := newEngine(t, &fakeHost{})
	e.ledger.dir = dir
	j := &Job{scheduled: true, party: party{told: map[cluster.NodeID]wokenNode{}, absent: map[cluster.NodeID]string{}}}
	seen := ""
	e.o.Power = onFunc(func() error { seen = read(t, filepath.Join(dir, ledgerFile)); return nil })
	if err := e.tellOn(t.Context(), j, "b"); err != nil || !strings.Contains(seen, `"b":{`) {
		t.Errorf("when it was woken, the file said %q, %v", seen, err)
	}
	again := &ledger{dir: dir}
	if err := again.load(); err != nil || len(again.all()) != 1 {
		t.Errorf("after a restart: %v, %v", again.all(), err)
	}
	// What fails at once is owed nothing.
	e.o.Power = onFunc(func() error { return errors.New("no such card") })
	j.party.told = map[cluster.NodeID]wokenNode{}
	if err := e.tellOn(t.Context(), j, "b"); err == nil || len(e.ledger.all()) != 0 || len(j.party.told) != 0 {
		t.Errorf("%v, %v", err, e.ledger.all())
	}
	woken := false
	e.ledger.dir = filepath.Join(dir, "none")
	e.o.Power = onFunc(func() error { woken = true; return nil })
	if err := e.tellOn(t.Context(), j, "b"); err == nil || woken {
		t.Errorf("it is woken: %v, %v", woken, err)
	}
	for _, text := range []string{"", "{", "null", "[]", `{"b":3}`, strings.Repeat(" ", maxLedgerFile+1)} {
		if err := os.WriteFile(filepath.Join(dir, ledgerFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := again.load(); len(again.all()) != 0 || err == nil && text != "null" {
			t.Errorf("%.20q: %v, %v", text, again.all(), err)
		}
		if err := again.put("c", wokenNode{}); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// onFunc is how a node is woken.
type onFunc func() error

func (f onFunc) On(context.Context, cluster.NodeID) error             { return f() }
func (f onFunc) Off(context.Context, cluster.NodeID, RestOrder) error { return errors.New("in use") }
func (f onFunc) HeardLately(cluster.NodeID, time.Duration) bool       { return false }
func (f onFunc) There(n cluster.NodeID) bool                          { return n == "z" }

// A copy wakes nodes while a schedule looks which are to be powered off (for the race detector).
func TestWakeWhileOthersRest(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	e.ledger.dir = t.TempDir()
	e.o.MayBeOff = func(cluster.NodeID) bool { return true }
	e.o.Power = onFunc(func() error { return errors.New("no such card") })
	e.o.Dial = dead
	if err := e.ledger.put("z", wokenNode{At: time.Now(), Token: "x"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10 {
			e.rouse(t.Context(), &Job{scheduled: true, Order: Order{VMs: []string{"m"}, Wake: true, Plans: map[string]Plans{"m": {Targets: []cluster.NodeID{"b", "c"}}}}})
		}
	}()
	for {
		select {
		case <-done:
			if left := e.ledger.all(); len(left) != 1 {
				t.Errorf("%v", left)
			}
			return
		default:
			e.offered = time.Time{}
			e.letRest(t.Context(), time.Now())
		}
	}
}

// agrees has a node power itself off, as its agent does: first nothing begins any more, then it is looked what there is.
func agrees(ctx context.Context, e *Engine, o *RestOrder) error {
	if err := e.Close(e.o.Uptime() + 10*time.Minute); err != nil {
		return err
	}
	err := e.MayRest(ctx, o)
	if err != nil {
		e.Reopen()
	}
	return err
}

// What this node is in use for keeps it on; and once it agreed to be off, nothing begins.
func TestShut(t *testing.T) {
	off := []libvirt.Machine{{Name: "x", State: libvirt.Off}}
	for what, c := range map[string]struct {
		do   func(e *Engine, h *fakeHost)
		want string
	}{
		"nothing":                 {func(*Engine, *fakeHost) {}, ""},
		"a machine runs":          {func(_ *Engine, h *fakeHost) { h.list = []libvirt.Machine{{Name: "x", State: libvirt.Running}} }, "machine x is running"},
		"one is paused":           {func(_ *Engine, h *fakeHost) { h.list = []libvirt.Machine{{Name: "x", State: libvirt.Paused}} }, "machine x is paused"},
		"one does something else": {func(_ *Engine, h *fakeHost) { h.list = []libvirt.Machine{{Name: "x", State: libvirt.Other}} }, "machine x is"},
		"libvirt refuses":         {func(_ *Engine, h *fakeHost) { h.listErr = unix.ECONNREFUSED }, "machines may run on without it"},
		"libvirt hangs":           {func(_ *Engine, h *fakeHost) { h.listErr = context.DeadlineExceeded }, "cannot be asked"},
		"one that libvirt knows nothing of": {func(e *Engine, _ *fakeHost) {
			_ = errors.Join(os.Mkdir(filepath.Join(e.o.Proc, "12"), 0o700), os.WriteFile(filepath.Join(e.o.Proc, "12", "comm"), []byte("qemu-system-x86\n"), 0o600))
		}, "qemu-system-x86 runs on it"},
		"one is being started":        {func(e *Engine, _ *fakeHost) { e.announce("x") }, "x is being started"},
		"libvirt was let start":       {func(e *Engine, _ *fakeHost) { e.hooked["x"] = time.Now().Add(time.Minute) }, "x is being started"},
		"points come":                 {func(e *Engine, _ *fakeHost) { e.receiving = 1 }, "points of machines come"},
		"an order of another":         {func(e *Engine, _ *fakeHost) { e.serving = 1 }, "carries out an order"},
		"copies are ordered":          {func(e *Engine, _ *fakeHost) { e.jobs = []*Job{{}} }, "copies of machines are ordered"},
		"copies were made":            {func(e *Engine, _ *fakeHost) { e.jobs = []*Job{{Ended: true}} }, ""},
		"a machine is owed its start": {func(e *Engine, _ *fakeHost) { owe(e, bootID()) }, "m was held still for a copy"},
		"it was before this boot":     {func(e *Engine, _ *fakeHost) { owe(e, "another") }, ""},
		"it is not known what is owed": {func(e *Engine, _ *fakeHost) {
			_ = os.WriteFile(filepath.Join(e.o.Store.Dir("m"), debtFile), []byte("{"), 0o600)
		}, "it cannot be seen whether m is owed its start"},
		"another needs it":       {func(e *Engine, _ *fakeHost) { _, _ = e.heldBy("c", &HoldOrder{For: time.Minute}) }, "c needs it"},
		"another needed it once": {func(e *Engine, _ *fakeHost) { e.use.held["c"] = time.Now().Add(-time.Second) }, ""},
		"another needs it no more": {func(e *Engine, _ *fakeHost) {
			_, _ = e.heldBy("c", &HoldOrder{For: time.Minute})
			_, _ = e.heldBy("c", &HoldOrder{})
		}, ""},
	} {
		h := &fakeHost{list: off}
		e := newEngine(t, h)
		c.do(e, h)
		err := agrees(t.Context(), e, nil)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || problem.KindOf(err) != problem.Conflict) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		if (e.open() == nil) != (c.want != "") {
			t.Errorf("%s: it is open: %v", what, e.open() == nil)
		}
	}
}

// owe writes down that m was held still.
func owe(e *Engine, boot string) {
	_ = e.o.Store.Note("m", debtFile, Debt{VM: "m", Level: points.Shutdown, Boot: boot, Since: time.Now()})
}

func TestNothingBeginsOnANodeThatIsShut(t *testing.T) {
	h := &fakeHost{list: []libvirt.Machine{{Name: "m", State: libvirt.Off}}}
	e := newEngine(t, h)
	if err := agrees(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	for _, o := range []*RestOrder{{Token: "another"}, {Token: e.use.token, Uses: 1}} {
		e.Reopen()
		if err := agrees(t.Context(), e, o); problem.KindOf(err) != problem.StaleTerm || e.open() != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := agrees(t.Context(), e, &RestOrder{Token: e.use.token}); err != nil {
		t.Fatal(err)
	}
	refused, _ := wired(&atomic.Int64{}, func(int64) bool { return false })
	begun := map[string]error{
		"start":     e.reply(t.Context(), "a", Question{What: askStart, Start: &StartOrder{VM: "m"}}).Failed.err(),
		"rehearse":  e.reply(t.Context(), "a", Question{What: askRehearse, Rehearse: &RehearseOrder{VM: "m"}}).Failed.err(),
		"restore":   e.reply(t.Context(), "a", Question{What: askRestore, Restore: &RestoreOrder{VM: "m"}}).Failed.err(),
		"hold":      e.reply(t.Context(), "a", Question{What: askHold, Hold: &HoldOrder{For: time.Minute}}).Failed.err(),
		"hook":      e.MayStart(t.Context(), "m"),
		"shut":      agrees(t.Context(), e, nil),
		"keep on":   e.KeepOn(),
		"receive":   e.Handle(t.Context(), refused, transfer.Service),
		"copy":      func() error { _, err := e.Order(Order{VMs: []string{"m"}}); return err }(),
		"scheduled": func() error { _, err := e.order(Order{VMs: []string{"m"}}, &run{}); return err }(),
	}
	for what, err := range begun {
		if err == nil || !strings.Contains(err.Error(), "powering itself off") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if v := e.reply(t.Context(), "a", Question{What: askLook}); v.Failed != nil {
		t.Errorf("it does not say how it is any more: %v", v.Failed)
	}
	e.Reopen()
	if _, err := e.Order(Order{VMs: []string{"m"}}); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

// Without any libvirt, what runs is seen by its processes; if that cannot be seen, it is not known.
func TestEmulators(t *testing.T) {
	proc := t.TempDir()
	for comm, want := range map[string]string{"bash": "", "qemu-ga": "", "qemu-nbd": "", "qemu-kvm": "qemu-kvm runs on it", "qemu-system-x86": "qemu-system-x86 runs on it", "kvm": "kvm runs on it"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(proc, "12"), 0o700), os.WriteFile(filepath.Join(proc, "12", "comm"), fmt.Appendln(nil, comm), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := Emulators(proc); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", comm, got)
		}
	}
	if Emulators(filepath.Join(proc, "none")) == "" {
		t.Error("it is not known, and taken for nothing")
	}
}

// While any copy is ordered here, by whomever, no node that was woken is asked to power itself off.
func TestNobodyRestsDuringAnOrder(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	e.ledger.dir = t.TempDir()
	e.o.Power = onFunc(func() error { return nil })
	asked := 0
	e.o.Dial = func(ctx context.Context, n cluster.NodeID, service string) (transfer.Conn, error) {
		asked++
		return dead(ctx, n, service)
	}
	if err := e.ledger.put("z", wokenNode{At: time.Now(), Token: "x"}); err != nil {
		t.Fatal(err)
	}
	e.jobs = []*Job{{}}
	if e.letRest(t.Context(), time.Now()); asked != 0 {
		t.Error("it was asked in the middle of an order")
	}
	e.jobs[0].Ended = true
	if e.letRest(t.Context(), time.Now()); asked != 1 {
		t.Errorf("afterwards it was asked %d times", asked)
	}
}

// A guard that watched on and has ended keeps no node on; one that watches does.
func TestAGuardThatHasEnded(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	c := exec.Command("cat")
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	e.announce("x")
	e.left[c.Process.Pid] = "x"
	if err := agrees(t.Context(), e, nil); err == nil || !strings.Contains(err.Error(), "x is being started") {
		t.Errorf("it watches: %v", err)
	}
	in.Close()
	for range 1000 { // until the kernel says so
		if err = agrees(t.Context(), e, nil); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("it has ended: %v", err)
}

// What a machine was owed and could not be given is struck out when it is seen running, unless that says nothing; else the
// next step names the file.
func TestADebtThatIsPaidByOthers(t *testing.T) {
	long := time.Now().Add(-shutdownWithin - lateShutdown - time.Minute)
	for what, c := range map[string]struct {
		d     Debt
		state libvirt.State
		busy  bool
		paid  bool
	}{
		"it runs":                        {Debt{Level: points.Shutdown, Since: long}, libvirt.Running, false, true},
		"it goes on":                     {Debt{Level: points.Suspend, Since: long}, libvirt.Running, false, true},
		"it is off":                      {Debt{Level: points.Shutdown, Since: long}, libvirt.Off, false, false},
		"it is paused":                   {Debt{Level: points.Suspend, Since: long}, libvirt.Paused, false, false},
		"it may be frozen":               {Debt{Level: points.Freeze, Since: long}, libvirt.Running, false, false},
		"it may still shut down":         {Debt{Level: points.Shutdown, Since: time.Now()}, libvirt.Running, false, false},
		"it is from a wrong clock's day": {Debt{Level: points.Shutdown, Since: time.Now().Add(time.Hour)}, libvirt.Running, false, false},
		"a copy is made of it":           {Debt{Level: points.Shutdown, Since: long}, libvirt.Running, true, false},
	} {
		e := newEngine(t, &fakeHost{state: c.state})
		c.d.VM, c.d.Boot = "m", bootID()
		if err := e.o.Store.Note("m", debtFile, c.d); err != nil {
			t.Fatal(err)
		}
		if c.busy {
			release, err := e.o.Store.Lock("m")
			if err != nil {
				t.Fatal(err)
			}
			defer release()
		}
		err := e.MayRest(t.Context(), nil)
		if (err == nil) != c.paid || err != nil && !strings.Contains(problem.HintOf(err), "rm "+filepath.Join(e.o.Store.Dir("m"), debtFile)) {
			t.Errorf("%s: %v (%s)", what, err, problem.HintOf(err))
		}
		if left, _ := e.o.Store.Noted("m", debtFile, &Debt{}); left == c.paid {
			t.Errorf("%s: it is written down: %v", what, left)
		}
	}
}
