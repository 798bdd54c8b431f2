package beat

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/witness"
)

// Two nodes that cannot hear each other, with a witness, with a reference, and
// with nothing: real processes, real packets.

var (
	witnessAt  = netip.MustParseAddrPort("10.77.0.250:7374")
	witnessKey = witness.Key{7}
	routerAt   = []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}
)

// TestWitness: of two nodes that do not hear each other the one with the lease serves.
func TestWitness(t *testing.T) {
	l := pair(t, func(c *Config) {
		c.Isolation, c.Witness = election.Release, &Witness{Addr: witnessAt, Key: witnessKey}
	})
	third := l.third("w0", witnessAt.Addr())
	stop := third.witness()
	l.start(0)
	l.start(1)
	m := l.agreed()
	s := 1 - m
	l.within(3*time.Second, "both know the witness", func() bool {
		return l.saw(0, WitnessReachable) && l.saw(1, WitnessReachable) && l.report(s).Witness.Leads == string(l.cfg.Nodes[m].ID)
	})

	t.Log("--- the two are parted; both reach the witness: the master goes on, alone")
	watched := l.watch()
	l.faults(between(0, 1)...)
	m = l.steady(m, 2*time.Second)
	s = 1 - m
	l.within(2*time.Second, "the standby is refused", func() bool { return l.saw(s, WitnessRefusing) && l.state(s, m) == PeerDead })
	if both, none := watched(); both > 0 {
		t.Errorf("while parted: both served for %v, none for %v", both, none)
	}

	t.Log("--- the witness restarts meanwhile")
	watched = l.watch()
	stop()
	stop = third.witness()
	m = l.steady(m, time.Second)
	s = 1 - m
	if both, none := watched(); both > 0 {
		t.Errorf("over the witness's restart both served for %v, none for %v", both, none)
	}

	t.Log("--- the master loses its way to the witness too: it lets go, and the other one serves")
	watched = l.watch()
	l.faults(append(between(0, 1), from(m), to(m))...)
	l.within(2*time.Second, "the other one serves", func() bool { return l.only(s) })
	if both, none := watched(); both > 0 {
		t.Errorf("both served for %v, none for %v", both, none)
	} else {
		t.Logf("nobody served for %v", none)
	}
	if !l.report(m).Isolated {
		t.Error("the node that is cut off does not say so")
	}
	l.faults()
	m = l.agreed()
	s = 1 - m

	t.Log("--- the master stops in order: the other one keeps what it took")
	l.stop[m]()
	l.gone(m)
	l.within(time.Second, "taken over", func() bool { return l.only(s) })
	l.steady(s, time.Second)
	l.start(m)
	l.agreed()

	t.Log("--- power cut")
	m = l.agreed()
	s = 1 - m
	l.kill(m)
	l.within(time.Second, "taken over", func() bool { return l.only(s) })
	l.steady(s, 500*time.Millisecond)
	l.port(m, 0, true)
	l.start(m)
	m = l.agreed()
	s = 1 - m

	t.Log("--- the witness dies: nothing happens while the nodes hear each other")
	reign := l.report(m).Reign
	watched = l.watch()
	stop()
	l.within(6*time.Second, "both miss it", func() bool { return l.saw(0, WitnessSilent) && l.saw(1, WitnessSilent) })
	if both, none := watched(); both > 0 || none > 0 || l.report(m).Reign != reign {
		t.Errorf("both served for %v, none for %v, reign %v after %v", both, none, l.report(m).Reign, reign)
	}
	if !l.saidSince(m, 0, "does not answer") {
		t.Error("the master says nothing of it")
	}
	t.Log("--- and then the master: with release nobody serves before the witness is back")
	l.kill(m)
	l.during(1500*time.Millisecond, "the standby claims nothing", func() bool { return l.held(s) == 0 })
	third.witness()
	l.within(2*time.Second, "taken over", func() bool { return l.only(s) })
}

// TestWitnessKeep: with keep a witness that answers is obeyed, and one that does not is no reason to give up.
func TestWitnessKeep(t *testing.T) {
	l := pair(t, func(c *Config) { c.Witness = &Witness{Addr: witnessAt, Key: witnessKey} })
	third := l.third("w0", witnessAt.Addr())
	stop := third.witness()
	l.start(0)
	l.start(1)
	m := l.agreed()
	s := 1 - m
	l.within(3*time.Second, "both know the witness", func() bool { return l.saw(0, WitnessReachable) && l.saw(1, WitnessReachable) })
	l.faults(between(0, 1)...)
	m = l.steady(m, time.Second)
	s = 1 - m
	l.within(2*time.Second, "the standby is refused", func() bool { return l.saw(s, WitnessRefusing) && l.state(s, m) == PeerDead })
	l.faults()
	m = l.agreed()
	s = 1 - m
	stop()
	l.within(6*time.Second, "both miss it", func() bool { return l.saw(0, WitnessSilent) && l.saw(1, WitnessSilent) })
	l.kill(m)
	l.within(time.Second, "taken over without the witness", func() bool { return l.only(s) })
}

