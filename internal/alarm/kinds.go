// Package alarm decides what people are told, and when: PURE.
//
// Find is the alarms of one status. Step takes what is found now into a book: what
// arises together is one group, and one group is one message; it is told again after
// some hours, not while it is silenced, and it ends when all of it has ended. The book
// is shared between the nodes, so that whoever speaks next goes on with it.
// The package sends nothing and never looks at a clock: times come in.
//
//	found := alarm.Find(status)
//	alarm.Step(&state, alarm.Input{Now: now, Node: "a", Speaks: alarm.Speaks(status), Found: found})
//	for _, g := range state.Book.Groups { ... g.Message("homelab", now) ... }
package alarm

import "time"

// Severities, the worse one is higher.
const (
	Warning  = "warning"
	Critical = "critical"
)

// The kinds of alarms: names in messages, orders and the documentation.
const (
	NoMaster         = "no-master"
	TwoMasters       = "two-masters"
	MasterUnknown    = "master-unknown"
	Blocked          = "heartbeats-blocked"
	Frozen           = "frozen"
	Isolated         = "isolated"
	DuplicateAddress = "duplicate-address"
	MassDeletion     = "mass-deletion"
	VolumePaused     = "volume-paused"
	VolumeBroken     = "volume-broken"
	DiskIll          = "disk-ill"
	VolumesUnseen    = "volumes-unseen"
	ServiceIll       = "service-ill"
	NodeDead         = "node-dead"
	NoSuccessor      = "no-successor"
	Failover         = "failover"
	Flapping         = "flapping"
	Divergent        = "divergent"
	NamesAbsent      = "names-absent"
	StandbyBehind    = "standby-behind"
	ProofDifferences = "proof-differences"
	LinkDown         = "link-down"
	LinkLossy        = "link-lossy"
	WitnessSilent    = "witness-silent"
	OnChangeFailed   = "on-change-failed"
	RehearsalFailed  = "rehearsal-failed"
	CopyMissed       = "vm-copy-missed"
	CertExpires      = "certificate-expires"
	ForgottenOrder   = "forgotten-order"
	Undelivered      = "alarm-undelivered"
	Test             = "test"
)

// Kind is what is common to the alarms of one name.
type Kind struct {
	Name     string        `json:"name"`
	Severity string        `json:"severity"` // Find may say a worse one
	After    time.Duration `json:"after_ns"` // it has lasted so long before anybody is told
	Means    string        `json:"means"`
}

// Kinds are all alarms, in the order of a bad night.
func Kinds() []Kind {
	const s, m = time.Second, time.Minute
	return []Kind{
		{NoMaster, Critical, 5 * s, "no node leads: the floating addresses are nowhere"},
		{TwoMasters, Critical, 5 * s, "two nodes lead, or two hold a floating address"},
		{MasterUnknown, Critical, 10 * s, "a node does not hear its own election"},
		{Blocked, Critical, 5 * s, "a silent node's card still answers for the addresses, so no other node takes them"},
		{Frozen, Critical, 5 * s, "another engine left the addresses on a node although a higher term reigns elsewhere"},
		{Isolated, Critical, 5 * s, "a node hears no other one, and does not serve"},
		{DuplicateAddress, Critical, 0, "a machine that is no node has a floating address"},
		{MassDeletion, Critical, 0, "more than half of a volume was deleted at once"},
		{VolumePaused, Critical, 5 * s, "a volume waits for a person"},
		{VolumeBroken, Critical, 5 * s, "a volume does not work on a node"},
		{DiskIll, Critical, 5 * s, "a disk does not answer, or answers with errors"},
		{VolumesUnseen, Critical, 10 * s, "a node does not come to see how its volumes are"},
		{ServiceIll, Warning, 10 * s, "a service is not well on a node"},
		{NodeDead, Warning, 5 * s, "a node is heard on no link"},
		{NoSuccessor, Warning, m, "no other node could take over"},
		{Failover, Warning, 0, "another node took over that nobody had asked to"},
		{Flapping, Warning, 5 * s, "roles change again and again"},
		{Divergent, Warning, 0, "changes that no other node had received are kept aside"},
		{NamesAbsent, Warning, 0, "names on a standby were not found on the master, and are kept"},
		{StandbyBehind, Warning, 10 * m, "a standby does not come to have everything"},
		{ProofDifferences, Critical, 0, "a proof found that nodes do not hold the same"},
		{LinkDown, Warning, m, "a link to a node that lives is down"},
		{LinkLossy, Warning, 5 * m, "a link loses heartbeats"},
		{WitnessSilent, Warning, m, "the witness or the reference does not answer"},
		{OnChangeFailed, Warning, m, "a volume's command fails"},
		{RehearsalFailed, Warning, 0, "the last rehearsal did not come to its end"},
		{CopyMissed, Warning, 0, "a virtual machine was not copied when its schedule said"},
		{CertExpires, Warning, 0, "a node's certificate expires soon, and was not renewed"},
		{ForgottenOrder, Warning, 24 * time.Hour, "hold or a maintenance has been on for a day"},
		{Undelivered, Warning, 5 * m, "alarms do not arrive where they should go"},
		{Test, Warning, 0, "nothing is wrong: it proves that alarms arrive"},
	}
}

// KindOf is the kind of that name.
func KindOf(name string) (Kind, bool) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}

// Alarm is one thing that is wrong now.
type Alarm struct {
	Kind     string        `json:"kind"`
	Subject  string        `json:"subject,omitempty"` // what it is about: a node, VOLUME on NODE, an address
	Severity string        `json:"severity"`
	Text     string        `json:"text"`
	Node     string        `json:"node,omitempty"`     // the node that it lies with; while that one is dead, nothing else is said of it
	After    time.Duration `json:"after_ns,omitempty"` // it has lasted so long before anybody is told
}

// Key tells alarms apart.
func (a Alarm) Key() string { return a.Kind + "|" + a.Subject }

// Bounds of what another node may say.
const (
	// MaxFound is how many alarms a node tells of itself: one for each volume and service, and some.
	MaxFound = 128
	maxText  = 400
	maxName  = 96
	longest  = 48 * time.Hour
)

// Sane cuts an alarm of another node down to what it may be; false if it is of no kind.
func (a Alarm) Sane() (Alarm, bool) {
	if _, known := KindOf(a.Kind); !known {
		return a, false
	}
	if a.Severity != Critical {
		a.Severity = Warning
	}
	a.Subject, a.Node, a.Text = plain(a.Subject, maxName), plain(a.Node, maxName), plain(a.Text, maxText)
	a.After = min(max(a.After, 0), longest)
	return a, true
}

// plain is text without what drives a terminal or a chat, cut in its middle: causes stand at the end.
func plain(text string, most int) string {
	runes := make([]rune, 0, len(text))
	for _, r := range text {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfffd {
			r = ' '
		}
		runes = append(runes, r)
	}
	if len(runes) > most {
		half := (most - 3) / 2
		return string(runes[:half]) + "..." + string(runes[len(runes)-half:])
	}
	return string(runes)
}
