package beat

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"runtime"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

// reporting is the loop of a node of four on two links, without sockets.
func reporting(t *testing.T) *loop {
	t.Helper()
	timers, _ := election.Profile("default")
	cfg := &Config{Cluster: "home", Self: "a", Port: 7373, Timers: timers, Boot: Boot{}, VIPs: []VIP{{Prefix: netip.MustParsePrefix("10.77.0.200/24"), Link: "lan"}}}
	for i, id := range []cluster.NodeID{"a", "b", "c", "d"} {
		n := Node{ID: id, Candidate: true}
		for k, link := range []cluster.LinkID{"fast", "lan"} {
			n.Links = append(n.Links, Link{ID: link, Addr: netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", 77+k, 11+i))})
		}
		cfg.Nodes = append(cfg.Nodes, n)
	}
	names, err := newLayout(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{cfg: cfg, names: names, start: time.Now()}
	l.layLanes()
	if l.consult, err = consultOf(cfg); err != nil {
		t.Fatal(err)
	}
	ec, eb := names.election(cfg)
	l.st = election.New(ec, eb, l.now())
	l.tell.init(l)
	l.turns.init()
	return l
}

// Five reports a second are what the process allocates all the time, and its collector is off until memoryLimit:
// what one of them leaves behind is what its memory grows by.
func TestReportsLeaveLittleBehind(t *testing.T) {
	l := reporting(t)
	if first := told(t, l); len(first.Peers) != 3 || len(first.Peers[0].Links) != 2 || len(first.Links) != 2 || len(first.VIPs) != 1 {
		t.Fatalf("a report of four nodes on two links: %+v", first)
	}
	// The least of them: with the race detector a sync.Pool (of encoding/json) forgets one in four things at random.
	const reports, most = 100, 1 << 10
	least := uint64(math.MaxUint64)
	for range reports {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := l.tell.message(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least > most {
		t.Errorf("a report leaves %d bytes behind, more than %d", least, most)
	}
}

// Reports share their lists: nothing of an earlier one may stand in a later one.
func TestReportsTellOnlyOfNow(t *testing.T) {
	l := reporting(t)
	before := told(t, l)
	l.lanes[0].fd, l.lanes[0].carrier, l.addrs[0].held = 7, true, true // before is whole, and then less
	if r := told(t, l); !r.Links[0].Bound || !r.VIPs[0].HeldHere {
		t.Errorf("what has come is not told: %+v", r)
	}
	l.lanes[0].fd, l.lanes[0].carrier, l.addrs[0].held = -1, false, false
	l.lanes[1].to[3] = nil // d is not on lan any more
	l.addrs = nil
	r := told(t, l)
	if r.Links[0].Bound || len(r.VIPs) != 0 || len(r.Peers[2].Links) != 1 || len(r.Peers[1].Links) != 2 {
		t.Errorf("what has gone is told: %+v", r)
	}
	r.Peers[2].Links, r.VIPs, r.Counters = before.Peers[2].Links, before.VIPs, before.Counters
	if !reflect.DeepEqual(before.Peers, r.Peers) || !reflect.DeepEqual(before.Links, r.Links) {
		t.Errorf("the rest is not as it was:\n%+v\n%+v", before, r)
	}
}

// told is the next report as the agent reads it.
func told(t *testing.T, l *loop) (r Report) {
	t.Helper()
	b, err := l.tell.message()
	if err == nil && b[0] != msgReport {
		t.Fatalf("a message of kind %q", b[0])
	}
	if err == nil {
		err = json.Unmarshal(b[1:], &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}