// TestReference: without a witness, who is cut off from everything lets go, and who reaches the router serves.
func TestReference(t *testing.T) {
	for _, family := range []struct {
		name string
		refs []netip.Addr
	}{{"IPv4", routerAt[:1]}, {"IPv6", routerAt[1:]}} {
		t.Run(family.name, func(t *testing.T) {
			l := pair(t, func(c *Config) { c.Isolation, c.References = election.Release, family.refs })
			router := l.third("w0", routerAt...)
			l.start(0)
			l.start(1)
			m := l.agreed()
			s := 1 - m
			l.within(5*time.Second, "both see the router", func() bool {
				return !slices.ContainsFunc([]int{0, 1}, func(i int) bool { r := l.report(i).References; return len(r) != 1 || !r[0].Up })
			})

			t.Log("--- the master is cut off from everything")
			watched := l.watch()
			l.bridged(m, false)
			l.within(2*time.Second, "the other one serves", func() bool { return l.only(s) })
			if both, none := watched(); both > 0 {
				t.Errorf("both served for %v", both)
			} else {
				t.Logf("nobody served for %v", none)
			}
			l.during(time.Second, "it stays so", func() bool { return l.only(s) && l.report(m).Role != cluster.Master })
			l.bridged(m, true)
			l.agreed()

			t.Log("--- the other one dies: the last one serves on, for as long as the router is there")
			m = l.agreed()
			s = 1 - m
			l.kill(s)
			l.steady(m, time.Second)
			router.up(false)
			l.within(time.Second, "it lets go", func() bool { return l.held(m) == 0 && l.report(m).Isolated })
			l.during(time.Second, "and claims nothing", func() bool { return l.held(m) == 0 })
			router.up(true)
			l.within(2*time.Second, "it serves again", func() bool { return l.only(m) })
		})
	}
}

// liar is a witness that says what a test wants, with or without the key.
type liar struct {
	conn   *net.UDPConn
	answer func(q witness.Packet, say func(key witness.Key, a witness.Packet))
}

// run answers until the connection is closed.
func (w *liar) run() {
	var in, out [witness.Size]byte
	own := witness.NewCodec(witnessKey)
	for {
		n, from, err := w.conn.ReadFromUDPAddrPort(in[:])
		if err != nil {
			return
		}
		var q witness.Packet
		if _, ok := own.Open(in[:n], &q); ok {
			w.answer(q, func(key witness.Key, a witness.Packet) {
				_, _ = w.conn.WriteToUDPAddrPort(witness.NewCodec(key).Seal(out[:], 0, &a), from)
			})
		}
	}
}

