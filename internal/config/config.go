// Package config reads, checks and explains the one configuration file that all
// nodes share.
//
// Reading is strict: an unknown key, a wrong type, a duplicate or a value that
// contradicts another is a problem, and every problem of a file is reported at
// once, each with its file, line and a hint (see Problems). The package never
// touches anything but the file it is given: it opens no socket, looks at no
// interface and does not know on which node it runs.
//
//	cfg, err := config.Load("/etc/revolve/revolve.yaml")
//	if err != nil {
//		return err // a *config.Problems for a file that was read and is wrong
//	}
//	self, ok := cfg.Node("a")
package config

import (
	"net/netip"
	"time"

	"revolve/internal/cluster"
)

// What a cluster may have at most. Every list of the product that is as long as
// one of these is bounded by it.
const (
	MaxNodes   = 16      // the roles of all nodes fit in one heartbeat datagram
	MaxLinks   = 8       // per node; links are numbered in 8 bits of a heartbeat mask
	MaxVIPs    = 16      // all are refreshed within one 200 ms period by one process
	MaxVolumes = 64      // positions of all volumes fit in one hello frame
	MaxBytes   = 1 << 18 // of the file: ten times what the limits above need

	MaxReferences = 4 // each is asked up to 40 times a second

	MaxListen = 8  // addresses of the status page
	MaxSites  = 16 // names of the status page

	MaxServices = 32 // each is a child and a check every second or two
)

// What a file that does not say otherwise gets.
const (
	DefaultPort     = 7373
	DefaultPriority = 100

	DefaultWitnessPort = 7374
	DefaultIPMIPort    = 623
	DefaultTrash       = 7 * 24 * time.Hour

	DefaultInterval = 2 * time.Second // ill is known within 3 s: checks in doubt come four times as often
	DefaultTimeout  = time.Second     // a daemon that needs longer for a question to itself is no use to others
	DefaultRise     = 2               // the first answer after a start may be luck
	DefaultFall     = 3               // two lost answers are a busy machine
)

// Config is a checked configuration.
type Config struct {
	Cluster   string                       // name of the cluster
	Port      uint16                       // one port: TCP (mutual TLS) and UDP (heartbeats)
	Nodes     []Node                       // in file order
	VIPs      []VIP                        // in file order
	Failover  Failover                     // how the master is chosen
	Bandwidth map[cluster.LinkID]Bandwidth // of the links that have a limit
	Volumes   []Volume                     // in file order
	Services  []Service
	Web       Web        // where the status page is served
	Alarms    []Alarm    // where they go, in file order
	AlarmTest Window     // when a test alarm is sent; never if it is the zero value
	VMs       []VM       // in file order
	Schedules []Schedule // in file order
	VMStorage string     // where points of machines are kept on each node; "": this cluster keeps none
	Warnings  []string   // what was accepted but is not acted on, or is likely a mistake: "file:line: what; hint"
}

// DefaultVMStorage is where points are kept if the configuration names machines and no directory.
const DefaultVMStorage = "/var/lib/revolve/vms"

// VM is a virtual machine.
type VM struct {
	Name        string           // libvirt's
	Nodes       []cluster.NodeID // that have copies; all if empty
	Consistency string           // of its points, if nothing else is ordered: ConsistencyLive ...
	Critical    bool             // copied before the others
	Keep        Keep             // which of its points stay; all if it is the zero value
}

// Keep counts points that stay (package vm/keep).
type Keep struct{ Last, Daily, Weekly, Monthly int }

// The ways to be consistent, weakest first; package vm/points says what they promise.
const (
	ConsistencyLive     = "live"
	ConsistencySuspend  = "suspend"
	ConsistencyFreeze   = "freeze"
	ConsistencyShutdown = "shutdown"
)

// Node is a machine of the cluster.
type Node struct {
	Name      cluster.NodeID
	Links     []Link                      // in file order; at least one
	Priority  int                         // among equals the higher one leads
	Candidate bool                        // may become master
	Paths     map[cluster.VolumeID]string // volumes that live elsewhere on this node
	Power     Power
	OwnFile   bool // source: file
}

// Where a node takes a changed configuration from.
const (
	SourceCluster = "cluster"
	SourceFile    = "file" // only if its own file says the same
)

// Link is a node's address on a network path.
type Link struct {
	Name cluster.LinkID
	Addr netip.Addr
}

// Power says whether a node is expected to be on.
type Power struct {
	Mode string // PowerAlways or PowerOnDemand
	Wake string // MAC address for Wake-on-LAN
	On   string // a command that wakes it
	IPMI IPMI   // its management controller; the zero value if it has none
	Off  string // a command by which it powers itself off; "": systemctl poweroff
}

// IPMI is a management controller.
type IPMI struct {
	Address      netip.AddrPort
	User         string
	PasswordFile string
}

// The power modes.
const (
	PowerAlways   = "always"
	PowerOnDemand = "on-demand" // off is a normal state
)

