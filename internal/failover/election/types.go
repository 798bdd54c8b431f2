package election

import (
	"cmp"

	"revolve/internal/cluster"
)

// Member is what the configuration says about a node.
type Member struct {
	Candidate bool
	OnDemand  bool   // off is a normal state: no start waits for it without a reason
	Priority  uint16 // higher wins among equals
}

// Config is the cluster as one node sees it. Nodes and links are known by their
// index in the sorted lists of the configuration, the same on every node.
type Config struct {
	Self     uint8
	Count    uint8 // number of nodes
	VIPLinks uint8 // bitmap of the links that carry VIPs; 0 if there is no VIP
	Members  [MaxNodes]Member
	Timers   Timers

	Isolation Isolation
	Witness   bool   // there is one: its answers come as Witnessed
	External  bool   // another engine places the VIPs: see observe.go
	VIPs      uint16 // with External: bitmap of all VIPs, as Observed and Beacon.VIPs count them
}

// Boot is what the node's durable record says about the past.
type Boot struct {
	SeenTerm     cluster.Term // highest term of any reign ever seen
	Reserved     cluster.Term // highest term ever reserved here; none up to it is used again
	MaybeFresher uint16       // bitmap of the nodes that may have lived on after this one
	Virgin       bool         // this node never saw a reign
}

// Reign is a term and the index of its owner; term 0 is no reign.
type Reign struct {
	Term  cluster.Term
	Owner uint8
}

// Flags of a beacon; the numbers travel on the wire and never change.
type Flags uint16

// The flags.
const (
	Claiming    Flags = 1 << 0 // I shall be master of ClaimTerm in a moment; object now
	Leaving     Flags = 1 << 1 // my process ends: forget me; I hold nothing any more
	HandingOver Flags = 1 << 2 // I gave the VIPs up for Successor, who waits for my last changes
	Granted     Flags = 1 << 3 // Successor may take GrantTerm at once
	Maintenance Flags = 1 << 4
	Held        Flags = 1 << 5 // hold is on
	Doubting    Flags = 1 << 6 // waiting for nodes that may be fresher
	Ill         Flags = 1 << 7 // a required service is ill here: better than nobody, worse than everybody else
	Wishing     Flags = 1 << 8 // I should like to lead: my window for a failback is open
)

// Beacon is what a node says of itself at every heartbeat. Identity, freshness
// and authenticity are the wire's matter.
type Beacon struct {
	From      uint8
	Role      cluster.Role
	Class     cluster.Class // as it counts in the election: Barred whenever the node could not claim
	Quality   uint8         // of Reign: 3 hears peers, 2 alone, 1 stale data
	Good      uint8         // bitmap of VIP links that work for this node
	Successor uint8         // with HandingOver and Granted; else Nobody
	Flags     Flags
	Priority  uint16
	FenceMs   uint16           // the sender's T_fence in ms
	ReignAge  uint16           // ms since the sender last had proof that Reign's owner reigns; 0 if it is its own
	Reign     Reign            // the reign that the sender leads or follows
	SeenTerm  cluster.Term     // highest term of any reign that the sender ever saw
	ClaimTerm cluster.Term     // with Claiming
	GrantTerm cluster.Term     // with Granted
	Fresh     cluster.Position // term and sum of the sequences of all volumes
	VIPs      uint16           // with an external engine: which VIPs the sender sees on itself
	Hears     [MaxLinks]uint16 // whom the sender heard on each link within T_dead, as a bitmap
	Without   bool             // the sender's list of members does not have the receiver; it does not travel, the wire finds it out
}

// holds reports whether the sender may still have VIPs in its hands.
func (b *Beacon) holds() bool { return b.Role == cluster.Master || b.Role == cluster.Limbo }

// Switch is an order to hand over; ID 0 is none.
type Switch struct {
	ID uint64
	To uint8
}

