package history

import (
	"cmp"
	"errors"
	"time"
	"unicode"
	"unicode/utf8"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// What a planned switch is ordered for.
const (
	WhySwitch      = "switch"      // a person wanted it
	WhyRehearsal   = "rehearsal"   // one of its two switches
	WhyMaintenance = "maintenance" // the master steps aside
	WhyFailback    = "failback"    // to the node of higher priority, in its window
	WhyIll         = "ill"         // a service or a disk of the master
	WhyPower       = "power"       // a person has a node powered on or off; that is no switch
)

// Order is who ordered a planned switch, and what for.
type Order struct {
	Why  string         `json:"why"`
	User string         `json:"user,omitempty"` // of the machine, as its kernel says; nothing if no person ordered it
	Node cluster.NodeID `json:"node"`           // where it was typed, or whose agent wanted it
}

const (
	maxUser = 64 // of login names: useradd(8) allows 32, and there may be two
	maxWhy  = 16
	maxText = 1024 // what an agent says of a rehearsal
)

// wrong reports whether an order cannot be one. What it is for may be a word of a later version.
func (o *Order) wrong() bool {
	return len(o.Why) > maxWhy || len(o.User) > maxUser || len(o.Node) > maxName || o.Why == "" || !printable(o.Why) || !printable(o.User) || !printable(string(o.Node))
}

// Check refuses what another node cannot have ordered.
func (o *Order) Check() error {
	if o.wrong() {
		return &problem.Problem{Op: "read order", Kind: problem.Corrupt, Err: errors.New("nobody can have ordered that"), Hint: "run the same version of revolve on all nodes"}
	}
	return nil
}

// printable keeps a terminal from being driven by what another machine wrote.
func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// How a rehearsal went.
const (
	Running  = "running"
	Done     = "done"     // there and back
	Aborted  = "aborted"  // Why says so; the addresses stayed where they were then
	Refused  = "refused"  // it did not begin
	Possible = "possible" // it was only asked about, and could begin; no record says so
)

// Leg is one of the two switches of a rehearsal.
type Leg struct {
	Term cluster.Term `json:"term"`             // of the reign that it began
	Took float64      `json:"took_ms"`          // from the order to the new master's reign
	RTO  *float64     `json:"rto_ms,omitempty"` // as in the record of that reign
}

// Rehearsal is one drill: the addresses move to a standby, and back.
type Rehearsal struct {
	Node      cluster.NodeID `json:"node"` // the master that carried it out, and wrote this
	Began     time.Time      `json:"began"`
	Revision  int            `json:"revision"`
	Ended     *time.Time     `json:"ended,omitempty"`
	Ordered   Order          `json:"ordered"`
	Scheduled bool           `json:"scheduled"`    // by the configuration's window
	To        cluster.NodeID `json:"to,omitempty"` // the standby
	Result    string         `json:"result"`
	Why       string         `json:"why,omitempty"`    // it is not done
	Master    cluster.NodeID `json:"master,omitempty"` // who led at its end
	There     *Leg           `json:"there,omitempty"`
	Back      *Leg           `json:"back,omitempty"`
}

// Check refuses what is no rehearsal.
func (r Rehearsal) Check() error {
	known := r.Result == Running || r.Result == Done || r.Result == Aborted || r.Result == Refused
	if r.Node == "" || r.Began.IsZero() || r.Revision < 0 || !known || len(r.Node) > maxName || len(r.To) > maxName || len(r.Master) > maxName || len(r.Why) > maxText ||
		!printable(r.Why) || !printable(string(r.Node)+string(r.To)+string(r.Master)) || r.Ordered.wrong() {
		return &problem.Problem{Op: "read rehearsal", Kind: problem.Corrupt, Err: errors.New("it is none"), Hint: "run the same version of revolve on all nodes"}
	}
	return nil
}

// compare orders rehearsals: later ones first.
func (r Rehearsal) compare(o Rehearsal) int {
	return cmp.Or(o.Began.Compare(r.Began), cmp.Compare(o.Node, r.Node))
}

func (r Rehearsal) revision() int { return r.Revision }
