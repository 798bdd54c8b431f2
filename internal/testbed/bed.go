package testbed

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// selfName is the directory, in every node's own view, that shows its own disk.
// It lets one configuration serve all nodes, as on real machines.
const selfName = "self"

// Limits of one bed; MAC addresses and interface names hold one byte of each.
const (
	maxNodes = 64
	maxLinks = 8
)

// DefaultDiskSize is the size of a node's disk in bytes when NodeSpec.Disk says
// none: several copies of a Go source tree; sparse, so it costs what is written.
const DefaultDiskSize = 3 << 30

// Bed is a set of links and nodes on a stage. Its methods are not safe for
// concurrent use, except that different nodes may be used at the same time.
type Bed struct {
	stage *Stage
	net   *netlinks
	links []cluster.LinkID
	nodes []*Node
	far   []cluster.LinkID // links that have a second segment
	notes []string
}

// Disk says what a node keeps its files on.
type Disk struct {
	Size int64  // bytes; 0 = DefaultDiskSize
	FS   string // "ext4", "xfs", "btrfs" or "tmpfs"; "" = the first of these that can be had
	None bool   // no disk at all: a client
}

// Attachment is a node's address on a link.
type Attachment struct {
	Link  cluster.LinkID
	Addrs []netip.Prefix // IPv4 and IPv6
}

// NodeSpec describes a node.
type NodeSpec struct {
	ID    cluster.NodeID
	Links []Attachment
	Disk  Disk
}

// NewBed starts an empty bed on the stage.
func NewBed(stage *Stage) (*Bed, error) {
	net, err := openNetlink()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(stage.Dir, selfName), 0o755); err != nil {
		net.close()
		return nil, &problem.Problem{Op: "make directory", Subject: selfName, Kind: problem.Internal, Err: err}
	}
	b := &Bed{stage: stage, net: net}
	if stage.Mapped {
		b.note("no root: one user id, chown to others is refused")
	}
	return b, nil
}

// Self is the directory in which every node sees its own disk.
func (b *Bed) Self() string { return filepath.Join(b.stage.Dir, selfName) }

// Node returns the node with the given name, nil if there is none.
func (b *Bed) Node(id cluster.NodeID) *Node {
	i := slices.IndexFunc(b.nodes, func(n *Node) bool { return n.ID == id })
	if i < 0 {
		return nil
	}
	return b.nodes[i]
}

// Fidelity lists in what this bed is less than real machines; empty = full.
func (b *Bed) Fidelity() []string { return slices.Clone(b.notes) }

func (b *Bed) note(text string) {
	if !slices.Contains(b.notes, text) {
		b.notes = append(b.notes, text)
	}
}

// AddLink makes a link: a bridge that forwards at once and learns nothing by
// listening (no spanning tree, no multicast snooping, no forward delay).
func (b *Bed) AddLink(id cluster.LinkID) error {
	if len(b.links) == maxLinks || slices.Contains(b.links, id) || len(id) > 12 {
		return &problem.Problem{Op: "add link", Subject: string(id), Kind: problem.Invalid,
			Err: fmt.Errorf("a name of at most 12 letters, used once, at most %d links", maxLinks)}
	}
	if err := b.net.addBridge(bridgeName(id)); err != nil {
		return err
	}
	b.links = append(b.links, id)
	return nil
}

func bridgeName(id cluster.LinkID) string { return "br-" + string(id) }

// AddNode makes a node and switches it on.
func (b *Bed) AddNode(spec NodeSpec) (*Node, error) {
	if len(b.nodes) == maxNodes || b.Node(spec.ID) != nil || spec.ID == selfName {
		return nil, &problem.Problem{Op: "add node", Subject: string(spec.ID), Kind: problem.Invalid,
			Err: fmt.Errorf("a name used once, not %q, at most %d nodes", selfName, maxNodes)}
	}
	for _, at := range spec.Links {
		if !slices.Contains(b.links, at.Link) {
			return nil, &problem.Problem{Op: "add node", Subject: string(spec.ID), Kind: problem.Invalid,
				Err: fmt.Errorf("no link %q", at.Link)}
		}
	}
	n := &Node{ID: spec.ID, bed: b, spec: spec, index: len(b.nodes)}
	if !spec.Disk.None {
		d, why, err := b.stage.newDisk(spec)
		if err != nil {
			return nil, err
		}
		if why != "" {
			b.note(why)
		}
		n.disk = d
	}
	b.nodes = append(b.nodes, n)
	if err := n.PowerOn(); err != nil {
		return nil, err
	}
	return n, nil
}

// Close switches every node off and removes links and disks. What Close leaves
// undone ends with the stage.
func (b *Bed) Close() error {
	var errs []error
	for _, n := range b.nodes {
		errs = append(errs, n.remove())
	}
	for _, l := range b.links {
		errs = append(errs, b.net.remove(bridgeName(l)))
	}
	for _, l := range b.far {
		errs = append(errs, b.net.remove(farName(l)))
	}
	b.nodes, b.links, b.far = nil, nil, nil
	b.net.close()
	return errors.Join(errs...)
}
