package vm

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/calendar"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/testbed"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/schedule"
	"revolve/internal/vm/transfer"
)

// wire is a connection in memory. What has been sent over it is counted, and may be held up.
type wire struct {
	peer    cluster.NodeID
	in, out chan []byte
	closed  *atomic.Bool
	end     chan struct{}
	once    *sync.Once
	late    time.Time
	sent    *atomic.Int64
	hold    func(sent int64) bool
}

// wired is both ends of one between a and b.
func wired(sent *atomic.Int64, hold func(int64) bool) (a, b *wire) {
	x, y, end, closed, once := make(chan []byte, 256), make(chan []byte, 256), make(chan struct{}), &atomic.Bool{}, &sync.Once{}
	a = &wire{peer: "b", in: x, out: y, end: end, closed: closed, once: once, sent: sent, hold: hold}
	return a, &wire{peer: "a", in: y, out: x, end: end, closed: closed, once: once, sent: &atomic.Int64{}, hold: func(int64) bool { return false }}
}

func (c *wire) Peer() cluster.NodeID              { return c.peer }
func (c *wire) Flush() error                      { return nil }
func (c *wire) SetWriteDeadline(time.Time) error  { return nil }
func (c *wire) SetReadDeadline(t time.Time) error { c.late = t; return nil }
func (c *wire) Close() error                      { c.once.Do(func() { close(c.end) }); return nil }
func (c *wire) Write(kind byte, parts ...[]byte) error {
	frame := append([]byte{kind}, slices.Concat(parts...)...)
	if c.hold(c.sent.Add(int64(len(frame)))) {
		<-c.end
	}
	select {
	case c.out <- frame:
		return nil
	case <-c.end:
		return io.ErrClosedPipe
	}
}

func (c *wire) Read() (byte, []byte, error) {
	var late <-chan time.Time
	if !c.late.IsZero() {
		late = time.After(time.Until(c.late))
	}
	select {
	case f := <-c.in:
		return f[0], f[1:], nil
	case <-late:
		return 0, nil, os.ErrDeadlineExceeded
	case <-c.end:
		return 0, nil, io.EOF
	}
}

const twoDisks = `<domain><name>m</name><memory>1024</memory><devices><disk type="file" device="disk"><driver type="raw"/><source file="%s"/><target dev="vda"/></disk>` +
	`<disk type="file" device="disk"><driver type="raw"/><source file="%s"/><target dev="vdb"/></disk></devices></domain>`

// diskSize has some dozens of frames: enough to be stopped in the middle of one.
const diskSize = 1 << 20

// scheduledLab is node a, where m runs on an XFS, and node b, which receives.
type scheduledLab struct {
	t          *testing.T
	host       *fakeHost
	store      *points.Store
	dir, state string
	b          *Engine
	list       []Schedule
	mu         sync.Mutex
	sent       []*atomic.Int64 // by a, of each point that was offered
	hold       func(sent int64) bool
	unheard    atomic.Bool // b is off
	comes      time.Time   // b is off until then
	power      Power
	began      time.Time
}

func newScheduledLab(t *testing.T, a, b string, rule string, length time.Duration) *scheduledLab {
	l := &scheduledLab{t: t, began: time.Now(), dir: a, state: t.TempDir(), host: &fakeHost{state: libvirt.Running, list: []libvirt.Machine{{Name: "m", State: libvirt.Running}}}, hold: func(int64) bool { return false }}
	r, ok := calendar.Parse(rule)
	if !ok {
		t.Fatalf("%q is no rule", rule)
	}
	r.Length = length
	l.list = []Schedule{{Name: "often", Text: rule, When: r, Machines: []ScheduledMachine{{Name: "m", Plans: Plans{Level: points.Suspend}}}}}
	l.fill(diskSize)
	l.host.definition = fmt.Sprintf(twoDisks, filepath.Join(a, "one.raw"), filepath.Join(a, "two.raw"))
	l.store = opened(t, filepath.Join(a, "vms"))
	l.b = newEngine(t, &fakeHost{state: libvirt.Off})
	l.b.o.Node, l.b.o.Store = "b", opened(t, filepath.Join(b, "vms"))
	return l
}

