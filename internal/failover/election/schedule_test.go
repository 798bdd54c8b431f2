package election

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// schedule is a cluster and what happens to it: a scenario of golden_test.go, as values.
type schedule struct {
	cast
	orders []order
}

func (c schedule) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, "> "+c.cast.String())
	for _, o := range c.orders {
		fmt.Fprintln(&b, "> "+o.String())
	}
	return b.String()
}

// run plays it until its end or until an invariant breaks.
func (c schedule) run(log func(string, ...any)) *sim {
	s := c.world()
	if log != nil {
		s.log = func(f string, a ...any) { log("%9.2f ms  "+f, append([]any{float64(s.now) / 1e6}, a...)...) }
	}
	for _, o := range c.orders {
		if len(s.bad) > 0 {
			break
		}
		if s.log != nil && o.op != "run" {
			s.say("--- %v", o)
		}
		switch o.op {
		case "run":
			s.runFor(Time(o.x) * Millisecond)
		case "settle":
			s.settle()
		default:
			s.do(o)
		}
	}
	return s
}

// faults are the kinds of orders that a seed may draw, with a draw of their
// arguments. A seed uses a random half of them (swarm testing), so that rare
// pairs meet undisturbed.
func faults() []string {
	return []string{"crash", "start", "kill", "stop", "orphan", "freeze", "short-freeze", "pause", "agent-freeze", "agent-dies",
		"cut", "cut-both", "cut-pair", "split", "wall", "wall-node", "loss", "dup", "delay", "jitter", "unplug", "plug", "flap", "slow", "disk",
		"lag", "ill", "unfit", "maintenance", "hold", "noflush", "foreign", "lost", "drift", "switch", "switch", "reach", "outside", "wish", "heal", "calm", "deaf"}
}

type drawer struct {
	*rand.Rand
	c   *schedule
	ids int
}

func (d *drawer) node() string {
	if d.IntN(3) == 0 {
		return "*"
	}
	return d.exact()
}

func (d *drawer) exact() string { return string(rune('a' + d.IntN(d.c.nodes))) }
func (d *drawer) link() int     { return d.IntN(d.c.links) }
func (d *drawer) all() string   { return "abcdefghijklmnop"[:d.c.nodes] }

// some is one node or more.
func (d *drawer) some() (out string) {
	for i := range d.c.nodes {
		if d.IntN(2) == 0 {
			out += string(rune('a' + i))
		}
	}
	if out == "" {
		return d.exact()
	}
	return out
}

func (d *drawer) span(min, max int) int {
	return min + d.IntN(max-min)
}

func (d *drawer) add(o order) { d.c.orders = append(d.c.orders, o) }

func (d *drawer) onOff() string { return []string{"on", "on", "off"}[d.IntN(3)] }

