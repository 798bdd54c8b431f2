package vm

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// This file is what comes between: orders, people and clocks while a node is about to be powered off.

// between does something on the waker while its order to power off is on its way.
type between struct {
	*plug
	once sync.Once
	do   func()
}

func (p *between) Off(ctx context.Context, n cluster.NodeID, o RestOrder) error {
	p.once.Do(p.do)
	return p.plug.Off(ctx, n, o)
}

// toB is a person's order of m to b.
func toB() Order {
	return Order{VMs: []string{"m"}, Plans: map[string]Plans{"m": {Level: points.Suspend, Targets: []cluster.NodeID{"b"}}}}
}

// A copy that a person orders just when the woken node is asked to power itself off is made; and the node stays on, since a person uses it.
func TestAnOrderBeginsWhileANodeIsAskedToRest(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 2h", time.Hour)
		p := newPlug(l)
		bw := &between{plug: p}
		l.unheard.Store(true)
		l.list[0].Wake = true
		l.power = bw
		e := l.engine()
		ordered := make(chan string, 1)
		bw.do = func() {
			id, _ := e.Order(toB())
			ordered <- id
			time.Sleep(500 * time.Millisecond) // it begins
		}
		e.o.Host = slowly{l.host, 5 * time.Second}
		before(2*time.Hour, time.Minute)
		beside(t, e, func() {
			time.Sleep(20 * time.Minute)
			if j, ok := e.Look(<-ordered); !ok || !j.Ended || len(j.VMs) != 1 || j.VMs[0].Error != "" {
				t.Errorf("the order: %+v", j.VMs)
			}
		})
		p.heard(t, "on")
	})
}

// Asking a node how it is, and to power itself off, takes nothing from an order that has begun meanwhile.
func TestToAskANodeLetsNothingGo(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "Sun 03:00", 0)
		p := newPlug(l)
		e := l.engine()
		if err := e.ledger.put("b", wokenNode{At: time.Now(), Token: l.b.use.token}); err != nil {
			t.Fatal(err)
		}
		_, _ = l.b.heldBy("a", &HoldOrder{For: time.Minute})
		e.letRest(t.Context(), time.Now())
		p.heard(t, "")
		if why := l.b.underWay(); !strings.Contains(why, "a needs it") {
			t.Errorf("it is let go: %q", why)
		}
		_, _ = l.b.heldBy("a", &HoldOrder{})
		e.letRest(t.Context(), time.Now().Add(offAgain))
		p.heard(t, "off with 0 points")
	})
}

// While a node is asked again and again to power itself off, another order for it is given: it is asked no more.
func TestAnOrderIsQueuedWhileANodeIsAskedToRest(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "Sun 03:00", 0)
		p := newPlug(l)
		bw := &between{plug: p}
		l.power = bw
		e := l.engine()
		ordered := make(chan string, 1)
		bw.do = func() { // it refuses once
			done, _ := l.b.enter(&l.b.serving)
			time.AfterFunc(500*time.Millisecond, done)
			time.Sleep(time.Millisecond) // orders are named by their time
			id, _ := e.Order(toB())
			ordered <- id
		}
		beside(t, e, func() {
			time.Sleep(time.Minute)
			j := l.orderTo(e, Order{VMs: []string{"m"}, Poweroff: true})
			if n := j.VMs[0].Nodes[0]; n.PoweredOff || !strings.Contains(n.StaysOn, "another order copies m to it") {
				t.Errorf("%+v", n)
			}
			time.Sleep(2 * time.Minute)
			if j, _ := e.Look(<-ordered); !j.Ended || j.VMs[0].Error != "" {
				t.Errorf("the other order: %+v", j.VMs)
			}
		})
		p.heard(t, "")
	})
}

// What a person has copied to a node that a schedule woke is a use of it, and so is that a person has it powered on.
func TestAPersonsOrderKeepsItOn(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		for what, do := range map[string]func(l *scheduledLab, e *Engine){
			"a copy":                  func(l *scheduledLab, e *Engine) { l.orderTo(e, Order{VMs: []string{"m"}}) },
			"a copy with --wake":      func(l *scheduledLab, e *Engine) { l.orderTo(e, Order{VMs: []string{"m"}, Wake: true}) },
			"power on from its waker": func(_ *scheduledLab, e *Engine) { e.Wanted("b") },
			"power on from elsewhere": func(l *scheduledLab, _ *Engine) { _ = l.b.KeepOn() },
		} {
			l := newScheduledLab(t, sub(t, a, what), sub(t, b, what), "every 12h", time.Hour)
			p := newPlug(l)
			l.unheard.Store(true)
			l.list[0].Wake = true
			l.runsOnB(libvirt.Running)
			e := l.engine()
			before(12*time.Hour, time.Minute)
			beside(t, e, func() {
				time.Sleep(10 * time.Minute)
				l.runsOnB(libvirt.Off)
				do(l, e)
				time.Sleep(10 * time.Minute)
			})
			if p.heard(t, "on"); len(e.ledger.all()) != 0 {
				t.Errorf("%s: %v", what, e.ledger.all())
			}
		}
	})
}

