package vm

import (
	"revolve/internal/cluster"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// Claim is what a node's own records say of a machine.
type Claim struct {
	Known      bool // there are points of it, or a history
	Home       cluster.NodeID
	Generation uint64
	Owed       bool // it is off because this node shut it down for a copy
}

func claimOf(s Seen) Claim {
	c := Claim{Known: s.Generation > 0 || len(s.Points) > 0, Home: s.Home, Generation: s.Generation}
	if r := newestOf(s.Points); r != nil {
		c.Generation = max(c.Generation, r.Generation)
	}
	return c
}

// newestOf is the newest of points that come newest first; what was kept aside is nobody's history. nil: there is none.
func newestOf(list []points.Record) *points.Record {
	for i := range list {
		if !list[i].Here.Aside {
			return &list[i]
		}
	}
	return nil
}

// yielded is whether a machine stands still on a node whose own records say that its
// home is another one: a fence paused it, would pause it again, and it counts as off.
func yielded(node cluster.NodeID, s Seen) bool {
	return s.State == libvirt.Paused && s.Home != "" && s.Home != node
}

// up is whether a machine runs on a node, or could go on there.
func up(node cluster.NodeID, s Seen) bool {
	return s.State != "" && s.State != libvirt.Off && !yielded(node, s)
}

// goOn is what to do with a paused machine, which depends on whether it may go on at all.
func (e *Engine) goOn(vm string) string {
	if s := e.records(vm); s.Home != "" && s.Home != e.o.Node {
		return "its home is " + string(s.Home) + " now, and what it was is kept aside (revolve vm points " + vm + "): end it here: virsh destroy " + vm
	}
	return "let it go on first: virsh resume " + vm
}

// beats is a total order of claims: the higher generation, and where a machine was
// started on two nodes at once that did not hear each other, the home whose name is
// first. Every node concludes the same from the same claims, so one of them yields.
func (c Claim) beats(other Claim) bool {
	if c.Generation != other.Generation {
		return c.Generation > other.Generation
	}
	return c.ties(other) && c.Home < other.Home
}

// ties is whether two nodes claim to be the home under one generation.
func (c Claim) ties(other Claim) bool {
	return c.Generation > 0 && c.Generation == other.Generation && c.Home != "" && other.Home != "" && c.Home != other.Home
}

// tellTie says loudly that a machine has two homes: which one stays was not decided by a person.
func (e *Engine) tellTie(vm string, mine, other Claim) {
	stays := min(mine.Home, other.Home)
	e.loudly(vm+" tied", "this machine was started on two nodes that did not hear each other; what each wrote since is a history of its own", "vm", vm,
		"homes", list([]cluster.NodeID{mine.Home, other.Home}), "generation", mine.Generation, "stays", stays,
		"hint", "what the other one wrote is kept aside there: revolve vm points "+vm)
}
