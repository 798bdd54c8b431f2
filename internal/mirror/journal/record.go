// Package journal keeps, durably and in order, what changed in one volume: on
// the master what the watcher saw, on a standby what it applied. From it any
// node can serve any other node that stopped somewhere in its history.
//
// It holds paths, renames and removals, never contents: content is read when it
// is sent, so an absent standby costs paths and not bytes. It is bounded: when
// it is full the oldest segment goes, and who needs more compares trees.
//
// On disk: a directory of segments named by number. A segment starts with a
// head record that holds all state before it (history, owed paths), so any
// segment can be replayed alone. Records carry a CRC32C; the first bad one in
// the last segment ends the journal (that is where power was lost).
//
//	j, opened, err := journal.Open(dir)
//	err = j.Append(journal.Record{Kind: journal.Dirty, Pos: j.Next(), Path: "a/b"})
//	err = j.Sync()
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
)

// Kind is the type of a record.
type Kind byte

// The kinds of records. Dirty to Renamed are changes and have a position.
const (
	Dirty   Kind = 1  // the state of Path may have changed
	Tree    Kind = 2  // the state of Path and everything below may have changed
	Removed Kind = 3  // Path went away
	Renamed Kind = 4  // Old became Path
	Begun   Kind = 5  // a reign begins: Reign
	Owe     Kind = 6  // Path is owed (ID, and Tree when Below)
	Paid    Kind = 7  // Path is not owed any more (Below: a whole tree)
	head    Kind = 8  // first record of a segment
	Durable Kind = 9  // the files of every change up to Pos are on the disk (a master's own writes are not, when they are journaled)
	Ahead   Kind = 12 // Path is about to be visible, and not known to be durable; ID is the flight that makes it so, 0 if it is before it is visible, Pos.Seq 1 more than its size, 0: not told; Looks
	Landed  Kind = 13 // everything of flights up to ID is durable, and everything else that was published before At
)

// IsChange reports whether records of this kind have a position.
func (k Kind) IsChange() bool { return k >= Dirty && k <= Renamed }

// Record is one entry of the journal.
type Record struct {
	Kind  Kind
	Pos   cluster.Position // changes
	Path  string
	Old   string        // Renamed
	Reign cluster.Reign // Begun
	ID    uint64        // Owe, Ahead, Landed
	At    int64         // Landed: ns since the epoch, by this node's clock
	Looks uint32        // Ahead: a sum of the inode that becomes visible, as the applier makes it (apply.Looks); 0: not told
	Below bool          // Owe, Paid, Tree: inferred absences below are not to be deleted (Tree); Dirty: whoever has something else there keeps it

	*heading // head
}

// heading is what the first record of a segment says of all before it. It is
// apart from the others: a source holds 200,000 records for one follower.
type heading struct {
	history reconcile.History
	owed    []reconcile.Debt
	durable cluster.Position
	landed  int64 // At of the last Landed that counts
	fresh   bool  // segments before this one are void
}

// maxRecord bounds a record on disk: a head with a full history and every
// owed path (maxHead, reconcile.MaxSpans) stays below it.
const maxRecord = 64 << 20

var (
	errTorn    = errors.New("journal: torn or damaged record")
	castagnoli = crc32.MakeTable(crc32.Castagnoli) //tidy:constant a table that is never written
)

const frameHeader = 8 // length and CRC32C

// appendRecord encodes r behind b: length, CRC32C, payload.
func appendRecord(b []byte, r Record) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, byte(r.Kind))
	switch r.Kind {
	case Begun:
		b = appendReign(b, r.Reign)
	case head:
		b = appendHead(b, r)
	case Landed:
		b = binary.AppendUvarint(b, r.ID)
		b = binary.AppendUvarint(b, uint64(r.At))
	default:
		if r.Kind == Ahead { // it has no position
			r.Pos.Term = cluster.Term(r.Looks)
		}
		b = binary.AppendUvarint(b, uint64(r.Pos.Term))
		b = binary.AppendUvarint(b, r.Pos.Seq)
		b = appendString(b, r.Path)
		b = appendString(b, r.Old)
		b = binary.AppendUvarint(b, r.ID)
		b = append(b, boolByte(r.Below))
	}
	payload := b[start+frameHeader:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(payload, castagnoli))
	return b
}

