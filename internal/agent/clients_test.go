package agent

import (
	"net/netip"
	"strings"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/clients"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// A list of a reign that is over, or of another one than its master's, counts
// nothing, whoever tells it (P3); nor does one about other addresses.
func TestClientsOfAnOldReign(t *testing.T) {
	a := &Agent{o: Options{Node: "b", Config: &config.Config{VIPs: []config.VIP{{Prefix: netip.MustParsePrefix("10.77.0.200/24")}}}}, record: &record{now: memory{Seen: 9}}}
	list := func(vip string) []clients.Conn {
		return []clients.Conn{{VIP: netip.MustParseAddrPort(vip), Client: netip.MustParseAddrPort("10.77.0.5:4711")}}
	}
	for name, c := range map[string]struct {
		of, told cluster.Term
		vip      string
		kind     problem.Kind
		known    int
	}{
		"an old reign":     {8, 8, "10.77.0.200:80", problem.StaleTerm, 0},
		"another reign":    {9, 8, "10.77.0.200:80", problem.StaleTerm, 0},
		"a later reign":    {9, 10, "10.77.0.200:80", problem.StaleTerm, 0},
		"another address":  {9, 9, "10.77.0.201:80", problem.Corrupt, 0},
		"the reign of now": {9, 9, "10.77.0.200:80", problem.Internal, 1},
	} {
		a.clients = clientele{}
		err := a.clientsTold(cluster.Reign{Term: c.of, Owner: "a"}, clients.Append(nil, c.told, list(c.vip)))
		if (err == nil) != (c.known > 0) || problem.KindOf(err) != c.kind && err != nil || len(a.clients.list) != c.known {
			t.Errorf("%s: %v, %d known", name, err, len(a.clients.list))
		}
	}
}

// Only the master announces who orders a switch, and nothing that a terminal would obey.
func TestOnlyTheMasterAnnounces(t *testing.T) {
	a := &Agent{report: beat.Report{Master: "a"}, record: &record{}}
	good := &history.Order{Why: history.WhySwitch, User: "alice", Node: "c"}
	for name, c := range map[string]struct {
		from cluster.NodeID
		by   *history.Order
	}{
		"a standby":  {"b", good},
		"nothing":    {"a", nil},
		"an escape":  {"a", &history.Order{Why: history.WhySwitch, User: "\x1b[2J", Node: "c"}},
		"a long one": {"a", &history.Order{Why: history.WhySwitch, User: strings.Repeat("x", 65), Node: "c"}},
		"no reason":  {"a", &history.Order{Node: "c"}},
	} {
		if err := a.orderedBy(c.from, c.by); err == nil || a.announced.by != nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := a.orderedBy("a", good); err != nil || a.announced.by != good {
		t.Errorf("the master's: %v", err)
	}
}

// What clients had open ends only where another node is known to have the addresses.
func TestAddressesAreElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		r    beat.Report
		want bool
	}{
		"a standby of another":      {beat.Report{Role: cluster.Standby, Master: "a"}, true},
		"a standby without master":  {beat.Report{Role: cluster.Standby}, false},
		"a standby after own reign": {beat.Report{Role: cluster.Standby, Master: "b"}, false},
		"in limbo":                  {beat.Report{Role: cluster.Limbo, Master: "a"}, false},
		"just started":              {beat.Report{Role: cluster.Listening, Master: "a"}, false},
		"the master":                {beat.Report{Role: cluster.Master, Master: "b"}, false},
	} {
		if got := heldByAnother(&c.r, "b"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
