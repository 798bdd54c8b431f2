// Package wire is the language that the nodes of a mirror speak over a peer
// connection: what a frame of each kind holds, and its limits.
//
// It encodes and decodes; it never does I/O and trusts nothing: every path is
// checked, every list bounded.
//
// A follower opens a connection with Hello and gets Welcome or Refuse. It does
// what Welcome's plan says and answers Ready. From then on the source sends Op
// frames closed by Batch, List frames where trees must be compared, and Ping;
// the follower answers Ack, Wants and Compared. Large files travel on a second
// connection as Bulk frames.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
)

// The services that a connection is opened for.
const (
	ServiceFollow = "mirror"        // a standby follows the master
	ServiceBulk   = "mirror-bulk"   // its second connection
	ServiceVerify = "mirror-verify" // a master proves that a standby has the same
	ServicePull   = "mirror-pull"   // a new master takes what a survivor has above its position
)

// Frame kinds. The numbers never change.
const (
	FrameHello    byte = 1  // JSON Hello, follower -> source
	FrameWelcome  byte = 2  // JSON Welcome, source -> follower
	FrameReady    byte = 3  // JSON Ready, follower -> source
	FrameRefuse   byte = 4  // JSON Refuse, either way
	FrameOp       byte = 10 // Op
	FrameBatch    byte = 11 // Batch
	FrameAck      byte = 12 // Ack
	FrameWants    byte = 13 // JSON Wants
	FrameList     byte = 14 // List
	FrameTreeEnd  byte = 15 // 8 bytes: job
	FrameCompared byte = 16 // JSON Compared
	FramePing     byte = 17 // JSON Ping
	FrameSaid     byte = 19 // JSON Said, follower -> source
	FrameEnd      byte = 18 // nothing: the source has sent all (pull)
	FrameBulkData byte = 20 // 8 bytes id, data
	FrameBulkDone byte = 21 // an Op of kind File without data: commit transfer ID
	FrameBulkGone byte = 22 // 8 bytes id: the file was not there or did not stand still; asked for again later
	FrameBulkHole byte = 23 // 8 bytes id, 8 bytes length: a hole
	FrameBulkBase byte = 24 // 8 bytes id, 8 bytes size, 8 bytes time: what follows is told against the follower's file of that size and time
	FrameBulkKeep byte = 25 // 8 bytes id, 8 bytes length: as in that file
)

const (
	// InlineMax is the largest file that travels in an Op; larger ones use the second connection, so that small never waits behind large.
	InlineMax = 256 << 10
	// DeltaLeast is the size from which on only what changed in a file is sent, where that can be told; smaller ones are sent as fast.
	DeltaLeast = 4 << 20
	// BulkChunk is how much of a large file one frame carries.
	BulkChunk = 512 << 10
	// ListMax is how many entries one List frame carries: 1,000 names of 255 bytes fit a frame.
	ListMax = 1000
	// ListBytes is about how large a List frame gets; one entry more fits a frame.
	ListBytes = 512 << 10
)

// Hello opens a connection of a follower (or of a pulling master).
type Hello struct {
	Volume  cluster.VolumeID  `json:"volume"`
	Reign   cluster.Reign     `json:"reign"` // the reign that the caller knows: follow it, or pull in its name
	History reconcile.History `json:"history"`
}

// Welcome answers Hello.
type Welcome struct {
	Reign   cluster.Reign     `json:"reign"`
	History reconcile.History `json:"history"`
	Plan    reconcile.Plan    `json:"plan"`
}

// Check refuses paths that lead out of the volume or into revolve's own directory.
func (r *Ready) Check() error {
	for _, d := range r.Owed {
		if err := checkPath(string(d.Path)); err != nil {
			return err
		}
		if len(d.Sum) != 0 && (len(d.Sum) != SumSize || d.Tree) {
			return errMalformed
		}
	}
	return nil
}

// Ready says that the plan's first part is done, what is still owed, and from where to go on.
type Ready struct {
	From cluster.Position `json:"from"`
	Owed []Debt           `json:"owed,omitempty"`
	// Unknown: what only the follower has is explained by no history, although the plan thought so; keep it.
	Unknown bool `json:"unknown,omitempty"`
}

// Debt is a path that is owed; bytes, because names need not be UTF-8.
type Debt struct {
	Path []byte `json:"path"`
	Tree bool   `json:"tree,omitempty"`
	// Sum is that of the small file which the follower has there (SumOf). If the source's is the same it answers with OpSame;
	// earlier releases send the file.
	Sum []byte `json:"sum,omitempty"`
}

