package beat

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

// The heartbeat packet, all numbers big-endian:
//
//	 0  magic "RVB" and version 1
//	 4  length of the packet (u16), number of nodes (u8), number of links (u8)
//	 8  cluster (8 bytes of SHA-256 of its name)
//	16  sender, receiver, link (u32 each: 4 bytes of SHA-256 of the name), generation of the
//	    sender's list of members (u32)
//	32  sender's boot nonce, echo of the receiver's nonce, echo of a nonce of the
//	    receiver that is not proven yet, sequence (u64 each; the sequence is per receiver, the same on every link)
//	64  beacon, fixed part (80 bytes); at 64 of it the mark of that generation (u64)
//	144 names of the nodes (u32 each), names of the links (u32 each): the order
//	    behind every index and bitmap of this packet, so that two nodes whose
//	    configurations differ by a node still understand each other
//	    hears (u16 per link), MAC (6 bytes per link; zero if the link carries no VIP)
//	    extensions: type (u16), length (u16), value; unknown ones are skipped
//	end HMAC-SHA256 of all before it, cut to 16 bytes
const (
	magic      = 0x52564201
	headSize   = 64
	beaconSize = 80
	fixedSize  = headSize + beaconSize
	sumSize    = 16
	maxPacket  = 1200 // below every MTU in use, with room for extensions
	maxOwn     = fixedSize + 4*election.MaxNodes + 12*election.MaxLinks + sumSize
)

// verdict is what became of a received packet.
type verdict uint8

const (
	heard      verdict = iota
	malformed          // not a packet of this protocol, or damaged before the key was checked
	foreign            // another cluster, another receiver, or another link
	badMAC             // wrong key, or altered
	unknown            // a node that the configuration does not have, or a key that is not in use any more
	unechoed           // authentic, but no proof that it is not a recording: its sender does not know this node's nonce yet
	replayed           // a recording
	incredible         // a member's, with a term that cannot be true
	dropped            // by the kernel: no member can have sent it, or there was no room
	verdicts
)

func (v verdict) String() string {
	return [...]string{"heard", "malformed", "of another cluster or link", "with a wrong key", "of an unknown node",
		"without an echo", "repeated", "with incredible terms", "dropped unread"}[v]
}

// names is the order of nodes and links behind the indices, hashed.
type names struct {
	cluster uint64
	self    uint8
	nodes   []uint32
	links   []uint32
	table   []byte // nodes and links as they stand in a packet
}

func hash8(s string) uint64 {
	h := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(h[:])
}

func hash4(s string) uint32 { return uint32(hash8(s) >> 32) }

func newNames(clusterName string, self uint8, nodes []cluster.NodeID, links []cluster.LinkID) *names {
	n := &names{cluster: hash8(clusterName), self: self}
	for _, id := range nodes {
		n.nodes = append(n.nodes, hash4(string(id)))
		n.table = binary.BigEndian.AppendUint32(n.table, hash4(string(id)))
	}
	for _, id := range links {
		n.links = append(n.links, hash4(string(id)))
		n.table = binary.BigEndian.AppendUint32(n.table, hash4(string(id)))
	}
	return n
}

// packet is a received heartbeat with indices of this node's own order.
type packet struct {
	nonce, echo, echo2, seq uint64
	beacon                  election.Beacon
	macs                    [election.MaxLinks]vip.MAC

	from    uint32       // the sender's hashed name
	key     int          // which of our keys it was sealed with
	stamp   Stamp        // of the sender's list of members
	unknown bool         // the reign that it tells of is that of a node which our list does not have
	foreign cluster.Term // of that reign
}

// codec seals and opens packets. It is not safe for concurrent use, and allocates nothing.
type codec struct {
	names *names
	stamp Stamp
	macs  []hash.Hash // the key of what we send; then others that count; then retired ones
	count int         // how many of them count
	sum   [sha256.Size]byte
}

func newCodec(n *names, key [32]byte) *codec { return newKeyedCodec(n, Stamp{}, [][32]byte{key}, nil) }

// newKeyedCodec takes the keys whose packets count, the sender's own first, and
// those that are only answered.
func newKeyedCodec(n *names, stamp Stamp, keys, retired [][32]byte) *codec {
	c := &codec{names: n, stamp: stamp, count: len(keys)}
	for _, k := range slices.Concat(keys, retired) {
		c.macs = append(c.macs, hmac.New(sha256.New, k[:]))
	}
	return c
}

func (c *codec) sign(key int, b []byte) []byte {
	m := c.macs[key]
	m.Reset()
	m.Write(b)
	return m.Sum(c.sum[:0])[:sumSize]
}

// sealedWith finds the key of a packet, -1 if it is none of ours.
func (c *codec) sealedWith(body, sum []byte) int {
	for k := range c.macs {
		if hmac.Equal(c.sign(k, body), sum) {
			return k
		}
	}
	return -1
}

