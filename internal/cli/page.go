package cli

import (
	"context"
	"fmt"
	"time"

	"revolve/internal/config"
	"revolve/internal/web"
)

type pageCommand struct {
	Token  pageTokenCommand  `cmd:"" help:"Make the token that signs in to this node's page, to give orders there."`
	Revoke pageRevokeCommand `cmd:"" help:"End that token, and all who are signed in by it."`
}

type pageTokenCommand struct {
	Expires time.Duration `default:"720h" placeholder:"TIME" help:"How long the token is good (720h: 30 days); a year at most."`
}

// Help is printed under the usage.
func (pageTokenCommand) Help() string {
	return "With it one signs in at /orders of this node's status page (served where web: of the configuration says), over the node's loopback interface (ssh -L) or over TLS by a proxy on it, and can order a planned switch, hold, and silence alarms. There is one token for each node: a new one ends the former. It is shown once; the node keeps its hash."
}

type pageTokenAnswer struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Run makes the token. Standard output is the token and nothing else, so that it
// can be redirected into a file.
func (c *pageTokenCommand) Run(ctx context.Context, e *env) error {
	text, expires, err := web.MakeToken(e.state, c.Expires, time.Now())
	if err != nil {
		return err
	}
	if !e.json {
		if noPage(ctx, e.state) {
			fmt.Fprintln(e.stderr, "note: the configuration that this node keeps has no page to sign in to; it is served with web: { listen: [ \"127.0.0.1:8480\" ] }")
		}
		fmt.Fprintf(e.stderr, "token for the status page of this node, good until %s; the former one is not any more\n", expires.Local().Format(time.DateTime))
		fmt.Fprintln(e.stderr, "next: open /orders of the page over ssh -L, and sign in; revolve page revoke ends it")
	}
	return e.answer(pageTokenAnswer{text, expires}, text)
}

// noPage reports whether the configuration that this node goes by, or keeps, has no status page. What is not known has one.
func noPage(ctx context.Context, state string) bool {
	c, err := inForce(ctx, state)
	if err != nil {
		return false
	}
	cfg, err := config.Parse("", []byte(c.Config))
	return err == nil && len(cfg.Web.Listen) == 0
}

type pageRevokeCommand struct{}

// Run ends the token.
func (c *pageRevokeCommand) Run(_ context.Context, e *env) error {
	was, err := web.RevokeToken(e.state)
	if err != nil {
		return err
	}
	text := "there was no token for the status page"
	if was {
		text = "the token for the status page is not good any more, and nobody is signed in by it"
	}
	return e.answer(map[string]bool{"revoked": was}, text)
}