// Refuse ends a connection with its reason; Kind is a problem.Kind.
type Refuse struct {
	Kind   uint8        `json:"kind"`
	Reason string       `json:"reason"`
	Term   cluster.Term `json:"term,omitempty"` // the highest term that the refusing side has seen
}

// Wants asks for paths. As an answer to a List (Job set) there is exactly one
// per List, so that both sides can bound what is under way.
type Wants struct {
	Job   uint64   `json:"job,omitempty"`
	Dir   []byte   `json:"dir,omitempty"` // bytes: names need not be UTF-8
	Names [][]byte `json:"names,omitempty"`
	// Sums are, in an answer to a List, what the files of Names hold here (BLAKE3), empty for those that are needed in any case. What is
	// the same there need not come; a source that does not know this sends all.
	Sums  [][]byte `json:"sums,omitempty"`
	Trees [][]byte `json:"trees,omitempty"` // paths below which everything is to be compared
	IDs   []uint64 `json:"ids,omitempty"`   // transfers offered by Defer that are needed
	Have  []Have   `json:"have,omitempty"`  // what is there now where some of them will be
}

// Have is the version of a large file that a follower has: what changed since may be enough.
type Have struct {
	ID     uint64 `json:"id"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime"`            // ns since the epoch
	Origin uint64 `json:"origin,omitempty"` // the source's number of the inode that it came from; 0: not known
}

// Check refuses paths that lead out of the volume or into revolve's own directory.
func (w *Wants) Check() error {
	if len(w.Have) > len(w.IDs) || len(w.Sums) > 0 && len(w.Sums) != len(w.Names) {
		return errMalformed
	}
	for _, p := range w.Trees {
		if err := checkPath(string(p)); err != nil {
			return err
		}
	}
	for _, name := range w.Names {
		if err := checkPath(tree.Join(string(w.Dir), string(name))); err != nil {
			return err
		}
	}
	return nil
}

// Compared ends a comparison on the follower's side.
type Compared struct {
	Job    uint64   `json:"job"`
	Absent int      `json:"absent,omitempty"` // names here that the source does not have and that were left alone
	Sample [][]byte `json:"sample,omitempty"`
}

// Said is what a follower says of itself, for whoever looks at the cluster from
// another node: the source passes it on and acts on none of it.
type Said struct {
	Divergent int      `json:"divergent,omitempty"` // changes kept aside there
	Alarm     string   `json:"alarm,omitempty"`
	Absent    int      `json:"absent,omitempty"` // names that it keeps although they were not found on the source (promise P6)
	Sample    [][]byte `json:"sample,omitempty"` // some of them
}

const (
	// MaxAlarm bounds the text of an alarm: a sentence per pinned slot, and more than a few say nothing new.
	MaxAlarm = 1000
	// MaxSample bounds the absent names that are told by name.
	MaxSample = 5
	// MaxSampled is the longest of them: what every standby says goes to every other in one frame.
	MaxSampled = 120
)

// Check refuses what is no sentence.
func (s *Said) Check() error {
	if s.Divergent < 0 || s.Absent < 0 || len(s.Alarm) > MaxAlarm || len(s.Sample) > MaxSample {
		return fmt.Errorf("said: %w", errMalformed)
	}
	for _, name := range s.Sample {
		if len(name) > MaxSampled {
			return fmt.Errorf("said: a name of %d bytes: %w", len(name), errMalformed)
		}
	}
	return nil
}

// Ping tells a follower where the master stands.
type Ping struct {
	Head   cluster.Position `json:"head"`
	LagMS  int64            `json:"lag_ms"`
	InSync bool             `json:"in_sync"`
	Report json.RawMessage  `json:"report,omitempty"` // the master's view of all standbys
}

// OpKind is what an Op does.
type OpKind byte

// The kinds of operations.
const (
	OpFile    OpKind = 1  // a whole small file
	OpDir     OpKind = 2  // a directory with its metadata
	OpSymlink OpKind = 3  // a symbolic link
	OpRename  OpKind = 4  // Old becomes Path
	OpRemove  OpKind = 5  // Path is gone
	OpDefer   OpKind = 6  // Path's content follows as transfer ID (0: when it has a name again; Flag: what is there may be nowhere else, and is kept if something else comes)
	OpDirTime OpKind = 7  // set the directory's time again, after what happened in it
	OpTree    OpKind = 8  // a comparison of the tree at Path begins (Flag: leave inferred absences alone; outside of the sequence: it is made when there is a moment, and the source follows it through its renames)
	OpPaid    OpKind = 9  // the tree at Path is complete
	OpBegun   OpKind = 10 // reign ID (term) of Old (owner) begins
	OpNone    OpKind = 11 // nothing to do, but the position goes on
	OpNode    OpKind = 12 // a device, FIFO or socket
	OpGroup   OpKind = 13 // Path and Names are one inode: How says where its content is
	OpSame    OpKind = 14 // the file that the follower told the sum of is right
	opLast           = OpSame
)