// head is what differs from receiver to receiver and from link to link.
type head struct {
	to, link                uint8
	nonce, echo, echo2, seq uint64
}

// seal writes a packet into buf[:0].
func (c *codec) seal(buf []byte, h head, bc *election.Beacon, macs *[election.MaxLinks]vip.MAC) []byte {
	return c.sealFor(buf, c.names.nodes[h.to], 0, h, bc, macs)
}

// sealFor is seal for any receiver, known or not, with any of our keys.
func (c *codec) sealFor(buf []byte, to uint32, key int, h head, bc *election.Beacon, macs *[election.MaxLinks]vip.MAC) []byte {
	n, be := c.names, binary.BigEndian
	b := be.AppendUint32(buf[:0], magic)
	b = append(b, 0, 0, byte(len(n.nodes)), byte(len(n.links)))
	b = be.AppendUint64(b, n.cluster)
	b = be.AppendUint32(b, n.nodes[n.self])
	b = be.AppendUint32(b, to)
	b = be.AppendUint32(b, n.links[h.link])
	b = be.AppendUint32(b, c.stamp.Generation)
	b = be.AppendUint64(b, h.nonce)
	b = be.AppendUint64(b, h.echo)
	b = be.AppendUint64(b, h.echo2)
	b = be.AppendUint64(b, h.seq)
	b = appendBeacon(b, bc, c.stamp.Mark)
	b = append(b, n.table...)
	for l := range n.links {
		b = be.AppendUint16(b, bc.Hears[l])
	}
	for l := range n.links {
		b = append(b, macs[l][:]...)
	}
	be.PutUint16(b[4:], uint16(len(b)+sumSize))
	return append(b, c.sign(key, b)...)
}

func appendBeacon(b []byte, bc *election.Beacon, mark uint64) []byte {
	be := binary.BigEndian
	b = append(b, byte(bc.Role), byte(bc.Class), bc.Quality, bc.Good, bc.Successor, bc.Reign.Owner)
	b = be.AppendUint16(b, uint16(bc.Flags))
	b = be.AppendUint16(b, bc.Priority)
	b = be.AppendUint16(b, bc.FenceMs)
	b = be.AppendUint16(b, bc.ReignAge)
	b = append(b, 0, 0)
	for _, v := range [...]uint64{uint64(bc.Reign.Term), uint64(bc.SeenTerm), uint64(bc.ClaimTerm), uint64(bc.GrantTerm),
		uint64(bc.Fresh.Term), bc.Fresh.Seq} {
		b = be.AppendUint64(b, v)
	}
	b = be.AppendUint64(b, mark)
	b = be.AppendUint16(b, bc.VIPs)
	return append(b, make([]byte, 6)...) // room for later fields
}

// open checks and reads a packet that came in on link. Only with the verdicts
// heard, unechoed and replayed, which prove decides, is p filled; open itself
// returns heard for an authentic packet of a member. With unknown, p says who
// sent it, with which key and by which list: enough to answer.
func (c *codec) open(b []byte, link uint8, p *packet) verdict {
	be, n := binary.BigEndian, c.names
	if len(b) < fixedSize+sumSize || len(b) > maxPacket || be.Uint32(b) != magic || int(be.Uint16(b[4:])) != len(b) {
		return malformed
	}
	nodes, links := int(b[6]), int(b[7])
	if nodes > election.MaxNodes || links > election.MaxLinks || len(b) < fixedSize+4*nodes+12*links+sumSize {
		return malformed
	}
	if be.Uint64(b[8:]) != n.cluster {
		return foreign
	}
	body := b[:len(b)-sumSize]
	if p.key = c.sealedWith(body, b[len(body):]); p.key < 0 {
		return badMAC
	}
	if be.Uint32(b[20:]) != n.nodes[n.self] || be.Uint32(b[24:]) != n.links[link] {
		return foreign
	}
	p.nonce, p.echo, p.echo2, p.seq = be.Uint64(b[32:]), be.Uint64(b[40:]), be.Uint64(b[48:]), be.Uint64(b[56:])
	if p.nonce == 0 {
		return malformed
	}
	p.from, p.stamp = be.Uint32(b[16:]), Stamp{be.Uint32(b[28:]), be.Uint64(b[headSize+64:])}
	from := slices.Index(n.nodes, p.from)
	if from == int(n.self) {
		return foreign // our own, or one that bears our name
	}
	known := c.readBeacon(body, nodes, links, p)
	switch {
	case !known:
		return malformed
	case from < 0 || p.key >= c.count:
		p.beacon.From = election.Nobody
		return unknown
	}
	p.beacon.From = uint8(from)
	return heard
}