// VIP is a floating address and the link that carries it.
type VIP struct {
	Prefix netip.Prefix // the address with the length of its network, not masked
	Link   cluster.LinkID
}

// Failover says who chooses the master and how fast.
type Failover struct {
	Engine   string // EngineBuiltin or EngineExternal
	Profile  string // ProfileDefault, ProfileFast or ProfilePatient
	Eligible string // EngineExternal: the file that tells the engine how fit this node is, "" for the state directory's
	// Isolation is what a node does that hears no other one: IsolationKeep or IsolationRelease.
	Isolation string
	Witness   Witness
	// References are machines that are no nodes, on the links of the VIPs.
	References []netip.Addr
	// Failback is when the addresses may move back to the node of highest priority; never if it is the zero value.
	Failback Window
	// Rehearsal is when the master moves the addresses to a standby and back, once; never if it is the zero value.
	Rehearsal Window
}

// Witness is the third machine that is asked by a node that hears no other one;
// its zero value is none.
type Witness struct {
	Addr    netip.AddrPort
	KeyFile string
}

// The values of Failover.
const (
	IsolationKeep    = "keep"
	IsolationRelease = "release"

	EngineBuiltin  = "builtin"
	EngineExternal = "external" // who holds the VIPs leads; keepalived, Pacemaker or another places them
	ProfileDefault = "default"
	ProfileFast    = "fast"
	ProfilePatient = "patient"
)

// Web says where every node serves its status page; nowhere if Listen is empty.
type Web struct {
	Listen []netip.AddrPort // an unspecified address is all of the node's, of both families
	Names  []string         // in lower case: DNS names of requests that are answered, beside those that only a house has
}

// Quota is a share of a file system in percent, or bytes.
type Quota struct {
	Share int
	Bytes int64
}

// Volume is a directory tree kept the same on every node.
type Volume struct {
	Name    cluster.VolumeID
	Path    string        // absolute and clean; a node may override it, see VolumePath
	Exclude []string      // patterns of gitignore(5), in order
	Trash   time.Duration // how long overwritten and deleted files are kept on standbys
	// TrashQuota and TrashEvery bound the trash further: how much, and one version of a path in which time; zero is the default.
	TrashQuota Quota
	TrashEvery time.Duration
	Sync       string // SyncGroup or SyncFull
	OnChange   string // command for sh -c, run on every node after its files changed; "" for none
}

// When standbys show what came, and how it is made durable. What is acknowledged is durable with both.
const (
	SyncGroup = "group" // new files at once; one sync serves all that were shown since the last
	SyncFull  = "full"  // nothing before its contents are durable
)

// Service is a daemon that runs on every node.
type Service struct {
	Name     string
	Unit     string // systemd unit, "" for none
	Exec     string // command for sh -c, where there is no systemd or no unit; "" for none
	Check    Check
	Required bool // where it is ill, the node does not lead while another can
	Interval time.Duration
	Timeout  time.Duration
	Rise     int // good checks in a row that make it healthy
	Fall     int // bad checks in a row that make it ill
}

// Check is how a service is asked whether it is well.
type Check struct {
	Kind    string // one of the kinds below
	Text    string // as it is written in the file
	Address string // CheckDNS, CheckTCP: host:port
	Name    string // CheckDNS: what to ask for, with its final dot
	Type    string // CheckDNS: one of DNSTypes
	Status  int    // CheckHTTP: the one status that is well; 0: any below 400
	Command string // CheckExec: for sh -c
}

// The kinds of checks; CheckNone judges by the process alone.
const (
	CheckNone = ""
	CheckDNS  = "dns"
	CheckTCP  = "tcp"
	CheckHTTP = "http" // http:// and https://, Text is the URL
	CheckExec = "exec"
)

// Node returns the node of that name.
func (c *Config) Node(name cluster.NodeID) (*Node, bool) {
	for i := range c.Nodes {
		if c.Nodes[i].Name == name {
			return &c.Nodes[i], true
		}
	}
	return nil, false
}

// Volume returns the volume of that name.
func (c *Config) Volume(name cluster.VolumeID) (*Volume, bool) {
	for i := range c.Volumes {
		if c.Volumes[i].Name == name {
			return &c.Volumes[i], true
		}
	}
	return nil, false
}

// VolumePath is where the volume lives on that node, "" if there is no such
// volume.
func (c *Config) VolumePath(node cluster.NodeID, vol cluster.VolumeID) string {
	if n, ok := c.Node(node); ok {
		if p, ok := n.Paths[vol]; ok {
			return p
		}
	}
	if v, ok := c.Volume(vol); ok {
		return v.Path
	}
	return ""
}

// Addr is the node's address on that link.
func (n *Node) Addr(link cluster.LinkID) (netip.Addr, bool) {
	for _, l := range n.Links {
		if l.Name == link {
			return l.Addr, true
		}
	}
	return netip.Addr{}, false
}
