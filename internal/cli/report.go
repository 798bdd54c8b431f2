package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"revolve/internal/config"
	"revolve/internal/problem"
)

// failure is an error as one JSON object on standard error.
type failure struct {
	Op         string           `json:"op"`
	Subject    string           `json:"subject"`
	Kind       string           `json:"kind"`
	Cause      string           `json:"cause"`
	Hint       string           `json:"hint"`
	ExitStatus int              `json:"exit_status"`
	Mistakes   []config.Mistake `json:"mistakes,omitempty"`
}

// report prints what failed: "revolve: op subject: cause" and "hint: ...", or
// one JSON object. The mistakes of a configuration follow one a line, as
// compilers print them, so that editors can jump to them.
func report(e *env, err error) {
	kind := problem.KindOf(err)
	var list *config.Problems
	errors.As(err, &list)
	if !e.json {
		text := err.Error()
		if list != nil {
			text = list.Unwrap().Error() + "\n" + list.Error()
		}
		fmt.Fprintf(e.stderr, "revolve: %s\n", text)
		if hint := problem.HintOf(err); hint != "" {
			fmt.Fprintf(e.stderr, "hint: %s\n", hint)
		}
		return
	}
	f := failure{Kind: kind.String(), Cause: err.Error(), Hint: problem.HintOf(err), ExitStatus: kind.ExitStatus()}
	var p *problem.Problem
	if errors.As(err, &p) {
		f.Op, f.Subject, f.Cause = p.Op, p.Subject, ""
		if p.Err != nil {
			f.Cause = p.Err.Error()
		}
	}
	if list != nil {
		f.Mistakes = list.Mistakes
	}
	encoder := json.NewEncoder(e.stderr)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(f); err != nil {
		fmt.Fprintf(e.stderr, "revolve: %v\n", err)
	}
}

// exitStatus is a row of the table in docs/exit-statuses.md.
type exitStatus struct {
	status  int
	meaning string
}

// exitStatuses are what every command may exit with.
func exitStatuses() []exitStatus {
	meanings := []string{
		problem.Internal:    "a bug of revolve: please report what it printed",
		problem.Invalid:     "the command line, the configuration or another input is wrong",
		problem.NotFound:    "what was named does not exist",
		problem.Conflict:    "something else stands in the way: it exists already, or a port is in use",
		problem.Permission:  "the system, or another node, refuses it",
		problem.Unavailable: "not now: trying again later may help",
		problem.Timeout:     "it took too long: trying again may help",
		problem.StaleTerm:   "it belongs to a reign that is over",
		problem.Corrupt:     "stored or received data is not what was written",
	}
	table := []exitStatus{{0, "done"}}
	for kind, meaning := range meanings {
		table = append(table, exitStatus{problem.Kind(kind).ExitStatus(), meaning})
	}
	return table
}

// verdicts is implemented by commands that exit with statuses of their own.
type verdicts interface {
	exitStatuses() []exitStatus
}

// printHelp is kong's help and the exit statuses of the command.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	rows := exitStatuses()
	if node := ctx.Selected(); node != nil && node.Target.CanAddr() {
		if own, ok := node.Target.Addr().Interface().(verdicts); ok {
			rows = append(rows[:1:1], append(own.exitStatuses(), rows[1:]...)...)
		}
	}
	var b strings.Builder
	b.WriteString("\nEXIT STATUS\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "  %-4d%s\n", r.status, r.meaning)
	}
	_, err := io.WriteString(ctx.Stdout, b.String())
	return err
}