func (c *codec) readBeacon(b []byte, nodes, links int, p *packet) bool {
	be, f := binary.BigEndian, b[headSize:]
	bc := &p.beacon
	*bc = election.Beacon{Role: cluster.Role(f[0]), Class: cluster.Class(f[1]), Quality: f[2],
		Flags: election.Flags(be.Uint16(f[6:])), Priority: be.Uint16(f[8:]), FenceMs: be.Uint16(f[10:]), ReignAge: be.Uint16(f[12:])}
	bc.Reign.Term = cluster.Term(be.Uint64(f[16:]))
	bc.SeenTerm, bc.ClaimTerm = cluster.Term(be.Uint64(f[24:])), cluster.Term(be.Uint64(f[32:]))
	bc.GrantTerm = cluster.Term(be.Uint64(f[40:]))
	bc.Fresh = cluster.Position{Term: cluster.Term(be.Uint64(f[48:])), Seq: be.Uint64(f[56:])}
	bc.VIPs = be.Uint16(f[72:])
	if bc.Role > cluster.Limbo || bc.Class > cluster.InSync || bc.Quality > 3 {
		return false
	}
	table := b[fixedSize : fixedSize+4*nodes+4*links]
	hears := b[fixedSize+len(table):]
	macs := hears[2*links:]
	same := nodes == len(c.names.nodes) && bytes.Equal(table, c.names.table)
	bc.Without = !same && !contains(table[:4*nodes], c.names.nodes[c.names.self])
	bc.Successor, bc.Reign.Owner = c.node(f[4], table, nodes, same), c.node(f[5], table, nodes, same)
	if p.unknown = bc.Reign.Owner == election.Nobody && bc.Reign.Term > 0; p.unknown {
		p.foreign, bc.Reign.Term = bc.Reign.Term, 0 // a reign of a node that we do not know
	}
	bc.Good, p.macs = 0, [election.MaxLinks]vip.MAC{}
	for l := range links {
		own := l
		if !same {
			own = slices.Index(c.names.links, be.Uint32(table[4*nodes+4*l:]))
		}
		if own < 0 {
			continue
		}
		bc.Hears[own] = c.nodeSet(be.Uint16(hears[2*l:]), table, nodes, same)
		copy(p.macs[own][:], macs[6*l:])
		bc.Good |= f[3] >> l & 1 << own
	}
	return true
}

// contains reports whether a packet's list of nodes has that name.
func contains(table []byte, name uint32) bool {
	for ; len(table) > 0; table = table[4:] {
		if binary.BigEndian.Uint32(table) == name {
			return true
		}
	}
	return false
}

// node translates the sender's index of a node into ours.
func (c *codec) node(i uint8, table []byte, nodes int, same bool) uint8 {
	switch {
	case int(i) >= nodes:
		return election.Nobody
	case same:
		return i
	}
	if k := slices.Index(c.names.nodes, binary.BigEndian.Uint32(table[4*int(i):])); k >= 0 {
		return uint8(k)
	}
	return election.Nobody
}

func (c *codec) nodeSet(m uint16, table []byte, nodes int, same bool) (out uint16) {
	if same {
		return m
	}
	for i := range nodes {
		if k := c.node(uint8(i), table, nodes, false); m&(1<<i) != 0 && k != election.Nobody {
			out |= 1 << k
		}
	}
	return out
}

// maxRetired bounds the remembered nonces of a peer's former lives. Only a
// recording that echoes this very life of ours could use one, so the bound is
// reached by a peer that restarts 64 times while we do not.
const maxRetired = 64

// proof is what makes a peer's packets fresh without any clock: a packet counts
// only if it echoes our nonce, which no recording of an earlier life of ours
// does, and if its sequence rises within one life of the sender.
type proof struct {
	current uint64 // nonce of the sender's proven life
	pending uint64 // a new nonce, authentic but not proven; we echo it so that it can prove itself
	seq     [election.MaxLinks]uint64
	newest  uint64 // of seq: what is below came late, over a slower link
	retired [maxRetired]uint64
	next    int
}

func (f *proof) isRetired(nonce uint64) bool { return slices.Contains(f.retired[:], nonce) }

// prove decides about an authentic packet that came in on link; own is our nonce.
func (f *proof) prove(p *packet, link uint8, own uint64) verdict {
	if p.nonce != f.current && f.isRetired(p.nonce) {
		return replayed
	}
	if p.echo != own && p.echo2 != own {
		if p.nonce != f.current {
			f.pending = p.nonce
		}
		return unechoed
	}
	if p.nonce != f.current {
		if f.current != 0 {
			f.retired[f.next%maxRetired] = f.current
			f.next++
		}
		f.current, f.seq, f.newest = p.nonce, [election.MaxLinks]uint64{}, 0
		if f.pending == p.nonce {
			f.pending = 0
		}
	}
	if p.seq <= f.seq[link] {
		return replayed
	}
	f.seq[link], f.newest = p.seq, max(f.newest, p.seq)
	return heard
}