// fill gives the machine's disks new contents.
func (l *scheduledLab) fill(size int) {
	l.t.Helper()
	rng := rand.NewChaCha8([32]byte{1, 2})
	for _, d := range []string{"one.raw", "two.raw"} {
		data := make([]byte, size)
		_, _ = rng.Read(data) // it never fails
		if err := os.WriteFile(filepath.Join(l.dir, d), data, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
}

func opened(t *testing.T, dir string) *points.Store {
	t.Helper()
	s, err := points.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// offers are the bytes that a has sent of each point that it offered.
func (l *scheduledLab) offers() (sent []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.sent {
		sent = append(sent, n.Load())
	}
	return sent
}

// engine is an agent of a that starts; the one before it has ended.
func (l *scheduledLab) engine() *Engine {
	e := newEngine(l.t, l.host)
	e.o.Store, e.o.State, e.ledger.dir = l.store, l.state, l.state
	e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b"} }
	e.o.Schedules = func() []Schedule { return l.list }
	e.o.Power, e.o.MayBeOff = l.power, func(n cluster.NodeID) bool { return l.power != nil && n != "a" }
	e.o.Uptime = func() time.Duration { return time.Hour + time.Since(l.began) }
	e.o.Dial = func(ctx context.Context, _ cluster.NodeID, service string) (transfer.Conn, error) {
		if l.unheard.Load() || time.Now().Before(l.comes) {
			return nil, &problem.Problem{Op: "connect to", Kind: problem.Timeout, Subject: "b"}
		}
		hold := func(int64) bool { return false }
		sent := &atomic.Int64{}
		if service == transfer.Service {
			l.mu.Lock()
			l.sent = append(l.sent, sent)
			l.mu.Unlock()
			hold = l.hold
		}
		a, b := wired(sent, hold)
		go func() { _ = l.b.Handle(ctx, b, service) }()
		return a, nil
	}
	return e
}

// during runs an agent for so long.
func (l *scheduledLab) during(long time.Duration) *Engine {
	e := l.engine()
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	time.Sleep(long)
	cancel()
	if err := <-done; err != nil {
		l.t.Fatal(err)
	}
	return e
}

func (l *scheduledLab) past(e *Engine) schedule.Past {
	l.t.Helper()
	list := e.Scheduled(time.Now())
	if len(list) != 1 || list[0].Node != "a" {
		l.t.Fatalf("%+v", list)
	}
	return list[0].Past
}

// points are those on b, newest first.
func (l *scheduledLab) points() (ids []points.ID) {
	l.t.Helper()
	list, err := l.b.o.Store.List("m")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	return ids
}

// onXFS runs a test twice: with a storage of a and b on XFS, where points are kept, in made-up time.
func onXFS(t *testing.T, body func(t *testing.T, a, b string)) {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		bed, err := testbed.NewBed(stage)
		if err != nil {
			t.Fatal(err)
		}
		defer bed.Close()
		var dirs []string
		for _, name := range []cluster.NodeID{"a", "b"} {
			n, err := bed.AddNode(testbed.NodeSpec{ID: name, Disk: testbed.Disk{FS: "xfs", Size: 320 << 20}})
			if err != nil {
				t.Fatal(err)
			}
			if n.FS() != "xfs" {
				t.Skip("SKIPPED PART: scheduled copies of VMs: no root, or no mkfs.xfs")
			}
			dirs = append(dirs, n.Root())
		}
		t.Run("there", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { body(t, dirs[0], dirs[1]) })
		})
	})
}

