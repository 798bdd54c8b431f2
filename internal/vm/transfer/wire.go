// Package transfer brings a point of a virtual machine from one node to another,
// in the time of what changed since the newest point that both have. The sender
// knows what changed (package block), the receiver checks everything, keeps what
// is durable when the connection or a process ends, and publishes the point as a
// whole (package points).
//
// It never decides when a point is taken, nor which are deleted, and never reads
// a file of the receiver's where the tracker and its samples do not ask for it.
//
//	record, err := transfer.Send(ctx, conn, transfer.Sending{Store: store, Source: source})
//	err := transfer.Receive(ctx, conn, transfer.Receiving{Store: store, Node: "b"})
package transfer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
)

// Service is what a sender asks a peer for.
const Service = "vm-points/1"

// Conn is a proven connection to another node (peer.Conn).
type Conn interface {
	Peer() cluster.NodeID
	Read() (kind byte, payload []byte, err error)
	Write(kind byte, parts ...[]byte) error
	Flush() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	Close() error
}

// The frames. An offer, hashes, a question for proof, a mark and a commit have
// one answer each, in order; anything may be answered by a failure.
const (
	frameOffer     byte = 1  // Offer
	frameAnswer    byte = 2  // Answer
	frameFile      byte = 3  // a name: what follows is of this file
	frameData      byte = 4  // at, 8 bytes; data
	frameHole      byte = 5  // at, length
	frameMark      byte = 6  // up to where the file is complete
	frameMarked    byte = 7  // it is durable
	frameHashes    byte = 8  // at, size of a block, hashes
	frameWant      byte = 9  // one byte for each of them: 1 if the block is needed
	frameProve     byte = 10 // questions: at, length, hash
	frameDiffers   byte = 11 // one byte for each of them: 1 if it differs
	frameCommit    byte = 12 // points.Here
	framePublished byte = 13 // points.Record
	frameFailed    byte = 14 // failure
)

// Bounds. A frame of the connection has at most 1 MiB and 64 KiB.
const (
	maxData   = 256 << 10 // bytes of a file in a frame
	maxHashed = 1 << 20   // bytes that one frame of hashes is about
	maxPiece  = 1 << 20   // bytes that one question for proof is about
	maxAsked  = 256       // questions in a frame
	ahead     = 8         // questions that are not answered yet

	// MarkEvery is how much is sent until it is made durable: so much comes again after an interruption, at most twice.
	MarkEvery = 128 << 20

	// idle ends a conversation in which nothing comes; committing has to wait for a disk.
	idle         = 2 * time.Minute
	commitWithin = 30 * time.Minute
)

// Offer begins a point.
type Offer struct {
	Point points.Point `json:"point"`
	Whole bool         `json:"whole"` // compare everything
	Force bool         `json:"force"` // also onto another history; what is there stays
	// Data is how many bytes of each file are no holes, in their order; nil: not known.
	Data []int64 `json:"data,omitempty"`
}

// Answer says from what the receiver starts.
type Answer struct {
	Record *points.Record `json:"record,omitempty"` // it has the point already
	Base   points.ID      `json:"base,omitempty"`   // its newest point that the source descends from
	Odd    string         `json:"odd,omitempty"`    // why that one cannot be used as it is
	Files  []Start        `json:"files"`
	Proof  points.Proof   `json:"proof"`          // of the base
	Choice block.Choice   `json:"choice"`         // how changes are known there
	Free   *int64         `json:"free,omitempty"` // bytes that may still be filled there; nil: not known
}

// Start is where one file starts.
type Start struct {
	Name string      `json:"name"`
	Mode points.Mode `json:"mode"`
	Done int64       `json:"done"` // durable there from an attempt before
}

type failure struct {
	Op      string       `json:"op"`
	Kind    problem.Kind `json:"kind"`
	Subject string       `json:"subject"`
	Error   string       `json:"error"`
	Hint    string       `json:"hint"`
}

func failureOf(err error) failure {
	f := failure{Kind: problem.KindOf(err), Error: err.Error(), Hint: problem.HintOf(err)}
	var p *problem.Problem
	if errors.As(err, &p) && p.Err != nil {
		f.Op, f.Subject, f.Error = p.Op, p.Subject, p.Err.Error()
	}
	return f
}

