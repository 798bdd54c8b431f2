package control

import (
	"context"
	"net/http"

	"revolve/internal/cluster"
	"revolve/internal/vm"
)

// VMQuery is about virtual machines; what is set says what is wanted, nothing: how they are.
type VMQuery struct {
	VM        string            `json:"vm,omitempty"`
	Replicate *vm.Order         `json:"replicate,omitempty"`
	Job       string            `json:"job,omitempty"`  // how far an order is
	Plan      []cluster.NodeID  `json:"plan,omitempty"` // with VM: what copies to these would be
	Start     *vm.StartOrder    `json:"start,omitempty"`
	Stop      *vm.StopOrder     `json:"stop,omitempty"`
	Restore   *vm.RestoreOrder  `json:"restore,omitempty"`
	Rehearse  *vm.RehearseOrder `json:"rehearse,omitempty"`
	Prune     *vm.PruneOrder    `json:"prune,omitempty"`
	Scheduled bool              `json:"scheduled,omitempty"` // how the schedules stand
	Hook      bool              `json:"hook,omitempty"`      // with VM: may libvirt start it here now?
	On        cluster.NodeID    `json:"on,omitempty"`        // with Start, Rehearse
}

// VMAnswer is the answer to it.
type VMAnswer struct {
	Node      cluster.NodeID `json:"node"`
	Views     []vm.View      `json:"views,omitempty"`
	Silent    []Silent       `json:"silent,omitempty"`
	Job       *vm.Job        `json:"job,omitempty"`
	Plan      *vm.Plan       `json:"plan,omitempty"`
	Started   *vm.Started    `json:"started,omitempty"`
	Stopped   *vm.Stopped    `json:"stopped,omitempty"`
	Restored  *vm.Restored   `json:"restored,omitempty"`
	Pruned    []vm.Pruned    `json:"pruned,omitempty"`
	Rehearsal *vm.Rehearsal  `json:"rehearsal,omitempty"`
	Scheduled []vm.Scheduled `json:"scheduled,omitempty"`
}

// Machines is what the API asks of the agent about virtual machines.
type Machines interface {
	VMs(ctx context.Context, q VMQuery) (VMAnswer, error)
}

func handleVMs(mux *http.ServeMux, b Machines) { handle(mux, "/v1/vms", maxBody, b.VMs) }

// VMs asks about virtual machines, or orders something of them.
func (c *Client) VMs(ctx context.Context, q VMQuery) (a VMAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/vms", q, &a)
}
