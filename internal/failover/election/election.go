// Package election decides who is master: PURE, one node's view, one Step per event.
//
// A State is fed with what happened (a tick, a beacon, a word of the agent, a
// change of a link, an answer to a probe) and the time at which it happened; it
// answers with Effects, whose field order is the order of execution. It never
// reads a clock, draws a number, locks, starts anything or touches the world;
// the same events always give the same effects, so production, the simulator
// and the golden scenarios run the very same code.
//
// It never promises that there is one master across a total partition: it
// promises that nodes that hear each other agree on one within T_dead + 2
// heartbeats, and that reigns are ordered for ever by (term, owner).
//
//	s := election.New(cfg, boot, now)
//	eff := s.Step(election.Event{Kind: election.Tick, Now: now})
//	// do eff in field order; step again at eff.Next at the latest
package election

import "revolve/internal/cluster"

// Time is a point or a span of one node's monotonic clock, in nanoseconds.
// Points of different nodes never meet in a comparison (rule R0).
type Time int64

// Units of Time.
const (
	Millisecond Time = 1_000_000
	Second           = 1000 * Millisecond
)

// MaxNodes and MaxLinks bound a cluster: bitmaps are 16 bits wide, and every
// state array is of these sizes, so a State is a plain value without pointers.
const (
	MaxNodes = 16
	MaxLinks = 8
)

// Nobody is the index that stands for no node.
const Nobody = 0xff

// Timers are the time constants of a cluster; all nodes must use the same ones.
type Timers struct {
	Heartbeat Time `json:"heartbeat"` // between two beacons
	Suspect   Time `json:"suspect"`   // silence after which probes start
	Fence     Time `json:"fence"`     // a master's loop later than this deletes its VIPs first
	Dead      Time `json:"dead"`      // silence after which a node counts as gone
	Probe     Time `json:"probe"`     // how long probes must stay unanswered
	ClaimGap  Time `json:"claim_gap"` // wait for objections after a claim
}

// Lifetimes and waits that do not depend on the profile.
const (
	Lifetime    = 1 * Second        // the kernel lifetime of a VIP; whole seconds are the kernel's resolution
	Refresh     = 200 * Millisecond // five chances per lifetime
	AnswerGrace = 500 * Millisecond // the kernel removed addresses up to 0.3 s late (measured); after Lifetime + this, an answer means "alive"
	WordTimeout = 800 * Millisecond // leave of the agent ends; below Lifetime, so the deletion is ours, not the kernel's
	MinListen   = 300 * Millisecond // shortest listening after a start
	// Listen is the listening when somebody is missing: he may be frozen with the VIPs
	// in his kernel's hands, and his card is not known to a node that has just started.
	Listen       = Lifetime + AnswerGrace
	VirginListen = 3 * Second        // listening of a cluster that never had a reign
	StaleDelay   = 30 * Second       // how long a node waits for nodes that may be fresher
	FlushLimit   = 2 * Second        // a planned switch that takes longer is given up
	LimboLimit   = 1 * Second        // limbo longer than this becomes standby
	QualityDelay = 2 * Second        // alone for so long lowers a reign's quality
	LookLimit    = 500 * Millisecond // a master asks the cards of silent nodes at least this often
	RivalRepeat  = 1 * Second        // re-announcement while a rival is still heard
	TermsAhead   = cluster.Term(8)   // ask for more terms when fewer are left: half a block of 16
)

// Profile returns the timers of a named profile: default (also ""), fast or patient.
func Profile(name string) (Timers, bool) {
	t := Timers{}
	switch name {
	case "", "default":
		t = Timers{Heartbeat: 50, Suspect: 100, Fence: 140, Dead: 200, Probe: 100, ClaimGap: 15}
	case "fast":
		t = Timers{Heartbeat: 10, Suspect: 20, Fence: 30, Dead: 40, Probe: 20, ClaimGap: 5}
	case "patient":
		t = Timers{Heartbeat: 200, Suspect: 600, Fence: 1200, Dead: 1500, Probe: 100, ClaimGap: 30}
	default:
		return t, false
	}
	for _, v := range []*Time{&t.Heartbeat, &t.Suspect, &t.Fence, &t.Dead, &t.Probe, &t.ClaimGap} {
		*v *= Millisecond
	}
	return t, true
}

// Wrong says what contradicts the rules among the timers, or "" if nothing does.
// The rules are those of the election's safety: a master that is late beyond
// Fence must have had the time to notice before anybody may claim.
func (t Timers) Wrong() string {
	switch {
	case t.Heartbeat <= 0 || t.Suspect <= 0 || t.Fence <= 0 || t.Dead <= 0 || t.Probe <= 0 || t.ClaimGap <= 0:
		return "every timer must be above 0"
	case t.Dead < 4*t.Heartbeat:
		return "dead must be at least 4 heartbeats"
	case t.Fence+t.Heartbeat > t.Dead:
		return "fence + heartbeat must not exceed dead"
	case t.Fence <= 2*t.Heartbeat:
		return "fence must exceed 2 heartbeats"
	case t.Suspect >= t.Dead:
		return "suspect must be below dead"
	case t.Dead > maxAge:
		return "dead must not exceed 60 s"
	}
	return ""
}

// maxAge bounds every span that travels as milliseconds in 16 bits.
const maxAge = 60 * Second
