package cli

import (
	"context"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

type switchCommand struct {
	Node string `arg:"" optional:"" help:"The new master; without it the in-sync standby of highest priority."`
}

// Help is printed under the usage.
func (switchCommand) Help() string {
	return "A planned move: the successor must be in-sync (one that is about to be, as right after another move, is waited for, 5 s at most); the addresses leave this master, every change whose close() returned before that is brought over, and only then the successor takes them. It can be typed on any node."
}

// Run orders the move and waits for it.
func (c *switchCommand) Run(ctx context.Context, e *env) error {
	began := time.Now()
	client := control.Dial(e.state)
	var master cluster.NodeID
	err := meanwhile(ctx, e, client, successionText, func(ctx context.Context) (err error) {
		master, err = client.Switch(ctx, cluster.NodeID(c.Node))
		return err
	})
	if err != nil {
		return err
	}
	return e.answer(map[string]any{"master": master, "took_ms": float64(time.Since(began).Microseconds()) / 1000},
		fmt.Sprintf("%s is master (%d ms)", master, time.Since(began).Milliseconds()))
}

type syncCommand struct {
	Wait    bool          `required:"" help:"Wait until every in-sync standby has, durably, everything written before this."`
	Timeout time.Duration `default:"10m" help:"Give up after this long (10m)."`
}

// Help is printed under the usage.
func (syncCommand) Help() string {
	return "A barrier: when it has returned, what was written before it survives the master's death. If none is in-sync it waits for the first that catches up; it fails if no standby is connected, since then what is written is only on the master. On a terminal it shows how far the standbys are."
}

// Run waits for the barrier.
func (c *syncCommand) Run(ctx context.Context, e *env) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	client := control.Dial(e.state)
	var ms float64
	err := meanwhile(ctx, e, client, waitingText, func(ctx context.Context) (err error) {
		ms, err = client.Sync(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return e.answer(map[string]any{"took_ms": ms}, fmt.Sprintf("the standbys have it (%.1f ms)", ms))
}
