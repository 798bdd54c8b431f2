package verify

import (
	"bytes"

	"revolve/internal/cluster"
)

// What a difference is.
const (
	Missing    = "missing"    // the standby does not have it
	Extra      = "extra"      // the master does not have it
	OtherKind  = "kind"       // a file here is a directory there
	Metadata   = "metadata"   // mode, owner, time, attributes
	Content    = "content"    // the bytes
	Unreadable = "unreadable" // the bytes cannot be read
)

// Which copy is right.
const (
	OfMaster   = "master"
	Undecided  = "undecided" // a person decides
	NoCopyLeft = "none"      // the master's is damaged and nobody has what it was
)

// Judge says whose copy of a file is right, when the master's and some
// standbys' differ; it returns OfMaster, Undecided, NoCopyLeft or a node's name.
//
// The rule:
//
//  1. The master's copy is the truth, since live data is written there,
//  2. unless it is damaged: it cannot be read, or its bytes are not those that the master
//     itself read in an earlier proof and nothing was written to the file since (inode,
//     size and both times are the same). Then the copy of a standby is right that has,
//     undamaged, the bytes of that earlier proof; without such a proof, that of any undamaged
//     standby with the master's size and time. If there is none, no copy is known to be right.
//  3. If the master cannot know (it never proved the file), and at least two standbys agree on
//     other bytes under the same size and time and none has the master's, nobody can tell: votes do not overrule live data.
func Judge(master *Entry, standbys map[cluster.NodeID]*Entry) string {
	if master.Damaged() {
		best := ""
		for node, e := range standbys {
			right := !e.Damaged() && !e.Moving && e.Kind == master.Kind && e.Size == master.Size && e.MTime == master.MTime &&
				(len(master.Was) == 0 || bytes.Equal(e.Hash, master.Was))
			if right && (best == "" || string(node) < best) {
				best = string(node)
			}
		}
		if best == "" {
			return NoCopyLeft
		}
		return best
	}
	agree := map[string]int{}
	for _, e := range standbys {
		if e.Kind != master.Kind || e.Size != master.Size || e.MTime != master.MTime || e.Damaged() {
			continue
		}
		if bytes.Equal(e.Hash, master.Hash) {
			return OfMaster
		}
		agree[string(e.Hash)]++
	}
	for _, n := range agree {
		if n >= 2 && !master.proven {
			return Undecided
		}
	}
	return OfMaster
}
