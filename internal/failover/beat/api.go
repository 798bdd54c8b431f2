package beat

import (
	"net/netip"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/witness"
)

// Config is what a beat process needs to know; it is handed over the
// socketpair, never in argv, because it carries the key.
type Config struct {
	Cluster string          `json:"cluster"`
	Self    cluster.NodeID  `json:"self"`
	Key     [32]byte        `json:"key"`               // cluster key of the heartbeats' HMAC
	Accept  [][32]byte      `json:"accept,omitempty"`  // other keys whose packets count too, while a new key comes into use
	Retired [][32]byte      `json:"retired,omitempty"` // former keys: a packet with one is answered, so that its sender learns of the newer list, and does not count
	Stamp   Stamp           `json:"stamp"`             // of Nodes
	Port    uint16          `json:"port"`
	Timers  election.Timers `json:"timers"`
	Nodes   []Node          `json:"nodes"` // all nodes, Self among them; at most election.MaxNodes
	VIPs    []VIP           `json:"vips"`
	Boot    Boot            `json:"boot"`

	Isolation  election.Isolation `json:"isolation,omitempty"`  // what a node does that hears no other one
	Witness    *Witness           `json:"witness,omitempty"`    // nil: there is none
	References []netip.Addr       `json:"references,omitempty"` // of machines that are no nodes, on the links that carry VIPs

	External bool `json:"external,omitempty"` // another engine places the VIPs; they are only watched
}

// Stamp orders the lists of members that a cluster had; the zero value is that
// of a list that only a file knows, older than every other.
type Stamp struct {
	Generation uint32 `json:"generation"`
	Mark       uint64 `json:"mark"` // of its contents; decides where two halves of a network made the same generation
}

// Newer reports whether s is of a later list than o.
func (s Stamp) Newer(o Stamp) bool {
	return s.Generation > o.Generation || s.Generation == o.Generation && s.Mark > o.Mark
}

// Node is a member of the cluster.
type Node struct {
	ID        cluster.NodeID `json:"id"`
	Candidate bool           `json:"candidate"`
	OnDemand  bool           `json:"on_demand"` // no start waits for it without a reason
	Priority  int            `json:"priority"`  // 0..65535; higher wins among equals
	Links     []Link         `json:"links"`     // at most election.MaxLinks different links in the cluster
}

// Link is a node's address on a link.
type Link struct {
	ID   cluster.LinkID `json:"id"`
	Addr netip.Addr     `json:"addr"`
}

// VIP is a floating address and the link that carries it.
type VIP struct {
	Prefix netip.Prefix   `json:"prefix"` // the address with its prefix length
	Link   cluster.LinkID `json:"link"`
}

// Witness is where the witness is asked, and with which key.
type Witness struct {
	Addr netip.AddrPort `json:"addr"`
	Key  witness.Key    `json:"key"`
}

// Boot is what the node's durable record says about the past.
type Boot struct {
	SeenTerm     cluster.Term     `json:"seen_term"`     // highest term of any reign ever seen
	Reserved     cluster.Term     `json:"reserved"`      // highest term ever reserved by this node; none up to it is used again
	MaybeFresher []cluster.NodeID `json:"maybe_fresher"` // nodes that were in-sync after this node had stopped
	Virgin       bool             `json:"virgin"`        // this node never saw a reign
}

// SwitchOrder asks the master to hand over. A new ID is a new order; 0 is none.
type SwitchOrder struct {
	ID uint64         `json:"id"`
	To cluster.NodeID `json:"to"`
}

// Word is the agent's leave and its facts. The agent says one at least every
// 100 ms; without a word for 800 ms beat gives the VIPs up.
type Word struct {
	Class       cluster.Class
	Fresh       cluster.Position
	Reserved    cluster.Term // terms up to this one are durably reserved for this node
	Ill         bool         // a required service is ill: this node leads only where no well one is heard
	Wish        bool         // this node should lead now: the window for a failback is open
	Unfit       bool         // this node's disk holds whoever asks: a master gives way to any well candidate
	Asking      bool         // the agent still asks the others whether the members have changed: go on listening unless a master is heard
	Maintenance bool
	Hold        bool        // no automatic moves other than after the loss of the master
	Switch      SwitchOrder // stays set until SwitchResult answers its ID
	Flushed     uint64      // ID of the handover whose changes are all on the successor
}