// Op is one operation. Seq is its sequence in the source's journal, 0 if it is
// an answer outside of it.
type Op struct {
	Kind      OpKind
	Seq       uint64
	Path, Old string
	ID        uint64
	Flag      bool // OpTree: see there; OpFile, OpGroup: it has holes
	Meta      tree.Meta
	Names     []string // OpGroup: the other names of the inode at Path
	How       How      // OpGroup
	Data      []byte
}

// How says what an OpGroup brings of its inode's content.
type How byte

// The ways in which an OpGroup brings content.
const (
	GroupData  How = 1 // Data is all of it
	GroupOffer How = 2 // it follows as transfer ID if it is wanted
	GroupNames How = 3 // none: one of the names is expected to have it; if none has, the follower asks
)

const (
	// GroupMax is how many other names one OpGroup tells. A larger group is told in several, each with one name that the others have, too.
	GroupMax = 4096
	// GroupBytes is how long those names are together: with 256 KiB of data and 128 KiB of attributes they fit a frame.
	GroupBytes = 256 << 10
)

var errMalformed = errors.New("malformed frame")

// Append encodes the op without its data, which follows as the frame's rest.
func (o *Op) Append(b []byte) []byte {
	b = append(b, byte(o.Kind), flag(o.Flag))
	b = binary.AppendUvarint(b, o.Seq)
	b = appendString(b, o.Path)
	b = appendString(b, o.Old)
	b = binary.AppendUvarint(b, o.ID)
	b = appendMeta(b, o.Meta)
	if o.Kind != OpGroup {
		return b
	}
	b = append(b, byte(o.How))
	b = binary.AppendUvarint(b, uint64(len(o.Names)))
	for _, name := range o.Names {
		b = appendString(b, name)
	}
	return b
}

func appendMeta(b []byte, m tree.Meta) []byte {
	b = append(b, byte(m.Kind))
	if m.Kind == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(m.Mode))
	b = binary.AppendUvarint(b, uint64(m.UID))
	b = binary.AppendUvarint(b, uint64(m.GID))
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = binary.AppendVarint(b, m.MTime)
	b = binary.AppendUvarint(b, numberOf(m))
	b = appendString(b, m.Target)
	b = appendString(b, m.Xattrs)
	return binary.AppendUvarint(b, m.Group)
}

// numberOf is what the number in an inode's metadata says: of a file, where it comes from (a node that does not
// know this takes it for a device's number, and looks at that of devices only).
func numberOf(m tree.Meta) uint64 {
	if m.Kind == tree.File {
		return m.Origin
	}
	return m.Rdev
}

// DecodeOp decodes an op; its Data aliases b.
func DecodeOp(b []byte) (Op, error) {
	d := decoder{b: b}
	o := Op{Kind: OpKind(d.byte()), Flag: d.bool(), Seq: d.uint(), Path: d.string(), Old: d.string(), ID: d.uint(), Meta: d.meta()}
	if o.Kind == OpGroup {
		o.How, o.Names = How(d.byte()), d.names()
	}
	o.Data = d.b
	if d.bad || o.Kind == 0 || o.Kind > opLast {
		return o, fmt.Errorf("op: %w", errMalformed)
	}
	if o.Kind == OpBegun {
		return o, nil
	}
	if err := errors.Join(checkPath(o.Path), checkPath(o.Old)); err != nil {
		return o, err
	}
	if o.Path == "" && o.Kind != OpTree && o.Kind != OpPaid && o.Kind != OpDirTime && o.Kind != OpDir && o.Kind != OpNone {
		return o, fmt.Errorf("op %d on the root: %w", o.Kind, errMalformed)
	}
	if o.Kind == OpRename && o.Old == "" {
		return o, fmt.Errorf("rename of the root: %w", errMalformed)
	}
	if o.Kind == OpFile && (o.Meta.Kind != tree.File || o.Meta.Size < 0) {
		return o, fmt.Errorf("op file without a file's metadata: %w", errMalformed)
	}
	if o.Kind == OpNode && !o.Meta.Kind.Special() {
		return o, fmt.Errorf("op node without a special file's metadata: %w", errMalformed)
	}
	return o, o.checkGroup()
}

