// Package points keeps the points of virtual machines on one node: a directory of
// ordinary files for each moment of a machine, with a record of where it comes
// from. A point is published as a whole or not at all, is never written to
// afterwards, and any of them may be deleted in any order: where the filesystem
// shares blocks they share what is the same, and none needs another.
//
//	STORAGE/VM/points/ID/point.json, vda.raw, domain.xml   published
//	STORAGE/VM/staging/ID/                                 on its way here; goes on where it stopped
//	STORAGE/VM/staging/ID.redo/                            decided, being carried out in place (see redo.go)
//
// It never talks to another node or to libvirt, and starts nothing. One process
// works on a machine's directory at a time (Lock).
//
//	store, err := points.Open("/var/lib/revolve/vms")
//	list, err := store.List("ad1")
package points

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// ID is the identity of a point, the same on every node: the time when it was
// taken, for people, and a random number.
type ID string

const (
	idTime   = "20060102T150405Z"
	idRandom = 8 // bytes
)

// NewID makes one.
func NewID(at time.Time) ID {
	var b [idRandom]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return ID(at.UTC().Format(idTime) + "-" + hex.EncodeToString(b[:]))
}

// Valid reports whether it is one of NewID's; it is a directory's name then.
func (id ID) Valid() bool {
	when, number, ok := strings.Cut(string(id), "-")
	if _, err := time.Parse(idTime, when); !ok || err != nil || len(number) != 2*idRandom {
		return false
	}
	return strings.Trim(number, "0123456789abcdef") == ""
}

// Level is how consistent a point is: what its guest finds when it starts from it.
type Level string

// The levels, weakest first.
const (
	Live     Level = "live"     // as after a power cut, each disk at a moment of its own
	Suspend  Level = "suspend"  // as after a power cut, all disks at one moment
	Freeze   Level = "freeze"   // file systems at rest, by the guest agent
	Shutdown Level = "shutdown" // the guest was off
)

// Levels are all of them, weakest first.
func Levels() []Level { return []Level{Live, Suspend, Freeze, Shutdown} }

// Bounds of a record; what comes from another node is held to them.
const (
	maxFiles     = 64
	maxName      = 64
	maxVM        = 128
	maxAncestors = 512 // points of its history that a point names: so far back a copy is recognised
	maxSize      = 1 << 50
)

// File is one file of a point.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Point is what is the same of a point on every node.
type Point struct {
	Format     int            `json:"format"`
	ID         ID             `json:"id"`
	VM         string         `json:"vm"`
	Lineage    string         `json:"lineage"`    // the machine's history; another one of the same name has another
	Generation uint64         `json:"generation"` // one higher with every promotion
	Number     uint64         `json:"number"`     // of the point in its lineage
	Ancestors  []ID           `json:"ancestors"`  // newest first
	Node       cluster.NodeID `json:"node"`       // where it was taken
	Taken      time.Time      `json:"taken"`
	Level      Level          `json:"level"`
	Files      []File         `json:"files"`
}

// Record is a point as it is on one node.
type Record struct {
	Point
	Here Here `json:"here"`
}

// Here is how a point came to a node, and what it is there.
type Here struct {
	Node      cluster.NodeID `json:"node"`
	Published time.Time      `json:"published"`
	From      cluster.NodeID `json:"from,omitempty"` // "": taken here
	Base      ID             `json:"base,omitempty"` // the point that it was made from
	Files     []Held         `json:"files"`
	Proof     Proof          `json:"proof"`
	Aside     bool           `json:"aside,omitempty"`     // what a home had that was started elsewhere since: no other point descends from it
	Rehearsed *Rehearsed     `json:"rehearsed,omitempty"` // whether it came up, when that was tried last
}

// Rehearsed is how the last rehearsal of a point went on this node.
type Rehearsed struct {
	At      time.Time     `json:"at"`
	By      string        `json:"by,omitempty"`      // who said that its guest is up: agent or console
	Took    time.Duration `json:"took"`              // until then, nanoseconds
	Unclean bool          `json:"unclean,omitempty"` // it did not shut down when it was asked to
	Failed  string        `json:"failed,omitempty"`  // why it did not come up
}

// Held is one file as a node holds it.
type Held struct {
	Name    string        `json:"name"`
	Stamp   block.Stamp   `json:"stamp"`
	Table   string        `json:"table,omitempty"` // of hashes; then the file itself is not kept, and Stamp is that of the image
	Tracker block.Tracker `json:"tracker"`         // how what changed was known
	Why     string        `json:"why"`
	Changed int64         `json:"changed"` // bytes told as changed
	Read    int64         `json:"read"`    // bytes read from the source, without the proof's
	Sent    int64         `json:"sent"`    // bytes sent
}

// Bounds of what a sender may say of how a point came here.
const (
	maxWhy   = 1 << 10
	maxFound = 100
)

// Bounded is what a sender said of how a point came here, cut down to what may be
// written of it; ok is false if it does not name the point's files, each once.
func (h Here) Bounded(p *Point) (_ Here, ok bool) {
	if len(h.Files) != len(p.Files) || len(h.Proof.Found) > maxFound {
		return h, false
	}
	names := map[string]bool{}
	for _, f := range p.Files {
		names[f.Name] = true
	}
	h.Files, h.Rehearsed, h.Aside = slices.Clone(h.Files), nil, false // nobody has booted it here, and it is no loser's
	for i := range h.Files {
		f := &h.Files[i]
		if !names[f.Name] || len(f.Tracker) > maxWhy {
			return h, false
		}
		delete(names, f.Name)
		f.Why, f.Table = f.Why[:min(len(f.Why), maxWhy)], "" // the file itself is kept here
	}
	for _, f := range h.Proof.Found {
		if len(f.File) > maxWhy {
			return h, false
		}
	}
	return h, true
}

