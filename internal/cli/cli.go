// Package cli is the commands of revolve and what they print.
//
// A command is one file: a struct with its flags, a Run method, and a field in
// commands below. It reads its arguments, calls the package that does the work
// and prints the answer; it never does the work itself and never ends the
// process. What fails is returned as a problem.Problem: Main prints it, and its
// Kind becomes the exit status (docs/exit-statuses.md).
//
//	os.Exit(cli.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"revolve/internal/config"
	"revolve/internal/problem"
	"revolve/internal/testbed"
)

const description = "A handful of machines, one cluster that keeps serving: one node holds the address, every node holds everything, and the roles revolve."

// defaultState is where a node keeps its identity, term, journal and socket.
const defaultState = "/var/lib/revolve"

// defaultConfig is where a configuration is written first.
const defaultConfig = "/etc/revolve/revolve.yaml"

// commands is the command line: a field for every command, in the order of the help.
type commands struct {
	Help  helpFlag `short:"h" help:"Show what a command does, its flags and exit statuses."`
	State string   `placeholder:"DIR" default:"${state}" help:"The node's state directory (${state})."`
	JSON  bool     `name:"json" help:"Answer, and fail, with one JSON object."`

	Init     initCommand     `cmd:"" help:"Make a new cluster: its configuration, its CA and this node's identity."`
	Token    tokenCommand    `cmd:"" help:"A one-time token with which a machine joins as a node."`
	Join     joinCommand     `cmd:"" help:"Make this machine a node, with a token."`
	Revoke   revokeCommand   `cmd:"" help:"Refuse a node's identity everywhere, from now on."`
	Identity identityCommand `cmd:"" help:"Identities of nodes, carried by hand."`
	Agent    agentCommand    `cmd:"" help:"Run this node."`
	Witness  witnessCommand  `cmd:"" help:"The third machine of a cluster of two: it lets one lead when they cannot hear each other."`
	Beat     beatCommand     `cmd:"" hidden:"" help:"The agent's real-time process."`

	Status    statusCommand      `cmd:"" help:"How the cluster is."`
	History   historyCommand     `cmd:"" help:"Every failover: why, how long it took, and what it cost."`
	Eligible  eligibleCommand    `cmd:"" help:"Whether another engine should bring the floating addresses here."`
	Power     powerCommand       `cmd:"" help:"Wake a node, or have it power itself off."`
	Switch    switchCommand      `cmd:"" help:"Move the floating addresses to another node, losing nothing."`
	Rehearse  rehearseCommand    `cmd:"" help:"Rehearse a failover: move the floating addresses to a standby, and back."`
	Hold      holdCommand        `cmd:"" help:"Turn automatic moves off, or on again."`
	Maintain  maintenanceCommand `cmd:"" name:"maintenance" help:"This node steps aside, or takes part again."`
	Sync      syncCommand        `cmd:"" help:"Wait until the standbys have everything."`
	Verify    verifyCommand      `cmd:"" help:"Prove by content that the standbys hold the same, and repair."`
	Mirror    mirrorCommand      `cmd:"" help:"Where a path is, and why not."`
	Divergent divergentCommand   `cmd:"" help:"Changes that were kept aside."`
	Trash     trashCommand       `cmd:"" help:"What replication overwrote or deleted."`
	Volume    volumeCommand      `cmd:"" help:"Volumes that wait for a person."`
	VM        vmCommand          `cmd:"" name:"vm" help:"Virtual machines, and their points on every node."`
	VMGuard   vmGuardCommand     `cmd:"" name:"vm-guard" hidden:""`

	Alarm alarmCommand `cmd:"" help:"What people are told, and whether it arrives."`
	Page  pageCommand  `cmd:"" help:"Who may give orders on this node's status page."`

	Doctor  doctorCommand  `cmd:"" help:"What this machine gives as a node, what it lacks, and what to type."`
	Config  configCommand  `cmd:"" help:"The configuration file."`
	Version versionCommand `cmd:"" help:"Say which revolve this is."`

	Completion completionCommand `cmd:"" help:"Make the shell complete what you type."`
	Man        manCommand        `cmd:"" help:"The manual pages."`
	Complete   completeCommand   `cmd:"" hidden:""`

	Demo      demoCommand      `cmd:"" help:"A cluster on this machine, and the story of how it fails and goes on."`
	DemoDNS   demoDNSCommand   `cmd:"" name:"demo-dns" hidden:""`
	DemoAsk   demoAskCommand   `cmd:"" name:"demo-ask" hidden:""`
	DemoCards demoCardsCommand `cmd:"" name:"demo-cards" hidden:""`
	DemoWrite demoWriteCommand `cmd:"" name:"demo-write" hidden:""`
}