// A schedule of every minute makes points by itself. One that is stopped in the middle at its end goes on in the next run, also
// after the agent was restarted, and sends only what is missing; then there is a new one.
func TestScheduled(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 1m", 30*time.Second)
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(90 * time.Second))) // between two runs
		l.hold = func(sent int64) bool { return sent > diskSize+diskSize/2 }
		e := l.during(65 * time.Second)
		p := l.past(e)
		if p.Result != schedule.Unfinished || p.Behind != 1 || p.Paused == nil || len(l.points()) > 0 {
			t.Fatalf("it was to be paused: %+v, %v", p, l.points())
		}
		if l.host.state != libvirt.Running {
			t.Fatalf("the machine is %s", l.host.state)
		}
		first := points.ID(p.Paused.Point)
		l.hold = func(int64) bool { return false }
		e = l.engine()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		for deadline := time.Now().Add(2 * time.Minute); len(l.points()) == 0 && time.Now().Before(deadline); time.Sleep(time.Second) {
		}
		rest := l.offers()[1]
		if got := l.points(); len(got) != 1 || got[0] != first || rest > diskSize+diskSize/4 || rest < diskSize/2 {
			t.Fatalf("%v came, want %v; %d bytes were sent, the rest is %d", got, first, rest, diskSize)
		}
		time.Sleep(5 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got, sent := l.points(), l.offers()
		if p = l.past(e); p.Result != schedule.Done || p.Behind != 0 || p.Paused != nil || len(got) != 2 || got[1] != first || len(sent) != 3 || sent[2] > diskSize/2 {
			t.Fatalf("then there is a new one: %+v, %v, %v bytes", p, got, sent)
		}
		for _, f := range []string{"one.raw", "two.raw"} {
			want, _ := os.ReadFile(filepath.Join(a, f))
			have, err := os.ReadFile(filepath.Join(l.b.o.Store.Path("m", got[0]), map[string]string{"one.raw": "vda.raw", "two.raw": "vdb.raw"}[f]))
			if err != nil || string(want) != string(have) {
				t.Errorf("%s: is another one on b, %v", f, err)
			}
		}
	})
}

// A node that comes a minute late gets the point of that run by a retry; the machine is not held still for a second one.
func TestScheduledRetry(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 1h", 0)
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(119 * time.Minute)))
		l.comes = time.Now().Add(3 * time.Minute)
		e := l.during(20 * time.Minute)
		if p, got := l.past(e), l.points(); p.Result != schedule.Done || len(got) != 1 {
			t.Fatalf("%v came, want one point; %+v", got, p)
		}
	})
}

// A copy that goes on and on and has no end is told of once the next run has begun.
func TestScheduledOvertaken(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 10m", 0)
		l.fill(4 * diskSize) // so many frames that it takes longer than two runs
		time.Sleep(time.Until(time.Now().Truncate(10 * time.Minute).Add(19 * time.Minute)))
		l.hold = func(int64) bool { time.Sleep(50 * time.Second); return false } // a link that gives up nothing, and brings nothing
		e := l.during(22*time.Minute + 500*time.Millisecond)
		if s := e.Scheduled(time.Now())[0]; !strings.Contains(s.Trouble(), "was overtaken: it is still under way, and 2 runs began meanwhile") || s.Past.Behind != 2 {
			t.Fatalf("%q, %+v", s.Trouble(), s.Past)
		}
	})
}

// What an agent that is off misses is told, and made up for once.
func TestScheduledMissed(t *testing.T) {
	onXFS(t, func(t *testing.T, a, b string) {
		l := newScheduledLab(t, a, b, "every 10m", 2*time.Minute)
		time.Sleep(time.Until(time.Now().Truncate(10 * time.Minute).Add(15 * time.Minute)))
		l.during(10 * time.Minute)
		before := l.points()
		if len(before) != 1 {
			t.Fatalf("%v", before)
		}
		time.Sleep(39 * time.Minute) // four runs, and it is back between two
		e := l.during(90 * time.Second)
		p := l.past(e)
		if got := l.points(); len(got) != 2 || p.Result != schedule.Done || p.MadeUp != 4 || p.Behind != 0 {
			t.Fatalf("%v came, %+v", got, p)
		}
		if s := e.Scheduled(time.Now())[0]; s.Trouble() != "" {
			t.Errorf("still in trouble: %s", s.Trouble())
		}
		// A node that is off: the copy fails, again and again, and that is told.
		l.unheard.Store(true)
		e = l.during(10 * time.Minute)
		if s := e.Scheduled(time.Now())[0]; !strings.Contains(s.Trouble(), "was failed") || s.Past.Behind != 1 || s.Past.Paused == nil {
			t.Fatalf("%q, %+v", s.Trouble(), s.Past)
		}
		l.unheard.Store(false)
		e = l.during(10 * time.Minute)
		if p := l.past(e); p.Result != schedule.Done || p.Behind != 0 || len(l.points()) != 4 {
			t.Fatalf("%+v, %v", p, l.points())
		}
	})
}