// A person has a node powered on in the minutes in which a schedule wakes it, or just before: it is not the schedule's.
func TestAPersonWantsItWhileItIsWoken(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		for _, when := range []time.Duration{-2 * time.Minute, 2 * time.Minute} {
			l := newScheduledLab(t, sub(t, a, when), sub(t, b, when), "every 2h", time.Hour)
			p := newPlug(l)
			p.lost = 4
			l.unheard.Store(true)
			l.list[0].Wake = true
			e := l.engine()
			before(2*time.Hour, 5*time.Minute)
			beside(t, e, func() {
				time.Sleep(5*time.Minute + when)
				e.Wanted("b")
				time.Sleep(30 * time.Minute)
			})
			if p.heard(t, "on, on, on, on, on"); len(l.points()) != 1 || len(e.ledger.all()) != 0 {
				t.Errorf("%s: %v, %v", when, l.points(), e.ledger.all())
			}
		}
	})
}

// slowPlug is the power of a node that takes its time to go off.
type slowPlug struct {
	*plug
	long time.Duration
}

func (p *slowPlug) Off(ctx context.Context, _ cluster.NodeID, o RestOrder) error {
	if err := agrees(ctx, p.l.b, &o); err != nil {
		return err
	}
	time.AfterFunc(p.long, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.said = append(p.said, "off")
		p.l.unheard.Store(true)
	})
	return nil
}

// A copy with --wake that meets a node on its way to be off waits for that, and wakes it.
func TestANodeThatLeavesIsWokenAgain(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "Sun 03:00", 0)
		p := newPlug(l)
		l.power = &slowPlug{plug: p, long: 2 * time.Minute}
		e := l.engine()
		beside(t, e, func() {
			time.Sleep(time.Minute)
			if j := l.orderTo(e, Order{VMs: []string{"m"}, Poweroff: true}); !j.VMs[0].Nodes[0].PoweredOff {
				t.Errorf("%+v", j.VMs[0])
			}
			if j := l.orderTo(e, Order{VMs: []string{"m"}, Wake: true}); j.VMs[0].Error != "" || j.VMs[0].Nodes[0].Record == nil {
				t.Errorf("%+v", j.VMs[0])
			}
		})
		p.heard(t, "off, on")
	})
}

// A machine that cannot be copied for a reason of its own wakes nobody; one that a node does not take wakes it a few times in a run, not until the next.
func TestACopyThatFailsIsNoPowerCycle(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		for _, c := range []struct {
			what string
			want int
		}{{"home", 0}, {"target", wakesMost}} {
			l := newScheduledLab(t, sub(t, a, c.what), sub(t, b, c.what), "every 2h", 0)
			p := newPlug(l)
			l.unheard.Store(true)
			l.list[0].Wake = true
			e := l.engine()
			if c.what == "home" {
				w := &without{fakeHost: l.host}
				w.vm.Store("m")
				e.o.Host = w
			} else {
				dial := e.o.Dial
				e.o.Dial = func(ctx context.Context, n cluster.NodeID, s string) (transfer.Conn, error) {
					if s == transfer.Service {
						return nil, &problem.Problem{Op: "receive", Kind: problem.Unavailable, Subject: "b"}
					}
					return dial(ctx, n, s)
				}
			}
			runs := func(n int) {
				p.mu.Lock()
				said := strings.Join(p.said, ", ")
				if on, off := strings.Count(said, "on"), strings.Count(said, "off"); on != n*c.want || off != n*c.want {
					t.Errorf("%s, after %d runs: %s", c.what, n, said)
				}
				p.mu.Unlock()
			}
			before(2*time.Hour, time.Minute)
			beside(t, e, func() {
				time.Sleep(110 * time.Minute)
				runs(1)
				time.Sleep(2 * time.Hour) // the next run is another one
				runs(2)
				e.mu.Lock()
				defer e.mu.Unlock()
				if len(e.wakes) > 1 {
					t.Errorf("it remembers %d runs", len(e.wakes))
				}
			})
		}
	})
}

