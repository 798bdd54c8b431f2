package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

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
		fmt.Fprintf(e.stderr, "revolve: %s\n", visible(text))
		fmt.Fprintf(e.stderr, "hint: %s\n", visible(nextStep(err)))
		return
	}
	f := failure{Kind: kind.String(), Cause: err.Error(), Hint: nextStep(err), ExitStatus: kind.ExitStatus()}
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

// visible is the text with everything that a terminal would obey written out: names and words
// in it come from files, other machines and scripts.
func visible(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r == '\n' || r == '\t' || unicode.IsGraphic(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		text = text[size:]
	}
	return b.String()
}

// nextStep is what a person can do about a failure: what its own hint says, else
// what its cause or its kind allow to say. No failure leaves anybody without one.
func nextStep(err error) string {
	if hint := problem.HintOf(err); hint != "" {
		return hint
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make space (df -h shows where), and try again"
	case errors.Is(err, unix.EROFS):
		return "it is mounted read-only: look at dmesg, and mount it anew: mount -o remount,rw MOUNTPOINT"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "allow more open files: ulimit -n 65536, or LimitNOFILE=65536 in the agent's unit"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "run it as root (sudo), or as the user of the agent"
	}
	switch problem.KindOf(err) {
	case problem.Invalid:
		return "revolve --help"
	case problem.NotFound, problem.Conflict, problem.Unavailable:
		return "see what the cluster says: revolve status"
	case problem.Permission:
		return "run it as root (sudo), or as the user of the agent"
	case problem.Timeout:
		return "see what holds it: revolve status; then try again"
	case problem.StaleTerm:
		return "see who is master now: revolve status; then try again there"
	case problem.Corrupt:
		return "run the same version of revolve on all nodes (revolve version), and look at the disk: dmesg"
	}
	return "report it, with what revolve version and revolve doctor print"
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