func (d *drawer) fault(kind string) {
	n := d.node()
	switch kind {
	case "crash", "start", "kill", "stop", "orphan", "agent-dies", "foreign", "lost":
		d.add(order{op: kind, a: n})
	case "freeze", "pause", "agent-freeze":
		d.add(order{op: kind, a: n, x: d.span(20, 3000)})
	case "short-freeze":
		d.add(order{op: "freeze", a: n, x: d.span(20, 300)})
	case "cut":
		d.add(order{op: kind, a: n, b: d.exact(), x: d.link()})
	case "cut-both":
		a, b, l := d.exact(), d.exact(), d.link()
		d.add(order{op: "cut", a: a, b: b, x: l})
		d.add(order{op: "cut", a: b, b: a, x: l})
	case "cut-pair":
		a, b := d.exact(), d.exact()
		for l := range d.c.links {
			d.add(order{op: "cut", a: a, b: b, x: l})
			d.add(order{op: "cut", a: b, b: a, x: l})
		}
	case "split":
		sides := [2]string{}
		for i := range d.c.nodes {
			sides[d.IntN(2)] += string(rune('a' + i))
		}
		for l := range d.c.links {
			d.add(order{op: "cut", a: sides[0], b: sides[1], x: l})
			if d.IntN(4) > 0 {
				d.add(order{op: "cut", a: sides[1], b: sides[0], x: l})
			}
		}
	case "wall":
		d.add(order{op: kind, a: n, b: d.exact(), word: d.onOff()})
	case "wall-node":
		d.add(order{op: "wall", a: n, b: d.all(), word: "on"})
		d.add(order{op: "wall", a: d.all(), b: n, word: "on"})
	case "loss", "dup":
		d.add(order{op: kind, a: n, b: d.exact(), x: d.link(), y: d.span(5, 60)})
	case "delay", "jitter":
		d.add(order{op: kind, a: n, b: d.exact(), x: d.link(), y: []int{1, 5, 30, 120, 400}[d.IntN(5)]})
	case "unplug", "plug":
		d.add(order{op: kind, a: n, x: d.link()})
	case "flap":
		l := d.link()
		for range d.span(2, 6) {
			d.add(order{op: "unplug", a: n, x: l})
			d.add(order{op: "run", x: d.span(1, 300)})
			d.add(order{op: "plug", a: n, x: l})
			d.add(order{op: "run", x: d.span(1, 300)})
		}
	case "slow":
		d.add(order{op: kind, a: n, x: []int{0, 2, 20, 60, 150}[d.IntN(5)]})
	case "disk":
		d.add(order{op: kind, a: n, x: d.span(50, 4000)})
	case "reach":
		d.add(order{op: kind, a: n, word: []string{"off", "on"}[d.IntN(2)]})
	case "outside", "wish", "lag", "ill", "unfit", "maintenance", "hold", "noflush":
		d.add(order{op: kind, a: n, word: d.onOff()})
	case "drift":
		d.add(order{op: kind, a: n, x: d.span(-10000, 10000)})
	case "switch":
		d.ids++
		d.add(order{op: kind, a: "*", b: d.exact(), x: d.ids})
	case "heal":
		d.add(order{op: kind})
	case "deaf": // one side hears nothing of the other, perhaps for longer than announcements last
		some := d.some()
		for l := range d.c.links {
			d.add(order{op: "cut", a: d.all(), b: some, x: l})
		}
		d.add(order{op: "run", x: []int{300, 1200, 5300}[d.IntN(3)]})
		d.add(order{op: "heal"})
	case "calm":
		d.add(order{op: "heal"})
		d.add(order{op: "run", x: d.span(500, 3000)})
	}
}

// draw makes the schedule of a seed.
func draw(seed uint64) schedule {
	c := schedule{}
	d := &drawer{rand.New(rand.NewPCG(seed, 0xd7a3)), &c, 0}
	pick := func(of ...int) int { return of[d.IntN(len(of))] }
	c.nodes = pick(2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5)
	if d.IntN(25) == 0 {
		c.nodes = d.span(6, MaxNodes+1)
	}
	c.links = pick(1, 1, 1, 1, 2, 2, 2, 2, 2, 3)
	c.profile = []string{"default", "default", "default", "default", "default", "default", "default", "patient", "patient", "fast"}[d.IntN(10)]
	c.seed, c.vips = seed+1, 1
	if c.links > 1 && d.IntN(6) == 0 {
		c.vips = 2
	}
	witness := d.IntN(4) == 0
	if witness {
		d.add(order{op: "witness", word: "on"})
	}
	if d.IntN(6) == 0 || witness && d.IntN(2) == 0 {
		d.add(order{op: "policy", word: "release"})
	}
	d.special()
	for i := range c.nodes {
		d.add(order{op: "start", a: string(rune('a' + i))})
		if d.IntN(2) == 0 {
			d.add(order{op: "run", x: d.span(0, 150)})
		}
	}
	d.add(order{op: "run", x: pick(400, 1000, 1500, 2500)})
	if d.IntN(6) == 0 {
		d.quiet()
		return c
	}
	began := len(c.orders)
	kinds := faults()
	d.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	kinds = kinds[:d.span(2, len(kinds)/2)]
	for range d.span(2, 14) {
		d.fault(kinds[d.IntN(len(kinds))])
		if d.IntN(4) > 0 {
			d.add(order{op: "run", x: 1 + d.IntN(pick(20, 80, 300, 300, 1500))})
		}
	}
	if witness {
		c.forget(seed, began)
	}
	c.hush(seed)
	c.change(seed, began)
	if d.IntN(10) < 7 {
		d.add(order{op: "settle"})
	} else {
		d.add(order{op: "run", x: d.span(100, 2500)})
	}
	return c
}

