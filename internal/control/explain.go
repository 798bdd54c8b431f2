package control

import (
	"context"
	"net/http"
	"time"

	"revolve/internal/cluster"
)

// ExplainQuery names one path of a volume.
type ExplainQuery struct {
	Volume cluster.VolumeID `json:"volume"`
	Path   []byte           `json:"path"` // relative to the volume; bytes: names need not be UTF-8
}

// Explained is what the asked node knows of the path.
type Explained struct {
	Volume   cluster.VolumeID `json:"volume"`
	Path     string           `json:"path"`
	Name     []byte           `json:"name"` // the path's bytes
	Mirrored bool             `json:"mirrored"`
	Why      string           `json:"why,omitempty"` // it is not mirrored
	There    bool             `json:"there"`         // on the asked node
	Size     int64            `json:"size"`
	MTime    time.Time        `json:"mtime,omitzero"`
	Owed     bool             `json:"owed"` // its bytes are under way to the asked node
	Changed  cluster.Position `json:"changed"`
	What     string           `json:"what,omitempty"` // changed, removed, renamed; empty: not as far as the journal reaches
	Standbys []ExplainedOn    `json:"standbys"`       // of a master
}

// ExplainedOn is what the master knows of the path on a standby.
type ExplainedOn struct {
	Node  cluster.NodeID   `json:"node"`
	State string           `json:"state"` // durable, under-way, comparing
	Acked cluster.Position `json:"acked"`
}

// Explainer is what the API asks of the agent about one path.
type Explainer interface {
	Explain(ctx context.Context, q ExplainQuery) (Explained, error)
}

func handleExplain(mux *http.ServeMux, b Explainer) { handle(mux, "/v1/explain", maxBody, b.Explain) }

// Explain says what the agent knows of one path.
func (c *Client) Explain(ctx context.Context, q ExplainQuery) (x Explained, err error) {
	return x, c.do(ctx, http.MethodPost, "/v1/explain", q, &x)
}
