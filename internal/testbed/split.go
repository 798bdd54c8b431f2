package testbed

import (
	"slices"

	"revolve/internal/cluster"
)

// farName is the second segment of a link: what a switch becomes when the cable
// to the next one breaks. Who is on it hears each other, and nobody of the first.
func farName(id cluster.LinkID) string { return "b2-" + string(id) }

// Split plugs the node into the link's other segment. Its carrier stays. Mend
// brings it back.
func (n *Node) Split(link cluster.LinkID) error {
	w, err := n.wire(link)
	if err != nil {
		return err
	}
	b := n.bed
	if !slices.Contains(b.far, link) {
		if err := b.net.addBridge(farName(link)); err != nil {
			return err
		}
		b.far = append(b.far, link)
	}
	w.bridge = farName(link)
	delete(n.run.cut, link)
	n.run.far[link] = true
	return b.net.mend(w)
}

// Far reports whether the node is on the link's other segment now.
func (n *Node) Far(link cluster.LinkID) bool { return n.run != nil && n.run.far[link] }