// Word is the agent's leave and its facts.
type Word struct {
	Class       cluster.Class
	Fresh       cluster.Position
	Reserved    cluster.Term // terms up to this one may be used
	Ill         bool         // a required service is ill here
	Unfit       bool         // and worse than that, its disk holds whoever asks: this master gives way to any well candidate, in-sync or not
	Asking      bool         // the agent still asks the others whether the members have changed: go on listening unless a master is heard
	Maintenance bool
	Hold        bool
	Wish        bool // the window for a failback to this node is open
	Switch      Switch
	Flushed     uint64 // ID of the handover that is flushed
}

// Kind is the kind of an Event.
type Kind uint8

// The kinds of events. Only Tick and Stop decide anything: the host hands in
// everything that has arrived, then a Tick with the same time, so that no
// deadline fires while an objection lies unread.
const (
	Tick      Kind = iota
	Heard          // a proven beacon of a peer came in on Link
	Said           // a word of the agent
	Carrier        // Up tells whether Link has carrier here
	Probed         // a probe for the VIPs left for Node
	Answer         // Node's own card answered for a VIP
	Foreign        // a card of no node of ours answers for a VIP
	Lost           // a VIP that we hold was removed by somebody else
	Stop           // orderly end
	Orphan         // the agent is gone; like Stop
	Witnessed      // an answer of the witness: Up tells whether this node may lead
	Outside        // something that is no node of ours answers on a VIP link; at least once per heartbeat while it does
	Newer          // somebody of the cluster goes by a newer list of members, with nodes that this one does not know
	Expelled       // a member's newer list does not have this node any more
	Observed       // VIPs tells which VIPs are on this node, whoever put them there
	Parted         // a node that is no member by this node's list tells whether it may have the VIPs: Up
)

// Event is one thing that happened at Now.
type Event struct {
	Kind   Kind
	Now    Time
	Link   uint8
	Node   uint8
	Up     bool
	Old    bool    // with Heard: sent before a beacon of the same node that came in on another link
	Again  bool    // with Heard: this very beacon came in on another link before
	VIPs   uint16  // with Observed
	Beacon *Beacon // with Heard and Newer; only read during Step
	Word   *Word   // with Said; only read during Step
}

// Effects is what the host has to do, in the order of the fields.
type Effects struct {
	DeleteVIPs bool  // before anything else is sent or read
	Drain      bool  // throw away what lies unread in the heartbeat sockets: it is old
	AddVIPs    bool  // add or refresh, with Lifetime
	Announce   bool  // (re)start the announcement schedule
	GiveLease  bool  // tell the witness, if there is one, that this node does not lead any more
	Send       uint8 // copies of State.Beacon to send now on every link to every peer
	Probe      uint16
	Changed    bool // tell the agent at once
	Notes      [MaxNotes]Note
	NoteCount  uint8
	Next       Time // step again at this time at the latest
}

// MaxNotes bounds the notes of one step; more than three things worth a line never happened in one.
const MaxNotes = 6

// NoteCode says what a Note is about.
type NoteCode uint8

