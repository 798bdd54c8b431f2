// Package verify proves that the nodes hold the same bytes, while programs go on writing.
//
// The master walks its tree in ranges of names. For each range every node reads
// its own files and tells their digests (BLAKE3) with what else is kept the
// same. What differs is looked at again behind a barrier, and counts as a
// difference only if the master's file stayed what it was from before the
// barrier until after the standby's answer: then the standby had everything
// that made it. What changed meanwhile is tried again.
//
// Every node remembers which bytes it read under which state of an inode
// (Index). If the bytes are others and the kernel saw no write since, they were
// damaged, and the node itself says so. Which copy is right follows from that
// by one rule (Judge).
//
// It never writes into a volume and never decides who leads: repairing is asked
// of whoever owns the tree.
//
//	err := verify.Serve(ctx, conn, host)  // on every standby
//	err := verify.Run(ctx, walk, &state)  // on the master
package verify

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

const (
	// DefaultRate is modest: a tenth of what a disk of spinning rust reads, so that whoever uses it does not notice.
	DefaultRate = 16 << 20
	// LeastRate and MostRate bound what a node lets itself be asked for, in bytes per second.
	LeastRate = 64 << 10
	// MostRate is more than any disk reads.
	MostRate = 8 << 30
	// rangeNames and rangeBytes end a range: it is asked again as a whole if a connection breaks, and its digests are held in memory.
	rangeNames = 256
	rangeBytes = 64 << 20
	// maxAnswer bounds the names of one answer: a standby may have more in a range than the master.
	maxAnswer = 16 << 10
	// pageEntries is how many entries one frame carries: names of 255 bytes and link targets of 4 KiB fit, whatever JSON makes of them.
	pageEntries = 64
	// fileCost is what looking at one name counts beside its bytes: about what the disk could have read meanwhile.
	fileCost = 4 << 10
	// racy: a file that changed later than this before it was read may change again without a new time (coarse kernel clock: up to 10 ms; HZ=100).
	racy = 100 * time.Millisecond
)

// Ask asks for the digests of names in one directory: all behind After up to
// and with Until (all that follow if it is empty), or exactly Only.
type Ask struct {
	Dir   []byte   `json:"dir"`
	After []byte   `json:"after,omitempty"`
	Until []byte   `json:"until,omitempty"`
	Only  [][]byte `json:"only,omitempty"`
	Rate  int64    `json:"rate"` // bytes per second
	Run   int64    `json:"run"`  // the proof's number: its beginning, ns since the epoch
}

// Check refuses what leads out of the volume or asks for too much.
func (a *Ask) Check() error {
	if err := tree.Check(string(a.Dir)); err != nil {
		return err
	}
	if tree.IsHidden(string(a.Dir)) {
		return errors.New("revolve's own directory is never compared")
	}
	if len(a.Only) > rangeNames {
		return fmt.Errorf("%d names in one question, at most %d", len(a.Only), rangeNames)
	}
	for _, n := range append([][]byte{a.After, a.Until}, a.Only...) {
		if len(n) > 255 {
			return fmt.Errorf("a name of %d bytes", len(n))
		}
	}
	for _, n := range a.Only {
		if err := tree.Check(tree.Join(string(a.Dir), string(n))); err != nil || len(n) == 0 || bytes.IndexByte(n, '/') >= 0 {
			return errors.Join(err, fmt.Errorf("%q is no name", n))
		}
	}
	if a.Rate < LeastRate || a.Rate > MostRate {
		return fmt.Errorf("%d bytes per second, at least %d and at most %d", a.Rate, LeastRate, MostRate)
	}
	return nil
}

// Entry is what a node has under one name.
type Entry struct {
	Name   []byte    `json:"name"`
	Kind   tree.Kind `json:"kind"` // 0: nothing is there
	Mode   uint32    `json:"mode"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   int64     `json:"size"`
	MTime  int64     `json:"mtime"`
	Rdev   uint64    `json:"rdev,omitempty"`
	Target []byte    `json:"target,omitempty"`
	Xattrs []byte    `json:"xattrs,omitempty"` // their digest
	Hash   []byte    `json:"hash,omitempty"`   // of a file's content
	Was    []byte    `json:"was,omitempty"`    // the digest proven before, if it is another and nothing was written since: the copy is damaged
	Error  string    `json:"error,omitempty"`  // it could not be read: damaged, too
	Moving bool      `json:"moving,omitempty"` // it changed while it was read

	state  state // local
	proven bool  // local: an earlier proof read the same
}

// state tells whether an inode was touched between two looks.
type state struct {
	inode              uint64
	size, mtime, ctime int64
}

func stateOf(m tree.Meta) state { return state{m.Inode, m.Size, m.MTime, m.CTime} }

// Damaged reports whether the node says of its own copy that it is damaged.
func (e *Entry) Damaged() bool { return len(e.Was) > 0 || e.Error != "" }

// End ends an answer.
type End struct {
	More     bool `json:"more,omitempty"`      // there are more names than fit
	NoOwner  bool `json:"no_owner,omitempty"`  // owners could not be set here
	NoXattrs bool `json:"no_xattrs,omitempty"` // nor some extended attributes
	NoNodes  bool `json:"no_nodes,omitempty"`  // nor could devices be made
}

// Repair orders a standby to have the names in Dir come again from its master;
// what it has there of those in Keep is kept aside first.
type Repair struct {
	Dir  []byte   `json:"dir"`
	Keep [][]byte `json:"keep,omitempty"`
	Come [][]byte `json:"come,omitempty"`
}

// Check is Ask.Check for a repair.
func (r *Repair) Check() error {
	a := Ask{Dir: r.Dir, Only: append(r.Keep[:len(r.Keep):len(r.Keep)], r.Come...), Rate: DefaultRate}
	return a.Check()
}

// Standby is a node that is asked.
type Standby interface {
	// Digests answers an Ask.
	Digests(a Ask) ([]Entry, End, error)
	// Repair has names come again from the master.
	Repair(r Repair) error
	// Content writes the bytes of the file at rel to w, at most size.
	Content(rel string, size int64, w func([]byte) error) error
	// Done ends a proof that came to its end.
	Done(run int64) error
}

func corrupt(from cluster.NodeID, err error) error {
	return &problem.Problem{Op: "verify with", Kind: problem.Corrupt, Subject: string(from), Err: err}
}
