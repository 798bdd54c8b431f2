package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Divergent is one change that was kept aside.
type Divergent struct {
	On     cluster.NodeID   `json:"on"` // where it lies
	Volume cluster.VolumeID `json:"volume"`
	Set    string           `json:"set"`
	Node   cluster.NodeID   `json:"node"`
	Term   cluster.Term     `json:"term"`
	Time   time.Time        `json:"time"`
	Why    string           `json:"why"`
	What   string           `json:"what"`
	Path   string           `json:"path"`
	Old    string           `json:"old,omitempty"`
	File   string           `json:"file,omitempty"` // absolute path of the kept bytes
	Size   int64            `json:"size"`
}

// Trashed is one version of a path in a node's trash.
type Trashed struct {
	On     cluster.NodeID   `json:"on"` // where it lies
	Volume cluster.VolumeID `json:"volume"`
	Slot   string           `json:"slot"` // name of the time in which it went
	Time   time.Time        `json:"time"` // its beginning
	Path   string           `json:"path"`
	Size   int64            `json:"size"`
	File   string           `json:"file"` // absolute path of its bytes, on that node
}

// Silent is a node that was asked and did not answer.
type Silent struct {
	Node cluster.NodeID `json:"node"`
	Why  string         `json:"why"`
}

// Unpinned is what became of a wish to unpin on one node.
type Unpinned struct {
	Node   cluster.NodeID   `json:"node"`
	Volume cluster.VolumeID `json:"volume"`
	Slots  []string         `json:"slots"`
}

// KeptQuery says what is asked of what nodes keep: of which, all that are heard if From is empty.
type KeptQuery struct {
	From   cluster.NodeID   `json:"from,omitempty"`
	Volume cluster.VolumeID `json:"volume,omitempty"` // all if empty
	Path   []byte           `json:"path,omitempty"`   // bytes: names need not be UTF-8
	Slot   string           `json:"slot,omitempty"`
	Set    string           `json:"set,omitempty"`
	Only   [][]byte         `json:"only,omitempty"`
}

// TrashAnswer is what nodes keep in their trash, and who did not answer.
type TrashAnswer struct {
	Trash  []Trashed `json:"trash"`
	Silent []Silent  `json:"silent"`
}

// DivergentAnswer is what nodes keep aside, and who did not answer.
type DivergentAnswer struct {
	Divergent []Divergent `json:"divergent"`
	Silent    []Silent    `json:"silent"`
}

// UnpinAnswer is what was unpinned where, and who did not answer.
type UnpinAnswer struct {
	Unpinned []Unpinned `json:"unpinned"`
	Silent   []Silent   `json:"silent"`
}

// Fetched is what came from another node, below the volume's hidden directory;
// whoever asked brings it into the volume and removes Dir.
type Fetched struct {
	Dir   string        `json:"dir"`
	Items []FetchedItem `json:"items"`
	Left  []FetchedLeft `json:"left"`
}

// FetchedItem is one thing that came.
type FetchedItem struct {
	Path []byte `json:"path"`
	File string `json:"file"` // where it is now, relative to the volume
	Kept []byte `json:"kept"` // where the other node keeps it
}

// FetchedLeft is what a person has to decide.
type FetchedLeft struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Resuming lets a paused volume go on.
type Resuming struct {
	Volume          cluster.VolumeID `json:"volume"`
	AcceptDeletions bool             `json:"accept_deletions"`
	NotMounted      bool             `json:"not_mounted"`
}

// Keeper is what the API asks of the agent about what nodes keep.
type Keeper interface {
	Trash(ctx context.Context, q KeptQuery) (TrashAnswer, error)
	KeptAside(ctx context.Context, q KeptQuery) (DivergentAnswer, error)
	Fetch(ctx context.Context, q KeptQuery) (Fetched, error)
	Forget(ctx context.Context, q KeptQuery, items []FetchedItem) error
	Drop(ctx context.Context, q KeptQuery) (int, error)
	Unpin(ctx context.Context, q KeptQuery) (UnpinAnswer, error)
	Resume(ctx context.Context, r Resuming) (string, error)
}

// forgetting is the body of a wish to forget.
type forgetting struct {
	KeptQuery
	Items []FetchedItem `json:"items"`
}

// maxForget bounds the body of a wish to forget: as many paths as one restore brings.
const maxForget = 256 << 20

// handle answers a POST whose body is an In.
func handle[In, Out any](mux *http.ServeMux, path string, most int64, do func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, most)).Decode(&in); err != nil {
			answer(w, nil, &problem.Problem{Op: "read request", Kind: problem.Invalid, Err: err})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), maxRequest)
		defer cancel()
		out, err := do(ctx, in)
		answer(w, out, err)
	})
}

func handleKept(mux *http.ServeMux, b Keeper) {
	const most = 8 << 20 // paths to choose from a set
	handle(mux, "/v1/kept/trash", most, b.Trash)
	handle(mux, "/v1/kept/divergent", most, b.KeptAside)
	handle(mux, "/v1/kept/fetch", most, b.Fetch)
	handle(mux, "/v1/kept/drop", most, b.Drop)
	handle(mux, "/v1/kept/unpin", most, b.Unpin)
	handle(mux, "/v1/volume/resume", maxBody, b.Resume)
	handle(mux, "/v1/kept/forget", maxForget, func(ctx context.Context, f forgetting) (struct{}, error) {
		return struct{}{}, b.Forget(ctx, f.KeptQuery, f.Items)
	})
}

// Trash lists what nodes keep in their trash.
func (c *Client) Trash(ctx context.Context, q KeptQuery) (a TrashAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/kept/trash", q, &a)
}

// KeptAside lists the divergent changes that nodes keep.
func (c *Client) KeptAside(ctx context.Context, q KeptQuery) (a DivergentAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/kept/divergent", q, &a)
}

// Fetch brings what another node keeps into this node's volume, aside.
func (c *Client) Fetch(ctx context.Context, q KeptQuery) (f Fetched, err error) {
	return f, c.do(ctx, http.MethodPost, "/v1/kept/fetch", q, &f)
}

// Forget takes what was brought back out of the set in which another node keeps it.
func (c *Client) Forget(ctx context.Context, q KeptQuery, items []FetchedItem) error {
	return c.do(ctx, http.MethodPost, "/v1/kept/forget", forgetting{q, items}, &struct{}{})
}

// Drop makes another node forget divergent changes for good.
func (c *Client) Drop(ctx context.Context, q KeptQuery) (n int, err error) {
	return n, c.do(ctx, http.MethodPost, "/v1/kept/drop", q, &n)
}

// Unpin lets pinned trash go by age and quota again.
func (c *Client) Unpin(ctx context.Context, q KeptQuery) (a UnpinAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/kept/unpin", q, &a)
}

// Resume lets a paused volume go on, and returns what happens now.
func (c *Client) Resume(ctx context.Context, r Resuming) (said string, err error) {
	return said, c.do(ctx, http.MethodPost, "/v1/volume/resume", r, &said)
}
