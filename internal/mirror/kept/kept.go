// Package kept shows one node what another keeps of a volume (its trash, its
// divergent changes), and brings the bytes of it over.
//
// A connection carries one question and its answer. The answering side only
// reads, except for what a person asks it to let go (unpin, drop, forget). The
// asking side trusts nothing: every path is checked, every list and size
// bounded, and what comes is written below the volume's hidden directory only;
// whoever asked brings it from there into the volume.
//
// It never writes into the volume itself, and does not know who is master.
//
//	err := kept.Serve(ctx, conn, open)
//	list, err := kept.AskTrash(conn, "home", "docs/letter")
//	fetched, err := kept.Fetch(conn, ask, root)
package kept

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/restore"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// Service is what a connection is opened for.
const Service = "mirror-kept"

// Frame kinds. The numbers never change.
const (
	frameAsk    byte = 1 // JSON Ask
	frameRefuse byte = 2 // JSON refusal
	framePage   byte = 3 // JSON page of a list
	frameBegin  byte = 4 // JSON begin: what will come
	frameItem   byte = 5 // a wire.Op without data
	frameData   byte = 6 // content of the file that was announced last
	frameEnd    byte = 7 // JSON end
)

const (
	// silence is how long the other side may say nothing; it reads a disk that may be busy.
	silence = 20 * time.Second
	// chunk is how much of a file one frame carries.
	chunk = 512 << 10
	// pageEntries is how many entries one frame of a list carries: paths of 4 KiB fit, whatever JSON makes of them.
	pageEntries = 16
	// maxEntries bounds a list, as apply bounds it on the node's own side.
	maxEntries = 100_000
	// maxItems bounds what one restore brings.
	maxItems = 100_000
	// spare is what a fetch leaves free on the disk: the volume's own changes come first.
	spare = 64 << 20
)

// What can be asked.
const (
	askTrash     = "trash"
	askDivergent = "divergent"
	askFetch     = "fetch"
	askUnpin     = "unpin"
	askDrop      = "drop"
	askForget    = "forget"
)

// Ask is a question. Paths are bytes, because names need not be UTF-8.
type Ask struct {
	What   string           `json:"what"`
	Volume cluster.VolumeID `json:"volume"`
	Path   []byte           `json:"path,omitempty"`  // trash: at or below
	Slot   string           `json:"slot,omitempty"`  // trash: of that time
	Set    string           `json:"set,omitempty"`   // divergent: of that set
	Only   [][]byte         `json:"only,omitempty"`  // divergent: at or below these
	Items  []item           `json:"items,omitempty"` // forget: exactly these
}

// maxAsked bounds the paths and items of one question; more are asked for in turns, or above.
const maxAsked = 10_000

// Check refuses what leads out of the volume.
func (a *Ask) Check() error {
	if len(a.Only)+len(a.Items) > maxAsked {
		return fmt.Errorf("%d paths in one question, at most %d", len(a.Only)+len(a.Items), maxAsked)
	}
	paths := append([][]byte{a.Path}, a.Only...)
	for _, i := range a.Items {
		paths = append(paths, i.Path, i.File)
	}
	for _, p := range paths {
		if err := tree.Check(string(p)); err != nil {
			return err
		}
	}
	return nil
}

// Removes reports whether something that is kept would be let go.
func (a *Ask) Removes() bool {
	return a.What == askUnpin || a.What == askDrop || a.What == askForget
}

type item struct {
	Path []byte `json:"path"`
	File []byte `json:"file"`
}

// refusal is the other side's error.
type refusal struct {
	Kind    problem.Kind `json:"kind"`
	Op      string       `json:"op,omitempty"`
	Subject string       `json:"subject,omitempty"`
	Err     string       `json:"err"`
	Hint    string       `json:"hint,omitempty"`
}

// page is a part of a list.
type page struct {
	Trash     []trashEntry `json:"trash,omitempty"`
	Divergent []apply.Kept `json:"divergent,omitempty"` // its JSON keeps names of any bytes
	Pins      []apply.Pin  `json:"pins,omitempty"`
}

type trashEntry struct {
	apply.Trashed
	Name []byte `json:"name"` // the path
}

type begin struct {
	Items int   `json:"items"`
	Bytes int64 `json:"bytes"`
}

type end struct {
	Left []restore.Left `json:"left,omitempty"`
	N    int            `json:"n,omitempty"` // dropped, forgotten
	Pins []apply.Pin    `json:"pins,omitempty"`
}

// conn is what is needed of a peer connection.
type conn interface {
	Peer() cluster.NodeID
	Read() (kind byte, payload []byte, err error)
	Write(kind byte, parts ...[]byte) error
	Flush() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

func send(c conn, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	return errors.Join(c.Write(kind, b), c.Flush())
}

// receive reads the next frame; a refusal becomes the error that it is.
func receive(c conn) (kind byte, payload []byte, err error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, nil, err
	}
	kind, payload, err = c.Read()
	if err != nil || kind != frameRefuse {
		return kind, payload, err
	}
	var r refusal
	if err := json.Unmarshal(payload, &r); err != nil {
		return 0, nil, corrupt(c, err)
	}
	return 0, nil, &problem.Problem{Op: r.Op, Kind: r.Kind, Subject: r.Subject, Err: fmt.Errorf("%s says: %s", c.Peer(), r.Err), Hint: r.Hint}
}

func corrupt(c conn, err error) error {
	return &problem.Problem{Op: "read what is kept on", Kind: problem.Corrupt, Subject: string(c.Peer()), Err: err}
}