// The notes.
const (
	NoteNone        NoteCode = iota
	NoteClaim                // claiming term N after Node went silent (Nobody: there was no master)
	NoteMaster               // master of term N
	NoteYield                // claim of term N dropped, Node objects or is better
	NoteLate                 // own loop late by N ms
	NoteFence                // VIPs deleted because the loop was late by N ms
	NoteMute                 // VIPs deleted: peers are heard, none hears this node
	NoteRetake               // VIPs taken again, same term N
	NoteLostTo               // gave way to Node, term N
	NoteWonOver              // met the master Node and stays; new term N
	NoteLinkDown             // VIPs released: VIP link does not work
	NoteNoLeave              // VIPs released: no word of the agent
	NoteMaint                // VIPs released for maintenance
	NoteBlocked              // Node's card answers but its heartbeats do not arrive
	NoteForeign              // a foreign card answers for a VIP
	NoteHandover             // handing over to Node, order N
	NoteGranted              // term N granted to Node
	NoteAborted              // handover to Node given up
	NoteNoTerms              // no reserved term is left; the agent must reserve up to N
	NoteLimboEnd             // limbo ended as standby
	NoteShared               // VIPs released: Node's card has them too, its heartbeats do not arrive, and it comes first
	NoteWaits                // could lead, and waits N s for Node, which is absent and was fresher
	NoteServesStale          // leads although Node was fresher: it stayed away for the N s of the stale delay
	NoteDamped               // roles change too often: silence is borne N times as long
	NoteIsolated             // VIPs released: no peer, and no proof that this is not this node's fault
	NoteRefused              // VIPs released: no peer is heard, and the witness has given the lease away
	NoteListenEnd            // listening ended after N ms
	NoteExpelled             // VIPs released: this node is not a member any more
	NoteUnfit                // VIPs released: this node's disk does not answer, and a well candidate is heard
	NoteOutdated             // VIPs released: a node that the own, older list of members does not have reigns
	NoteGained               // the VIPs came here by another engine; master of term N
	NoteVIPsLost             // the VIPs left this node by another engine
	NoteFrozen               // another engine left the VIPs here although Node reigns with the higher term N: nothing goes out
	NoteThawed               // the reign of term N goes on
	NotePaused               // nothing goes out for a moment: own loop was late by N ms
)

// Note is one thing worth a line for a person.
type Note struct {
	Code NoteCode
	Node uint8
	N    uint64
}

func (f *Effects) note(c NoteCode, node uint8, n uint64) {
	if int(f.NoteCount) < MaxNotes {
		f.Notes[f.NoteCount] = Note{c, node, n}
		f.NoteCount++
	}
}

// Failure says why a switch order was refused or given up.
type Failure uint8

// The failures of a switch order.
const (
	NoFailure     Failure = iota
	NotMaster             // this node is not the master
	BadSuccessor          // no such node, or this node itself
	NotHeard              // the successor is not heard
	NotEligible           // the successor is not a candidate, or barred
	NotInSync             // the successor is not in-sync
	Busy                  // another handover is going on
	FlushTimeout          // the mirror was not flushed in time
	SuccessorLost         // the successor went silent before the grant
	Unclaimed             // the successor did not take the granted term
	Interrupted           // this node lost its mastership meanwhile
	Shared                // the card of a silent node still answers for the VIPs
)

// String is a clause for a person.
func (f Failure) String() string {
	switch f {
	case NoFailure:
		return ""
	case NotMaster:
		return "this node is not the master"
	case BadSuccessor:
		return "no such successor"
	case NotHeard:
		return "the successor is not heard"
	case NotEligible:
		return "the successor is not eligible (no candidate, in maintenance, its VIP link is down, or a required service is ill there)"
	case NotInSync:
		return "the successor is not in-sync"
	case Busy:
		return "another switch is going on"
	case FlushTimeout:
		return "the last changes did not reach the successor within 2 s; the addresses are back here"
	case SuccessorLost:
		return "the successor went silent; the addresses are back here"
	case Unclaimed:
		return "the successor did not take over"
	case Interrupted:
		return "this node lost its mastership meanwhile"
	case Shared:
		return "the card of a node that is not heard still answers for the addresses"
	}
	return "unknown failure"
}

// rank is what two candidates are compared by.
type rank struct {
	class    cluster.Class
	good     int
	fresh    cluster.Position
	priority uint16
	node     uint8
}

// compare is positive if r is the better candidate. It never is 0 for two different nodes.
func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.class, o.class), cmp.Compare(r.good, o.good), r.fresh.Compare(o.fresh),
		cmp.Compare(r.priority, o.priority), cmp.Compare(o.node, r.node))
}

// standing is what two masters that meet are compared by (rule R6).
type standing struct {
	quality uint8
	reign   Reign
}

func (a standing) compare(b standing) int {
	return cmp.Or(cmp.Compare(a.quality, b.quality), cmp.Compare(a.reign.Term, b.reign.Term),
		cmp.Compare(a.reign.Owner, b.reign.Owner))
}
