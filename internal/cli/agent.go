package cli

import (
	"context"
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
	cfg, warning, err := store.Configure(c.Config)
	if err != nil {
		return err
	}
	node, err := c.node(e.state)
	if err != nil {
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
	if warning != "" {
		log.Warn(warning)
	}
	return agent.Run(ctx, agent.Options{Config: cfg, Roster: store, Node: node, State: e.state, Beat: []string{exe, "beat"}, Guard: []string{exe, "vm-guard"}, Log: log, Notify: notify})
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