// Only the home copies: another node's machine, and one of which nothing is known here, are left alone.
func TestScheduledAtHome(t *testing.T) {
	for what, c := range map[string]struct {
		state libvirt.State
		home  cluster.NodeID
		mine  bool
	}{
		"runs here, no points":        {libvirt.Running, "", true},
		"is paused here, no points":   {libvirt.Paused, "", true},
		"is off here, no points":      {libvirt.Off, "", false},
		"at home, off":                {libvirt.Off, "a", true},
		"runs here, at home there":    {libvirt.Running, "b", false},
		"unknown here, at home there": {"", "b", false},
	} {
		e := newEngine(t, &fakeHost{list: []libvirt.Machine{{Name: "m", State: c.state}}})
		if c.state == "" {
			e.o.Host.(*fakeHost).list = nil
		}
		e.o.State = t.TempDir()
		list := []Schedule{{Name: "s", When: calendar.Rule{Every: time.Hour}, Machines: []ScheduledMachine{{Name: "m"}}}}
		e.o.Schedules = func() []Schedule { return list }
		e.diary.pasts = e.readPasts()
		if c.home != "" {
			p := points.First("m", time.Now())
			release, err := e.o.Store.Lock("m")
			if err == nil {
				err = e.o.Store.SetChain("m", points.Chain{Last: p, Home: c.home})
				release()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		e.lookAtSchedules(t.Context(), time.Hour)
		if got := len(e.Scheduled(time.Now())) == 1; got != c.mine {
			t.Errorf("%s: it is copied from here: %v", what, got)
		}
		all, _ := e.AllScheduled(t.Context())
		if len(all) != 1 || (all[0].Why == "") != c.mine {
			t.Errorf("%s: told is %+v", what, all)
		}
	}
}

// A copy comes to its end also when its machine's home is not known at the moment, has moved, or its schedule is gone.
func TestScheduledEndsAnyhow(t *testing.T) {
	for what, c := range map[string]struct {
		home    cluster.NodeID
		over    bool
		listed  bool
		stopped bool
	}{
		"in its time":                {"a", false, true, false},
		"at its end":                 {"a", true, true, true},
		"home not known, in time":    {"", false, true, false},
		"home not known, at its end": {"", true, true, true},
		"home moved":                 {"b", false, true, true},
		"schedule gone":              {"a", false, false, true},
	} {
		e := newEngine(t, &fakeHost{})
		e.o.State = t.TempDir()
		list := []Schedule{}
		if c.listed {
			list = []Schedule{{Name: "s", When: calendar.Rule{Every: time.Hour}, Machines: []ScheduledMachine{{Name: "m"}}}}
		}
		e.o.Schedules = func() []Schedule { return list }
		now := time.Now()
		turn := schedule.Turn{Begin: now.Truncate(time.Hour), End: now.Add(time.Hour)}
		if c.over {
			turn.End = now
		}
		stopped := 0
		k := scheduleKey{"s", "m"}
		e.jobs = []*Job{{ID: "x", stop: func() { stopped++ }}}
		e.diary = diary{job: "x", of: k, looked: now, home: map[string]cluster.NodeID{"m": c.home}, pasts: map[scheduleKey]schedule.Past{k: {Since: now.Add(-2 * time.Hour), Turn: &turn}}}
		e.lookAtSchedules(t.Context(), time.Hour)
		if (stopped > 0) != c.stopped || e.diary.stopped != c.stopped {
			t.Errorf("%s: stopped %d times, noted %v", what, stopped, e.diary.stopped)
		}
	}
}

// What was written down is read again; what is broken is begun anew, and bounded.
func TestPastsAreKept(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	e.o.State = t.TempDir()
	name := filepath.Join(e.o.State, schedulesFile)
	want := map[scheduleKey]schedule.Past{{"s", "m"}: {Since: time.Unix(1_800_000_000, 0).UTC(), Behind: 3, Paused: &schedule.Paused{Point: "p", Nodes: []string{"b"}}}, {"s", "web server"}: {}}
	e.diary.pasts = want
	e.savePasts(e.packPasts())
	got := e.readPasts()
	e.diary.pasts = got
	if len(got) != 2 || got[scheduleKey{"s", "m"}].Behind != 3 || string(e.packPasts()) != read(t, name) {
		t.Errorf("%+v was read", got)
	}
	for _, text := range []string{"", "{", `{"a":1}`, `[{"past":{"since":3}}]`, strings.Repeat(" ", maxSchedulesFile+1)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := e.readPasts(); len(got) != 0 {
			t.Errorf("%.20q: %+v", text, got)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