// A clock that is wrong when a node is woken does not have it given up.
func TestRestAndTheClock(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		for _, at := range []time.Duration{-30 * 365 * 24 * time.Hour, 365 * 24 * time.Hour} {
			l := newScheduledLab(t, sub(t, a, at), sub(t, b, at), "every 12h", time.Hour)
			p := newPlug(l)
			l.unheard.Store(true)
			l.list[0].Wake = true
			l.runsOnB(libvirt.Running)
			e := l.engine()
			before(12*time.Hour, time.Minute)
			known := func(want bool, when string) {
				if _, ok := e.ledger.get("b"); ok != want {
					t.Errorf("clock off by %s, %s: in the ledger %v", at, when, ok)
				}
			}
			beside(t, e, func() {
				time.Sleep(4 * time.Minute)
				w, ok := e.ledger.get("b")
				if !ok {
					t.Error("it was not woken")
				}
				w.At = w.At.Add(at)
				_ = e.ledger.put("b", w)
				time.Sleep(20 * time.Minute)
				known(true, "it refuses")
			})
			p.heard(t, "on")
		}
	})
}

// How long ago a node was woken is known by one run of one kernel only; what is not known is no age.
func TestWhoCameOfBeingWoken(t *testing.T) {
	boot, told := bootID(), time.Now()
	for what, c := range map[string]struct {
		w    wokenNode
		up   time.Duration // of the waker
		a    time.Duration // of the node
		came bool
	}{
		"two minutes ago":                 {wokenNode{Boot: boot, Up: time.Hour}, time.Hour + 3*time.Minute, 2 * time.Minute, true},
		"it was on before":                {wokenNode{Boot: boot, Up: time.Hour}, time.Hour + 3*time.Minute, 4 * time.Minute, false},
		"it does not say":                 {wokenNode{Boot: boot, Up: time.Hour}, time.Hour + 3*time.Minute, 0, false},
		"the waker did not know then":     {wokenNode{Boot: boot}, 240 * time.Hour, 120 * time.Hour, false},
		"nor does it now":                 {wokenNode{Boot: boot, Up: time.Hour}, 0, 2 * time.Minute, false},
		"the waker was off":               {wokenNode{Boot: "another", Up: time.Hour}, 2 * time.Hour, 2 * time.Minute, false},
		"its kernel has no name":          {wokenNode{Boot: "", Up: time.Hour}, 2 * time.Hour, 2 * time.Minute, false},
		"its uptime is less than it was":  {wokenNode{Boot: boot, Up: 2 * time.Hour}, time.Hour, 2 * time.Minute, false},
		"woken and started on the moment": {wokenNode{Boot: boot, Up: time.Hour}, time.Hour + 2*time.Minute, 2 * time.Minute, false},
	} {
		if got := came(c.w, Awake{Up: c.a}, c.up); got != c.came {
			t.Errorf("%s: it came of it: %v", what, got)
		}
	}
	w := wokenNode{At: told, Boot: boot, Up: time.Hour}
	for _, c := range []struct {
		up   time.Duration
		now  time.Time
		want bool
	}{{time.Hour, told.AddDate(50, 0, 0), false}, {25 * time.Hour, told, true}, {time.Minute, told.Add(time.Hour), false}, {time.Minute, told.Add(24 * time.Hour), true}, {time.Minute, told.Add(-time.Hour), true}} {
		if got := w.older(c.up, c.now, offGivenUp); got != c.want {
			t.Errorf("up %s, %s: %v", c.up, c.now, got)
		}
	}
}

// A node that was woken and stays on for an hour is told of, and why, until it is off.
func TestStayingIsTold(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 12h", time.Hour)
		newPlug(l)
		l.unheard.Store(true)
		l.list[0].Wake = true
		l.runsOnB(libvirt.Running)
		e := l.engine()
		before(12*time.Hour, time.Minute)
		says := func(want string) {
			t.Helper()
			if got := e.Staying(); (len(got) > 0) != (want != "") || !strings.Contains(got["b"], want) {
				t.Errorf("%v, want %q", got, want)
			}
		}
		beside(t, e, func() {
			time.Sleep(50 * time.Minute)
			says("")
			time.Sleep(30 * time.Minute)
			says("machine x is running on it")
			l.b.Used("somebody is logged in")
			time.Sleep(2 * time.Minute)
			says("somebody uses it: somebody is logged in")
			l.unheard.Store(true)
			says("")
			time.Sleep(2 * time.Minute)
			l.unheard.Store(false)
			says("")
		})
	})
}

