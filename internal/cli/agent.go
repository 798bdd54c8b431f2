package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"revolve/internal/agent"
	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
	"revolve/internal/sdnotify"
)

type agentCommand struct {
	Config string `placeholder:"FILE" help:"The cluster's configuration, the same file on all nodes; not needed where join or init has left it in the state directory."`
	Node   string `placeholder:"NAME" help:"This node, as the configuration names it; not needed where init or join has made the identity."`
	Debug  bool   `help:"Log every connection that ends, too."`
}

// Help is printed under the usage.
func (agentCommand) Help() string {
	return "It runs the node in the foreground and logs to standard error, until SIGTERM or SIGINT; then it gives up the floating addresses at once and stops. Run it as root, or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH, CAP_CHOWN, CAP_FOWNER and CAP_SYS_NICE."
}

// Run runs the node.
func (c *agentCommand) Run(ctx context.Context, e *env) error {
	notify := sdnotify.FromEnvironment()
	store, err := roster.Open(e.state)
	if err != nil {
		return err
	}
	node, err := c.node(e.state)
	if err != nil {
		if _, _, none := store.Configure(c.Config); none != nil {
			return none // without a configuration there is nobody to be
		}
		return err
	}
	back, err := store.Settle(node)
	if err != nil {
		return err
	}
	if _, _, err := store.Configure(c.Config); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return &problem.Problem{Op: "find this program", Kind: problem.Internal, Err: err}
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
	o := agent.Options{Roster: store, File: c.Config, Node: node, State: e.state, Beat: []string{exe, "beat"}, Guard: []string{exe, "vm-guard"}, Log: log, Notify: notify}
	if back {
		log.Warn("the new configuration was not confirmed in time: the former one is in force again", "generation", store.Current().Generation)
	}
	return c.runAgain(ctx, store, o)
}

// runAgain runs the agent, and runs it anew when another configuration asks for that.
// A configuration that is tried, and that the agent was started with, is what it
// cannot run with when it fails: also when the start is one after a crash.
func (c *agentCommand) runAgain(ctx context.Context, store *roster.Store, o agent.Options) error {
	for {
		cfg, warning, err := store.Configure(c.Config)
		if err != nil {
			return err
		}
		if warning != "" {
			o.Log.Warn(warning)
		}
		o.Config = cfg
		_, tried := store.Trial()
		err = agent.Run(ctx, o)
		switch {
		case errors.Is(err, agent.ErrAnew) && ctx.Err() == nil:
			o.Log.Info("starting anew with another configuration", "generation", store.Current().Generation)
			continue
		case err == nil || !tried || ctx.Err() != nil || store.Out() != "" || errors.Is(err, agent.ErrInUse): // what another agent does with it is that one's affair
			return err
		}
		back, failed := store.TurnBack(o.Node)
		if failed != nil || !back {
			return errors.Join(err, failed)
		}
		o.Log.Error("the agent cannot run with the new configuration: the former one is in force again", "generation", store.Current().Generation, "err", err, "hint", problem.HintOf(err))
	}
}

// node is the one that was named, else the one that the identity is of.
func (c *agentCommand) node(state string) (cluster.NodeID, error) {
	if c.Node != "" {
		return cluster.NodeID(c.Node), nil
	}
	id, err := peer.LoadIdentity(state)
	if err != nil {
		return "", err
	}
	return id.Node, nil
}

// beatCommand is the agent's small real-time process. Nobody types it.
type beatCommand struct{}

// Run lives on the descriptor that the agent left open.
func (beatCommand) Run(ctx context.Context, _ *env) error { return beat.Main(ctx) }
