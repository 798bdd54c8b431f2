package witness

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"revolve/internal/failover/election"
)

// Question and answer, all numbers big-endian, of one size, so that a forged
// sender gains nothing from being answered:
//
//	  0  magic "RVW" and version 1
//	  4  kind (u8), flags of a question (u8), T_dead of the sender in ms (u16)
//	  8  name of the cluster, name of the node (32 bytes each, padded with zeros)
//	 72  life of the asking process, number of the question in it, challenge (u64 each)
//	 96  name of the node that has the lease (an answer's; 32 bytes)
//	128  HMAC-SHA256 of all before it, cut to 16 bytes
//
// An answer repeats cluster, node, life and number of its question: together
// they are the nonce by which it is known to be no recording. A question changes
// something only if its number is higher than every one before of its life, and a
// life begins only with the challenge that this witness has drawn for it.
const (
	magic    = 0x52565701
	nameSize = 32
	bodySize = 128
	sumSize  = 16

	// Size is that of every packet, in bytes.
	Size = bodySize + sumSize
)

// Kind is the kind of a packet. The numbers travel on the wire and never change.
type Kind uint8

// The kinds: three of questions, three of answers.
const (
	Ask  Kind = 1 // may I lead? If so, keep the others out for T_dead
	Peek Kind = 2 // ... might I? It changes nothing
	Give Kind = 3 // I do not lead any more; nobody need wait for me

	Granted Kind = 0x81 // you may; after a Peek: you might
	Refused Kind = 0x82 // another one may, or nobody may yet
	Prove   Kind = 0x83 // ask again, with this challenge: your question may be a recording
)

// Name is a name as it travels, padded with zeros.
type Name [nameSize]byte

// NameOf is s as it travels. Names of the configuration have at most 32 bytes.
func NameOf(s string) (n Name) {
	copy(n[:], s)
	return n
}

// String is the name without its padding.
func (n Name) String() string {
	for i, b := range n {
		if b == 0 {
			return string(n[:i])
		}
	}
	return string(n[:])
}

// Packet is a question or an answer.
type Packet struct {
	Kind          Kind
	Leads         bool          // of an Ask: its sender is master already
	Dead          election.Time // T_dead of the sender, in whole ms
	Cluster, Node Name
	Life, Seq     uint64
	Challenge     uint64 // of a question: the last that was heard; of an answer: the one to begin a life with
	Holder        Name   // of an answer: who has the lease; empty if nobody has
}

// Answers reports whether p is an answer to the question q.
func (p *Packet) Answers(q *Packet) bool {
	return p.Kind >= Granted && p.Cluster == q.Cluster && p.Node == q.Node && p.Life == q.Life && p.Seq == q.Seq
}

// Codec seals and opens packets with one of several keys. It is not safe for
// concurrent use, and allocates nothing after NewCodec.
type Codec struct {
	macs []hash.Hash
	sum  [sha256.Size]byte
}

// NewCodec takes the keys that count; packets are sealed with the first unless another is named.
func NewCodec(keys ...Key) *Codec {
	c := &Codec{}
	for _, k := range keys {
		c.macs = append(c.macs, hmac.New(sha256.New, k[:]))
	}
	return c
}

func (c *Codec) sign(key int, body []byte) []byte {
	m := c.macs[key]
	m.Reset()
	m.Write(body)
	return m.Sum(c.sum[:0])[:sumSize]
}

// Seal writes p into buf[:0], which has room for Size bytes, with the key of that number.
func (c *Codec) Seal(buf []byte, key int, p *Packet) []byte {
	be := binary.BigEndian
	flags := byte(0)
	if p.Leads {
		flags = 1
	}
	b := be.AppendUint32(buf[:0], magic)
	b = append(b, byte(p.Kind), flags)
	b = be.AppendUint16(b, uint16(p.Dead/election.Millisecond))
	b = append(append(b, p.Cluster[:]...), p.Node[:]...)
	b = be.AppendUint64(be.AppendUint64(be.AppendUint64(b, p.Life), p.Seq), p.Challenge)
	b = append(b, p.Holder[:]...)
	return append(b, c.sign(key, b)...)
}

// form is what can be seen of a packet without a key: 0 is nothing that anybody
// who follows this protocol would send.
func form(b []byte) Kind {
	if len(b) != Size || binary.BigEndian.Uint32(b) != magic {
		return 0
	}
	switch k := Kind(b[4]); k {
	case Ask, Peek, Give, Granted, Refused, Prove:
		return k
	}
	return 0
}

// Open reads b into p and says with which key it is sealed; ok is false for
// everything that no holder of a key can have sent.
func (c *Codec) Open(b []byte, p *Packet) (key int, ok bool) {
	if form(b) == 0 {
		return 0, false
	}
	body, sum := b[:bodySize], b[bodySize:]
	for key = range c.macs {
		if hmac.Equal(c.sign(key, body), sum) {
			p.read(body)
			return key, p.Life != 0 && p.Cluster[0] != 0 && p.Node[0] != 0
		}
	}
	return 0, false
}

func (p *Packet) read(b []byte) {
	be := binary.BigEndian
	p.Kind, p.Leads, p.Dead = Kind(b[4]), b[5]&1 != 0, election.Time(be.Uint16(b[6:]))*election.Millisecond
	p.Cluster, p.Node = Name(b[8:40]), Name(b[40:72])
	p.Life, p.Seq, p.Challenge = be.Uint64(b[72:]), be.Uint64(b[80:]), be.Uint64(b[88:])
	p.Holder = Name(b[96:128])
}