// PeerState is how a node is heard.
type PeerState string

// The states of a peer.
const (
	PeerAlive   PeerState = "alive"
	PeerSuspect PeerState = "suspect" // silent for longer than the suspect time
	PeerDead    PeerState = "dead"    // silent for longer than T_dead
	PeerUnknown PeerState = "unknown" // never heard since this node's start
)

// LinkReport is one path between this node and a peer.
type LinkReport struct {
	ID      cluster.LinkID `json:"id"`
	Heard   bool           `json:"heard"`    // this node hears the peer here
	HearsMe bool           `json:"hears_me"` // the peer says that it hears this node here
	Quality Quality        `json:"quality"`
	// Hears are the nodes that the peer itself hears here, as its last heartbeat said: bits in the order of Report.Order.
	Hears uint16 `json:"hears,omitempty"`
}

// PeerReport is what is known of another node.
type PeerReport struct {
	Node        cluster.NodeID   `json:"node"`
	State       PeerState        `json:"state"`
	Since       time.Time        `json:"since"` // of State
	Role        cluster.Role     `json:"role"`
	Reign       cluster.Reign    `json:"reign"` // the reign that the peer follows or leads
	Class       cluster.Class    `json:"class"`
	Fresh       cluster.Position `json:"fresh"`
	Maintenance bool             `json:"maintenance"`
	Ill         bool             `json:"ill"` // a required service is ill there
	Hold        bool             `json:"hold"`
	VIPs        []netip.Addr     `json:"vips,omitempty"` // with an external engine: what it sees on itself
	Links       []LinkReport     `json:"links"`
}

// OwnLink is one of this node's own links.
type OwnLink struct {
	ID      cluster.LinkID `json:"id"`
	Bound   bool           `json:"bound"`   // the address is here and the heartbeat socket is bound to it
	Carrier bool           `json:"carrier"` // the interface is up and has carrier
	Rx      bool           `json:"rx"`      // somebody is heard on it
}

// VIPReport is one floating address.
type VIPReport struct {
	Addr     netip.Addr `json:"addr"`
	HeldHere bool       `json:"held_here"`
}

// Handover asks the agent to flush its mirror to the successor and then to
// answer Word.Flushed = ID. The VIPs are already deleted when it is reported.
type Handover struct {
	ID uint64         `json:"id"`
	To cluster.NodeID `json:"to"`
}

// SwitchResult answers a SwitchOrder; an empty Err means that the successor reigns.
type SwitchResult struct {
	ID  uint64 `json:"id"`
	Err string `json:"err"`
}

// Counters count what the heartbeat sockets received and refused since the start.
type Counters struct {
	Sent, Heard                                             uint64
	Unannounced                                             uint64 // announcement frames that the kernel refused
	BadMAC, Foreign, Unknown, Replayed, Unechoed, Malformed uint64
	BadAnswers                                              uint64 // that came to the witness' socket and were not the witness', or to no question of late
	Incredible                                              uint64 // a member's, with a term that cannot be true
	Loans                                                   uint64 // how often the agent was lent this process's priority
	Unread                                                  uint64 // dropped by the kernel: no member can have sent them, or there was no room
}

// Why a reign ended, as the node saw it that began the next one.
const (
	EndSilence  = "silence"
	EndSwitch   = "switch"
	EndStopped  = "stopped"
	EndAside    = "aside"
	EndReleased = "released"
	EndFenced   = "fenced"
	EndNone     = "start" // no master was known
	EndAgain    = "again" // it was this node's own
	EndMet      = "met"   // two masters met
)

// Turn is how this node came to a reign. Times that did not happen are zero.
type Turn struct {
	Reign    cluster.Reign    `json:"reign"`
	From     cluster.Reign    `json:"from"` // the reign before; its zero value if none was known
	Cause    string           `json:"cause"`
	Began    time.Time        `json:"began"`
	Heard    time.Time        `json:"heard"`    // last heartbeat of its master
	Released time.Time        `json:"released"` // it said that it holds nothing any more
	Suspect  time.Time        `json:"suspect"`
	Claim    time.Time        `json:"claim"`
	Address  time.Time        `json:"address"`
	Announce time.Time        `json:"announce"`
	Fresh    cluster.Position `json:"fresh"` // the last that it advertised, of all volumes
}

