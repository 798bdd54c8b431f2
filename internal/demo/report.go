package demo

import "time"

// Report is what `revolve demo --json` prints. Durations are milliseconds.
type Report struct {
	Held     bool      `json:"held"`     // every promise that was touched held
	Seed     uint64    `json:"seed"`     // --seed makes the random moments the same again
	Nodes    []string  `json:"nodes"`    // names, in the order of the configuration
	Seconds  float64   `json:"seconds"`  // from the first process to the last judgement
	Fidelity Fidelity  `json:"fidelity"` // in what this was less than real machines
	Tree     TreeCopy  `json:"tree"`     // the tree that was mirrored
	Events   []Event   `json:"events"`   // in the order of the story
	Promises []Promise `json:"promises"` // P1-P8
	Error    string    `json:"error,omitempty"`
}

// Fidelity says how near to real machines the run was.
type Fidelity struct {
	Level   string   `json:"level"` // full or partial
	Reasons []string `json:"reasons"`
}

// TreeCopy is how the tree came to all nodes.
type TreeCopy struct {
	Source  string  `json:"source"`
	Files   int     `json:"files"`
	Bytes   int64   `json:"bytes"`
	CopyMS  float64 `json:"copy_ms"`    // the copy onto the master
	InSync  float64 `json:"in_sync_ms"` // milliseconds from its end until every standby had everything
	Equal   bool    `json:"equal"`      // names, kinds, modes, owners, times and contents
	Refused int     `json:"refused"`    // owners that could not be set
	FS      string  `json:"fs"`         // of the nodes' disks
}

// Event is one thing that happened, and what was measured. A value that does not
// belong to the event is null.
type Event struct {
	Name       string   `json:"name"` // start, tree, steady, switch, power-cut, return, freeze, kill, other-link, vip-link, partition, join
	Told       string   `json:"told"` // the line of the story
	Round      int      `json:"round"`
	At         float64  `json:"at_s"` // seconds since the start
	Before     string   `json:"master_before"`
	After      string   `json:"master_after"`
	BlackoutMS *float64 `json:"blackout_ms"`    // longest time without an IPv4 answer
	Blackout6  *float64 `json:"blackout_v6_ms"` // the same by IPv6, which is asked every 50 ms
	VIPGoneMS  *float64 `json:"vip_gone_ms"`    // until the address left the failed node
	BackMS     *float64 `json:"back_ms"`        // until the first answer of the new master
	BoundMS    *float64 `json:"bound_ms"`       // what the blackout, or BackMS, must stay below
	BothMS     *float64 `json:"both_ms"`        // longest time in which two cards answered for one of the addresses
	Lost       *int     `json:"lost"`           // queries never answered
	RPOChanges *int     `json:"rpo_changes"`    // finished changes that the new master did not have
	RPOMS      *float64 `json:"rpo_ms"`         // age of the oldest of them when it happened
	OffDisk    *int     `json:"off_disk"`       // of those, files that the power cut took from the failed disk as well
	Kept       *int     `json:"kept"`           // of the rest, kept as divergent
	Listed     *int     `json:"divergent"`      // lines of `revolve divergent list`
	SettleMS   *float64 `json:"settle_ms"`      // until all nodes were in-sync again
	StallMS    *float64 `json:"stall_ms"`       // longest time in which the client got no processor to ask with; only where a bound was missed
	Disturbed  bool     `json:"disturbed"`      // a bound was missed while the machine itself stood still: told again, and not counted
	Broken     []string `json:"broken"`         // what should not be; empty: it held
	Late       []string `json:"late"`           // those of the broken that are bounds of time, missed

	from     instant  // when it began
	returned string   // the node whose return this is
	late     []string // missed bounds, not yet weighed against the machine's own stalls
}

// Held reports whether nothing was wrong.
func (e *Event) Held() bool { return len(e.Broken) == 0 }

// Promise is one line of the closing table.
type Promise struct {
	ID       string   `json:"id"`
	Says     string   `json:"says"`
	State    string   `json:"state"` // held, broken or not-shown
	Measured string   `json:"measured"`
	Broken   []string `json:"broken"`
}

// The states of a promise.
const (
	stateHeld     = "held"
	stateBroken   = "broken"
	stateNotShown = "not-shown"
)

// The bounds that the story holds itself to.
const (
	boundCut     = 600 * time.Millisecond  // blackout when the master loses power
	boundSwitch  = 100 * time.Millisecond  // blackout of a planned switch
	boundGone    = 1300 * time.Millisecond // P2: the kernel lifetime of the address
	boundBack    = 1600 * time.Millisecond // service after a frozen or killed agent
	boundVIPLink = 300 * time.Millisecond  // blackout when the address's link is cut
	boundHeal    = 600 * time.Millisecond  // blackout when a split network heals
	boundTwo     = 300 * time.Millisecond  // P1: T_dead + 2 heartbeats of the default profile
)

// A missed bound counts only if the machine itself kept going: the client asks
// every 5 ms whatever the cluster does, so a pause in its asking of stallBound is
// the machine's (the cluster's own patience, T_fence, is 140 ms). An event is told
// again at most retellings times; then it counts.
const (
	stallBound = 50 * time.Millisecond
	retellings = 3
)

func ptr[T any](v T) *T { return &v }

func msPtr(d time.Duration) *float64 { return ptr(ms(d)) }
