package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/join"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

type tokenCommand struct {
	Node    string            `arg:"" help:"The node that will join, as the configuration names it."`
	Link    map[string]string `placeholder:"LINK=ADDRESS" help:"Add the node to the running cluster first, with this address; once for each of its links."`
	Expires time.Duration     `default:"1h" placeholder:"TIME" help:"How long the token may be used (1h)."`
	Config  string            `placeholder:"FILE" help:"The configuration, if no agent runs here and the state directory has none."`
	Valid   time.Duration     `default:"8760h" placeholder:"TIME" help:"How long the certificate is valid that it is exchanged for; it is renewed by itself (8760h: a year)."`
}

// Help is printed under the usage.
func (tokenCommand) Help() string {
	return "Run it on the node that did init, where the CA's key is, whether its agent runs or not. The token works once and says which cluster it is of; whoever has it can become that node, so carry it over a channel that others cannot read. For a node that has an identity already it is a replacement: when the token is used, the former identity is refused everywhere."
}

type tokenAnswer struct {
	Token    string    `json:"token"`
	Node     string    `json:"node"`
	Expires  time.Time `json:"expires"`
	Replaces bool      `json:"replaces"` // the node has an identity, which will be refused
}

// Run makes the token. Standard output is the token and nothing else, so that it
// can be redirected into a file.
func (c *tokenCommand) Run(ctx context.Context, e *env) error {
	const op = "make token"
	if c.Expires <= 0 || c.Valid <= 0 {
		return &problem.Problem{Op: op, Kind: problem.Invalid, Subject: c.Node, Err: errors.New("--expires and --valid must be above 0")}
	}
	ca, err := peer.LoadCA(e.state)
	if err != nil {
		return err
	}
	cfg, err := c.configuration(ctx, e)
	if err != nil {
		return err
	}
	node := cluster.NodeID(c.Node)
	if err := member(cfg, node); err != nil {
		return err
	}
	id := ca.Identity()
	if id.Node == node {
		return &problem.Problem{Op: op, Kind: problem.Conflict, Subject: c.Node, Err: errors.New("it is this node, which has the CA"),
			Hint: "to replace this node, carry identity/ca.key to another node first (mode 0600), and make the token there"}
	}
	issued, err := join.LoadIssued(e.state)
	if err != nil {
		return err
	}
	now := time.Now()
	t, err := join.Make(e.state, node, join.Terms{Expires: c.Expires, Life: c.Valid}, now)
	if err != nil {
		return err
	}
	_, had := issued[node]
	if !e.json {
		fmt.Fprintf(e.stderr, "token for node %s, works once until %s\n", node, now.Add(c.Expires).Format(time.DateTime))
		switch {
		case had:
			fmt.Fprintf(e.stderr, "%s has an identity already: when the token is used, that one is refused everywhere\n", node)
		case !peer.IsOrigin(e.state):
			fmt.Fprintf(e.stderr, "if %s has an identity already: when the token is used, that one is refused everywhere\n", node)
		}
		self, _ := cfg.Node(id.Node)
		fmt.Fprintf(e.stderr, "next, on the new machine: revolve join %v --node %s --token-file - (and paste it)\n", self.Links[0].Addr, node)
	}
	return e.answer(tokenAnswer{t.Text(), c.Node, now.Add(c.Expires).UTC(), had}, t.Text())
}

// configuration is the one in force: the agent's if one runs here, else that of
// the state directory. With --link it has the node added to it.
func (c *tokenCommand) configuration(ctx context.Context, e *env) (*config.Config, error) {
	inForce, err := control.Dial(e.state).Configuration(ctx)
	running := err == nil
	if !running {
		if len(c.Link) > 0 {
			return nil, err
		}
		store, err := roster.Open(e.state)
		if err != nil {
			return nil, err
		}
		cfg, _, err := store.Configure(c.Config)
		return cfg, err
	}
	if len(c.Link) > 0 {
		return c.add(ctx, e, inForce)
	}
	return config.Parse("the configuration in force", []byte(inForce.Config))
}

