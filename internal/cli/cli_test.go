package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"revolve/internal/control"
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
		Setup: func(e *testscript.Env) error { // a story has an environment of its own, its commands are run by the same detector
			e.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": exitsWith,
			"mode":   hasMode,
			"serve":  serves,
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

// serves is "serve DIR": an agent of node a answers in the state directory until the story ends.
func serves(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	state := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(state, 0o700))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	f := &fakeAgent{status: clusterOf("a", "b")}
	f.status.Volumes[0].Path = ts.MkAbs("home")
	go func() { ended <- control.Serve(ctx, control.Socket(state), f, slog.New(slog.DiscardHandler)) }()
	ts.Defer(func() { cancel(); <-ended })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := control.Dial(state).Status(ctx)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Check(err)
		}
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
	if errs.String() != "revolve: odd\nhint: report it, with what revolve version and revolve doctor print\n" {
		t.Errorf("got %q", errs.String())
	}
}

// Whatever fails names the next step, in words and as data.
func TestEveryFailureHasAHint(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	good, bad := filepath.Join(t.TempDir(), "good.yaml"), filepath.Join(t.TempDir(), "bad.yaml")
	must(t, os.WriteFile(good, []byte("cluster: c\nnodes: { a: { links: { lan: 192.0.2.1 } } }\n"), 0o600))
	must(t, os.WriteFile(bad, []byte("cluster: c\nnodes: 3\n"), 0o600))
	for _, line := range [][]string{
		{}, {"frobnicate"}, {"init"}, {"init", "--config", none, "--node", "a"}, {"init", "--config", bad, "--node", "a"}, {"init", "--config", good, "--node", "z"},
		{"init", "--config", good, "--node", "a", "--state", "/proc/none"},
		{"identity", "issue", "a", "--out", none}, {"identity", "issue", "a"},
		{"agent", "--config", none, "--node", "a"}, {"agent", "--config", bad, "--node", "a"}, {"agent", "--config", good, "--node", "z"}, {"agent", "--config", good, "--node", "a"},
		{"status"}, {"history"}, {"history", "7"}, {"switch"}, {"switch", "b"}, {"sync"}, {"sync", "--wait"}, {"hold"}, {"hold", "maybe"}, {"hold", "on"}, {"maintenance", "on"}, {"maintenance", "off", "--force"},
		{"divergent", "list"}, {"divergent", "show", "x"}, {"divergent", "restore", "x"}, {"divergent", "drop", "x", "--yes"}, {"divergent"},
		{"trash", "list"}, {"trash", "restore", "home", "x"}, {"trash", "restore"},
		{"doctor"}, {"doctor", "--config", none, "--node", "a"}, {"doctor", "--config", bad, "--node", "a"},
		{"config", "check", none}, {"config", "check", bad}, {"config"}, {"completion", "csh"}, {"man", "frobnicate"}, {"man", "--out", "/proc/none"},
		{"witness"}, {"witness", "--key-file", none}, {"witness", "--key-file", none, "--listen", "x"}, {"witness", "--key-file", "/proc/none", "--make-key"},
		{"demo", "--nodes", "x"}, {"token"}, {"token", "b"}, {"join"}, {"join", "nonsense", "--token", "x", "--node", "b"}, {"revoke"}, {"revoke", "b"},
		{"config", "apply"}, {"config", "apply", none}, {"config", "apply", good}, {"volume"}, {"volume", "resume", "home"}, {"trash", "unpin", "home"},
	} {
		if !slices.Contains(line, "--state") {
			line = append(line, "--state", none)
		}
		var out, errs strings.Builder
		status := Main(t.Context(), append([]string{"revolve"}, line...), strings.NewReader(""), &out, &errs)
		if status == 0 || !strings.Contains(errs.String(), "hint: ") || strings.HasSuffix(errs.String(), "hint: \n") {
			t.Errorf("%q: exit %d\n%s%s", line, status, out.String(), errs.String())
		}
		errs.Reset()
		Main(t.Context(), append([]string{"revolve", "--json"}, line...), strings.NewReader(""), &out, &errs)
		var f failure
		if err := json.Unmarshal([]byte(errs.String()), &f); err != nil || f.Hint == "" || f.ExitStatus == 0 {
			t.Errorf("%q as data: %v %s", line, err, errs.String())
		}
	}
}

func TestNextStepOfEveryKind(t *testing.T) {
	for k := problem.Internal; k <= problem.Corrupt; k++ {
		if nextStep(&problem.Problem{Kind: k}) == "" {
			t.Errorf("%s: no next step", k)
		}
	}
	for errno, want := range map[error]string{unix.ENOSPC: "make space", unix.EROFS: "read-only", unix.EMFILE: "open files", unix.EACCES: "as root"} {
		if got := nextStep(&problem.Problem{Kind: problem.Unavailable, Err: fmt.Errorf("x: %w", errno)}); !strings.Contains(got, want) {
			t.Errorf("%v: %q", errno, got)
		}
	}
	if got := nextStep(&problem.Problem{Err: unix.ENOSPC, Hint: "its own"}); got != "its own" {
		t.Errorf("got %q", got)
	}
}
