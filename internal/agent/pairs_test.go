package agent

import (
	"net/netip"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
)

// The pair matrix tells of links between two other nodes what both of them say; what is not known is never up.
func TestPairs(t *testing.T) {
	var nodes []config.Node
	for i, n := range []cluster.NodeID{"a", "b", "c", "d"} {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		x := config.Node{Name: n, Links: []config.Link{{Name: "lan", Addr: addr}}}
		if n != "d" {
			x.Links = append(x.Links, config.Link{Name: "fast", Addr: addr})
		}
		nodes = append(nodes, x)
	}
	link := func(id cluster.LinkID, hears uint16) beat.LinkReport { return beat.LinkReport{ID: id, Hears: hears} }
	r := beat.Report{Order: []cluster.NodeID{"a", "b", "c", "d"}, Peers: []beat.PeerReport{
		{Node: "b", State: beat.PeerAlive, Links: []beat.LinkReport{link("lan", 1<<2), link("fast", 1<<2)}},
		{Node: "c", State: beat.PeerSuspect, Links: []beat.LinkReport{link("lan", 1<<1), link("fast", 0)}},
		{Node: "d", State: beat.PeerDead, Links: []beat.LinkReport{link("lan", 1<<1|1<<2)}},
	}}
	seen := []control.Node{{Name: "a", State: "alive"},
		{Name: "b", State: "alive", Links: []control.Link{{Name: "lan", Up: control.Yes}, {Name: "fast", Up: control.No}}},
		{Name: "c", State: "unknown"},
		{Name: "d", State: "dead", Links: []control.Link{{Name: "lan", Up: control.No}}}}
	type key struct {
		a, b cluster.NodeID
		link cluster.LinkID
	}
	want := map[key]control.PairLink{
		{"a", "b", "lan"}:  {Up: control.Yes},
		{"a", "b", "fast"}: {Up: control.No, WhyNot: "they do not hear each other"},
		{"a", "c", "lan"}:  {Up: control.NotKnown, WhyNot: "c was not heard yet"},
		{"a", "c", "fast"}: {Up: control.NotKnown, WhyNot: "c was not heard yet"},
		{"a", "d", "lan"}:  {Up: control.No, WhyNot: "d is dead"},
		{"b", "c", "lan"}:  {Up: control.Yes},
		{"b", "c", "fast"}: {Up: control.No, WhyNot: "c does not hear b"},
		{"b", "d", "lan"}:  {Up: control.NotKnown, WhyNot: "d is dead"},
		{"c", "d", "lan"}:  {Up: control.NotKnown, WhyNot: "d is dead"},
	}
	got := pairs(nodes, seen, r, "a")
	if len(got) != 6 {
		t.Fatalf("%d pairs of 4 nodes", len(got))
	}
	for _, p := range got {
		for _, l := range p.Links {
			w, there := want[key{p.A, p.B, l.Name}]
			w.Name = l.Name
			if !there || l != w {
				t.Errorf("%s-%s: got %+v, want %+v", p.A, p.B, l, w)
			}
			delete(want, key{p.A, p.B, l.Name})
		}
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
