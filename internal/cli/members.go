package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

type configShowCommand struct{}

// Help is printed under the usage.
func (configShowCommand) Help() string {
	return "It asks the agent of this node; if none runs, it reads the state directory."
}

// Run prints the text as it was written, comments included.
func (configShowCommand) Run(ctx context.Context, e *env) error {
	c, err := inForce(ctx, e.state)
	if err != nil {
		return err
	}
	return e.answer(c, c.Config)
}

// inForce is the configuration that the agent goes by, or would if it ran.
func inForce(ctx context.Context, state string) (control.Configuration, error) {
	c, err := control.Dial(state).Configuration(ctx)
	if err == nil {
		return c, nil
	}
	store, err := roster.Open(state)
	if err != nil {
		return c, err
	}
	if _, _, err := store.Configure(""); err != nil {
		return c, err
	}
	r := store.Current()
	return control.Configuration{Generation: r.Generation, Config: r.Config}, nil
}

// describe says what a change did.
func describe(w *strings.Builder, d control.Changed, dry bool) {
	switch {
	case !changes(d):
		fmt.Fprintf(w, "nothing changes; generation %d\n", d.Generation)
	case dry:
		fmt.Fprintf(w, "it would be generation %d; nothing was changed\n", d.Generation)
	default:
		fmt.Fprintf(w, "generation %d\n", d.Generation)
	}
	for _, l := range []struct {
		what  string
		nodes []cluster.NodeID
	}{{"+ node", d.Added}, {"- node", d.Removed}, {"~ node", d.Altered}} {
		for _, n := range l.nodes {
			fmt.Fprintf(w, "  %s %s\n", l.what, n)
		}
	}
	for _, what := range d.Anew {
		fmt.Fprintf(w, "  ~ %s: the agents concerned start anew by themselves, the master's last\n", what)
	}
	for _, r := range d.Restart {
		fmt.Fprintf(w, "  ~ %s: takes effect on each node when its agent starts anew\n", r)
	}
	told(w, d)
	for _, n := range d.Added {
		if !dry {
			fmt.Fprintf(w, "next, where the CA is: revolve token %s\n", n)
		}
	}
}

func changes(d control.Changed) bool {
	return len(d.Added)+len(d.Removed)+len(d.Altered)+len(d.Restart)+len(d.Anew) > 0
}

func told(w *strings.Builder, d control.Changed) {
	for _, n := range d.Nodes {
		if n.Took {
			fmt.Fprintf(w, "  %s has it\n", n.Node)
		} else {
			fmt.Fprintf(w, "  %s was not reached and gets it when it is back: %s\n", n.Node, n.Why)
		}
	}
}

type revokeCommand struct {
	Node    string `arg:"" help:"The node whose identity is refused."`
	Removed bool   `help:"It is not in the configuration any more."`
}

// Help is printed under the usage.
func (revokeCommand) Help() string {
	return "For a node that was stolen, sold or lost: every certificate that it ever had is refused by all nodes at once, its connections end, and the key of the heartbeats is changed. Nodes that are off learn of it when they are back. A node that was removed with revolve config apply has its certificate still: --removed revokes that. Otherwise the node stays in the configuration: revolve token NODE lets a machine take its place; revolve config apply removes it."
}

// Run revokes.
func (c *revokeCommand) Run(ctx context.Context, e *env) error {
	node := cluster.NodeID(c.Node)
	inForce, err := control.Dial(e.state).Configuration(ctx)
	if err != nil {
		return err
	}
	cfg, err := config.Parse("the configuration in force", []byte(inForce.Config))
	if err != nil {
		return err
	}
	if err := c.named(cfg); err != nil {
		return err
	}
	if id, err := peer.LoadIdentity(e.state); err == nil && id.Node == node {
		return &problem.Problem{Op: "revoke", Kind: problem.Conflict, Subject: c.Node, Err: errors.New("it is this node"), Hint: "type it on another node"}
	}
	done, err := control.Dial(e.state).Change(ctx, control.Change{Revoke: node})
	if err != nil {
		return err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "the identity of node %s is refused from now on; generation %d\n", node, done.Generation)
	if done.Key == control.KeyChanged {
		fmt.Fprintf(&out, "the heartbeat key is changed\n")
	} else {
		fmt.Fprintf(&out, "the heartbeat key is being changed: a node that lives has not confirmed it yet; the master goes on by itself (revolve status)\n")
	}
	for _, n := range done.Nodes {
		if n.Node != node && !n.Took {
			fmt.Fprintf(&out, "  %s was not reached and gets it when it is back: %s\n", n.Node, n.Why)
		}
	}
	if c.Removed {
		return e.answer(done, out.String())
	}
	fmt.Fprintf(&out, "next: revolve token %s, where the CA is, for a machine in its place; or take it out: revolve config apply FILE\n", node)
	return e.answer(done, out.String())
}

// named refuses a node that is not in the configuration, or that is with --removed.
func (c *revokeCommand) named(cfg *config.Config) error {
	_, member := cfg.Node(cluster.NodeID(c.Node))
	switch {
	case c.Removed && member:
		return &problem.Problem{Op: "revoke", Kind: problem.Conflict, Subject: c.Node, Err: errors.New("the node is in the configuration"), Hint: "leave --removed out"}
	case c.Removed && !config.IsName(c.Node):
		return &problem.Problem{Op: "revoke", Kind: problem.Invalid, Subject: c.Node, Err: errors.New("that is no name of a node"), Hint: "use the name that it had"}
	case c.Removed:
		return nil
	}
	err := knownNode("revoke", cfg, c.Node)
	var p *problem.Problem
	if errors.As(err, &p) {
		p.Hint = "use one of these names; or, for a node that was in the configuration once: revolve revoke " + c.Node + " --removed"
	}
	return err
}
