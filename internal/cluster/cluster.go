// Package cluster holds the words of the design as types: nodes, links,
// volumes, terms, positions, roles and eligibility classes.
//
// It never does I/O, keeps no state and imports nothing of revolve.
package cluster

import (
	"cmp"
	"fmt"
)

// NodeID is the name of a node, as the configuration spells it.
type NodeID string

// LinkID is the name of a network path, as the configuration spells it.
type LinkID string

// VolumeID is the name of a volume, as the configuration spells it.
type VolumeID string

// Term is the number of a reign. Every new master takes a higher one; 0 means
// that there never was a reign.
type Term uint64

// Reign names a reign without doubt: two sides of a partition may take the same
// term, but never the same term and owner.
type Reign struct {
	Term  Term   `json:"term"`
	Owner NodeID `json:"owner"`
}

// Compare orders reigns by term, then by owner.
func (r Reign) Compare(o Reign) int {
	return cmp.Or(cmp.Compare(r.Term, o.Term), cmp.Compare(r.Owner, o.Owner))
}

// String is "term@owner".
func (r Reign) String() string { return fmt.Sprintf("%d@%s", r.Term, r.Owner) }

// Position says how far a volume has come: everything up to it is here, durably.
type Position struct {
	Term Term   `json:"term"`
	Seq  uint64 `json:"seq"`
}

// Compare orders positions by term, then by sequence.
func (p Position) Compare(o Position) int {
	return cmp.Or(cmp.Compare(p.Term, o.Term), cmp.Compare(p.Seq, o.Seq))
}

// String is "term/sequence".
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Term, p.Seq) }

// Role is what a node is in the cluster right now.
type Role uint8

// The roles.
const (
	Listening Role = iota // just started: it hears, and claims nothing yet
	Standby               // alive, follows a master (or waits for one)
	Master                // holds the VIPs
	Limbo                 // was master, gave the VIPs up, and waits to learn whether a higher reign exists
)

// String is the role in lower case, as in `status --json`.
func (r Role) String() string {
	switch r {
	case Listening:
		return "listening"
	case Standby:
		return "standby"
	case Master:
		return "master"
	case Limbo:
		return "limbo"
	}
	return "unknown"
}

// Class is how fit a node is to lead; a lower class never claims while a higher one is heard.
type Class uint8

// The classes.
const (
	Barred  Class = 0 // maintenance, VIP link down, disk fault, not a candidate
	Stale   Class = 1 // catching up, or it knows that it missed changes
	Lagging Class = 2 // consistent, but behind the bound
	InSync  Class = 3 // at most one second behind, or behind only because of this moment's load
)

// String is the class in lower case, as in `status --json`.
func (c Class) String() string {
	switch c {
	case Barred:
		return "barred"
	case Stale:
		return "stale"
	case Lagging:
		return "lagging"
	case InSync:
		return "in-sync"
	}
	return "unknown"
}