// hush gives all nodes, some or none kernels that fall silent, drawn apart too.
func (c *schedule) hush(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0x5111))
	var hushing strings.Builder
	for i, all := 0, r.IntN(2) == 0; i < c.nodes; i++ {
		if all || r.IntN(3) == 0 {
			hushing.WriteByte('a' + byte(i))
		}
	}
	if hushing.Len() > 0 {
		c.orders = slices.Insert(c.orders, 0, order{op: "hushes", a: hushing.String(), word: "on"})
	}
}

// forget lets the witness restart at some moments between the faults. They are drawn
// apart, so that a seed means the same with and without.
func (c *schedule) forget(seed uint64, began int) {
	r := rand.New(rand.NewPCG(seed, 0xf026e7))
	for range r.IntN(4) {
		c.orders = slices.Insert(c.orders, began+r.IntN(len(c.orders)-began+1), order{op: "forget"})
	}
}

// special adds what is special about some nodes from the start: learners,
// priorities, a disk that does not answer.
func (d *drawer) special() {
	if d.IntN(6) == 0 {
		for i := range d.span(1, d.c.nodes) {
			d.add(order{op: "learner", a: string(rune('a' + i))})
		}
	}
	if d.IntN(5) == 0 {
		d.add(order{op: "priority", a: d.some(), x: d.span(50, 150)})
	}
	if d.IntN(12) == 0 {
		d.add(order{op: "disk", a: d.some(), x: d.span(100, 2000)})
	}
}

// change lets the members change between the faults: some begin as members, others
// join or have to go. Drawn apart, as forget's are.
func (c *schedule) change(seed uint64, began int) {
	r := rand.New(rand.NewPCG(seed, 0x3e3be5))
	if c.nodes < 3 || r.IntN(5) > 0 {
		return
	}
	d := &drawer{r, c, 0}
	list := func() order { return order{op: "members", a: d.some()} }
	for range 1 + r.IntN(3) {
		l := list()
		c.orders = slices.Insert(c.orders, began+r.IntN(len(c.orders)-began+1), l, order{op: "run", x: 1 + r.IntN(200)}, order{op: "start", a: l.a})
	}
	if r.IntN(2) == 0 { // the last node is no learner
		first := list()
		if last := string(rune('a' + c.nodes - 1)); !strings.Contains(first.a, last) {
			first.a += last
		}
		c.orders = slices.Insert(c.orders, 0, first)
	}
}

