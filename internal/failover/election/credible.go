package election

import "revolve/internal/cluster"

// MaxJump bounds how far the terms of a beacon may lie above those that this
// node's agent has made durable. A restart skips a block of 16, so half a million
// are some 30,000 restarts that this node slept through; more is a liar's or a
// bug's, and one lie of 2^64 would use all numbers up for ever. The agent's own bound
// is twice as large, so whatever is believed here it takes, too.
const MaxJump cluster.Term = 1 << 19

// Credible reports whether the terms in a beacon can be true. One that cannot
// is as if it had not come: its sender counts as silent.
func (s *State) Credible(b *Beacon) bool {
	known := max(s.floor, s.word.Reserved)
	if known > ^cluster.Term(0)-MaxJump {
		return true // nothing can lie above
	}
	return max(b.Reign.Term, b.SeenTerm, b.ClaimTerm, b.GrantTerm) <= known+MaxJump
}