// add makes the node a part of the configuration in force. If somebody else
// changes that at the same moment, it begins anew: nobody's change is undone.
func (c *tokenCommand) add(ctx context.Context, e *env, inForce control.Configuration) (*config.Config, error) {
	client := control.Dial(e.state)
	for try := 1; ; try++ {
		text, err := addNode(inForce.Config, c.Node, c.Link)
		if err != nil {
			return nil, err
		}
		_, failed := client.Change(ctx, control.Change{Config: text, Base: &inForce.Generation})
		if failed == nil {
			return config.Parse("the configuration in force", []byte(text))
		}
		before := inForce.Generation
		if inForce, err = client.Configuration(ctx); err != nil || problem.KindOf(failed) != problem.Conflict || inForce.Generation == before || try == addTries {
			return nil, failed
		}
	}
}

// addTries bounds how often a change by somebody else makes it begin anew.
const addTries = 5

// member refuses a node that is not in the configuration, and says how to add it.
func member(cfg *config.Config, node cluster.NodeID) error {
	if _, ok := cfg.Node(node); ok {
		return nil
	}
	names := make([]string, 0, len(cfg.Nodes))
	for _, n := range cfg.Nodes {
		names = append(names, string(n.Name))
	}
	return &problem.Problem{Op: "make token", Kind: problem.NotFound, Subject: string(node),
		Err:  fmt.Errorf("the configuration has no such node; it has %s", strings.Join(names, ", ")),
		Hint: fmt.Sprintf("add it while the cluster runs: revolve token %s --link %s=ADDRESS; or edit what revolve config show prints, and revolve config apply FILE", node, cfg.Nodes[0].Links[0].Name)}
}

// addNode writes a node into the text of a configuration, below the line `nodes:`.
func addNode(text, node string, links map[string]string) (string, error) {
	fail := func(why string) (string, error) {
		return "", &problem.Problem{Op: "add node", Kind: problem.Invalid, Subject: node, Err: errors.New(why),
			Hint: "edit what revolve config show prints, and revolve config apply FILE"}
	}
	before, err := config.Parse("the configuration in force", []byte(text))
	if err != nil {
		return "", err
	}
	var words []string
	for name, addr := range links {
		if err := knownLink(before, node, name); err != nil {
			return "", err
		}
		if _, err := netip.ParseAddr(addr); err != nil {
			return fail(fmt.Sprintf("%s=%s: not an address", name, addr))
		}
		words = append(words, fmt.Sprintf("%s: %q", name, addr))
	}
	slices.Sort(words)
	lines := strings.SplitAfter(text, "\n")
	i := slices.IndexFunc(lines, func(l string) bool {
		after, ok := strings.CutPrefix(l, "nodes:")
		after = strings.TrimSpace(after)
		return ok && (after == "" || strings.HasPrefix(after, "#"))
	})
	if i < 0 || i+1 >= len(lines) {
		return fail("the configuration has no line that is only `nodes:`")
	}
	next := lines[i+1]
	indent := next[:len(next)-len(strings.TrimLeft(next, " "))]
	if indent == "" {
		indent = "  "
	}
	out := strings.Join(slices.Insert(lines, i+1, fmt.Sprintf("%s%s: { links: { %s } }\n", indent, node, strings.Join(words, ", "))), "")
	if _, err := config.Parse("the configuration with node "+node, []byte(out)); err != nil {
		return "", err
	}
	return out, nil
}

// knownLink refuses a link that no node has: with it every agent would have to begin anew, which is not what was asked for.
func knownLink(cfg *config.Config, node, link string) error {
	var known []string
	for _, n := range cfg.Nodes {
		for _, l := range n.Links {
			if !slices.Contains(known, string(l.Name)) {
				known = append(known, string(l.Name))
			}
		}
	}
	if slices.Contains(known, link) {
		return nil
	}
	return &problem.Problem{Op: "add node", Kind: problem.Invalid, Subject: node, Err: fmt.Errorf("no node has a link %s; the links are %s", link, strings.Join(known, ", ")),
		Hint: "leave it out; a new link comes in with revolve config apply FILE, for this node and the others"}
}
