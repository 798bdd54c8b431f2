package testbed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// TB is the part of *testing.T that OnStage needs; testbed is part of a program
// and must not link package testing into it.
type TB interface {
	Helper()
	Name() string
	Fatal(args ...any)
	Log(args ...any)
	Skip(args ...any)
}

// As says who a test's stage belongs to.
type As int

// The two kinds of user that a testbed serves.
const (
	AsSelf   As = iota // whoever runs the test: root in CI
	AsNobody           // an ordinary user (nobody when root runs the test)
)

// nobodyID is the uid and gid of nobody and nogroup on Linux distributions (it is
// also the kernel's overflow id, /proc/sys/kernel/overflowuid).
const nobodyID = 65534

// testDeadline bounds one test on a stage, so that one that hangs is told early; far more than any needs but a few (OnStageFor).
const testDeadline = 3 * time.Minute

// OnStage runs body on a stage: it runs the test binary again for the calling
// test alone, on a stage, where the same call runs body. The caller must do
// nothing else that matters, since it runs twice. Output appears in the test's
// log; where there can be no stage, the test is skipped and says what to type.
func OnStage(t TB, as As, body func(*Stage)) {
	t.Helper()
	OnStageFor(t, as, testDeadline, body)
}

// OnStageFor is OnStage for a test that plays for longer: limit bounds it.
func OnStageFor(t TB, as As, limit time.Duration, body func(*Stage)) {
	t.Helper()
	stage, on, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	if on {
		body(stage)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	args := []string{"-test.run=" + pattern(t.Name()), "-test.v=true", "-test.count=1", "-test.timeout=" + limit.String()}
	var out bytes.Buffer
	var status int
	if as == AsNobody && os.Geteuid() == 0 {
		status, err = asNobody(ctx, args, &out)
	} else {
		status, err = Enter(ctx, args, &out, &out)
	}
	text := strings.TrimSpace(out.String())
	switch {
	case err != nil:
		t.Fatal("no stage:", err, "\n"+text)
	case status != 0:
		t.Fatal(fmt.Sprintf("on the stage: exit status %d\n%s", status, text))
	case strings.Contains(text, "SKIPPED PART:") && strings.Contains(text, "--- SKIP: "+t.Name()):
		t.Skip(text)
	case !strings.Contains(text, "--- PASS: "+t.Name()+" "):
		t.Fatal("the test did not run on the stage:\n" + text)
	}
	t.Log(text)
}

// pattern matches exactly the test with the given name, level by level.
func pattern(name string) string {
	levels := strings.Split(name, "/")
	for i, l := range levels {
		levels[i] = "^" + l + "$"
	}
	return strings.Join(levels, "/")
}

// asNobody runs the test binary as nobody; its own OnStage then enters the stage
// exactly as an ordinary user's would.
func asNobody(ctx context.Context, args []string, out *bytes.Buffer) (int, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HOME=/nonexistent", "TMPDIR=/tmp") // the caller's own may be closed to nobody
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobodyID, Gid: nobodyID}}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * orderlyEnd
	err := cmd.Run()
	if cmd.ProcessState != nil {
		return cmd.ProcessState.ExitCode(), nil
	}
	return 0, err
}