// TestForgedAnswers: a node that is alone leads only by an answer of its witness to its last question.
func TestForgedAnswers(t *testing.T) {
	l := pair(t, func(c *Config) {
		c.Isolation, c.Witness = election.Release, &Witness{Addr: witnessAt, Key: witnessKey}
	})
	third := l.third("w0", witnessAt.Addr())
	w := &liar{}
	l.must(third.room.run(func() (err error) {
		w.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(witnessAt))
		return err
	}))
	type say = func(witness.Key, witness.Packet)
	grant := func(q witness.Packet) witness.Packet { q.Kind = witness.Granted; return q }
	var mu sync.Mutex
	var old []witness.Packet // grants that were given
	var lie func(q witness.Packet, say say)
	w.answer = func(q witness.Packet, s say) {
		mu.Lock()
		defer mu.Unlock()
		lie(q, s)
	}
	set := func(f func(q witness.Packet, say say)) {
		mu.Lock()
		defer mu.Unlock()
		lie = f
	}
	other := func(change func(*witness.Packet)) func(witness.Packet, say) {
		return func(q witness.Packet, s say) { a := grant(q); change(&a); s(witnessKey, a) }
	}
	lies := []struct {
		what string
		lie  func(q witness.Packet, s say)
	}{
		{"sealed with another key", func(q witness.Packet, s say) { s(witness.Key{8}, grant(q)) }},
		{"to another node", other(func(a *witness.Packet) { a.Node = witness.NameOf("b") })},
		{"to another cluster", other(func(a *witness.Packet) { a.Cluster = witness.NameOf("other") })},
		{"to another life of this node", other(func(a *witness.Packet) { a.Life ^= 2 })},
		{"to the question before", other(func(a *witness.Packet) { a.Seq-- })},
		{"to a question that comes", other(func(a *witness.Packet) { a.Seq += 1000 })},
		{"the question itself", func(q witness.Packet, s say) { s(witnessKey, q) }},
		{"for a look", func(q witness.Packet, s say) {
			if q.Kind == witness.Peek {
				s(witnessKey, grant(q))
			}
		}},
		{"after more than a heartbeat", func(q witness.Packet, s say) {
			if q.Kind == witness.Ask {
				time.Sleep(60 * time.Millisecond)
				s(witnessKey, grant(q))
			}
		}},
	}
	set(lies[0].lie)
	served := make(chan struct{})
	go func() { defer close(served); w.run() }()
	t.Cleanup(func() { w.conn.Close(); <-served })
	l.start(0) // its peer never was
	l.within(5*time.Second, "it could lead", func() bool { return l.report(0).Role == cluster.Standby && l.report(0).Isolated })
	for _, c := range lies {
		set(c.lie)
		l.during(400*time.Millisecond, "not led by an answer "+c.what, func() bool { return l.held(0) == 0 && l.report(0).Role != cluster.Master })
	}
	if n := l.report(0).Counters.BadAnswers; n == 0 {
		t.Error("forged answers are not counted")
	}
	set(func(q witness.Packet, s say) {
		if a := grant(q); q.Kind == witness.Ask {
			old = append(old, a)
			s(witnessKey, a)
		}
	})
	l.within(2*time.Second, "it leads by a true answer", func() bool { return l.report(0).Role == cluster.Master && l.held(0) == len(testVIPs) })
	set(func(q witness.Packet, s say) {
		for _, a := range old[max(0, len(old)-20):] {
			s(witnessKey, a)
		}
	})
	l.within(time.Second, "recordings do not keep it there", func() bool { return l.held(0) == 0 })
	l.during(500*time.Millisecond, "nor bring it back", func() bool { return l.held(0) == 0 })
	if err := syscall.Kill(l.beats[0].Pid(), 0); err != nil {
		t.Error(err)
	}
}

// The loop asks without allocating.
func TestAskingAllocatesNothing(t *testing.T) {
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	timers, _ := election.Profile("default")
	w, err := consultOf(&Config{Cluster: "test", Self: "a", Timers: timers, Witness: &Witness{Addr: sink.LocalAddr().(*net.UDPAddr).AddrPort(), Key: witnessKey}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	now, book, out := election.Time(0), witness.NewBook(0, []witness.Key{witnessKey}, func() uint64 { return 5 }), make([]byte, 0, witness.Size)
	for _, kind := range []witness.Kind{witness.Peek, witness.Ask} {
		if n := testing.AllocsPerRun(100, func() {
			now += timers.Heartbeat
			w.ask(kind, true, now)
			r := book.Answer(now, w.out[:], out)
			if _, ok := w.codec.Open(r.Packet, &w.a); !ok || !w.mine() {
				t.Fatal("its own answer is refused")
			}
			w.q.Challenge = w.a.Challenge
		}); n != 0 {
			t.Errorf("a question and its answer allocate %v times", n)
		}
	}
	if w.a.Kind != witness.Granted {
		t.Errorf("the last answer is %v", w.a.Kind)
	}
}

// What says who may lead alone cannot be changed under a node that leads.
func TestIsolationStaysAsItIs(t *testing.T) {
	base := Config{Self: "a", Nodes: []Node{{ID: "a"}}, Isolation: election.Release, Witness: &Witness{Addr: witnessAt, Key: witnessKey}, References: routerAt}
	for what, change := range map[string]func(*Config){
		"policy":     func(c *Config) { c.Isolation = election.Keep },
		"no witness": func(c *Config) { c.Witness = nil },
		"key":        func(c *Config) { c.Witness = &Witness{Addr: witnessAt} },
		"references": func(c *Config) { c.References = routerAt[:1] },
	} {
		now := base
		if change(&now); frozen(&base, &now, nil, nil) == "" {
			t.Errorf("%s changes while the node runs", what)
		}
	}
	same := base
	same.Witness = &Witness{Addr: witnessAt, Key: witnessKey}
	if why := frozen(&base, &same, nil, nil); why != "" {
		t.Errorf("nothing changed: %s", why)
	}
}
