package control

import (
	"context"
	"net/http"

	"revolve/internal/cluster"
)

// PowerOrder wakes a node, or has it power itself off.
type PowerOrder struct {
	Node cluster.NodeID `json:"node"`
	On   bool           `json:"on"`
}

// Powerer is what the API asks of the agent about power.
type Powerer interface {
	Power(ctx context.Context, o PowerOrder) error
}

func handlePower(mux *http.ServeMux, b Powerer) {
	handle(mux, "/v1/power", maxBody, func(ctx context.Context, o PowerOrder) (struct{}, error) { return struct{}{}, b.Power(ctx, o) })
}

// Power orders it. That a node was told to power on does not say that it runs.
func (c *Client) Power(ctx context.Context, o PowerOrder) error {
	return c.do(ctx, http.MethodPost, "/v1/power", o, &struct{}{})
}
