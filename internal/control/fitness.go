package control

import (
	"context"
	"net/http"
	"time"

	"revolve/internal/cluster"
)

// Fitness is whether another engine should bring the floating addresses to a
// node: the answer of `revolve eligible --json`. It only ever gains fields.
type Fitness struct {
	Node     cluster.NodeID `json:"node"`
	Eligible bool           `json:"eligible"`
	Why      string         `json:"why"`
	Penalty  int            `json:"penalty"` // 0 for the best, 254 for a node that is not eligible: what the track file holds
	Score    int            `json:"score"`   // the other way round, for Pacemaker: 1 to 1000, 0 for a node that is not eligible
	Role     string         `json:"role"`
	Class    string         `json:"class"`
	Frozen   bool           `json:"frozen"` // the addresses are here, but a higher term reigns elsewhere
}

// fitnessWithin bounds the wait for the answer: an engine asks every second, and an agent that is silent for so long is not fit.
const fitnessWithin = 500 * time.Millisecond

// Fitness asks how fit the node is to lead.
func (c *Client) Fitness(ctx context.Context) (f Fitness, err error) {
	ctx, cancel := context.WithTimeout(ctx, fitnessWithin)
	defer cancel()
	return f, c.do(ctx, http.MethodGet, "/v1/eligible", nil, &f)
}