func corrupt(c Conn, text string, args ...any) error {
	return &problem.Problem{Op: "copy point with", Kind: problem.Corrupt, Subject: string(c.Peer()), Err: fmt.Errorf(text, args...)}
}

// line is one conversation.
type line struct{ Conn }

// Write is the connection's, each with its own deadline.
func (l line) Write(kind byte, parts ...[]byte) error {
	if err := l.SetWriteDeadline(time.Now().Add(idle)); err != nil {
		return err
	}
	return l.Conn.Write(kind, parts...)
}

func (l line) say(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := l.Write(kind, b); err != nil {
		return err
	}
	return l.Flush()
}

// hear reads the next frame, which must be of this kind.
func (l line) hear(kind byte, within time.Duration) ([]byte, error) {
	if err := l.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	got, b, err := l.Read()
	switch {
	case err != nil:
		return nil, err
	case got == frameFailed:
		return nil, failed(l, b)
	case got != kind:
		return nil, corrupt(l, "a frame of kind %d where one of kind %d was to come", got, kind)
	}
	return b, nil
}

func (l line) hearJSON(kind byte, within time.Duration, v any) error {
	b, err := l.hear(kind, within)
	if err != nil {
		return err
	}
	return decode(l, b, v)
}

func decode(c Conn, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return corrupt(c, "an unreadable frame: %v", err)
	}
	return nil
}

// failed is the other node's failure as an error here.
func failed(c Conn, b []byte) error {
	var f failure
	if err := decode(c, b, &f); err != nil {
		return err
	}
	return &problem.Problem{Op: "copy to " + string(c.Peer()) + ": " + f.Op, Kind: f.Kind, Subject: f.Subject, Err: answered{errors.New(f.Error)}, Hint: f.Hint}
}

// answered marks what the other node said: asking again would change nothing.
type answered struct{ error }

// Broken reports whether a copy failed because its connection did, so that the
// same point may go on over another one.
func Broken(err error) bool {
	kind := problem.KindOf(err)
	if err == nil || kind != problem.Unavailable && kind != problem.Timeout && !errors.Is(err, io.EOF) {
		return false
	}
	var a answered
	var s spent
	return !errors.As(err, &a) && !errors.As(err, &s)
}

// spent marks what lies with a disk, here or there.
type spent struct{ error }

func numbers(list ...int64) []byte {
	b := make([]byte, 0, 8*len(list))
	for _, n := range list {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// take splits numbers off the front; ok is false if there are too few bytes.
func take(b []byte, n int) (list []int64, rest []byte, ok bool) {
	if len(b) < 8*n {
		return nil, nil, false
	}
	for range n {
		list = append(list, int64(binary.BigEndian.Uint64(b)))
		b = b[8:]
	}
	return list, b, true
}

// question asks whether a range has these bytes.
type question struct {
	at     int64
	length int64
	hash   [block.HashSize]byte
}

const questionSize = 16 + block.HashSize

func (q question) encode(b []byte) []byte {
	return append(append(b, numbers(q.at, q.length)...), q.hash[:]...)
}

func decodeQuestions(b []byte) (list []question, ok bool) {
	if len(b)%questionSize != 0 || len(b)/questionSize > maxAsked {
		return nil, false
	}
	for len(b) > 0 {
		n, rest, _ := take(b, 2)
		q := question{at: n[0], length: n[1]}
		copy(q.hash[:], rest)
		if q.length <= 0 || q.length > maxPiece || q.at < 0 {
			return nil, false
		}
		list, b = append(list, q), b[questionSize:]
	}
	return list, true
}

// hashed is the content of a frame of hashes.
type hashed struct {
	at, block int64
	list      []byte
}

func decodeHashed(b []byte) (h hashed, ok bool) {
	n, rest, ok := take(b, 2)
	if !ok || len(rest) == 0 || len(rest)%block.HashSize != 0 {
		return h, false
	}
	h = hashed{n[0], n[1], rest}
	return h, h.at >= 0 && h.block > 0 && h.block <= maxHashed && int64(len(rest)/block.HashSize)*h.block <= maxHashed
}
