package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/join"
	"revolve/internal/problem"
)

type joinCommand struct {
	Address   string        `arg:"" help:"Any node of the cluster: ADDRESS or ADDRESS:PORT (7373)."`
	Token     string        `placeholder:"T" xor:"token" help:"The token. Others on this machine can see it while the command runs; better is --token-file."`
	TokenFile string        `placeholder:"FILE" xor:"token" help:"A file that has the token; - is standard input."`
	Node      string        `required:"" placeholder:"NAME" help:"This node, as the configuration names it."`
	Timeout   time.Duration `default:"30s" placeholder:"TIME" help:"Give up after this long (30s)."`
}

// Help is printed under the usage.
func (joinCommand) Help() string {
	return "It makes this machine's key, which never leaves it, proves by the token's fingerprint that it talks to the right cluster, and gets a certificate, the key of the heartbeats and the configuration. Then revolve agent --node NAME runs the node. If it is interrupted, type it again with the same token and --state."
}

type joinAnswer struct {
	Cluster    string `json:"cluster"`
	Node       string `json:"node"`
	State      string `json:"state"`
	Generation uint32 `json:"generation"`
}

// Run joins.
func (c *joinCommand) Run(ctx context.Context, e *env) error {
	token, err := c.token(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	addr, err := address(ctx, c.Address)
	if err != nil {
		return err
	}
	r, err := join.Join(ctx, join.Options{Addr: addr, Token: token, Node: cluster.NodeID(c.Node), State: e.state})
	if err != nil {
		return err
	}
	return e.answer(joinAnswer{r.Cluster, c.Node, e.state, r.Roster.Generation},
		fmt.Sprintf("this machine is node %s of cluster %s; its identity and the configuration are in %s\nnext: revolve agent --node %s --state %s", c.Node, r.Cluster, e.state, c.Node, e.state))
}

func (c *joinCommand) token(e *env) (*join.Token, error) {
	switch {
	case c.Token != "":
		return join.Parse(c.Token)
	case c.TokenFile != "":
		return join.Read(c.TokenFile, e.stdin)
	}
	return nil, &problem.Problem{Op: "join", Kind: problem.Invalid, Err: errors.New("no token"),
		Hint: "get one where the CA is: revolve token " + c.Node + "; then --token-file FILE, or --token-file - and paste it"}
}

// address reads ADDRESS or ADDRESS:PORT; a name is looked up.
func address(ctx context.Context, text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, config.DefaultPort), nil
	}
	host, port := text, fmt.Sprint(config.DefaultPort)
	if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err == nil {
		var found []netip.Addr
		if found, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err == nil && len(found) > 0 {
			return netip.AddrPortFrom(found[0].Unmap(), uint16(n)), nil
		}
	}
	return netip.AddrPort{}, &problem.Problem{Op: "find node", Kind: problem.NotFound, Subject: text, Err: err, Hint: "name an address of any node of the cluster"}
}
