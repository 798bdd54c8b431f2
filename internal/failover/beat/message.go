package beat

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/problem"
)

// Messages between the agent and its beat process, one per datagram of the
// socketpair; the first byte is the kind.
const (
	msgConfig = 'C' // JSON of Config, first; again when the members change
	msgWord   = 'W' // election.Word, fixed size: ten of them come in every second
	msgStop   = 'S' // end in order
	msgReport = 'R' // JSON of Report
	msgFailed = 'E' // text: why the process ends

	wordSize   = 1 + 2 + 8*6 + 1
	maxMessage = 128 << 10 // a report of 16 nodes with 8 links is 20 KiB
)

// layout is the order of nodes and links behind all indices: sorted, so that
// every node that reads the same configuration has the same one.
type layout struct {
	nodes []cluster.NodeID
	links []cluster.LinkID
	self  uint8
}

func newLayout(c *Config) (*layout, error) {
	y := &layout{}
	for _, n := range c.Nodes {
		y.nodes = append(y.nodes, n.ID)
		for _, l := range n.Links {
			y.links = append(y.links, l.ID)
		}
	}
	slices.Sort(y.nodes)
	slices.Sort(y.links)
	y.links = slices.Compact(y.links)
	var wrong []string
	if len(y.nodes) > election.MaxNodes || len(y.links) > election.MaxLinks || len(y.nodes) == 0 {
		wrong = append(wrong, fmt.Sprintf("%d nodes and %d links; at least 1 node, at most %d and %d are possible", len(y.nodes), len(y.links), election.MaxNodes, election.MaxLinks))
	}
	if len(slices.Compact(slices.Clone(y.nodes))) != len(y.nodes) {
		wrong = append(wrong, "a node is listed twice")
	}
	self := slices.Index(y.nodes, c.Self)
	if self < 0 {
		wrong = append(wrong, fmt.Sprintf("node %q is not in the list", c.Self))
	}
	if w := c.Timers.Wrong(); w != "" {
		wrong = append(wrong, w)
	}
	if c.External && (len(c.VIPs) == 0 || len(c.VIPs) > maxSeen) {
		wrong = append(wrong, fmt.Sprintf("%d VIPs; an external engine needs at least one to be watched, at most %d", len(c.VIPs), maxSeen))
	}
	for _, v := range c.VIPs {
		if !slices.Contains(y.links, v.Link) || !v.Prefix.IsValid() {
			wrong = append(wrong, fmt.Sprintf("VIP %v on link %q", v.Prefix, v.Link))
		}
	}
	if wrong != nil {
		return nil, &problem.Problem{Op: "read the cluster", Kind: problem.Invalid, Subject: c.Cluster, Err: errors.New(strings.Join(wrong, "; "))}
	}
	y.self = uint8(self)
	return y, nil
}

func (y *layout) node(id cluster.NodeID) uint8 {
	if i := slices.Index(y.nodes, id); i >= 0 {
		return uint8(i)
	}
	return election.Nobody
}

func (y *layout) name(i uint8) cluster.NodeID {
	if int(i) < len(y.nodes) {
		return y.nodes[i]
	}
	return ""
}

// election is the configuration in the indices of the pure package.
func (y *layout) election(c *Config) (election.Config, election.Boot) {
	e := election.Config{Self: y.self, Count: uint8(len(y.nodes)), Timers: c.Timers, External: c.External,
		Isolation: c.Isolation, Witness: c.Witness != nil}
	if c.External {
		e.VIPs = uint16(1<<len(c.VIPs) - 1)
	}
	for _, n := range c.Nodes {
		e.Members[y.node(n.ID)] = election.Member{Candidate: n.Candidate, OnDemand: n.OnDemand, Priority: uint16(max(0, min(n.Priority, 65535)))}
	}
	for _, v := range c.VIPs {
		e.VIPLinks |= 1 << slices.Index(y.links, v.Link)
	}
	b := election.Boot{SeenTerm: c.Boot.SeenTerm, Reserved: c.Boot.Reserved, Virgin: c.Boot.Virgin}
	for _, id := range c.Boot.MaybeFresher {
		if i := y.node(id); i != election.Nobody && i != y.self {
			b.MaybeFresher |= 1 << i
		}
	}
	return e, b
}

// codec is for the packets of c, in this order of nodes and links.
func (y *layout) codec(c *Config) *codec {
	return newKeyedCodec(newNames(c.Cluster, y.self, y.nodes, y.links), c.Stamp, append([][32]byte{c.Key}, c.Accept...), c.Retired)
}

// vips are the floating addresses without their prefix lengths.
func (c *Config) vips() (out []netip.Addr) {
	for _, v := range c.VIPs {
		out = append(out, v.Prefix.Addr())
	}
	return out
}

// appendWord writes w as the child reads it.
func (y *layout) appendWord(b []byte, w *Word) []byte {
	be := binary.BigEndian
	flags := byte(0)
	if w.Maintenance {
		flags |= 1
	}
	if w.Hold {
		flags |= 2
	}
	if w.Ill {
		flags |= 4
	}
	if w.Asking {
		flags |= 8
	}
	if w.Unfit {
		flags |= 16
	}
	if w.Wish {
		flags |= 32
	}
	b = append(b, msgWord, byte(w.Class), flags)
	for _, v := range [...]uint64{uint64(w.Fresh.Term), w.Fresh.Seq, uint64(w.Reserved), w.Switch.ID, w.Flushed, 0} {
		b = be.AppendUint64(b, v)
	}
	return append(b, y.node(w.Switch.To))
}

// readWord reads what appendWord wrote.
func readWord(b []byte) (w election.Word, ok bool) {
	if len(b) != wordSize || b[0] != msgWord || b[1] > byte(cluster.InSync) {
		return w, false
	}
	be := binary.BigEndian
	w.Class, w.Maintenance, w.Hold = cluster.Class(b[1]), b[2]&1 != 0, b[2]&2 != 0
	w.Ill, w.Asking, w.Unfit = b[2]&4 != 0, b[2]&8 != 0, b[2]&16 != 0
	w.Wish = b[2]&32 != 0
	w.Fresh = cluster.Position{Term: cluster.Term(be.Uint64(b[3:])), Seq: be.Uint64(b[11:])}
	w.Reserved = cluster.Term(be.Uint64(b[19:]))
	w.Switch = election.Switch{ID: be.Uint64(b[27:]), To: b[51]}
	w.Flushed = be.Uint64(b[35:])
	return w, true
}

// appendJSON writes a message of kind with v as its body.
func appendJSON(kind byte, v any) ([]byte, error) {
	j, err := json.Marshal(v)
	if err == nil && len(j) >= maxMessage {
		err = fmt.Errorf("message of %d bytes", len(j))
	}
	return append([]byte{kind}, j...), err
}