// Proof is what was compared by content between source and copy, besides what
// the tracker told. A part of it goes on from point to point, so that in time
// every byte is compared.
type Proof struct {
	Samples int       `json:"samples"`         // blocks chosen at random
	Bytes   int64     `json:"bytes"`           // of all that was compared
	Sent    int64     `json:"sent"`            // bytes sent for it
	All     bool      `json:"all"`             // every block of this very point
	At      int64     `json:"at"`              // how far the rolling part is, in all files one behind the other
	Total   int64     `json:"total"`           // of how many bytes
	Since   time.Time `json:"since,omitzero"`  // when it began at the beginning
	Whole   time.Time `json:"whole,omitzero"`  // when it last came to its end
	Found   []Found   `json:"found,omitempty"` // what differed though nothing told of it; everything was compared then
}

// Found is a range that was thought to be the same and was not.
type Found struct {
	File string      `json:"file"`
	At   block.Range `json:"at"`
}

const format = 1

// Check reports what is wrong with a point that somebody else made.
func (p *Point) Check() error {
	bad := func(text string, args ...any) error {
		return &problem.Problem{Op: "check point", Kind: problem.Invalid, Subject: string(p.ID), Err: fmt.Errorf(text, args...)}
	}
	switch {
	case p.Format != format:
		return bad("format %d, this node knows %d", p.Format, format)
	case !p.ID.Valid():
		return bad("%q is no name of a point", p.ID)
	case CheckVM(p.VM) != nil:
		return CheckVM(p.VM)
	case len(p.Lineage) != 32 || strings.Trim(p.Lineage, "0123456789abcdef") != "":
		return bad("%q is no lineage", p.Lineage)
	case !slices.Contains(Levels(), p.Level):
		return bad("%q is no level of consistency", p.Level)
	case len(p.Ancestors) > maxAncestors || slices.ContainsFunc(p.Ancestors, func(id ID) bool { return !id.Valid() }):
		return bad("its ancestors are not as they may be")
	case len(p.Files) == 0 || len(p.Files) > maxFiles:
		return bad("%d files", len(p.Files))
	}
	seen := map[string]bool{}
	for _, f := range p.Files {
		if !validFile(f.Name) || seen[f.Name] || f.Size < 0 || f.Size > maxSize {
			return bad("file %q of %d bytes", f.Name, f.Size)
		}
		seen[f.Name] = true
	}
	return nil
}

// validFile holds the names of files to one plain component that is none of ours.
func validFile(name string) bool {
	if name == "" || len(name) > maxName || name[0] == '.' || name[0] == '-' {
		return false
	}
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)) {
			return false
		}
	}
	for _, own := range []string{recordFile, planFile, progressFile} {
		if name == own {
			return false
		}
	}
	return !strings.HasSuffix(name, tableSuffix) && !strings.HasSuffix(name, patchSuffix)
}

// CheckVM reports what is wrong with a machine's name.
func CheckVM(name string) error {
	if name == "" || len(name) > maxVM || strings.ContainsRune(name, 0) {
		return &problem.Problem{Op: "check name of VM", Kind: problem.Invalid, Subject: name, Err: errors.New("it is empty, or longer than 128 bytes")}
	}
	if strings.HasPrefix(name, RehearsalPrefix) {
		return &problem.Problem{Op: "check name of VM", Kind: problem.Invalid, Subject: name, Err: errors.New("machines of this name only rehearse"), Hint: "give the machine another name: virsh domrename"}
	}
	return nil
}

// RehearsalPrefix begins the names of machines that only rehearse: nothing is kept of them.
const RehearsalPrefix = "revolve-rehearsal-"

// dirOf is the directory of a machine: its name, with what a directory cannot be called written as %XX.
func dirOf(vm string) string {
	var b strings.Builder
	for i := range len(vm) {
		switch c := vm[i]; {
		case c == '/' || c == '%' || c < ' ' || c == 127 || i == 0 && c == '.':
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func vmOf(dir string) string {
	if name, err := url.PathUnescape(dir); err == nil {
		return name
	}
	return dir
}

// Newer reports whether p comes after q in their lineage.
func (p *Point) Newer(q *Point) bool {
	if p.Generation != q.Generation {
		return p.Generation > q.Generation
	}
	return p.Number > q.Number
}

// Next is the beginning of the point that follows: its place in the lineage.
func (p *Point) Next(at time.Time) Point {
	return Point{Format: format, ID: NewID(at), VM: p.VM, Lineage: p.Lineage, Generation: p.Generation, Number: p.Number + 1, Taken: at,
		Ancestors: append([]ID{p.ID}, p.Ancestors[:min(len(p.Ancestors), maxAncestors-1)]...)}
}

// First begins a lineage.
func First(vm string, at time.Time) Point {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return Point{Format: format, ID: NewID(at), VM: vm, Lineage: hex.EncodeToString(b[:]), Generation: 1, Number: 1, Taken: at, Ancestors: []ID{}}
}

// Whole reports whether a node keeps the files themselves, not only tables of their hashes.
func (r *Record) Whole() bool {
	return !slices.ContainsFunc(r.Here.Files, func(h Held) bool { return h.Table != "" })
}
