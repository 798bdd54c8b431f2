package agent

import (
	"fmt"
	"slices"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
)

// pairs are the N(N-1)/2 pairs of nodes, and over which links each hears the other. What concerns
// this node it knows itself; of two others it knows what their last heartbeats said.
func pairs(nodes []config.Node, seen []control.Node, r beat.Report, self cluster.NodeID) []control.Pair {
	out := []control.Pair{}
	for i, a := range nodes {
		for _, b := range nodes[i+1:] {
			p := control.Pair{A: a.Name, B: b.Name, Links: []control.PairLink{}}
			for _, l := range sortedLinks(a.Links) {
				if _, both := b.Addr(l.Name); !both {
					continue
				}
				x := control.PairLink{Name: l.Name}
				switch self {
				case a.Name:
					x.Up, x.WhyNot = ownPair(seen, b.Name, l.Name)
				case b.Name:
					x.Up, x.WhyNot = ownPair(seen, a.Name, l.Name)
				default:
					x.Up, x.WhyNot = toldPair(r, a.Name, b.Name, l.Name)
				}
				p.Links = append(p.Links, x)
			}
			out = append(out, p)
		}
	}
	return out
}

// ownPair is a link of this node to another.
func ownPair(seen []control.Node, other cluster.NodeID, link cluster.LinkID) (control.Tri, string) {
	for _, n := range seen {
		if n.Name != other {
			continue
		}
		for _, l := range n.Links {
			switch {
			case l.Name != link:
			case l.Up == control.Yes:
				return control.Yes, ""
			case n.State != string(beat.PeerAlive):
				return l.Up, fmt.Sprintf("%s is %s", other, n.State)
			default:
				return l.Up, "they do not hear each other"
			}
		}
		return control.NotKnown, fmt.Sprintf("%s was not heard yet", other)
	}
	return control.NotKnown, "not heard yet"
}

// toldPair is a link between two others, as they say.
func toldPair(r beat.Report, a, b cluster.NodeID, link cluster.LinkID) (control.Tri, string) {
	var hears [2]control.Tri
	for i, x := range [2][2]cluster.NodeID{{a, b}, {b, a}} {
		says, why := says(r, x[0], x[1], link)
		if says == control.NotKnown {
			return control.NotKnown, why
		}
		hears[i] = says
	}
	switch {
	case hears[0] == control.Yes && hears[1] == control.Yes:
		return control.Yes, ""
	case hears[0] == control.Yes:
		return control.No, fmt.Sprintf("%s does not hear %s", b, a)
	case hears[1] == control.Yes:
		return control.No, fmt.Sprintf("%s does not hear %s", a, b)
	}
	return control.No, "they do not hear each other"
}

// says is whether a node says that it hears another.
func says(r beat.Report, who, whom cluster.NodeID, link cluster.LinkID) (control.Tri, string) {
	i := slices.IndexFunc(r.Peers, func(p beat.PeerReport) bool { return p.Node == who })
	bit := slices.Index(r.Order, whom)
	if i < 0 || bit < 0 {
		return control.NotKnown, fmt.Sprintf("%s was not heard yet", who)
	}
	p := r.Peers[i]
	if p.State != beat.PeerAlive && p.State != beat.PeerSuspect {
		return control.NotKnown, fmt.Sprintf("%s is %s", who, p.State)
	}
	k := slices.IndexFunc(p.Links, func(l beat.LinkReport) bool { return l.ID == link })
	if k < 0 {
		return control.NotKnown, "this node has no such link"
	}
	return control.Known(p.Links[k].Hears&(1<<bit) != 0), ""
}
