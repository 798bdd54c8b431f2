// Package history keeps what became of the roles: one record for every failover,
// written by the node that took over and copied by the others.
//
// It decides nothing and measures nothing: times and positions come in as they
// were seen. Records are JSON lines in one file; a later line about the same
// reign replaces an earlier one, so what becomes known later is appended. The file
// is bounded, and a torn line of a power cut costs that line alone.
//
// Rehearsals are kept in the same way, in a file of their own.
//
//	s, err := history.Open(filepath.Join(state, "history"))
//	err = s.Put(record)
//	for _, r := range s.List() { ... } // newest first
package history

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Why the reign before ended, as the node saw it that took over.
const (
	CauseSilence  = "silence"  // its master was heard no more
	CauseSwitch   = "switch"   // it handed over
	CauseStopped  = "stopped"  // its process ended in order
	CauseAside    = "aside"    // it stepped aside: maintenance
	CauseReleased = "released" // it gave the addresses up: its link, its agent, or no member any more
	CauseFenced   = "fenced"   // it was late, and deleted its addresses itself
	CauseStart    = "start"    // no master was known: the cluster's start, or this node's
	CauseAgain    = "again"    // it was this node itself
	CauseMet      = "met"      // two masters met, and this one stayed
)

// Causes are all of them.
func Causes() []string {
	return []string{CauseSilence, CauseSwitch, CauseStopped, CauseAside, CauseReleased, CauseFenced, CauseStart, CauseAgain, CauseMet}
}

// Times is the way from the last sign of the old master to the first of the new
// one, all seen by the new one. What did not happen, or is not known, is left out.
type Times struct {
	Heard     *time.Time `json:"last_heartbeat,omitempty"` // of the old master
	Released  *time.Time `json:"released,omitempty"`       // the old master said that it holds nothing any more
	Suspect   *time.Time `json:"suspect,omitempty"`
	Claim     *time.Time `json:"claim,omitempty"`
	Address   *time.Time `json:"address,omitempty"` // the kernel has the addresses
	Announced *time.Time `json:"first_announcement,omitempty"`
	Packet    *time.Time `json:"first_packet,omitempty"` // a client's, over TCP or UDP, came in for a VIP
	Answer    *time.Time `json:"first_answer,omitempty"` // a service's, to a client: it accepted a connection, or sent over UDP
}

// Volume is what was here of a volume when this node took over, and what the old
// master had said that there is.
type Volume struct {
	Name       cluster.VolumeID  `json:"name"`
	Advertised *cluster.Position `json:"advertised,omitempty"`
	Applied    cluster.Position  `json:"applied"`
	Missing    *uint64           `json:"missing,omitempty"` // changes between the two
	// RPO is how long before the last sign of the old master everything was here that
	// had been written by then. What it wrote later nobody can know before it returns.
	RPO       *float64 `json:"rpo_ms,omitempty"`
	KeptAside *int     `json:"kept_aside,omitempty"` // changes that the old master brought back, and that no other node had
}

// Record is one failover.
type Record struct {
	Term     cluster.Term   `json:"term"`
	Master   cluster.NodeID `json:"master"` // who took over, and wrote this
	From     cluster.NodeID `json:"from,omitempty"`
	FromTerm cluster.Term   `json:"from_term,omitempty"`
	Cause    string         `json:"cause"`
	Revision int            `json:"revision"` // of what became known later the highest counts
	At       time.Time      `json:"at"`       // when the new reign began
	Times    Times          `json:"times"`
	RTO      *float64       `json:"rto_ms,omitempty"` // from the last heartbeat, or the release, to the first announcement
	Volumes  []Volume       `json:"volumes"`
	// ClientsTold is how many connections of clients with the old master were known; their clients were told that they are gone.
	ClientsTold *int `json:"clients_told,omitempty"`
	// Ordered is who ordered it; nothing if nobody did, or if it is not known.
	Ordered *Order `json:"ordered,omitempty"`
}

// Bounds of a record that came from another node.
const (
	maxVolumes = 64 // of a configuration
	maxName    = 32 // of a node or volume
)

// Check refuses what is no record.
func (r Record) Check() error {
	known := false
	for _, c := range Causes() {
		known = known || c == r.Cause
	}
	wrong := ""
	switch {
	case r.Term == 0 || r.Master == "" || len(r.Master) > maxName || len(r.From) > maxName:
		wrong = "it names no reign"
	case !known:
		wrong = fmt.Sprintf("%.16q is no cause", r.Cause)
	case r.At.IsZero() || r.Revision < 0:
		wrong = "it has no time"
	case len(r.Volumes) > maxVolumes:
		wrong = "it has too many volumes"
	}
	if r.Ordered != nil && r.Ordered.wrong() {
		wrong = "nobody can have ordered that"
	}
	for _, v := range r.Volumes {
		if len(v.Name) > maxName {
			wrong = "a volume has no such name"
		}
	}
	if wrong != "" {
		return &problem.Problem{Op: "read record", Kind: problem.Corrupt, Err: errors.New(wrong), Hint: "run the same version of revolve on all nodes"}
	}
	return nil
}

// Measure sets the RTO from the times.
func (r *Record) Measure() {
	from := r.Times.Released
	if from == nil {
		from = r.Times.Heard
	}
	if from == nil || r.Times.Announced == nil || r.Times.Announced.Before(*from) {
		return
	}
	ms := float64(r.Times.Announced.Sub(*from).Microseconds()) / 1000
	r.RTO = &ms
}

// Open reports whether it is not known yet what became of the old master's last changes.
func (r *Record) Open() bool {
	if r.From == "" || r.From == r.Master {
		return false
	}
	for _, v := range r.Volumes {
		if v.KeptAside == nil {
			return true
		}
	}
	return false
}

// compare orders records: later reigns first.
func (r Record) compare(o Record) int {
	return cmp.Or(cmp.Compare(o.Term, r.Term), cmp.Compare(o.Master, r.Master))
}

func (r Record) revision() int { return r.Revision }
