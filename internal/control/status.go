// Package control is the local API of an agent: HTTP with JSON over a unix
// socket in the state directory, for the user who may read that directory.
//
// It reads reports and hands over orders; it decides nothing.
//
//	err := control.Serve(ctx, control.Socket(state), backend, log)
//	status, err := control.Dial(state).Status(ctx)
package control

import (
	"encoding/json"
	"strconv"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/history"
)

// Verdicts, worst last. `revolve status` exits 0, 1, 1 and 2 with them.
const (
	OK       = "ok"
	Unknown  = "unknown"
	Warning  = "warning"
	Critical = "critical"
)

// Tri is true, false or not known; JSON true, false or "unknown".
type Tri int8

// The values of a Tri.
const (
	NotKnown Tri = 0
	No       Tri = 1
	Yes      Tri = 2
)

// Known is Yes or No.
func Known(v bool) Tri {
	if v {
		return Yes
	}
	return No
}

// MarshalJSON is true, false or "unknown".
func (t Tri) MarshalJSON() ([]byte, error) {
	switch t {
	case Yes:
		return []byte("true"), nil
	case No:
		return []byte("false"), nil
	}
	return []byte(`"unknown"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Tri) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*t = Yes
	case "false":
		*t = No
	default:
		*t = NotKnown
	}
	return nil
}

// Count is a number or not known (negative); JSON a number or "unknown".
type Count int64

// MarshalJSON is the number, or "unknown" if it is negative.
func (c Count) MarshalJSON() ([]byte, error) {
	if c < 0 {
		return []byte(`"unknown"`), nil
	}
	return strconv.AppendInt(nil, int64(c), 10), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Count) UnmarshalJSON(b []byte) error {
	*c = -1
	if len(b) > 0 && b[0] == '"' {
		return nil
	}
	var n int64
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*c = Count(n)
	return nil
}

// Status is the answer of `revolve status --json`. It only ever gains fields.
type Status struct {
	AsOf    time.Time      `json:"as_of"`
	Cluster string         `json:"cluster"`
	Node    cluster.NodeID `json:"node"`   // who says this
	Term    cluster.Term   `json:"term"`   // of the current reign, or the highest seen
	Master  string         `json:"master"` // "none" or "unknown" where there is no name
	Verdict string         `json:"verdict"`
	Reasons []string       `json:"reasons"` // why the verdict is not ok, worst first
	Nodes   []Node         `json:"nodes"`
	VIPs    []VIP          `json:"vips"`
	// Pairs are all of two nodes, each once.
	Pairs []Pair `json:"pairs"`
	// Duplicates are the VIPs that a card has which is no node's, as this node sees it. The master asks for them every 5 s; a standby knows of those that spoke to everybody.
	Duplicates []Duplicate `json:"duplicates"`
	Volumes    []Volume    `json:"volumes"`
	// Looked is when the volumes were seen: lately, unless something holds whoever looks at them.
	Looked time.Time `json:"looked,omitzero"`
	// Started is when the agent of the node that says this did.
	Started time.Time `json:"started,omitzero"`
	// Services are those of the node that says this.
	Services []Service `json:"services"`
	// Failovers are those that this node knows of.
	Failovers Failovers `json:"failovers"`
	// Blocked: the card of a silent node still answers for the VIPs, so no other node claims them. Something drops its heartbeats, or its beat process hangs.
	Blocked bool `json:"blocked,omitempty"`
	// Engine is who chooses the master: builtin, or external (whoever holds the VIPs).
	Engine string `json:"engine"`
	// Frozen: another engine left the VIPs on this node although a higher term reigns elsewhere; nothing goes out from here.
	Frozen bool `json:"frozen,omitempty"`
	// Rehearsal is the last one that this node knows of.
	Rehearsal *history.Rehearsal `json:"rehearsal,omitempty"`
	// Isolation is what this node does while it hears no other one, and who would tell it that it is not the one cut off.
	Isolation Isolation `json:"isolation"`
	Beat      Beat      `json:"beat"`
	// ClientsKnown counts the connections of clients with the master that this standby knows, and whose clients it would tell that they are gone.
	ClientsKnown int `json:"clients_known"`
	// Generation counts the changes of the cluster's members and keys that this node has; 0: none since it was made.
	Generation uint32 `json:"generation"`
	// CertificateUntil is when the certificate of this node expires; it is renewed long before.
	CertificateUntil time.Time `json:"certificate_until"`
	// Disks are what is wrong with the disks of this node, in words.
	Disks []string `json:"disks,omitempty"`
	// Copies are the schedules of the virtual machines that are at home on the node that says this.
	Copies []Copy `json:"copies,omitempty"`
	// Alarms are what people are told, as far as this node knows.
	Alarms Alarms `json:"alarms"`
}

// Copy is how a schedule stands for one virtual machine.
type Copy struct {
	Schedule string    `json:"schedule"`
	VM       string    `json:"vm"`
	Running  bool      `json:"running,omitempty"`
	Next     time.Time `json:"next,omitzero"`     // when a run begins, or is tried again
	Done     time.Time `json:"done,omitzero"`     // when a point was on every node last
	Behind   int       `json:"behind,omitempty"`  // runs in a row since then that brought no copy
	Trouble  string    `json:"trouble,omitempty"` // what was wrong with the newest run
}

// Isolation is what a node does that hears no other one.
type Isolation struct {
	Policy     string      `json:"policy"`            // keep: it serves; release: only with a witness's or a reference's answer
	Isolated   Tri         `json:"isolated"`          // the policy keeps this node from serving now
	Patience   Count       `json:"patience"`          // silence is borne so many times as long, because roles changed too often; 1 is as usual
	Witness    *Witness    `json:"witness,omitempty"` // nothing if there is none
	References []Reference `json:"references"`
}

// Witness is how the third machine answers this node.
type Witness struct {
	Address string  `json:"address"`
	State   string  `json:"state"`   // reachable, refusing (it lets another node lead, and this one asked to), silent, unknown
	Leads   string  `json:"leads"`   // whom it lets lead: a node, none, unknown
	Took    float64 `json:"took_ms"` // from the question to its last answer; 0: not known
	Slow    bool    `json:"slow"`    // the last ten answers came too late to count
	Late    uint64  `json:"late"`    // answers since the agent's start that came too late to count
}

// Reference is a machine on the addresses' link that is no node.
type Reference struct {
	Address string `json:"address"`
	Up      Tri    `json:"up"` // its card answers this node
}

// Service is one daemon as it is on the node that says this.
type Service struct {
	Name      string    `json:"name"`
	How       string    `json:"how,omitempty"` // unit NAME, exec; nothing if something else runs it
	State     string    `json:"state"`         // starting, healthy, ill, unknown
	Since     time.Time `json:"since"`
	Required  bool      `json:"required"`
	LastError string    `json:"last_error,omitempty"` // also after it has become healthy again
	Restarts  int       `json:"restarts"`             // since the agent's start
}

// Node is one machine of the cluster as this one sees it.
type Node struct {
	Name     cluster.NodeID `json:"name"`
	State    string         `json:"state"` // alive, suspect, dead, unknown; off: on demand, and not heard
	Since    time.Time      `json:"since"`
	Role     string         `json:"role"`
	Eligible Tri            `json:"eligible"`                   // may become master now
	WhyNot   string         `json:"why_not_eligible,omitempty"` // where eligible is false
	InSync   Tri            `json:"in_sync"`
	Class    string         `json:"class"`

	Hold        Tri `json:"hold"`        // ordered there: no automatic moves
	Maintenance Tri `json:"maintenance"` // ordered there: it stepped aside

	OnDemand bool `json:"on_demand,omitempty"` // off is a normal state of it

	Links []Link `json:"links"`
}

// Link is one network path to a node.
type Link struct {
	Name cluster.LinkID `json:"name"`
	Up   Tri            `json:"up"` // heard in both directions; for this node itself: carrier
	// Quality is how this node hears the other one there; of its own links there is none.
	Quality *Quality `json:"quality,omitempty"`
	// Limit is how many bytes a second this node may send to standbys over its own link now; 0: no limit.
	Limit int64 `json:"limit_bytes_per_second,omitempty"`
}

// Pair is what is known of the paths between two nodes.
type Pair struct {
	A     cluster.NodeID `json:"a"`
	B     cluster.NodeID `json:"b"`
	Links []PairLink     `json:"links"` // that both have
}

// PairLink is one path between two nodes.
type PairLink struct {
	Name   cluster.LinkID `json:"name"`
	Up     Tri            `json:"up"`                // they hear each other there, as this node knows from themselves
	WhyNot string         `json:"why_not,omitempty"` // where Up is false or unknown
}

// Quality is how heartbeats came in, in the last one to two minutes.
type Quality struct {
	Heard    uint64  `json:"heard"`
	Loss     float64 `json:"loss"`         // share of those sent, 0 to 1; outside of silences
	Silences uint64  `json:"silences"`     // longer than the time after which a node counts as dead
	Jitter   float64 `json:"jitter_ms"`    // smoothed (RFC 3550)
	Gap      float64 `json:"gap_p99_9_ms"` // between two heartbeats
	GapMax   float64 `json:"gap_max_ms"`
}

// VIP is one floating address.
type VIP struct {
	Address string `json:"address"`
	Holder  string `json:"holder"` // node, "none" or "unknown"
	// Holders are all nodes that see it on themselves; only where another engine places it.
	Holders []cluster.NodeID `json:"holders,omitempty"`
}

// Duplicate is a VIP on a card that is no node's.
type Duplicate struct {
	Address string         `json:"address"`
	Link    cluster.LinkID `json:"link"`
	MAC     string         `json:"mac"`
	Since   time.Time      `json:"since"` // it was seen first
}

// Volume is one mirrored directory tree.
type Volume struct {
	Name      cluster.VolumeID `json:"name"`
	Path      string           `json:"path"`
	State     string           `json:"state"` // leading, following, waiting, broken, paused
	Problem   string           `json:"problem,omitempty"`
	Paused    *Pause           `json:"paused,omitempty"` // the volume waits for a person
	Position  cluster.Position `json:"position"`
	Owed      int              `json:"owed"`      // large files still under way to this node
	Divergent int              `json:"divergent"` // changes kept aside here
	Alarm     string           `json:"alarm,omitempty"`
	Trash     Trash            `json:"trash"`
	OnChange  string           `json:"on_change_failed,omitempty"` // how the volume's command failed the last time it ran here
	Watcher   string           `json:"watcher"`
	AsOf      time.Time        `json:"standbys_as_of"`
	Standbys  []Standby        `json:"standbys"`
	Proof     *ProofStatus     `json:"proof,omitempty"`         // of the contents, the one that this node made last as master
	Live      *LiveSet         `json:"live_set,omitempty"`      // where this node leads
	Events    *Events          `json:"notifications,omitempty"` // that the kernel gave since the volume was opened
	Refused   int64            `json:"chown_refused,omitempty"`
	NoXattrs  int64            `json:"xattr_refused,omitempty"` // files with attributes or ACLs that this node cannot hold
	NoNodes   int64            `json:"nodes_refused,omitempty"` // devices that this node may not make
	NoLinks   int64            `json:"links_refused,omitempty"` // names of one file that are files of their own here
}

// LiveSet are the files that programs have open for writing, or mapped so.
type LiveSet struct {
	Files int     `json:"files"`
	Bound float64 `json:"bound_seconds"` // how long a change that nothing notifies of stays unseen at most
}

// Events are notifications of the kernel, and what became of them.
type Events struct {
	Read      uint64 `json:"read"`
	Foreign   uint64 `json:"elsewhere"` // on the same file system, and not in the volume
	Own       uint64 `json:"own"`       // made by the agent
	Ignored   uint64 `json:"excluded"`
	Overflows uint64 `json:"overflows"`
}

// Standby is one standby of a volume.
type Standby struct {
	Node     cluster.NodeID   `json:"node"`
	State    string           `json:"state"` // in-sync, lagging, catching-up, unknown
	Since    time.Time        `json:"since"`
	LagMS    Count            `json:"lag_ms"`
	LagP50   float64          `json:"lag_p50_ms,omitempty"` // of the changes of the last hour, from journal to acknowledgement
	LagP99   float64          `json:"lag_p99_ms,omitempty"`
	Pending  Count            `json:"pending"`
	Owed     Count            `json:"owed"`
	Position cluster.Position `json:"position"`
	Absent   int              `json:"absent,omitempty"` // names kept there although they were not found on the master
	Sample   []string         `json:"absent_sample,omitempty"`
	// What the standby says of itself.
	Divergent int       `json:"divergent,omitempty"`
	Alarm     string    `json:"alarm,omitempty"`
	Progress  *Progress `json:"progress,omitempty"` // if it does not have everything
	Proven    time.Time `json:"proven,omitzero"`    // it had the same bytes, as a proof found that began then
	Restless  *Restless `json:"restless,omitempty"` // files that it does not have as they are
}

// Restless are files that changed whenever the master read them: a standby has an older state of them, or none.
type Restless struct {
	Files int       `json:"files"`
	Path  string    `json:"path"`  // the one that was tried for longest, quoted
	Since time.Time `json:"since"` // when it was tried first
}

// ProofStatus is how the last proof of a volume went.
type ProofStatus struct {
	Running     bool      `json:"running"`
	Began       time.Time `json:"began"`
	Ended       time.Time `json:"ended,omitzero"` // it came to its end
	Files       int64     `json:"files"`
	Bytes       int64     `json:"bytes"`
	Differences int64     `json:"differences"` // found and not repaired
}

// Progress is how far a standby has come. Totals are "unknown" while a comparison still looks for what differs.
type Progress struct {
	Began          time.Time `json:"began"`
	Names          int64     `json:"names"` // looked at by comparisons
	Files          int64     `json:"files"` // sent
	FilesTotal     Count     `json:"files_total"`
	Bytes          int64     `json:"bytes"`
	BytesTotal     Count     `json:"bytes_total"`
	Changes        int64     `json:"changes"` // of the journal, acknowledged
	ChangesTotal   Count     `json:"changes_total"`
	BytesPerSecond int64     `json:"bytes_per_second"`
	LeftSeconds    Count     `json:"left_seconds"` // at the present rate
}

// Pause says why a volume waits for a person.
type Pause struct {
	Why  string `json:"why"`
	Look string `json:"look"`  // a command that shows it
	GoOn string `json:"go_on"` // what to do
}

// Trash is what this node keeps of what replication overwrote or deleted.
type Trash struct {
	Kept    int64    `json:"kept"`              // versions kept since the agent's start
	Bytes   int64    `json:"bytes"`             // held, when it was counted last
	Skipped int64    `json:"skipped"`           // since the agent's start: too large, or one was kept in the same ten minutes
	Dropped int64    `json:"dropped,omitempty"` // since the agent's start: gone before their age, for the quota or for a full disk
	Pinned  []string `json:"pinned,omitempty"`  // slots that stay until they are unpinned
}

// Ordered answers an order that turns something on or off.
type Ordered struct {
	On     bool             `json:"on"`
	Nodes  []cluster.NodeID `json:"nodes"`            // that carried it out
	Missed []cluster.NodeID `json:"missed"`           // that did not answer: it is not in force there
	Master cluster.NodeID   `json:"master,omitempty"` // after it
}

// Beat tells how well the small real-time process runs.
type Beat struct {
	RealTime bool     `json:"real_time"`
	Refused  []string `json:"refused"`
	LateMax  float64  `json:"late_max_ms"`
	LateP99  float64  `json:"late_p99_ms"`
	Every    float64  `json:"heartbeat_ms"` // the interval of the profile in force; 0: not known
}

// Failovers count what became of the roles.
type Failovers struct {
	Here    int64            `json:"here"`               // reigns that this node began since its agent's start
	ByCause map[string]int64 `json:"by_cause,omitempty"` // the same, by what ended the reign before
	Known   int              `json:"known"`              // records kept here
	Last    *history.Record  `json:"last,omitempty"`
}

// History is the answer of `revolve history --json`.
type History struct {
	Records []history.Record `json:"records"` // newest first
	Silent  []Silent         `json:"silent"`  // nodes that did not tell theirs
	// Rehearsals are the drills; the two switches of each are among the records, too.
	Rehearsals []history.Rehearsal `json:"rehearsals"`
}
