package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/join"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// configCopy is the configuration that init saw, in the state directory: later
// identities are issued to its nodes only.
const configCopy = "init.yaml"

type initCommand struct {
	Config string `required:"" placeholder:"FILE" help:"The cluster's configuration."`
	Node   string `required:"" placeholder:"NAME" help:"This node, as the configuration names it."`
}

// Help is printed under the usage.
func (initCommand) Help() string {
	return "Run it once, on one node. It makes the cluster's own CA, the key of the heartbeats and this node's identity in the state directory, and overwrites nothing. The CA's key stays here; every other node joins with a token that revolve token makes here."
}

type initAnswer struct {
	Cluster  string   `json:"cluster"`
	Node     string   `json:"node"`
	State    string   `json:"state"`
	Warnings []string `json:"warnings"`
}

// Run makes the cluster.
func (c *initCommand) Run(_ context.Context, e *env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	if err := knownNode("make identity", cfg, c.Node); err != nil {
		return err
	}
	if err := peer.Init(e.state, cfg.Cluster, cluster.NodeID(c.Node)); err != nil {
		return err
	}
	if err := keepConfig(e.state, c.Config); err != nil {
		return err
	}
	var text strings.Builder
	warnings(&text, cfg)
	fmt.Fprintf(&text, "cluster %s: CA and identity of node %s are in %s\n", cfg.Cluster, c.Node, e.state)
	for _, n := range cfg.Nodes {
		if string(n.Name) != c.Node {
			fmt.Fprintf(&text, "next: revolve token %s --state %s\n", n.Name, e.state)
		}
	}
	return e.answer(initAnswer{cfg.Cluster, c.Node, e.state, list(cfg.Warnings)}, text.String())
}

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

// knownNode refuses a node that the configuration does not name.
func knownNode(op string, cfg *config.Config, node string) error {
	if _, ok := cfg.Node(cluster.NodeID(node)); ok {
		return nil
	}
	names := make([]string, 0, len(cfg.Nodes))
	for _, n := range cfg.Nodes {
		names = append(names, string(n.Name))
	}
	return &problem.Problem{Op: op, Kind: problem.NotFound, Subject: node,
		Err:  fmt.Errorf("the configuration has no such node; it has %s", strings.Join(names, ", ")),
		Hint: "use one of these names, or add the node to the configuration (and name the file with --config)"}
}

// keepConfig puts a copy of the configuration into the state directory, durably.
func keepConfig(state, path string) error {
	const op = "keep the configuration"
	fail := func(err error) error {
		kind := problem.Unavailable
		if errors.Is(err, fs.ErrPermission) {
			kind = problem.Permission
		}
		return &problem.Problem{Op: op, Kind: kind, Subject: filepath.Join(state, configCopy), Err: err,
			Hint: "the identity is made; name the file with --config when you issue others"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(state, "."+configCopy+"-")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fail(err)
	}
	if err := os.Rename(f.Name(), filepath.Join(state, configCopy)); err != nil {
		return fail(err)
	}
	d, err := os.Open(state)
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fail(err)
	}
	return nil
}
