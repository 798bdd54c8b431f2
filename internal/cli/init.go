package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// configCopy is the configuration that init saw, in the state directory: later
// identities are issued to its nodes only.
const configCopy = "init.yaml"

type initCommand struct {
	Config string `placeholder:"FILE" help:"Use this configuration: nothing is asked or written."`
	Node   string `placeholder:"NAME" help:"This node; with --config, as the configuration names it."`

	Cluster   string   `placeholder:"NAME" help:"The cluster's name."`
	Interface string   `placeholder:"CARD" help:"The network interface that carries the floating address."`
	VIP       string   `name:"vip" placeholder:"ADDRESS" help:"The floating address: a free one of the interface's network."`
	Volume    string   `placeholder:"PATH" help:"The directory that is kept the same on every node; NAME=PATH to call the volume something else."`
	Other     []string `placeholder:"NAME=ADDRESS" sep:"none" help:"Another node and its address; once for each. More can join later."`
	Out       string   `placeholder:"FILE" default:"${conf}" help:"Where the configuration is written (${conf})."`
	Force     bool     `help:"Write it although the file exists; that one is kept beside it."`
	Print     bool     `help:"Only print the configuration; nothing is made."`
	Yes       bool     `help:"Ask nothing: what is missing is an error."`
}

// Help is printed under the usage.
func (initCommand) Help() string {
	return "Run it once, on one node: the one that has your files. Without --config, and on a terminal, it asks for what no flag says, proposes what it finds on this machine, and checks each answer at once; then it writes the configuration, with a comment for every key. In a script all of --cluster, --node, --interface, --vip and --volume are needed.\n\nIt makes the cluster's own CA, the key of the heartbeats and this node's identity in the state directory, and overwrites nothing. The CA's key stays here; every other node joins with a token that revolve token makes here."
}

type initAnswer struct {
	Cluster  string   `json:"cluster"`
	Node     string   `json:"node"`
	State    string   `json:"state"`
	Config   string   `json:"config"`
	Kept     string   `json:"kept,omitempty"` // the file that was there before
	Warnings []string `json:"warnings"`
}

// Run makes the cluster.
func (c *initCommand) Run(ctx context.Context, e *env) error {
	if c.Config == "" {
		return c.anew(ctx, e)
	}
	if c.Node == "" || c.answered() {
		p := &problem.Problem{Op: "make cluster", Kind: problem.Invalid, Subject: c.Config, Err: errors.New("missing flags: --node=NAME"), Hint: "name this node as the configuration does: --node NAME"}
		if c.answered() {
			p.Err, p.Hint = errors.New("--config is of a configuration that exists; --cluster, --interface, --vip, --volume, --other, --force, --print and --yes are for one that is made"), "leave --config out, or the others"
		}
		return p
	}
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
	return c.made(e, cfg, "", initAnswer{Config: c.Config})
}

// answered reports whether a flag is for a configuration that is to be made.
func (c *initCommand) answered() bool {
	return c.Cluster != "" || c.Interface != "" || c.VIP != "" || c.Volume != "" || len(c.Other) > 0 || c.Force || c.Print || c.Yes
}

// made says what was made, and what to type next, here and elsewhere.
func (c *initCommand) made(e *env, cfg *config.Config, text string, a initAnswer) error {
	var b strings.Builder
	warnings(&b, cfg)
	b.WriteString(text)
	fmt.Fprintf(&b, "cluster %s: CA and identity of node %s are in %s\n", cfg.Cluster, c.Node, e.state)
	at := ""
	if e.state != defaultState {
		at = " --state " + e.state
	}
	self, _ := cfg.Node(cluster.NodeID(c.Node))
	fmt.Fprintf(&b, "next: revolve doctor --config %s --node %s%s\n", a.Config, c.Node, at)
	fmt.Fprintf(&b, "next: systemctl enable --now revolve (or in the foreground: revolve agent --node %s%s)\n", c.Node, at)
	for _, n := range cfg.Nodes {
		if string(n.Name) != c.Node {
			fmt.Fprintf(&b, "next: revolve token %s%s; then on %s: revolve join %s --node %s --token-file -\n", n.Name, at, n.Name, self.Links[0].Addr, n.Name)
		}
	}
	if len(cfg.Nodes) == 1 {
		fmt.Fprintf(&b, "next, for another node, once this one runs: revolve token NAME --link %s=ADDRESS%s; then on it: revolve join %s --node NAME --token-file -\n", self.Links[0].Name, at, self.Links[0].Addr)
	}
	a.Cluster, a.Node, a.State, a.Warnings = cfg.Cluster, c.Node, e.state, list(cfg.Warnings)
	return e.answer(a, b.String())
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
