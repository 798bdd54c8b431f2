package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"revolve/internal/demo"
	"revolve/internal/failover/whoanswers"
	"revolve/internal/problem"
	"revolve/internal/testbed"
)

type demoCommand struct {
	Nodes  int    `default:"4" placeholder:"N" help:"How many nodes (2-8, 4 if nothing is said)."`
	Tree   string `placeholder:"DIR" help:"The tree to mirror (the sources of the Go installation)."`
	Repeat int    `default:"1" placeholder:"N" help:"Rounds of faults, each at other moments (1)."`
	Seed   uint64 `placeholder:"N" help:"Repeat the random moments of an earlier run."`
	Stay   string `default:"auto" enum:"auto,always,never" help:"Stay up after the end, until Ctrl-C: auto (on a terminal), always or never."`
	Web    string `placeholder:"ADDRESS:PORT" help:"Serve the cluster's status page there while it runs: 127.0.0.1:8480."`
	Logs   string `placeholder:"DIR" help:"Keep the nodes' logs there if something was wrong."`
}

// Help is printed under the usage.
func (demoCommand) Help() string {
	return "It makes machines out of the kernel's namespaces, runs the real agent on each, mirrors a real tree, asks a name server through the floating address all the time, and then lets machines, links and processes fail; it measures and judges by what is seen from outside. It needs no root where the kernel allows user namespaces, and leaves nothing behind. The report of --json goes to standard output, the story then to standard error."
}

func (demoCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "a promise was broken"}}
}

// broken is the verdict that a promise was broken, or the status of the demo on its stage.
type broken int

func (b broken) Error() string   { return fmt.Sprintf("exit status %d", int(b)) }
func (b broken) exitStatus() int { return int(b) }

// Run tells the story; first it runs this program again on a stage of its own.
func (c *demoCommand) Run(ctx context.Context, e *env) error {
	stage, on, err := testbed.Current()
	if err != nil {
		return err
	}
	if !on {
		var status int
		err := demo.WithPage(ctx, c.Web, func() (err error) {
			status, err = testbed.Enter(ctx, nil, e.stdout, e.stderr)
			return err
		})
		if err == nil && status != 0 {
			err = broken(status)
		}
		return err
	}
	o := demo.Options{Nodes: c.Nodes, Tree: c.Tree, Repeat: c.Repeat, Seed: c.Seed, Log: c.Logs, Page: demo.PageSocket(), Out: e.stdout}
	if e.json {
		o.Out = e.stderr
	}
	o.Live = isTerminal(o.Out)
	o.Color = o.Live && os.Getenv("NO_COLOR") == ""
	o.Stay = c.Stay == "always" || c.Stay == "auto" && o.Live && !e.json
	report, err := demo.Tell(ctx, stage, o)
	if e.json && report != nil {
		if aerr := e.answer(report, ""); err == nil {
			err = aerr
		}
	}
	if err == nil && !report.Held {
		err = broken(1)
	}
	return err
}

// isTerminal reports whether w is a terminal: only those have terminal attributes.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// The parts of the demo that run on its nodes and in its client.

type demoDNSCommand struct {
	Zone string `required:"" placeholder:"FILE" help:"The zone; read again when it changes."`
	Node string `required:"" placeholder:"NAME" help:"Named in every answer."`
}

// Run answers until it is ended.
func (c *demoDNSCommand) Run(ctx context.Context, e *env) error {
	return demo.Serve(ctx, demo.ServeOptions{Zone: c.Zone, Node: c.Node, Log: slog.New(slog.NewTextHandler(e.stderr, nil))})
}

type demoAskCommand struct {
	Server []netip.Addr `required:"" placeholder:"ADDRESS" help:"Whom to ask."`
}

// Run asks until it is ended.
func (c *demoAskCommand) Run(ctx context.Context, e *env) error {
	return demo.Ask(ctx, c.Server, e.stdout)
}

type demoCardsCommand struct {
	Device  string       `required:"" placeholder:"CARD" help:"Whose link is asked."`
	Own     netip.Addr   `required:"" placeholder:"ADDRESS" help:"An IPv6 address of it."`
	Address []netip.Addr `required:"" placeholder:"ADDRESS" help:"Who has it?"`
}

// Run asks until it is ended.
func (c *demoCardsCommand) Run(ctx context.Context, e *env) error {
	return demo.Cards(ctx, whoanswers.Options{Device: c.Device, Own: c.Own, Addrs: c.Address}, e.stdout)
}

type demoWriteCommand struct {
	Dir      string     `required:"" placeholder:"DIR" help:"The volume."`
	Node     string     `required:"" placeholder:"NAME" help:"Named in every file."`
	FirstRun int        `name:"run" placeholder:"N" help:"Number of the first run."`
	While    netip.Addr `required:"" placeholder:"ADDRESS" help:"Write only while this address is here."`
	Seed     uint64     `placeholder:"N" help:"Of the random choices."`
}

// Run writes until it is ended.
func (c *demoWriteCommand) Run(ctx context.Context, e *env) error {
	if !c.While.Is4() {
		return &problem.Problem{Op: "write", Kind: problem.Invalid, Subject: c.While.String(), Err: fmt.Errorf("not an IPv4 address")}
	}
	return demo.Write(ctx, demo.WriteOptions{Dir: c.Dir, Node: c.Node, Run: c.FirstRun, While: c.While, Seed: c.Seed}, e.stdout)
}
