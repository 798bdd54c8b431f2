package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"revolve/internal/problem"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"revolve": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			os.Exit(Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// The stories: what a person types, and what comes back.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": exitsWith,
			"mode":   hasMode,
		},
	})
}

// exitsWith is "status N COMMAND...": the command ends with this exit status.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// hasMode is "mode 0600 FILE".
func hasMode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); (got == args[0]) == neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

// The table of the documentation is the table of the program.
func TestExitStatusesAreDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/exit-statuses.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := exitStatuses()
	for _, r := range rows {
		kind := "done"
		if r.status >= 10 {
			kind = problem.Kind(r.status - 10).String()
		}
		if row := fmt.Sprintf("| %d | %s | %s |", r.status, kind, r.meaning); !strings.Contains(string(data), row) {
			t.Errorf("docs/exit-statuses.md lacks\n%s", row)
		}
	}
	if n := len(rows); problem.Kind(n-1).String() != fmt.Sprintf("kind-%d", n-1) {
		t.Errorf("kind %s has no meaning in the table", problem.Kind(n-1))
	}
}

func TestHelpOfEveryCommandSaysExitStatuses(t *testing.T) {
	for _, command := range [][]string{{}, {"init"}, {"identity"}, {"identity", "issue"}, {"config", "check"}, {"config", "schema"}, {"version"}} {
		var out, errs strings.Builder
		status := Main(t.Context(), append(append([]string{"revolve"}, command...), "--help"), strings.NewReader(""), &out, &errs)
		if status != 0 || !strings.Contains(out.String(), "EXIT STATUS\n  0   done\n") || errs.Len() > 0 {
			t.Errorf("%q: %d\n%s%s", command, status, out.String(), errs.String())
		}
	}
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var errs strings.Builder
	if status := Main(t.Context(), []string{"revolve", "version"}, strings.NewReader(""), full, &errs); status != problem.Unavailable.ExitStatus() {
		t.Errorf("exit status %d: %s", status, errs.String())
	}
	if !strings.Contains(errs.String(), "no space left") {
		t.Errorf("got %q", errs.String())
	}
}

// An error that is no Problem is ours to repair, and is still one line.
func TestPlainError(t *testing.T) {
	var errs strings.Builder
	report(&env{stderr: &errs}, errors.New("odd"))
	if errs.String() != "revolve: odd\n" {
		t.Errorf("got %q", errs.String())
	}
}