// Newer is the latest newer list of members that was heard of, and from where.
type Newer struct {
	Stamp Stamp      `json:"stamp"`
	From  netip.Addr `json:"from"`
}

// Fitness says whether another engine should bring the VIPs here.
type Fitness struct {
	Eligible bool   `json:"eligible"`
	Penalty  uint8  `json:"penalty"` // 0 for the best, election.MaxPenalty if not eligible
	Why      string `json:"why"`     // a clause for a person
}

// WitnessState is how the witness answers this node.
type WitnessState string

// The states of a witness.
const (
	WitnessUnknown   WitnessState = "unknown"   // it was not asked for long enough
	WitnessReachable WitnessState = "reachable" // it answers
	WitnessRefusing  WitnessState = "refusing"  // it answers that this node may not lead
	WitnessSilent    WitnessState = "silent"    // it does not answer
)

// WitnessReport is what this node knows of the witness.
type WitnessReport struct {
	Addr  netip.AddrPort `json:"addr"`
	State WitnessState   `json:"state"`
	Leads string         `json:"leads"` // the node that it lets lead, "" if none or not known
	Took  time.Duration  `json:"took"`  // from the last question that was answered to its answer
	Slow  bool           `json:"slow"`  // the last ten answers came too late to count
	Late  uint64         `json:"late"`  // answers since the start that came after more than a heartbeat, and did not count
}

// ReferenceReport is whether a reference's card answers.
type ReferenceReport struct {
	Addr  netip.Addr `json:"addr"`
	Up    bool       `json:"up"`
	Known bool       `json:"known"` // it was asked for long enough
}

// Report is the whole state of a beat process; each one replaces the one before.
type Report struct {
	Role         cluster.Role      `json:"role"`
	Reign        cluster.Reign     `json:"reign"`  // of the current master, whoever it is; its zero value if none is known
	Master       cluster.NodeID    `json:"master"` // "" if none is known
	Since        time.Time         `json:"since"`  // of Role and Master
	SeenTerm     cluster.Term      `json:"seen_term"`
	NeedTerms    cluster.Term      `json:"need_terms"` // reserve terms at least up to this one; 0 if enough are reserved
	Class        cluster.Class     `json:"class"`      // this node's class as the others see it
	Handover     Handover          `json:"handover"`   // ID 0: none is going on
	SwitchResult SwitchResult      `json:"switch_result"`
	Wisher       cluster.NodeID    `json:"wisher"`  // the standby to which this master may hand over unasked; "" if there is none
	Blocked      bool              `json:"blocked"` // the master's card answers but its heartbeats do not arrive
	Peers        []PeerReport      `json:"peers"`
	Order        []cluster.NodeID  `json:"order"` // the nodes as LinkReport.Hears counts them
	Links        []OwnLink         `json:"links"`
	VIPs         []VIPReport       `json:"vips"`
	Duplicates   []Duplicate       `json:"duplicates,omitempty"` // VIPs on cards that are no node's
	RealTime     bool              `json:"real_time"`
	Refused      []string          `json:"refused"`  // what the system did not allow, one line each
	LateMax      time.Duration     `json:"late_max"` // lateness of the loop since its start
	LateP99      time.Duration     `json:"late_p99"` // upper bound of the histogram bucket
	Counters     Counters          `json:"counters"`
	Isolated     bool              `json:"isolated,omitempty"` // the isolation policy keeps this node from serving
	Patience     int               `json:"patience"`           // silence is borne so many times as long, because roles changed too often; 1 is as usual
	Witness      *WitnessReport    `json:"witness,omitempty"`
	References   []ReferenceReport `json:"references,omitempty"`
	Frozen       bool              `json:"frozen,omitempty"` // another engine left the VIPs here although a higher term reigns elsewhere
	Fitness      Fitness           `json:"fitness"`          // what another engine is told; only with External
	Newer        Newer             `json:"newer"`            // who goes by a newer list of members; zero if nobody does
	Expelled     bool              `json:"expelled"`         // a member's newer list does not have this node
	Turns        []Turn            `json:"turns"`            // reigns that this node began, oldest first, each reported once
	Notes        []string          `json:"notes"`            // lines for a person, oldest first, each reported once
}
