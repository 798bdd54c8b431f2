// Package setup makes the first configuration of a cluster out of a handful of
// answers: it proposes each from what a machine has, checks it, and writes the
// file with a comment for every key. PURE: it never looks at a machine, asks
// nobody and writes no file; internal/setup/survey looks, internal/cli asks and writes.
//
// Answers that are typed one after the other and those that come as flags go the same way:
//
//	f := setup.New(machine)
//	for _, topic := range f.Missing() {
//		text := f.Propose(topic, nil).Text
//		err := f.Take(topic, text, setup.Facts{})
//	}
//	text := f.Answers.File()
package setup

import (
	"net/netip"
	"slices"
)

// Machine is what was found on one.
type Machine struct {
	Host        string // its own name
	State       string // where the node will keep its identity and journal
	Cards       []Card
	Filesystems []Filesystem
	Gateways    []netip.Addr // of the default routes
}

// Card is a network interface.
type Card struct {
	Name    string
	Kind    string // as the kernel calls it: device, bridge, bond, veth, tun, ...
	MTU     int    // bytes
	Carrier bool
	Loop    bool
	Port    bool // it belongs to a bridge or a bond, which has the addresses
	NoARP   bool // nobody can ask on it who has an address
	Default int  // how far its default route is, from 1; 0 if it has none
	Addrs   []CardAddr
}

// CardAddr is an address of a card that others can reach.
type CardAddr struct {
	netip.Prefix
	Leased bool // it was given for a time, by DHCP or a router's announcement
}

// Filesystem is one that is mounted. Free and Reflink are known of those on disks only.
type Filesystem struct {
	At, Kind, Source string
	Free             uint64 // bytes
	Reflink          bool   // files can share blocks
	ReadOnly         bool
}

// Topic is one thing that must be known, in the order in which it is asked for.
type Topic int

// The topics. An answer is checked against those before it.
const (
	Cluster Topic = iota
	Node
	Interface
	VIP
	Directory
	Others // one machine each time; there may be none
)

// Topics are all of them.
func Topics() []Topic { return []Topic{Cluster, Node, Interface, VIP, Directory, Others} }

// Flag is the topic's flag on the command line.
func (t Topic) Flag() string {
	return []string{"--cluster", "--node", "--interface", "--vip", "--volume", "--other"}[t]
}

// Form is what its flag takes.
func (t Topic) Form() string {
	return []string{"NAME", "NAME", "CARD", "ADDRESS", "PATH", "NAME=ADDRESS"}[t]
}

// Question is how a person is asked.
func (t Topic) Question() string {
	return []string{
		"Name of the cluster",
		"Name of this node",
		"Interface that carries the floating address",
		"Floating address, a free one that no router gives out",
		"Directory that is kept the same on every node",
		"Another node, NAME=ADDRESS (nothing: no more)",
	}[t]
}

// Answers are what the file is made of.
type Answers struct {
	Cluster string
	Node    string
	Card    string
	Address CardAddr // this node's own, on the card
	VIP     netip.Prefix
	Volume  string
	Path    string
	Others  []Other
}

// Other is another node.
type Other struct {
	Name string
	Addr netip.Addr
}

// Facts are what the host has to find out about one answer before it is taken.
type Facts struct {
	Holder string // of a floating address: the card that answers for it; "" if none does
	Place  Place  // of a directory
}

// Place is what a path is on a machine.
type Place struct {
	Real   string // without symbolic links, as far as it exists
	Exists bool
	Dir    bool
	Parent bool // the directory that it is to be made in exists
}

// Form is the answers so far, of one machine.
type Form struct {
	Machine Machine
	Answers Answers

	known map[Topic]bool
	real  string // the directory without symbolic links
}

// New is a form without answers.
func New(m Machine) *Form { return &Form{Machine: m, known: map[Topic]bool{}} }

// Missing are the topics without an answer that need one.
func (f *Form) Missing() []Topic {
	return slices.DeleteFunc(Topics(), func(t Topic) bool { return t == Others || f.known[t] })
}

// Mistake is an answer that cannot be taken.
type Mistake struct {
	What  string // is wrong
	Right string // what would be right
}

// Error is both, as one line.
func (m *Mistake) Error() string { return m.What + ": " + m.Right }
