package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// Rehearser is what the API asks of the agent about rehearsals.
type Rehearser interface {
	Rehearse(ctx context.Context, o RehearsalOrder) (history.Rehearsal, error)
}

// RehearsalOrder asks for a rehearsal.
type RehearsalOrder struct {
	To     cluster.NodeID `json:"to,omitempty"` // "": the best standby
	Stay   time.Duration  `json:"stay"`         // how long it leads at least
	DryRun bool           `json:"dry_run"`      // only say whether it could begin
}

func handleRehearse(mux *http.ServeMux, b Rehearser) {
	mux.HandleFunc("POST /v1/rehearse", func(w http.ResponseWriter, r *http.Request) {
		var o RehearsalOrder
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&o); err != nil {
			answer(w, nil, &problem.Problem{Op: "read order", Kind: problem.Invalid, Err: err, Hint: "use the same version of revolve as the agent"})
			return
		}
		done, err := b.Rehearse(r.Context(), o)
		answer(w, done, err)
	})
}

// Rehearse has the master move the addresses to a standby and back, and waits for
// it. If ctx ends before, the rehearsal goes on.
func (c *Client) Rehearse(ctx context.Context, o RehearsalOrder) (r history.Rehearsal, err error) {
	return r, c.do(ctx, http.MethodPost, "/v1/rehearse", o, &r)
}
