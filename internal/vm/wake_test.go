package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/schedule"
	"revolve/internal/vm/transfer"
)

// A copy whose end comes just after its last arrival is done: that nobody could be asked any more takes no point away.
// A node that does not answer in time keeps its record from being believed.
func TestVerifyAfterTheEnd(t *testing.T) {
	for what, c := range map[string]struct {
		before, meanwhile, done bool
	}{"ended before": {true, false, true}, "ended meanwhile": {false, true, true}, "no answer": {false, false, false}} {
		e := newEngine(t, &fakeHost{})
		ctx, end := context.WithCancel(t.Context())
		defer end()
		if c.before {
			end()
		}
		e.o.Dial = func(context.Context, cluster.NodeID, string) (transfer.Conn, error) {
			if c.meanwhile {
				end()
			}
			return nil, &problem.Problem{Op: "connect to", Kind: problem.Timeout, Subject: "b"}
		}
		p := points.First("m", time.Now())
		j := &Job{Order: Order{VMs: []string{"m"}, Wake: true}, VMs: []Work{{VM: "m", Point: p.ID, Nodes: []Arrival{{Node: "b", Record: &points.Record{Point: p}}, {Node: "c", Record: &points.Record{Point: p}}}}}}
		err := e.verify(ctx, j, 0)
		o := outcomeOf(j, true, ctx.Err() != nil)
		if o.Done != c.done || (err == nil) != c.done {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
		past := schedule.Ended(schedule.Past{Turn: &schedule.Turn{Begin: p.Taken, End: time.Now()}}, schedule.Plan{}, time.Now(), o)
		if (past.Result == schedule.Done) != c.done {
			t.Errorf("%s: the run is %s (%s)", what, past.Result, past.Why)
		}
	}
}

// plug is the power of b.
type plug struct {
	l       *scheduledLab
	mu      sync.Mutex
	since   atomic.Int64 // its kernel started, nanoseconds since 1970; apart from the lock, which is taken before the engine's
	lost    int          // so many times it is not heard when it is told to power on
	said    []string
	refused error
	lately  atomic.Bool   // it was heard a moment ago
	catches time.Duration // it is caught up so long after its start
}

func newPlug(l *scheduledLab) *plug {
	p := &plug{l: l, catches: 20 * time.Second}
	p.since.Store(l.began.Add(-time.Hour).UnixNano())
	l.power, l.b.o.Uptime, l.b.o.CaughtUp = p, p.uptime, func() bool { return p.uptime() > p.catches }
	return p
}

func (p *plug) uptime() time.Duration { return time.Since(time.Unix(0, p.since.Load())) }

// start is its button.
func (p *plug) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up()
}

func (p *plug) up() {
	if p.since.Store(time.Now().UnixNano()); p.l.unheard.Load() {
		fresh := newUse()
		p.l.b.change(func() { p.l.b.use = fresh })
		p.l.unheard.Store(false)
	}
}

func (p *plug) On(context.Context, cluster.NodeID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, "on")
	if p.lost--; p.refused == nil && p.lost < 0 {
		p.up()
		p.since.Add(int64(time.Millisecond)) // it takes a moment
	}
	return p.refused
}

func (p *plug) Off(ctx context.Context, _ cluster.NodeID, o RestOrder) error {
	if err := agrees(ctx, p.l.b, &o); err != nil {
		return err
	}
	n := len(p.l.points())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, fmt.Sprintf("off with %d points", n))
	p.l.unheard.Store(true)
	return nil
}

func (p *plug) There(cluster.NodeID) bool { return !p.l.unheard.Load() }

func (p *plug) HeardLately(cluster.NodeID, time.Duration) bool { return p.lately.Load() }

func (p *plug) heard(t *testing.T, want string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.said, ", "); got != want {
		t.Errorf("its power: %q, want %q", got, want)
	}
}

func (p *plug) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = nil
}

// beside runs an engine while something is done.
func beside(t *testing.T, e *Engine, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	do()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// before waits until so long before a run of a schedule of every so long.
func before(every, left time.Duration) {
	time.Sleep(time.Until(time.Now().Truncate(every).Add(2*every - left)))
}

// sub is a directory of its own.
func sub(t *testing.T, dir string, of any) string {
	t.Helper()
	dir = filepath.Join(dir, fmt.Sprint(of))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runsOnB has a machine of b run, or be off.
func (l *scheduledLab) runsOnB(state libvirt.State) {
	h := l.b.o.Host.(*fakeHost)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = []libvirt.Machine{{Name: "x", State: state}}
}

// One run of a schedule that wakes: the node is woken, until it comes; its volumes catch up; the copy is made
// and looked at; and it is powered off when it lets itself be. A restart of the agent does not make that forgotten.
func TestScheduledWake(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 10m", 9*time.Minute)
		p := newPlug(l)
		p.lost = 1 // the first packet
		l.unheard.Store(true)
		l.list[0].Wake = true
		before(10*time.Minute, 5*time.Minute)
		l.runsOnB(libvirt.Running)                    // when it comes, a machine runs there
		e := l.during(6*time.Minute + 50*time.Second) // woken at 20:00, again at 21:00, there, copied at 21:21, and in use
		if got := l.past(e); got.Result != schedule.Done || len(l.points()) != 1 {
			t.Fatalf("%+v, %v", got, l.points())
		}
		p.heard(t, "on, on")
		l.runsOnB(libvirt.Off)
		l.during(2 * time.Minute)
		p.heard(t, "on, on, off with 1 points")
		e = l.during(10 * time.Second)
		if left := e.ledger.all(); len(left) != 0 {
			t.Errorf("it is still to be powered off: %v", left)
		}
		// It is on already: then it is not powered off.
		p.start()
		p.forget()
		e = l.during(10 * time.Minute)
		if got := l.past(e); got.Result != schedule.Done || len(l.points()) != 2 {
			t.Fatalf("%+v, %v", got, l.points())
		}
		p.heard(t, "")
		// It cannot be woken: the copy fails, and says that the node is off.
		p.refused = errors.New("no such card")
		l.unheard.Store(true)
		e = l.during(10 * time.Minute)
		if s := e.Scheduled(time.Now())[0]; s.Past.Turn == nil || !strings.Contains(s.Past.Turn.Why, "b is off: it is not woken: no such card") {
			t.Fatalf("%+v, %+v", s.Past, s.Past.Turn)
		}
		// A person starts it then: it is not this run's.
		p.start()
		p.forget()
		l.during(3 * time.Minute)
		p.heard(t, "")
	})
}