// quiet adds what must change no role (S7): lateness within the fence time and
// of standbys, a link that is not the last one, heartbeats behind a firewall,
// foreign cards, stalled disks, clocks that run fast or slow.
func (d *drawer) quiet() {
	c := d.c
	for k := range c.orders {
		if c.orders[k].op == "policy" || c.orders[k].op == "witness" {
			c.orders[k] = order{op: "hold", a: "a", word: "off"}
		}
	}
	d.add(order{op: "run", x: 2500})
	d.add(order{op: "quiet"})
	t, _ := Profile(c.profile)
	short := int((t.Fence - t.Heartbeat) / Millisecond)
	late := int(t.Heartbeat / Millisecond / 3)
	firewall := d.IntN(3) == 0
	if other := d.exact(); c.nodes > 2 && !firewall && d.IntN(3) == 0 { // one pair that hears of each other only
		for l := range c.links {
			d.add(order{op: "cut", a: "*", b: other, x: l})
			d.add(order{op: "cut", a: other, b: "*", x: l})
		}
	}
	for range d.span(2, 12) {
		all := d.all()
		switch d.IntN(11) {
		case 0:
			d.add(order{op: "freeze", a: d.node(), x: d.span(1, short)})
			d.add(order{op: "run", x: 2 * short})
		case 1, 2:
			if c.links > c.vips {
				op := []string{"cut", "cut", "join"}[d.IntN(3)]
				d.add(order{op: op, a: d.exact(), b: d.exact(), x: d.span(c.vips, c.links)})
			}
		case 3:
			if c.links > c.vips { // what a slow link still brings after a firewall fell is no proof that the VIP link is deaf
				d.add(order{op: []string{"delay", "jitter"}[d.IntN(2)], a: d.node(), b: d.exact(), x: d.span(c.vips, c.links), y: []int{1, 20, 120, 400}[d.IntN(4)]})
			}
		case 4:
			d.add(order{op: []string{"jitter", "dup"}[d.IntN(2)], a: d.node(), b: d.exact(), x: 0, y: 1 + d.IntN(max(late, 1))})
		case 5:
			d.add(order{op: "foreign", a: d.node()})
		case 6:
			d.add(order{op: "lost", a: "*"})
		case 7:
			d.add(order{op: "disk", a: d.node(), x: d.span(50, 4000)})
		case 8:
			d.add(order{op: "drift", a: d.node(), x: d.span(-10000, 10000)})
		case 9:
			d.add(order{op: "agent-freeze", a: d.node(), x: d.span(50, 500)})
			d.add(order{op: "run", x: 700})
		case 10:
			if firewall {
				d.add(order{op: "wall", a: "*", b: all, word: "on"})
				d.add(order{op: "wall", a: all, b: "*", word: "on"})
			}
		}
		d.add(order{op: "run", x: 1 + d.IntN(1500)})
	}
}

// search plays seeds from first on, over all cores, until n are done, some are broken, or time is up.
func search(first, n uint64, enough int, until time.Time) *tally {
	t := &tally{orders: map[string]int{}, first: first, begin: time.Now(), file: os.Getenv("REVOLVE_REPORT")}
	var next atomic.Uint64
	next.Store(first)
	var w sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		w.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= first+n || time.Now().After(until) {
					return
				}
				c := draw(seed)
				s := c.run(nil)
				if t.take(seed, c, s) >= enough {
					return
				}
			}
		})
	}
	w.Wait()
	return t
}

func fromEnv(name string, otherwise uint64) uint64 {
	if v, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return v
	}
	return otherwise
}

// TestSchedules searches fault schedules: REVOLVE_SEEDS says how many, from
// REVOLVE_FIRST on. REVOLVE_SEED replays one with its story.
func TestSchedules(t *testing.T) {
	if os.Getenv("REVOLVE_SEED") != "" {
		c := draw(fromEnv("REVOLVE_SEED", 0))
		s := c.run(func(f string, a ...any) { fmt.Printf(f+"\n", a...) })
		for _, b := range s.bad {
			t.Error(b)
		}
		return
	}
	n := uint64(3000)
	if testing.Short() {
		n = 500
	}
	n = fromEnv("REVOLVE_SEEDS", n)
	begin := time.Now()
	r := search(fromEnv("REVOLVE_FIRST", 0), n, int(fromEnv("REVOLVE_ENOUGH", 3)), begin.Add(time.Duration(fromEnv("REVOLVE_SECONDS", 3600))*time.Second))
	for _, f := range r.found {
		t.Errorf("REVOLVE_SEED=%d: %s", f.seed, strings.Join(f.bad, "; "))
	}
	if len(r.found) > 0 {
		t.Errorf("the first of them, shrunk; keep it as testdata/found-NAME.txt:\n%v", shrink(draw(r.found[0].seed)))
	}
	if r.counts.Claims < r.done/2 {
		t.Errorf("only %d claims in %d schedules: the faults no longer bite", r.counts.Claims, r.done)
	}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d schedules (%d with liveness), %d events, %d s simulated, %.0f schedules/s: %+v", r.done, r.live, r.events, r.simed/Second,
		float64(r.done)/time.Since(begin).Seconds(), r.counts)
}