// checkGroup refuses a group of what has one name only, without names, or with names that are no paths of the volume's.
func (o *Op) checkGroup() error {
	if o.Kind != OpGroup {
		return nil
	}
	k := o.Meta.Kind
	if k != tree.File && k != tree.Symlink && !k.Special() || o.How < GroupData || o.How > GroupNames || o.Meta.Size < 0 {
		return fmt.Errorf("op group of kind %q: %w", k, errMalformed)
	}
	for _, name := range o.Names {
		if err := checkPath(name); err != nil {
			return err
		}
		if name == "" || name == o.Path {
			return fmt.Errorf("op group with the name %q: %w", name, errMalformed)
		}
	}
	return nil
}

// checkPath refuses what would leave the volume or reach into revolve's own directory.
func checkPath(p string) error {
	if err := tree.Check(p); err != nil {
		return err
	}
	if tree.IsHidden(p) {
		return fmt.Errorf("path %q is revolve's own", p)
	}
	return nil
}

// Batch ends a batch: everything since the last one belongs together and brings
// the follower to Pos in the name of reign Term.
type Batch struct {
	Term cluster.Term // of the sending reign: the receiver refuses an older one
	Pos  cluster.Position
}

// Append encodes the batch.
func (x Batch) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Term))
	return appendPos(b, x.Pos)
}

// DecodeBatch decodes a batch.
func DecodeBatch(b []byte) (Batch, error) {
	d := decoder{b: b}
	x := Batch{Term: cluster.Term(d.uint()), Pos: d.pos()}
	return x, d.end("batch")
}

// Ack says that everything up to Pos is durable except Owed paths.
type Ack struct {
	Pos     cluster.Position
	Owed    uint64
	Batches uint64 // how many batches this acknowledges
}

// Append encodes the acknowledgement.
func (x Ack) Append(b []byte) []byte {
	b = appendPos(b, x.Pos)
	b = binary.AppendUvarint(b, x.Owed)
	return binary.AppendUvarint(b, x.Batches)
}

// DecodeAck decodes an acknowledgement.
func DecodeAck(b []byte) (Ack, error) {
	d := decoder{b: b}
	x := Ack{Pos: d.pos(), Owed: d.uint(), Batches: d.uint()}
	return x, d.end("ack")
}

// Extras says what a follower does with names that the source does not have.
type Extras byte

// The ways to treat extra names.
const (
	ExtrasTrash     Extras = 1 // they are merely old
	ExtrasDivergent Extras = 2 // nobody knows them: keep and list
	ExtrasAsk       Extras = 3 // their absence was only inferred: leave alone and count
)

// List is a part of one directory's entries in order of name: everything from
// name From (exclusive, "" the first) to To (inclusive, "" the last).
type List struct {
	Job      uint64
	Dir      string
	From, To string
	Extras   Extras
	Meta     tree.Meta // of the directory itself
	Entries  []tree.Entry
}

// Append encodes the list.
func (l *List) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, l.Job)
	b = appendString(b, l.Dir)
	b = appendString(b, l.From)
	b = appendString(b, l.To)
	b = append(b, byte(l.Extras))
	b = appendMeta(b, l.Meta)
	b = binary.AppendUvarint(b, uint64(len(l.Entries)))
	for _, e := range l.Entries {
		b = appendString(b, e.Name)
		b = appendMeta(b, e.Meta)
	}
	return b
}

// DecodeList decodes and checks a list.
func DecodeList(b []byte) (List, error) {
	d := decoder{b: b}
	l := List{Job: d.uint(), Dir: d.string(), From: d.string(), To: d.string(), Extras: Extras(d.byte()), Meta: d.meta()}
	n := d.uint()
	if n > ListMax {
		return l, fmt.Errorf("list of %d entries: %w", n, errMalformed)
	}
	for range n {
		e := tree.Entry{Name: d.string(), Meta: d.meta()}
		if d.bad {
			break
		}
		if e.Name == "" || checkPath(tree.Join(l.Dir, e.Name)) != nil || tree.Parent("x/"+e.Name) != "x" {
			return l, fmt.Errorf("list entry %q: %w", e.Name, errMalformed)
		}
		l.Entries = append(l.Entries, e)
	}
	if l.Extras < ExtrasTrash || l.Extras > ExtrasAsk {
		d.bad = true
	}
	if err := d.end("list"); err != nil {
		return l, err
	}
	return l, checkPath(l.Dir)
}

// AppendID encodes the number of a job or transfer.
func AppendID(b []byte, id uint64) []byte { return binary.BigEndian.AppendUint64(b, id) }

// DecodeID splits a number off b.
func DecodeID(b []byte) (uint64, []byte, error) {
	if len(b) < 8 {
		return 0, nil, errMalformed
	}
	return binary.BigEndian.Uint64(b), b[8:], nil
}

func appendPos(b []byte, p cluster.Position) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(p.Term)), p.Seq)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}
