package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/join"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

type identityCommand struct {
	Issue identityIssueCommand `cmd:"" help:"Make out the identity of another node."`
}

type identityIssueCommand struct {
	Node   string        `arg:"" help:"The node, as the configuration names it."`
	Out    string        `required:"" placeholder:"DIR" help:"Where to put it; a ready state directory for that node."`
	Config string        `placeholder:"FILE" help:"The configuration, if nodes were added to it since init."`
	Valid  time.Duration `default:"8760h" placeholder:"TIME" help:"How long the certificate is valid; it is renewed by itself (8760h: a year)."`
}

// Help is printed under the usage.
func (identityIssueCommand) Help() string {
	return "Run it on the node that did init, where the CA's key is. DIR then holds secret keys: carry it to the node over a channel that others cannot read, and use it there as --state."
}

type issueAnswer struct {
	Node string `json:"node"`
	Out  string `json:"out"`
}

// Run issues the identity.
func (c *identityIssueCommand) Run(_ context.Context, e *env) error {
	const op = "issue identity"
	store, err := roster.Open(e.state)
	if err != nil {
		return err
	}
	path := cmp.Or(c.Config, filepath.Join(e.state, configCopy))
	cfg, _, err := store.Configure(c.Config)
	if problem.KindOf(err) == problem.NotFound && c.Config == "" {
		return &problem.Problem{Op: op, Kind: problem.NotFound, Subject: path, Err: errors.New("no cluster was made with this state directory"),
			Hint: "run this on the node that did init, with its --state; or name the configuration with --config"}
	}
	if err != nil {
		return err
	}
	if err := knownNode(op, cfg, c.Node); err != nil {
		return err
	}
	id, err := peer.LoadIdentity(e.state)
	if err != nil {
		return err
	}
	if id.Cluster != cfg.Cluster {
		return &problem.Problem{Op: op, Kind: problem.Conflict, Subject: path,
			Err:  fmt.Errorf("it is the configuration of cluster %s; the CA in %s is that of %s", cfg.Cluster, e.state, id.Cluster),
			Hint: "name the other cluster's configuration, or its state directory"}
	}
	epoch := store.Epoch(cluster.NodeID(c.Node))
	if err := peer.Issue(e.state, cluster.NodeID(c.Node), epoch, c.Valid, c.Out); err != nil {
		return err
	}
	if err := join.NoteIssued(e.state, cluster.NodeID(c.Node), epoch); err != nil {
		return err
	}
	if c.Config != "" {
		if err := keepConfig(e.state, c.Config); err != nil {
			return err
		}
	}
	return e.answer(issueAnswer{c.Node, c.Out},
		fmt.Sprintf("identity of node %s is in %s\nnext: carry it to that node and run there: revolve agent --config FILE --node %s --state DIR", c.Node, c.Out, c.Node))
}