func appendHead(b []byte, r Record) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.history)))
	for _, s := range r.history {
		b = appendReign(b, s.Reign)
		b = binary.AppendUvarint(b, s.Last)
	}
	b = binary.AppendUvarint(b, uint64(len(r.owed)))
	for _, d := range r.owed {
		b = appendString(b, d.Path)
		b = binary.AppendUvarint(b, d.ID)
		b = append(b, boolByte(d.Tree))
	}
	b = binary.AppendUvarint(b, uint64(r.durable.Term))
	b = binary.AppendUvarint(b, r.durable.Seq)
	b = append(b, boolByte(r.fresh))
	return binary.AppendUvarint(b, uint64(r.landed))
}

func appendReign(b []byte, r cluster.Reign) []byte {
	b = binary.AppendUvarint(b, uint64(r.Term))
	return appendString(b, string(r.Owner))
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// decodeFrame splits the first record off b. It returns errTorn if b does not
// start with a whole, undamaged record.
func decodeFrame(b []byte) (r Record, size int, err error) {
	if len(b) < frameHeader {
		return r, 0, errTorn
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n == 0 || n > maxRecord || len(b)-frameHeader < n {
		return r, 0, errTorn
	}
	payload := b[frameHeader : frameHeader+n]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return r, 0, errTorn
	}
	r, err = decodePayload(payload)
	return r, frameHeader + n, err
}

func decodePayload(b []byte) (Record, error) {
	d := decoder{b: b[1:]}
	r := Record{Kind: Kind(b[0])}
	switch {
	case r.Kind == Begun:
		r.Reign = d.reign()
	case r.Kind == head:
		r.heading = &heading{}
		for range d.count() {
			r.history = append(r.history, reconcile.Span{Reign: d.reign(), Last: d.uint()})
		}
		for range d.count() {
			r.owed = append(r.owed, reconcile.Debt{Path: d.string(), ID: d.uint(), Tree: d.bool()})
		}
		r.durable = cluster.Position{Term: cluster.Term(d.uint()), Seq: d.uint()}
		r.fresh = d.bool()
		if len(d.b) > 0 { // heads of earlier versions end here
			r.landed = int64(d.uint())
		}
	case r.Kind == Landed:
		r.ID, r.At = d.uint(), int64(d.uint())
	case r.Kind.IsChange() || r.Kind == Owe || r.Kind == Paid || r.Kind == Durable || r.Kind == Ahead:
		r.Pos = cluster.Position{Term: cluster.Term(d.uint()), Seq: d.uint()}
		r.Path, r.Old, r.ID, r.Below = d.string(), d.string(), d.uint(), d.bool()
		if r.Kind == Ahead {
			r.Looks, r.Pos.Term = uint32(r.Pos.Term), 0
		}
	default:
		return r, fmt.Errorf("journal: unknown record kind %d", b[0])
	}
	if d.bad || len(d.b) != 0 {
		return r, fmt.Errorf("journal: malformed record of kind %d", b[0])
	}
	return r, nil
}

// decoder reads a payload; bad sticks after the first violation.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count is the length of a list; every element takes at least one byte, which bounds it.
func (d *decoder) count() uint64 {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return n
}

func (d *decoder) string() string {
	n := d.count()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) bool() bool {
	if len(d.b) == 0 || d.b[0] > 1 {
		d.bad, d.b = true, nil
		return false
	}
	v := d.b[0] == 1
	d.b = d.b[1:]
	return v
}

func (d *decoder) reign() cluster.Reign {
	return cluster.Reign{Term: cluster.Term(d.uint()), Owner: cluster.NodeID(d.string())}
}
