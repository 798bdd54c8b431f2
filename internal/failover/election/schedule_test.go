package election

import (
	"fmt"
	"maps"
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

	"revolve/internal/cluster"
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
		"lag", "ill", "maintenance", "hold", "noflush", "foreign", "lost", "drift", "switch", "switch", "reach", "outside", "wish", "heal", "calm"}
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
		all := "abcdefghijklmnop"[:d.c.nodes]
		d.add(order{op: "wall", a: n, b: all, word: "on"})
		d.add(order{op: "wall", a: all, b: n, word: "on"})
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
	case "outside", "wish", "lag", "ill", "maintenance", "hold", "noflush":
		d.add(order{op: kind, a: n, word: d.onOff()})
	case "drift":
		d.add(order{op: kind, a: n, x: d.span(-10000, 10000)})
	case "switch":
		d.ids++
		d.add(order{op: kind, a: "*", b: d.exact(), x: d.ids})
	case "heal":
		d.add(order{op: kind})
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
		c.forget(seed)
	}
	if d.IntN(10) < 7 {
		d.add(order{op: "settle"})
	} else {
		d.add(order{op: "run", x: d.span(100, 2500)})
	}
	return c
}

// forget lets the witness restart at some moments between the faults. They are drawn
// apart, so that a seed means the same with and without.
func (c *schedule) forget(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0xf026e7))
	for range r.IntN(4) {
		c.orders = slices.Insert(c.orders, 1+r.IntN(len(c.orders)), order{op: "forget"})
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
		all := "abcdefghijklmnop"[:c.nodes]
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

// settle stops all faults and demands L1, L2 and P1: within the bound one
// master, whom everybody follows, and it stays.
func (s *sim) settle() {
	s.say("--- settle")
	all := "abcdefghijklmnop"[:len(s.n)]
	s.heal(all)
	wake := s.now
	for i := range s.n {
		n := &s.n[i]
		n.noWitness, n.outside = false, true
		n.word.Maintenance, n.word.Hold, n.ill, n.lag, n.noFlush, n.slow, n.diskUntil = false, false, false, false, false, 0, s.now
		for l := range s.links {
			s.plug(i, l, true)
		}
		wake = max(wake, n.asleep(), n.agentFrozen)
		if n.agentDead {
			s.crash(i)
		}
		s.start(i)
	}
	s.recalc()
	s.runFor(wake - s.now + 2*simLag)
	for i := range s.n { // whoever was to stop when it woke up has stopped
		s.start(i)
	}
	s.runFor(0)
	begin, reigns, ordered, claims := s.now, s.begun, s.ordered(), s.claiming()
	s.rest(begin, max(4*s.cfg.Timers.Dead, Second))
	if n := s.begun - reigns; n > max(claims, 1)+ordered {
		s.fail("L2: %d reigns after the last fault, with %d claims under way and %d orders to switch", n, claims, ordered)
	}
}

// rest demands that from L1's bound on, for as long as hold, one and the same
// node leads, whom everybody follows.
func (s *sim) rest(begin, hold Time) {
	moved, m, begun := begin, s.settled(), s.begun // moved: when anything last was not at rest
	for s.now < begin+s.bound()+hold && len(s.bad) == 0 {
		s.runFor(s.cfg.Timers.Heartbeat / 2)
		if now := s.settled(); now < 0 || now != m || s.begun != begun {
			moved, m, begun = s.now, now, s.begun
		}
		if moved-begin > s.bound() {
			s.fail("L1: no stable master %d ms after the last fault; masters %v\n%s", (moved-begin)/Millisecond, s.masters(), s.show())
		}
	}
	s.count.settles(s.cfg.Timers, moved-begin)
}

// claiming is how many claims are under way.
func (s *sim) claiming() (n int) {
	for i := range s.n {
		if s.n[i].up && s.n[i].st.claim.on {
			n++
		}
	}
	return n
}

// ordered is how many orders to switch are still to be carried out.
func (s *sim) ordered() (n int) {
	for i := range s.n {
		if s.n[i].word.Switch.ID != s.n[i].st.lastSwitch || s.n[i].st.hand.id != 0 {
			n++
		}
	}
	return n
}

// bound is L1's, derived in docs/failover.md.
func (s *sim) bound() Time {
	t := s.cfg.Timers
	return max(MinListen, 2*t.Heartbeat) + t.Dead + 2*t.Heartbeat
}

// settled is the one master whom all follow and who alone has the VIPs, or -1.
func (s *sim) settled() int {
	m := s.masters()
	if len(m) != 1 || !s.n[m[0]].vip || s.n[m[0]].st.Handover().ID != 0 {
		return -1
	}
	for i := range s.n {
		if n := &s.n[i]; n.word.Switch.ID != n.st.lastSwitch {
			return -1 // an order is still to come
		}
		r, ok := s.n[i].st.Master()
		if !ok || int(r.Owner) != m[0] || i != m[0] && (s.n[i].vip || s.n[i].st.Role() != cluster.Standby) {
			return -1
		}
	}
	return m[0]
}

// found is a broken schedule.
type found struct {
	seed uint64
	bad  []string
}

// tally is the result of a search.
type tally struct {
	mu     sync.Mutex
	done   int
	counts simCounts
	orders map[string]int
	nodes  [MaxNodes + 1]int
	live   int
	events int
	simed  Time
	found  []found
}

// search plays seeds from first on, over all cores, until n are done, some are broken, or time is up.
func search(first, n uint64, enough int, until time.Time) *tally {
	t := &tally{orders: map[string]int{}}
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

func (t *tally) take(seed uint64, c schedule, s *sim) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	t.counts.add(s.count)
	t.nodes[c.nodes]++
	t.simed += s.now
	for _, n := range s.hist {
		t.events += n
	}
	for _, o := range c.orders {
		t.orders[o.op]++
	}
	if c.orders[len(c.orders)-1].op == "settle" {
		t.live++
	}
	if len(s.bad) > 0 {
		t.found = append(t.found, found{seed, s.bad})
	}
	return len(t.found)
}

// report is bench/SIM.md.
func (t *tally) report(first uint64, took time.Duration) string {
	var b strings.Builder
	say := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	say("# Simulated fault schedules of the election\n\nWritten by `make sim`; what is simulated and checked stands in docs/failover.md, \"The simulator\".\n")
	say("| | |\n|---|---|")
	say("| date | %s |", time.Now().UTC().Format("2006-01-02"))
	say("| seeds | %d to %d |", first, first+uint64(t.done)-1)
	say("| schedules | %d, of which %d end with all faults stopped and must settle (L1, L2), %d may change no role (S7) |", t.done, t.live, t.orders["quiet"])
	say("| **broken invariants** | **%d** |", len(t.found))
	say("| simulated time | %d h |", t.simed/Second/3600)
	say("| steps of the election | %d |", t.events)
	say("| wall time | %v on %d cores shared with other work, %.0f schedules/s |", took.Round(time.Second), runtime.GOMAXPROCS(0), float64(t.done)/took.Seconds())
	say("| claims, reigns, heal terms included | %d, %d |", t.counts.Claims, t.counts.Reigns)
	say("| masters that fenced themselves, that took the VIPs back | %d, %d |", t.counts.Fences, t.counts.Retakes)
	say("| heartbeats of one master taken in by another | %d |", t.counts.Rivals)
	say("| planned switches granted | %d |", t.counts.Switches)
	say("| blocked heartbeats noticed; damped; waits for an absent fresher node; released as isolated or refused | %d; %d; %d; %d |", t.counts.Blocked, t.counts.Damped, t.counts.Waits, t.counts.Isolated)
	say("| longest settlement after the last fault: default, fast, patient | %d, %d, %d ms |\n", t.counts.Settle[0]/Millisecond, t.counts.Settle[1]/Millisecond, t.counts.Settle[2]/Millisecond)
	say("Clusters by number of nodes:\n\n| nodes | schedules |\n|---|---|")
	for n, k := range t.nodes {
		if k > 0 {
			say("| %d | %d |", n, k)
		}
	}
	say("\nOrders carried out, by kind:\n\n| order | times |\n|---|---|")
	for _, op := range slices.Sorted(maps.Keys(t.orders)) {
		say("| %s | %d |", op, t.orders[op])
	}
	return b.String()
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
	if name := os.Getenv("REVOLVE_REPORT"); name != "" {
		if err := os.WriteFile(name, []byte(r.report(fromEnv("REVOLVE_FIRST", 0), time.Since(begin))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d schedules (%d with liveness), %d events, %d s simulated, %.0f schedules/s: %+v", r.done, r.live, r.events, r.simed/Second,
		float64(r.done)/time.Since(begin).Seconds(), r.counts)
}