// env is what every command's Run gets besides the context.
type env struct {
	state          string // --state
	json           bool   // --json
	stdin          io.Reader
	stdout, stderr io.Writer
}

// runner is a command.
type runner interface {
	Run(ctx context.Context, e *env) error
}

// exiter is an error that brings its own exit status and prints nothing: a
// verdict, not a failure.
type exiter interface {
	error
	exitStatus() int
}

// helpFlag prints the help and ends parsing. Kong's own would end the process.
type helpFlag bool

// errHelp says that help was asked for and given.
var errHelp = errors.New("help was given")

// BeforeReset is called by kong as soon as the flag is seen, before anything is required.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	return errors.Join(errHelp, ctx.PrintUsage(false))
}

// Main runs the command that args (with the program's name) ask for and returns
// the process's exit status. When ctx ends, commands end as soon as they can.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if testbed.Reexecuted() {
		return testbed.Child() // the demo's: the first process of a namespace
	}
	e := &env{stdin: stdin, stdout: stdout, stderr: stderr}
	err := run(ctx, e, args[min(1, len(args)):])
	var verdict exiter
	switch {
	case err == nil || errors.Is(err, errHelp):
		return 0
	case errors.As(err, &verdict):
		return verdict.exitStatus()
	}
	report(e, err)
	return problem.KindOf(err).ExitStatus()
}

func run(ctx context.Context, e *env, args []string) error {
	e.json = slices.Contains(args, "--json") // also for what goes wrong while parsing
	var c commands
	parser, err := kong.New(&c,
		kong.Name("revolve"),
		kong.Description(description),
		kong.Writers(e.stdout, e.stderr),
		vars(),
		kong.NoDefaultHelp(),
		kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Exit(func(int) {}),
	)
	if err != nil {
		return &problem.Problem{Op: "build the command line", Kind: problem.Internal, Err: err}
	}
	k, err := parser.Parse(args)
	if errors.Is(err, errHelp) {
		return errHelp
	}
	if err != nil {
		return usage(err)
	}
	e.state, e.json = c.State, c.JSON
	command, ok := k.Selected().Target.Addr().Interface().(runner)
	if !ok {
		return &problem.Problem{Op: "run", Kind: problem.Internal, Subject: k.Command(), Err: errors.New("the command has no Run method")}
	}
	return command.Run(ctx, e)
}

// vars are what the texts of the commands refer to.
func vars() kong.Vars {
	return kong.Vars{"state": defaultState, "conf": defaultConfig, "witnessport": strconv.Itoa(config.DefaultWitnessPort)}
}

// usage is a command line that cannot be understood.
func usage(err error) error {
	name := "revolve"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		name = "revolve " + strings.TrimSpace(parse.Context.Selected().Path())
		name = strings.Replace(name, "revolve revolve", "revolve", 1)
	}
	return &problem.Problem{Op: "read the command line", Kind: problem.Invalid, Err: err, Hint: name + " --help"}
}

// answer prints v as one JSON object with --json, else the text.
func (e *env) answer(v any, text string) error {
	var err error
	if e.json {
		encoder := json.NewEncoder(e.stdout)
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(v)
	} else {
		_, err = fmt.Fprintln(e.stdout, strings.TrimRight(text, "\n"))
	}
	if err != nil {
		return &problem.Problem{Op: "print the answer", Kind: problem.Unavailable, Err: err}
	}
	return nil
}