// A person's order that comes when its node is asked to power itself off, or waits behind a long one while another node
// has that node be off, is a use of it from that moment.
func TestAnOrderThatWaitsIsAUse(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, sub(t, a, 1), sub(t, b, 1), "Sun 03:00", 0)
		p := newPlug(l)
		bw := &between{plug: p}
		l.power = bw
		e := l.engine()
		bw.do = func() {
			time.Sleep(time.Millisecond) // orders are named by their time
			_, _ = e.Order(toB())
			time.Sleep(time.Second)
		}
		beside(t, e, func() {
			time.Sleep(time.Minute)
			j := l.orderTo(e, Order{VMs: []string{"m"}, Poweroff: true})
			if n := j.VMs[0].Nodes[0]; n.PoweredOff || !strings.Contains(n.StaysOn, "somebody uses it: a person had machines copied") {
				t.Errorf("%+v", n)
			}
			time.Sleep(time.Minute)
		})
		p.heard(t, "")

		l = newScheduledLab(t, sub(t, a, 2), sub(t, b, 2), "Sun 03:00", 0)
		p = newPlug(l)
		e = l.engine()
		e.o.Host = slowly{l.host, 30 * time.Minute}
		asItCame := RestOrder{Token: l.b.use.token}
		l.unheard.Store(true) // it comes while the order waits
		beside(t, e, func() {
			time.Sleep(time.Minute)
			_, _ = e.Order(Order{VMs: []string{"m"}, Plans: map[string]Plans{"m": {Level: points.Suspend, Targets: []cluster.NodeID{"c"}}}})
			time.Sleep(time.Second)
			_, _ = e.Order(toB())
			l.unheard.Store(false)
			time.Sleep(10 * time.Second)
			if err := agrees(t.Context(), l.b, &RestOrder{Token: asItCame.Token}); problem.KindOf(err) != problem.StaleTerm {
				t.Errorf("another node has it be off: %v", err)
			}
		})
		p.heard(t, "")
	})
}

// While a run of a schedule waits for its turn behind an order, nothing is powered off by that order.
func TestPoweroffWhileAScheduleWaits(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	e.o.Power = &plug{}
	j := &Job{Order: Order{Poweroff: true}, party: party{met: map[cluster.NodeID]Awake{"b": {Token: "x"}}}}
	for _, waits := range []bool{true, false} {
		e.diary.waits = waits
		if err := e.spares(j, "b"); (err != nil) != waits {
			t.Errorf("a run waits: %v, %v", waits, err)
		}
	}
}

// A word to a node that gets lost when an order begins takes no person's use away: it is said again soon.
func TestALostWordIsSaidAgain(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "Sun 03:00", 0)
		p := newPlug(l)
		e := l.engine()
		e.o.Host = slowly{l.host, time.Minute}
		dial, lost := e.o.Dial, 3 // the first words
		var mu sync.Mutex
		e.o.Dial = func(ctx context.Context, n cluster.NodeID, service string) (transfer.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if lost--; service == AskService && lost >= 0 {
				return nil, &problem.Problem{Op: "connect to", Kind: problem.Timeout, Subject: "b"}
			}
			return dial(ctx, n, service)
		}
		asItWas := RestOrder{Token: l.b.use.token}
		beside(t, e, func() {
			time.Sleep(time.Minute)
			_, _ = e.Order(toB())
			time.Sleep(20 * time.Second)
			mu.Lock()
			if lost > 0 {
				t.Errorf("%d words were not said", lost)
			}
			mu.Unlock()
			if why := l.b.underWay(); !strings.Contains(why, "a needs it") {
				t.Errorf("it is not held: %q", why)
			}
			time.Sleep(3 * time.Minute)
			if err := agrees(t.Context(), l.b, &asItWas); problem.KindOf(err) != problem.StaleTerm || l.b.Awake().Uses != 1 {
				t.Errorf("another node has it be off: %v, after %d uses", err, l.b.Awake().Uses)
			}
		})
		p.heard(t, "")
	})
}

// A node that was on until a moment ago, and is started anew just when a schedule wakes nodes, is not its own; unless it was
// powered off from here, and nobody started it since.
func TestStartedAnewAsTheRunBegins(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, sub(t, a, 1), sub(t, b, 1), "every 2h", time.Hour)
		p := newPlug(l)
		p.lately.Store(true)
		l.unheard.Store(true)
		l.list[0].Wake = true
		e := l.engine()
		before(2*time.Hour, time.Minute)
		beside(t, e, func() { time.Sleep(time.Hour) })
		if p.heard(t, "on"); len(l.points()) != 1 || len(e.ledger.all()) != 0 {
			t.Errorf("%v, %v", l.points(), e.ledger.all())
		}

		for what, want := range map[string]string{"a person had it off": "on, off with 1 points", "nobody": "on, off with 1 points, on, off with 2 points", "somebody": "on, off with 1 points, on"} {
			l := newScheduledLab(t, sub(t, a, what), sub(t, b, what), "every 10m", 9*time.Minute)
			p := newPlug(l)
			l.unheard.Store(true)
			l.list[0].Wake = true
			e := l.engine()
			before(10*time.Minute, time.Minute)
			beside(t, e, func() {
				if what == "a person had it off" {
					p.lately.Store(true)
					e.PoweredOff("b")
					time.Sleep(6 * time.Minute)
					return
				}
				time.Sleep(6 * time.Minute)
				p.lately.Store(true)
				if what == "somebody" {
					p.start()
					time.Sleep(time.Minute)
					l.unheard.Store(true)
				}
				time.Sleep(10 * time.Minute)
			})
			p.heard(t, want)
		}
	})
}
