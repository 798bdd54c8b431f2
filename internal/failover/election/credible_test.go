package election

import (
	"testing"

	"revolve/internal/cluster"
)

// A member that lies about terms takes nothing from the others: neither do the
// numbers run out, nor does a lie keep a node from claiming after its master.
func TestIncredibleTerms(t *testing.T) {
	for _, lie := range []cluster.Term{1 << 63, 1<<64 - 1, 1<<64 - 2, 100 + MaxJump + 1} {
		for _, b := range []Beacon{
			{SeenTerm: lie},
			{Role: cluster.Master, Quality: 3, Reign: Reign{lie, 2}},
			{Reign: Reign{lie, 0}, Quality: 3},
			{Flags: Claiming, ClaimTerm: lie},
			{Flags: Granted, Successor: 2, GrantTerm: lie},
		} {
			s := follower(t, Second)
			b.From, b.Class = 2, cluster.Lagging
			if s.Credible(&b) {
				t.Errorf("%+v is believed", b)
			}
			s.Step(Event{Kind: Heard, Now: Second, Beacon: &b})
			if s.SeenTerm() != 7 || s.NeedTerms() != 0 || s.Class() != cluster.InSync || s.nextTerm() != 8 {
				t.Errorf("after %+v: seen %d, needs %d, class %v, next %d", b, s.SeenTerm(), s.NeedTerms(), s.Class(), s.nextTerm())
			}
			if m, ok := s.Master(); !ok || m != (Reign{7, 0}) {
				t.Errorf("after %+v the master is %v %v", b, m, ok)
			}
		}
	}
}

// What lies within the jump is believed, from any number of nodes, and the agent's reservations carry the bound on.
func TestCredibleTerms(t *testing.T) {
	s := follower(t, Second)
	b := Beacon{From: 2, SeenTerm: 100 + MaxJump}
	s.Step(Event{Kind: Heard, Now: Second, Beacon: &b})
	if s.SeenTerm() != b.SeenTerm {
		t.Fatalf("seen %d", s.SeenTerm())
	}
	b.SeenTerm++
	if s.Credible(&b) {
		t.Error("a second jump is believed before the agent has made the first one durable")
	}
	s.Step(Event{Kind: Said, Now: Second, Word: &Word{Class: cluster.InSync, Reserved: b.SeenTerm + 16}})
	if !s.Credible(&b) {
		t.Error("the bound does not follow the agent")
	}
}
