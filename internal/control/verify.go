package control

import (
	"context"
	"net/http"
	"time"

	"revolve/internal/cluster"
)

// VerifyQuery is about proofs: start them, stop them, or only look.
type VerifyQuery struct {
	Volume      cluster.VolumeID `json:"volume,omitempty"` // all if empty
	Start       bool             `json:"start,omitempty"`
	Stop        bool             `json:"stop,omitempty"`
	Rate        int64            `json:"rate,omitempty"` // bytes per second and node
	Repair      bool             `json:"repair,omitempty"`
	Restart     bool             `json:"restart,omitempty"`
	TrustMaster bool             `json:"trust_master,omitempty"`
}

// VerifyAnswer is how the proofs stand.
type VerifyAnswer struct {
	Proofs []Proof `json:"proofs"`
}

// Proof is one volume's: the one that runs, or the last one of this node's.
type Proof struct {
	Volume   cluster.VolumeID `json:"volume"`
	Running  bool             `json:"running"`
	Complete bool             `json:"complete"` // it came to its end
	Error    string           `json:"error,omitempty"`
	Began    time.Time        `json:"began"`
	Ended    time.Time        `json:"ended,omitzero"`
	Position cluster.Position `json:"position"` // at its beginning: everything up to it is part of the proof
	Rate     int64            `json:"rate"`     // bytes per second and node
	Files    int64            `json:"files"`    // read on the master
	Bytes    int64            `json:"bytes"`
	At       string           `json:"at"` // the directory where it stands
	Nodes    []ProofNode      `json:"nodes"`
	Findings []ProofFinding   `json:"findings"`
	Changing []string         `json:"changing,omitempty"` // some of what kept changing, quoted
}

// ProofNode is how far a proof is with one standby.
type ProofNode struct {
	Node     cluster.NodeID `json:"node"`
	Result   string         `json:"result"` // running, equal, repaired, differs, unproven, away
	Differs  int64          `json:"differs"`
	Repaired int64          `json:"repaired"`
	Unproven int64          `json:"unproven"` // kept changing
	Away     string         `json:"away,omitempty"`
	Proven   time.Time      `json:"proven,omitzero"` // it had the same bytes, as a proof found that began then
}

// ProofFinding is one difference.
type ProofFinding struct {
	Path     string         `json:"path"`
	Name     []byte         `json:"name"` // the path's bytes
	Node     cluster.NodeID `json:"node"`
	What     string         `json:"what"`          // missing, extra, kind, metadata, content, unreadable
	Bad      cluster.NodeID `json:"bad,omitempty"` // whose copy is wrong, if that is known
	Right    string         `json:"right"`         // master, a node, undecided, none
	At       time.Time      `json:"at"`
	Repaired bool           `json:"repaired"`
	Why      string         `json:"why,omitempty"` // it was not repaired
}

// Verifier is what the API asks of the agent about proofs.
type Verifier interface {
	Verify(ctx context.Context, q VerifyQuery) (VerifyAnswer, error)
}

func handleVerify(mux *http.ServeMux, b Verifier) {
	handle(mux, "/v1/verify", maxBody, b.Verify)
}

// Verify starts proofs, stops them, or looks how they stand.
func (c *Client) Verify(ctx context.Context, q VerifyQuery) (a VerifyAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/verify", q, &a)
}