// slowly is a host whose machines take their time to stand still.
type slowly struct {
	*fakeHost
	long time.Duration
}

func (h slowly) Suspend(ctx context.Context, n string) error {
	time.Sleep(h.long)
	return h.fakeHost.Suspend(ctx, n)
}

// orderTo orders copies of machines to b, and waits for their end.
func (l *scheduledLab) orderTo(e *Engine, o Order) (j Job) {
	l.t.Helper()
	o.Plans = map[string]Plans{}
	for _, vm := range o.VMs {
		o.Plans[vm] = Plans{Level: points.Suspend, Targets: []cluster.NodeID{"b"}}
	}
	id, err := e.Order(o)
	if err != nil {
		l.t.Fatal(err)
	}
	for late := time.Now().Add(2 * time.Hour); !j.Ended && time.Now().Before(late); time.Sleep(time.Second) {
		j, _ = e.Look(id)
	}
	return j
}

// A node that was woken by hand is not powered off in the middle of an order, and afterwards only if the order says so.
func TestWokenByHand(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		for _, poweroff := range []bool{false, true} {
			l := newScheduledLab(t, sub(t, a, poweroff), sub(t, b, poweroff), "Sun 03:00", 0)
			p := newPlug(l)
			l.unheard.Store(true)
			e := l.engine()
			e.o.Host = slowly{l.host, 5 * time.Minute}
			beside(t, e, func() {
				time.Sleep(time.Minute)
				j := l.orderTo(e, Order{VMs: []string{"m"}, Wake: true, Poweroff: poweroff})
				time.Sleep(10 * time.Minute)
				if w := j.VMs[0]; w.Error != "" || len(l.points()) != 1 || w.Nodes[0].PoweredOff != poweroff {
					t.Errorf("%+v, %v", w, l.points())
				}
			})
			p.heard(t, map[bool]string{false: "on", true: "on, off with 1 points"}[poweroff])
		}
	})
}

// dead is a node that is not reached.
func dead(_ context.Context, n cluster.NodeID, _ string) (transfer.Conn, error) {
	return nil, &problem.Problem{Op: "connect to", Kind: problem.Timeout, Subject: string(n)}
}

// choosy is the power of several nodes: b is on, c never comes.
type choosy struct {
	*plug
	mu sync.Mutex
	on int
}

func (d *choosy) On(context.Context, cluster.NodeID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.on++
	return nil
}
func (d *choosy) There(n cluster.NodeID) bool { return n != "c" }

// A node that was woken and did not come is told of, though another one has the point; it is waited for once, not with
// every machine; and no machine is held still a second time for it.
func TestNeverWakes(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 2h", 0)
		d := &choosy{plug: newPlug(l)}
		l.power, l.list[0].Wake = d, true
		for _, n := range []string{"n", "o"} {
			l.list[0].Machines = append(l.list[0].Machines, ScheduledMachine{Name: n, Plans: Plans{Level: points.Suspend}})
			l.host.list = append(l.host.list, libvirt.Machine{Name: n, State: libvirt.Running})
		}
		e := l.engine()
		e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b", "c"} }
		e.o.MayBeOff = func(n cluster.NodeID) bool { return n == "c" }
		toB := e.o.Dial
		e.o.Dial = func(ctx context.Context, n cluster.NodeID, service string) (transfer.Conn, error) {
			if n == "c" {
				return dead(ctx, n, service)
			}
			return toB(ctx, n, service)
		}
		before(2*time.Hour, time.Minute)
		beside(t, e, func() {
			time.Sleep(time.Minute + comesWithin + 10*time.Second) // the time of one
			for _, s := range e.Scheduled(time.Now()) {
				if turn := s.Past.Turn; s.Past.Result == schedule.Done || turn == nil || !strings.Contains(turn.Why, "c is off: it ") {
					t.Errorf("%s: %+v, %+v", s.VM, s.Past, turn)
				}
			}
			d.mu.Lock()
			if d.on != int(comesWithin/wakeAgain) {
				t.Errorf("it was told to power on %d times", d.on)
			}
			d.mu.Unlock()
			time.Sleep(150 * time.Minute)
			if list := e.Scheduled(time.Now()); len(list) != 3 || !strings.Contains(list[0].Trouble(), "was failed: c is off: it") {
				t.Errorf("%+v", list)
			}
		})
		if got := l.points(); len(got) != 2 {
			t.Errorf("%v", got)
		}
	})
}
